//! HPACK (RFC 7541), as an onlooker needs it.
//!
//! A library's decoder ends at the first reference that it cannot resolve, and with it the rest of
//! the block and every later position in the table. An onlooker meets such references all the time:
//! it joined the connection late, or bytes are missing. This one goes on, knows which fields it does
//! not know, and is exact again for whatever was inserted since. It is checked against a library's
//! encoder in tests.

pub mod huffman;
mod table;

use std::ops::Range;

use table::{KEPT, Table};

pub use table::{MAX_TABLE, Name};

/// A block that breaks the rules: the table is unknown from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HpackError;

/// What matters of one block.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    kept: [Option<Box<str>>; KEPT],
    /// A field whose name lies in the part of the table that was missed.
    pub unknown: bool,
}

impl Fields {
    pub fn get(&self, name: Name) -> Option<&str> {
        self.kept.get(name as usize)?.as_deref()
    }

    /// The first of a name counts: it bounds the work, and no field here may come twice.
    fn keep(&mut self, name: Name, value: &[u8]) {
        match self.kept.get_mut(name as usize) {
            Some(slot) if slot.is_none() => {
                *slot = std::str::from_utf8(value).ok().map(Into::into);
            }
            Some(_) => {}
            None => self.unknown |= name == Name::Unknown,
        }
    }
}

/// A value that a block spells out.
#[derive(Clone, Debug)]
pub struct Literal {
    pub name: Name,
    /// Where in the block its text is.
    pub text: Range<usize>,
    /// By Huffman's code.
    pub coded: bool,
}

/// The state of one direction.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// For a direction whose blocks so far were not seen.
    pub fn joined() -> Self {
        Self { table: Table::missed(), ..Self::default() }
    }

    /// Reads one whole block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, HpackError> {
        self.decode_with(block, |_| {})
    }

    /// The same, and tells of the values that the block spells out.
    pub fn decode_with(
        &mut self,
        block: &[u8],
        mut on: impl FnMut(Literal),
    ) -> Result<Fields, HpackError> {
        let mut fields = Fields::default();
        let mut rest = block;
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    let (name, value) = self.table.get(index).ok_or(HpackError)?;
                    fields.keep(name, value);
                }
                0x40.. => self.literal(block, &mut rest, 6, &mut fields, &mut on)?,
                0x20.. => {
                    let max = integer(&mut rest, 5)?;
                    self.table.resize(max);
                }
                _ => self.literal(block, &mut rest, 4, &mut fields, &mut on)?,
            }
        }
        // What a long block needed is not kept.
        self.name.shrink_to(256);
        self.value.shrink_to(1024);
        Ok(fields)
    }

    /// A field that is spelled out, at least its value. One with a prefix of 6 bits is inserted.
    fn literal(
        &mut self,
        block: &[u8],
        rest: &mut &[u8],
        prefix: u32,
        fields: &mut Fields,
        on: &mut impl FnMut(Literal),
    ) -> Result<(), HpackError> {
        let index = integer(rest, prefix)?;
        let (name, len) = if index == 0 {
            string(rest, &mut self.name)?;
            (Name::of(&self.name), self.name.len())
        } else {
            let (name, _) = self.table.get(index).ok_or(HpackError)?;
            // Its length would only make the bound on memory tighter.
            (name, 0)
        };
        let (coded, len_coded) = string(rest, &mut self.value)?;
        let end = block.len() - rest.len();
        on(Literal { name, text: end - len_coded..end, coded });
        fields.keep(name, &self.value);
        if prefix == 6 {
            self.table.insert(name, len, &self.value);
        }
        Ok(())
    }

    /// Heap bytes held.
    pub fn heap(&self) -> usize {
        self.table.heap() + self.name.capacity() + self.value.capacity()
    }
}

pub(super) fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    let (&first, mut bytes) = rest.split_first().ok_or(HpackError)?;
    let mask = (1_usize << prefix) - 1;
    let mut n = usize::from(first) & mask;
    if n == mask {
        let mut shift = 0;
        loop {
            let (&b, more) = bytes.split_first().ok_or(HpackError)?;
            bytes = more;
            // Nothing that HPACK counts needs more than 32 bits.
            if shift > 28 {
                return Err(HpackError);
            }
            n += (usize::from(b) & 0x7f) << shift;
            shift += 7;
            if b & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = bytes;
    Ok(n)
}

/// Reads a text. Whether it is coded, and how long it is so.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(bool, usize), HpackError> {
    let coded = rest.first().is_some_and(|b| b & 0x80 != 0);
    let len = integer(rest, 7)?;
    let (text, more) = rest.split_at_checked(len).ok_or(HpackError)?;
    *rest = more;
    out.clear();
    if coded {
        huffman::decode(text, out)?;
    } else {
        out.extend_from_slice(text);
    }
    Ok((coded, len))
}

#[cfg(test)]
mod tests;
