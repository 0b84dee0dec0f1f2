//! What an ELF file says about where its functions are.
//!
//! Files are read piece by piece and never mapped: one that is cut short meanwhile is an error,
//! and not the end of the agent.

use std::{collections::HashMap, fs::File, io, io::BufReader};

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef};

/// Symbols of one table that are looked at.
const MAX_SYMBOLS: usize = 4_000_000;

type Cache = ReadCache<BufReader<File>>;

/// An ELF file.
pub struct Elf {
    cache: Cache,
}

impl Elf {
    pub fn open(file: &File) -> io::Result<Self> {
        Ok(Self { cache: ReadCache::new(BufReader::new(file.try_clone()?)) })
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
/// a table for debuggers names.
pub fn functions<'data, R: ReadRef<'data>>(
    elf: &object::File<'data, R>,
    wanted: impl Fn(&str) -> bool,
) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    for symbol in elf.dynamic_symbols().take(MAX_SYMBOLS) {
        add(elf, &symbol, &wanted, &mut found);
    }
    if found.is_empty() {
        for symbol in elf.symbols().take(MAX_SYMBOLS) {
            add(elf, &symbol, &wanted, &mut found);
        }
    }
    found
}

fn add<'data, R: ReadRef<'data>>(
    elf: &object::File<'data, R>,
    symbol: &object::Symbol<'data, '_, R>,
    wanted: &impl Fn(&str) -> bool,
    found: &mut HashMap<String, u64>,
) {
    if symbol.is_undefined() || symbol.address() == 0 {
        return;
    }
    if let Ok(name) = symbol.name()
        && wanted(name)
        && let Some(offset) = file_offset(elf, symbol.address())
    {
        found.insert(name.to_owned(), offset);
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
