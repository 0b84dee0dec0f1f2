//! An event that is too long to be kept: what it says is found as it goes by.

use super::note::{Note, say};
use super::read::{over, take};
use super::{Api, Choice, Dialect, Facts, note, with_api};
use crate::llm::dialect::note::Counts;
use crate::llm::json::stream::{Node, Scanner, Value};

/// Most values of one event that are noted, and most bytes of their texts.
const MAX_FOUND: usize = 512;
const MAX_TEXTS: usize = 16 * 1024;

/// The values that the dialect's paths lead to, until the end of the event.
#[derive(Debug)]
pub struct Long {
    dialect: Dialect,
    scanner: Scanner,
    found: Found,
}

#[derive(Debug, Default)]
struct Found {
    /// Node and kind of a value, and where its text ends in `texts`.
    values: Vec<(Node, Kind, usize)>,
    texts: Vec<u8>,
    /// The choice at hand has a text: another says nothing new.
    bears: bool,
    /// There were more than are noted.
    full: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    String,
    Scalar,
    Container,
    End,
}

impl Long {
    pub fn new(dialect: Dialect) -> Self {
        let paths = with_api!(dialect, A => <A as Api>::RESPONSE);
        Self { dialect, scanner: Scanner::new(paths), found: Found::default() }
    }

    /// Heap bytes held.
    pub fn heap(&self) -> usize {
        self.found.values.capacity() * size_of::<(Node, Kind, usize)>()
            + self.found.texts.capacity()
    }

    /// Not everything that it said is known.
    pub fn is_cut(&self) -> bool {
        self.found.full
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let found = &mut self.found;
        self.scanner.push(bytes, |node, value| found.note(node, value));
    }

    /// The event is over.
    pub fn end<'a>(
        &'a self,
        name: &[u8],
        counts: &mut Counts,
        on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        with_api!(self.dialect, A => self.read::<A>(name, counts, on_choice))
    }

    fn read<'a, A: Api>(
        &'a self,
        name: &[u8],
        counts: &mut Counts,
        mut on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        let mut note = Note::default();
        let mut start = 0;
        for &(node, kind, end) in &self.found.values {
            let text = &self.found.texts[start..end];
            start = end;
            let value = match kind {
                Kind::String => Value::String(text),
                Kind::Scalar => Value::Scalar(text),
                Kind::Container => Value::Container,
                Kind::End => Value::End,
            };
            take::<A>(node, value, &mut note, &mut on_choice);
        }
        over::<A>(name, note, counts, on_choice)
    }
}

impl Found {
    fn note(&mut self, node: Node, value: Value<'_>) {
        let (kind, text) = match value {
            Value::String(text) => (Kind::String, text),
            Value::Scalar(text) => (Kind::Scalar, text),
            Value::Container => (Kind::Container, &b""[..]),
            Value::End => (Kind::End, &b""[..]),
        };
        match node {
            say::TEXT | say::TOKENS => {
                if self.bears || !note::is_something(value) {
                    return;
                }
                self.bears = true;
            }
            say::CHOICE if matches!(kind, Kind::End) => self.bears = false,
            _ => {}
        }
        if self.values.len() == MAX_FOUND || self.texts.len() + text.len() > MAX_TEXTS {
            self.full = true;
            return;
        }
        self.texts.extend_from_slice(text);
        self.values.push((node, kind, self.texts.len()));
    }
}
