//! Functions of a Go program. Its own table of functions (pclntab) is there even if it is stripped,
//! because stack traces need it.

use std::io;

use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use object::{Object, ObjectSection, ReadRef};

use super::{
    elf::{self, Elf},
    library::{Hook, Point},
    steps,
};

/// Functions of one program; the largest have a few hundred thousand.
const MAX_FUNCTIONS: u64 = 4_000_000;
/// Bytes of one function that are disassembled.
const MAX_CODE: u64 = 64 * 1024;
/// Longer than any of the names that are looked for.
const MAX_NAME: u64 = 64;

/// `(name, on entry, whether each RET is probed)`.
const WANTED: &[(&str, Hook, bool)] = &[
    ("crypto/tls.(*Conn).Read", Hook::GoRead, true),
    ("crypto/tls.(*Conn).Write", Hook::GoWrite, true),
    ("crypto/tls.(*Conn).serverHandshake", Hook::GoHandshake, false),
    ("crypto/tls.(*Conn).clientHandshake", Hook::GoHandshake, false),
];

/// Registers of the first three arguments, and of the goroutine.
const ARGUMENTS: &[Register] = &[Register::RAX, Register::RBX, Register::RCX, Register::R14];

const TOO_OLD: &str = "it was built by Go 1.17 or older";
const UNREADABLE: &str = "its table of functions cannot be read";

/// What to probe of a Go program; None if it is none or has no TLS.
pub fn points<'data, R: ReadRef<'data>>(
    file: &'data Elf,
    elf: &object::File<'data, R>,
) -> Option<Result<Vec<Point>, &'static str>> {
    let section = elf.sections().find(|s| s.name().is_ok_and(|n| n.ends_with("gopclntab")))?;
    let (offset, size) = section.file_range()?;
    let table = match Table::read(file, offset, size) {
        Ok(Some(table)) => table,
        Ok(None) => return Some(Err(TOO_OLD)),
        Err(_) => return Some(Err(UNREADABLE)),
    };
    // Position-independent programs have it filled in when they start: there it is the section's.
    let text = match table.text {
        0 => elf.section_by_name(".text")?.address(),
        text => text,
    };
    let mut points = Vec::new();
    let mut found = 0;
    for (index, name) in table.names() {
        let Some((_, hook, returns)) = WANTED.iter().find(|(wanted, ..)| *wanted == name) else {
            continue;
        };
        let Some((start, end)) = table.range(index) else { continue };
        let Some(at) = elf::file_offset(elf, text.wrapping_add(start)) else { continue };
        let code = file.bytes(at, (end - start).min(MAX_CODE));
        // Behind the check of the stack, a branch, where a probe is cheap; the beginning is run once
        // more after the stack has grown.
        let entry = code.as_ref().ok().and_then(|c| steps::after_stack_check(c, ARGUMENTS));
        points.push(Point::new(at + entry.unwrap_or(0), *hook));
        if *returns {
            let Ok(code) = code else { continue };
            let rets = rets(code);
            found += usize::from(!rets.is_empty());
            points.extend(rets.map_to_points(at));
        }
    }
    if points.is_empty() {
        return None;
    }
    Some(if found == 2 { Ok(points) } else { Err("it lacks Conn.Read or Conn.Write") })
}

/// Offsets of the RET instructions of a function.
struct Rets(Vec<u64>);

impl Rets {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn map_to_points(self, start: u64) -> impl Iterator<Item = Point> {
        self.0.into_iter().map(move |at| Point::new(start + at, Hook::GoDone))
    }
}

fn rets(code: &[u8]) -> Rets {
    let decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let rets = decoder.into_iter().filter(|i| i.mnemonic() == Mnemonic::Ret);
    Rets(rets.map(|i| i.ip()).collect())
}

/// The table of functions of Go 1.18 and later: a header, names, and by function the offset of its
/// code and that of its entry, which begins with the offset of its name.
struct Table<'data> {
    text: u64,
    names: &'data [u8],
    /// From where offsets of entries count; begins with pairs of offsets.
    functions: &'data [u8],
    count: u64,
}

impl<'data> Table<'data> {
    /// None if the format is an older one.
    fn read(file: &'data Elf, offset: u64, size: u64) -> io::Result<Option<Self>> {
        Self::parse(file.bytes(offset, size)?)
    }

    fn parse(bytes: &'data [u8]) -> io::Result<Option<Self>> {
        const GO_1_18: u32 = 0xffff_fff0;
        const GO_1_20: u32 = 0xffff_fff1;
        const OLDER: [u32; 2] = [0xffff_fffb, 0xffff_fffa];
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let magic = u32_at(bytes, 0).ok_or_else(bad)?;
        if OLDER.contains(&magic) {
            return Ok(None);
        }
        if !matches!(magic, GO_1_18 | GO_1_20) || bytes.get(7) != Some(&8) {
            return Err(bad());
        }
        let word = |n: usize| u64_at(bytes, 8 + 8 * n).ok_or_else(bad);
        // nfunc, nfiles, textStart, funcname, cu, filetab, pctab, pcln.
        let (count, text, names, functions) = (word(0)?, word(2)?, word(3)?, word(7)?);
        let from = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at..));
        let table = Self {
            text,
            names: from(names).ok_or_else(bad)?,
            functions: from(functions).ok_or_else(bad)?,
            count,
        };
        if count > MAX_FUNCTIONS {
            return Err(bad());
        }
        Ok(Some(table))
    }

    /// Every function's index and name.
    fn names(&self) -> impl Iterator<Item = (u64, &'data str)> {
        (0..self.count).filter_map(|index| Some((index, self.name(index)?)))
    }

    fn name(&self, index: u64) -> Option<&'data str> {
        let entry = u32_at(self.functions, index as usize * 8 + 4)? as usize;
        let name = u32_at(self.functions, entry.checked_add(4)?)? as usize;
        let bytes = self.names.get(name..)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME as usize)];
        let end = memchr::memchr(0, bytes)?;
        str::from_utf8(&bytes[..end]).ok()
    }

    /// Where its code begins and ends, from the start of all code.
    fn range(&self, index: u64) -> Option<(u64, u64)> {
        let start = u32_at(self.functions, index as usize * 8)?;
        let end = u32_at(self.functions, (index as usize + 1) * 8)?;
        (start < end).then_some((start.into(), end.into()))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of two functions.
    fn table() -> Vec<u8> {
        let mut t = 0xffff_fff1_u32.to_le_bytes().to_vec();
        t.extend([0, 0, 1, 8]);
        let names = b"main.main\0crypto/tls.(*Conn).Read\0";
        let (at_names, at_functions) = (72, 72 + names.len() as u64);
        for word in [2, 0, 0x1000, at_names, 0, 0, 0, at_functions] {
            t.extend(u64::to_le_bytes(word));
        }
        t.extend(names);
        // Pairs for two functions and the end, then the entries.
        for word in [0_u32, 24, 0x40, 32, 0x90, 0, /**/ 0, 0, 0x40, 10] {
            t.extend(word.to_le_bytes());
        }
        t
    }

    #[test]
    fn names_and_ranges() {
        let bytes = table();
        let table = Table::parse(&bytes).unwrap().unwrap();
        let names: Vec<_> = table.names().collect();
        assert_eq!(names, [(0, "main.main"), (1, "crypto/tls.(*Conn).Read")]);
        assert_eq!((table.text, table.range(1)), (0x1000, Some((0x40, 0x90))));
    }

    #[test]
    fn any_damage_is_survived() {
        let whole = table();
        for at in 0..whole.len() {
            if let Ok(Some(table)) = Table::parse(&whole[..at]) {
                table.names().for_each(drop);
            }
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(Some(table)) = Table::parse(&bytes) {
                    for (index, _) in table.names().take(1000) {
                        let _ = table.range(index);
                    }
                }
            }
        }
    }

    #[test]
    fn rets_are_instructions_and_no_other_bytes() {
        // mov eax, 0xc3c3c3c3; ret; nop; ret
        assert_eq!(rets(&[0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0x90, 0xc3]).0, [5, 7]);
    }
}
