//! What an ELF file says about where its functions are.
//!
//! Files are read piece by piece and never mapped: one that is cut short meanwhile is an error,
//! and not the end of the agent.

use std::{collections::HashMap, fs::File, io, io::BufReader, os::unix::fs::FileExt};

use memchr::memmem::Finder;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache, ReadRef};

/// Symbols of one table that are looked at.
const MAX_SYMBOLS: usize = 4_000_000;
/// Bytes of one: `Elf64_Sym`, whose first four are the place of its name, and whose last two words
/// are address and size.
const SYMBOL: usize = 24;
/// Longest name that is looked at, where names are searched for what they contain.
const MAX_NAME: usize = 1024;
/// Names of one file that are found so.
const MAX_NAMED: usize = 256;

type Cache = ReadCache<BufReader<File>>;

/// Where in the file a function is; the size is 0 if nothing says it.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    pub offset: u64,
    pub size: u64,
}

/// Bytes that are searched at once.
const WINDOW: usize = 1 << 20;

/// An ELF file.
pub struct Elf {
    cache: Cache,
    file: File,
}

impl Elf {
    pub fn open(file: &File) -> io::Result<Self> {
        let cache = ReadCache::new(BufReader::new(file.try_clone()?));
        Ok(Self { cache, file: file.try_clone()? })
    }

    /// Where in a part of the file one of the needles is first, without keeping what is read.
    pub fn find(&self, (offset, size): (u64, u64), needles: &[&[u8]]) -> Option<u64> {
        let finders: Vec<_> = needles.iter().map(|needle| Finder::new(*needle)).collect();
        let longest = needles.iter().map(|needle| needle.len()).max()?;
        let mut first = None;
        self.windows((offset, size), longest, |at, bytes| {
            if first.is_none() {
                let found = finders.iter().filter_map(|finder| finder.find(bytes)).min();
                first = found.map(|found| at + found as u64);
            }
        });
        first
    }

    /// Reads a part of the file window by window, without keeping it. What is `length` bytes long
    /// or less is whole in one of them, and may be in two.
    pub fn windows(
        &self,
        (offset, size): (u64, u64),
        length: usize,
        mut f: impl FnMut(u64, &[u8]),
    ) {
        let overlap = length.saturating_sub(1);
        let mut window = vec![0; WINDOW.min(usize::try_from(size).unwrap_or(WINDOW))];
        let mut at = 0;
        while at < size {
            let want = window.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
            let n = match self.file.read_at(&mut window[..want], offset + at) {
                Ok(n) if n > 0 => n,
                _ => return,
            };
            f(offset + at, &window[..n]);
            if at + n as u64 >= size {
                return;
            }
            at += (n - overlap.min(n - 1)) as u64;
        }
    }

    /// Whether one of the needles is in a section of names.
    pub fn names_in<'data, R: ReadRef<'data>>(
        &self,
        elf: &object::File<'data, R>,
        section: &str,
        needles: &[&[u8]],
    ) -> bool {
        let range = elf.section_by_name(section).and_then(|s| s.file_range());
        range.is_some_and(|range| self.find(range, needles).is_some())
    }

    /// Bytes of the file.
    pub fn bytes(&self, offset: u64, len: u64) -> io::Result<&[u8]> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        (&self.cache).read_bytes_at(offset, len).map_err(|()| short())
    }

    pub fn parse(&self) -> io::Result<object::File<'_, &Cache>> {
        object::File::parse(&self.cache).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Where in the file the wanted functions are, by name: those that are exported, else those that
/// a table for debuggers names. `sure` are names of which one is there if any is: most files have
/// none, and to search their strings is far less than to go through their symbols.
pub fn functions<'data, R: ReadRef<'data>>(
    file: &Elf,
    elf: &object::File<'data, R>,
    sure: &[&[u8]],
    wanted: impl Fn(&str) -> bool,
) -> HashMap<String, Code> {
    let named_in = |section: &str| file.names_in(elf, section, sure);
    let mut found = HashMap::new();
    if named_in(".dynstr") {
        for symbol in elf.dynamic_symbols().take(MAX_SYMBOLS) {
            add(elf, &symbol, &wanted, &mut found);
        }
    }
    if found.is_empty() && named_in(".strtab") {
        for symbol in elf.symbols().take(MAX_SYMBOLS) {
            add(elf, &symbol, &wanted, &mut found);
        }
    }
    found
}

/// Symbols of the table for debuggers whose names have one of the needles in them and are wanted, each
/// with what it is wanted for. Tables of large programs have hundreds of megabytes: they are read
/// window by window, and nothing of them is kept but what is wanted.
pub fn named<'data, R: ReadRef<'data>, T: Copy>(
    file: &Elf,
    elf: &object::File<'data, R>,
    needles: &[&[u8]],
    wanted: impl Fn(&str) -> Option<T>,
) -> Vec<(T, Code)> {
    let range = |section: &str| elf.section_by_name(section).and_then(|s| s.file_range());
    let (Some(names), Some(symbols)) = (range(".strtab"), range(".symtab")) else {
        return Vec::new();
    };
    let finders: Vec<_> = needles.iter().map(|needle| Finder::new(*needle)).collect();
    // By where in the table the name begins.
    let mut by_name = HashMap::new();
    file.windows(names, MAX_NAME, |at, bytes| {
        for found in finders.iter().flat_map(|finder| finder.find_iter(bytes)) {
            let start = memchr::memrchr(0, &bytes[..found]).map_or(0, |nul| nul + 1);
            let Some(len) = memchr::memchr(0, &bytes[start..]) else { continue };
            let Ok(name) = str::from_utf8(&bytes[start..start + len]) else { continue };
            if by_name.len() < MAX_NAMED
                && let Some(what) = wanted(name)
            {
                by_name.insert(at - names.0 + start as u64, what);
            }
        }
    });
    let mut all = Vec::new();
    if by_name.is_empty() {
        return all;
    }
    let size = symbols.1.min((MAX_SYMBOLS * SYMBOL) as u64);
    file.windows((symbols.0, size), SYMBOL, |at, bytes| {
        // A window begins anywhere.
        let first = (SYMBOL - (at - symbols.0) as usize % SYMBOL) % SYMBOL;
        for symbol in bytes.get(first..).unwrap_or_default().chunks_exact(SYMBOL) {
            let word = |at: usize| symbol[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            let Some(what) = by_name.get(&(word(0) & u64::from(u32::MAX))) else { continue };
            let (address, size) = (word(8), word(16));
            if address != 0
                && let Some(offset) = file_offset(elf, address)
                && !all.iter().any(|(_, code): &(T, Code)| code.offset == offset)
            {
                all.push((*what, Code { offset, size }));
            }
        }
    });
    all
}

fn add<'data, R: ReadRef<'data>>(
    elf: &object::File<'data, R>,
    symbol: &object::Symbol<'data, '_, R>,
    wanted: &impl Fn(&str) -> bool,
    found: &mut HashMap<String, Code>,
) {
    if symbol.is_undefined() || symbol.address() == 0 {
        return;
    }
    if let Ok(name) = symbol.name()
        && wanted(name)
        && let Some(offset) = file_offset(elf, symbol.address())
    {
        found.insert(name.to_owned(), Code { offset, size: symbol.size() });
    }
}

/// Where in the file the byte at a virtual address is.
pub fn file_offset<'data, R: ReadRef<'data>>(
    elf: &object::File<'data, R>,
    address: u64,
) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let inside = address.checked_sub(segment.address())?;
        let (offset, size) = segment.file_range();
        (inside < size).then(|| offset + inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_across_windows() {
        let path = std::env::temp_dir().join(format!("llmtrace-find-{}", std::process::id()));
        for at in [0, 10, WINDOW - 3, WINDOW - 1, WINDOW, 2 * WINDOW - 7, 2 * WINDOW + 5] {
            let mut bytes = vec![b'.'; 2 * WINDOW + 64];
            bytes[at..at + 6].copy_from_slice(b"needle");
            std::fs::write(&path, &bytes).unwrap();
            let elf = Elf::open(&File::open(&path).unwrap()).unwrap();
            let len = bytes.len() as u64;
            assert_eq!(elf.find((0, len), &[b"other", b"needle"]), Some(at as u64));
            assert_eq!(elf.find((0, at as u64 + 5), &[b"needle"]), None);
            assert_eq!(elf.find((0, len), &[b"other"]), None);
        }
        std::fs::remove_file(&path).unwrap();
    }
    /// Of this very program, which rustls is part of, by two ways.
    #[test]
    fn named_are_all_that_have_the_name() {
        let file = File::open("/proc/self/exe").unwrap();
        let elf = Elf::open(&file).unwrap();
        let parsed = elf.parse().unwrap();
        let wanted = |name: &str| name.contains("MessageDecrypter").then_some(());
        let mut found: Vec<_> = named(&elf, &parsed, &[b"MessageDecrypter"], wanted)
            .into_iter()
            .map(|((), code)| (code.offset, code.size))
            .collect();
        let mut expected: Vec<_> = parsed
            .symbols()
            .filter(|s| s.address() != 0 && s.name().is_ok_and(|name| wanted(name).is_some()))
            .filter_map(|s| Some((file_offset(&parsed, s.address())?, s.size())))
            .collect();
        found.sort_unstable();
        expected.sort_unstable();
        expected.dedup_by_key(|(offset, _)| *offset);
        assert!(found.len() >= 3, "{found:?}");
        assert_eq!(found, expected);
    }
}
