//! Functions of a BoringSSL that was linked into a program and stripped of its names.
//!
//! They are known by what they complain about. Each error that BoringSSL raises passes its library
//! (16), its reason, and the name of the source file, so the code of `SSL_write` is the one that
//! refers to `ssl/ssl_lib.cc` and to "uninitialized", "bad length" and "handshake failure". That is
//! the same whatever compiler and options built it, as bytes of a prologue are not. Where functions
//! begin is in the tables for unwinding, which stripping leaves.

use std::collections::BTreeSet;

use memchr::memmem;
use object::{Object, ObjectSection, ReadRef, SectionFlags, elf::SHF_EXECINSTR};

use super::{
    elf::{self, Elf},
    library::{Hook, Point},
};

/// Where the functions are.
const SOURCE: &[u8] = b"/ssl/ssl_lib.cc\0";
/// Longest path of a source file.
const MAX_PATH: u64 = 256;
/// Bytes of code around a reference to the file name that raise the error.
const AROUND: usize = 40;
/// References that are looked at; there are about 40.
const MAX_REFERENCES: usize = 4096;
/// Longest function that is looked at.
const MAX_CODE: u64 = 64 * 1024;

/// Reasons, of `openssl/ssl.h` and `openssl/err.h`.
mod reason {
    pub const SHOULD_NOT_HAVE_BEEN_CALLED: u32 = 66;
    pub const BAD_LENGTH: u32 = 111;
    pub const CONNECTION_TYPE_NOT_SET: u32 = 134;
    pub const HANDSHAKE_FAILURE: u32 = 215;
    pub const UNINITIALIZED: u32 = 226;
    pub const APPLICATION_DATA_ON_SHUTDOWN: u32 = 291;
}

/// `lea rcx, [rip + n]`: the file's name is the fourth argument.
const LEA_RCX: &[u8] = b"\x48\x8d\x0d";
/// `mov edx, n`: the reason is the third.
const MOV_EDX: u8 = 0xba;
const CALL: u8 = 0xe8;

/// A function that raises errors.
#[derive(Debug)]
struct Function {
    start: u64,
    reasons: BTreeSet<u32>,
    code: Vec<u8>,
}

impl Function {
    fn raises(&self, reasons: &[u32]) -> bool {
        reasons.iter().all(|reason| self.reasons.contains(reason))
    }

    fn calls(&self, target: u64) -> bool {
        memchr::memchr_iter(CALL, &self.code).any(|at| {
            let from = self.start.wrapping_add(at as u64 + 5);
            relative(&self.code, at + 1).is_some_and(|n| from.wrapping_add(n) == target)
        })
    }
}

/// What to probe; None if there is no BoringSSL.
pub fn points<'data, R: ReadRef<'data>>(
    file: &'data Elf,
    elf: &object::File<'data, R>,
) -> Option<Result<Vec<Point>, &'static str>> {
    let name = source_name(file, elf)?;
    Some(find(file, elf, name))
}

fn find<'data, R: ReadRef<'data>>(
    file: &'data Elf,
    elf: &object::File<'data, R>,
    name: u64,
) -> Result<Vec<Point>, &'static str> {
    let starts = function_starts(file, elf).ok_or("it has no table of functions")?;
    let mut functions: Vec<Function> = Vec::new();
    for at in references(file, elf, name) {
        let next = starts.partition_point(|start| *start <= at);
        let (Some(&start), Some(&end)) = (starts.get(next.wrapping_sub(1)), starts.get(next))
        else {
            continue;
        };
        if functions.last().is_none_or(|f| f.start != start) {
            let length = (end - start).min(MAX_CODE);
            let code = elf::file_offset(elf, start).and_then(|o| file.bytes(o, length).ok());
            let code = code.unwrap_or_default().to_vec();
            functions.push(Function { start, reasons: BTreeSet::new(), code });
        }
        if let Some(function) = functions.last_mut() {
            let at = (at - start) as usize;
            let from = at.saturating_sub(AROUND);
            let to = (at + AROUND).min(function.code.len());
            let around = function.code.get(from..to).unwrap_or_default();
            let found = memchr::memchr_iter(MOV_EDX, around)
                .filter_map(|at| relative(around, at + 1))
                .filter_map(|n| u32::try_from(n).ok());
            function.reasons.extend(found);
        }
    }
    let chosen = choose(&functions, &starts, |start| {
        // A function beside those that raise errors.
        let next = starts.partition_point(|s| *s <= start);
        let length = (starts.get(next)? - start).min(MAX_CODE);
        let code = file.bytes(elf::file_offset(elf, start)?, length).ok()?.to_vec();
        Some(Function { start, reasons: BTreeSet::new(), code })
    })
    .ok_or("its functions do not look as known")?;
    let point =
        |(address, hook)| elf::file_offset(elf, address).map(|offset| Point::new(offset, hook));
    chosen.into_iter().map(point).collect::<Option<_>>().ok_or("its functions are in no file")
}

/// Addresses of the functions that are wanted.
fn choose(
    functions: &[Function],
    starts: &[u64],
    read: impl Fn(u64) -> Option<Function>,
) -> Option<Vec<(u64, Hook)>> {
    use reason::*;
    let one = |test: &dyn Fn(&Function) -> bool| {
        let mut found = functions.iter().filter(|f| test(f));
        // Two that look alike are as good as none.
        found.next().filter(|_| found.next().is_none())
    };
    let write = one(&|f| f.raises(&[UNINITIALIZED, BAD_LENGTH, HANDSHAKE_FAILURE]))?;
    let read_impl = one(&|f| {
        f.raises(&[UNINITIALIZED, HANDSHAKE_FAILURE]) && !f.reasons.contains(&BAD_LENGTH)
    })?;
    // SSL_peek, or SSL_read with SSL_peek inside.
    let peek = one(&|f| f.raises(&[SHOULD_NOT_HAVE_BEEN_CALLED]) && f.calls(read_impl.start))?;
    // In the source SSL_read is right before SSL_peek, which it calls.
    let index = starts.binary_search(&peek.start).ok()?;
    let before = index.checked_sub(1).and_then(|i| read(*starts.get(i)?));
    let before = before.filter(|f| f.calls(peek.start)).map(|f| f.start);
    let mut chosen = vec![(before.unwrap_or(peek.start), Hook::Read), (write.start, Hook::Write)];
    let handshake = one(&|f| f.raises(&[CONNECTION_TYPE_NOT_SET]) && write.calls(f.start));
    chosen.extend(handshake.map(|f| (f.start, Hook::Handshake)));
    // Of old versions nothing tells: then the end of the socket is that of the connection.
    let shutdown = one(&|f| {
        f.raises(&[UNINITIALIZED, APPLICATION_DATA_ON_SHUTDOWN]) && f.calls(read_impl.start)
    });
    chosen.extend(shutdown.map(|f| (f.start, Hook::Shutdown)));
    Some(chosen)
}

/// The address of the path of the source file.
fn source_name<'data, R: ReadRef<'data>>(
    file: &'data Elf,
    elf: &object::File<'data, R>,
) -> Option<u64> {
    let section = elf.section_by_name(".rodata")?;
    let (offset, size) = section.file_range()?;
    let tail = file.find((offset, size), &[SOURCE])?;
    let before = MAX_PATH.min(tail - offset);
    let path = file.bytes(tail - before, before).ok()?;
    let start =
        memchr::memrchr(0, path).map_or(tail - before, |nul| tail - before + nul as u64 + 1);
    Some(section.address() + (start - offset))
}

/// Where the code refers to an address as a fourth argument, ascending.
fn references<'data, R: ReadRef<'data>>(
    file: &Elf,
    elf: &object::File<'data, R>,
    target: u64,
) -> Vec<u64> {
    let mut found = Vec::new();
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        let Some((offset, size)) = section.file_range() else { continue };
        if sh_flags & u64::from(SHF_EXECINSTR) == 0 {
            continue;
        }
        file.windows((offset, size), LEA_RCX.len() + 4, |at, bytes| {
            for lea in memmem::find_iter(bytes, LEA_RCX) {
                let address = section.address() + (at - offset) + lea as u64;
                let next = address + 7;
                if relative(bytes, lea + 3).is_some_and(|n| next.wrapping_add(n) == target)
                    && found.last() != Some(&address)
                    && found.len() < MAX_REFERENCES
                {
                    found.push(address);
                }
            }
        });
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Where functions begin, ascending: the table of `.eh_frame_hdr`.
fn function_starts<'data, R: ReadRef<'data>>(
    file: &'data Elf,
    elf: &object::File<'data, R>,
) -> Option<Vec<u64>> {
    /// Version, and encodings: relative words, a plain count, pairs relative to the section.
    const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    let section = elf.section_by_name(".eh_frame_hdr")?;
    let (offset, size) = section.file_range()?;
    let bytes = file.bytes(offset, size).ok()?;
    if bytes.get(..4) != Some(&HEADER) {
        return None;
    }
    let count = u32::try_from(relative(bytes, 8)?).ok()? as usize;
    let pairs = bytes.get(12..)?.chunks_exact(8).take(count);
    let start = |pair: &[u8]| Some(section.address().wrapping_add(relative(pair, 0)?));
    let mut starts: Vec<u64> = pairs.filter_map(start).collect();
    // Sorted as it is, unless somebody has damaged it.
    starts.sort_unstable();
    Some(starts)
}

/// A signed word, extended.
fn relative(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(i64::from(i32::from_le_bytes(word.try_into().ok()?)).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(start: u64, reasons: &[u32], calls: &[u64]) -> Function {
        let mut code = vec![0x90; 16];
        for target in calls {
            let from = start + code.len() as u64 + 5;
            code.push(CALL);
            code.extend((target.wrapping_sub(from) as u32).to_le_bytes());
        }

        Function { start, reasons: reasons.iter().copied().collect(), code }
    }

    #[test]
    fn functions_are_told_by_what_they_raise() {
        let all = |peek_calls_itself: bool| {
            let functions = [
                function(0x100, &[134], &[]),
                function(0x300, &[66], &[0x400]),
                function(0x400, &[226, 215], &[0x100]),
                function(0x500, &[66, 226, 111, 215], &[0x100]),
                function(0x600, &[226, 291], &[0x400]),
            ];
            let starts = [0x100, 0x200, 0x300, 0x400, 0x500, 0x600, 0x700];
            let before = move |start| {
                assert_eq!(start, 0x200);
                let target: &[u64] = if peek_calls_itself { &[0x300] } else { &[] };
                Some(function(0x200, &[], target))
            };
            choose(&functions, &starts, before)
        };
        let rest = [(0x500, Hook::Write), (0x100, Hook::Handshake), (0x600, Hook::Shutdown)];
        assert_eq!(all(false).unwrap(), [&[(0x300, Hook::Read)][..], &rest].concat());
        assert_eq!(all(true).unwrap(), [&[(0x200, Hook::Read)][..], &rest].concat());
    }

    #[test]
    fn two_that_look_alike_are_none() {
        let functions = [
            function(0x400, &[226, 215], &[]),
            function(0x500, &[66, 226, 111, 215], &[]),
            function(0x600, &[66, 226, 111, 215], &[]),
        ];
        assert!(choose(&functions, &[0x400, 0x500, 0x600], |_| None).is_none());
    }
}
