//! Reading responses, event by event or as one text.

use super::long::Long;
use super::note::{Choice, Counts, Facts, Note};
use super::{Api, Dialect, OWN, bedrock, openai, with_api};
use crate::llm::json::stream::{Node, Scanner, Value};
use crate::llm::json::{unescape, walk};
use crate::llm::outcome::{MAX_FINISH_REASON, MAX_MODEL, Usage};

/// Reads the events of one response.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and the hot path")]
pub enum Decoder {
    OpenAi(openai::Decoder),
    Other(Other),
}

/// Every other dialect.
#[derive(Debug)]
pub struct Other {
    dialect: Dialect,
    /// The newest of each count.
    counts: Counts,
    /// An event was read.
    begun: bool,
    /// What the event at hand wraps, decoded.
    inner: Vec<u8>,
}

impl Decoder {
    pub fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::Decoder::new()),
            _ => Self::Other(Other {
                dialect,
                counts: Counts::default(),
                begun: false,
                inner: Vec::new(),
            }),
        }
    }

    /// `exception`: the framing itself says that this event is an error.
    pub fn event<'a>(
        &'a mut self,
        name: &[u8],
        data: &'a [u8],
        exception: bool,
        on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        if let Self::Other(other) = self
            && other.is_openai(data)
        {
            *self = Self::OpenAi(openai::Decoder::new());
        }
        match self {
            Self::OpenAi(decoder) => decoder.event(data, on_choice),
            Self::Other(other) => other.event(name, data, exception, on_choice),
        }
    }

    /// For an event that is too long to be kept.
    pub fn long(&self) -> Long {
        Long::new(match self {
            Self::OpenAi(_) => Dialect::OpenAi,
            Self::Other(other) => other.dialect,
        })
    }

    /// The end of such an event.
    pub fn long_event<'a>(
        &mut self,
        name: &[u8],
        long: &'a Long,
        on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        match self {
            Self::OpenAi(_) => long.end(name, &mut Counts::default(), on_choice),
            Self::Other(other) => {
                other.begun = true;
                long.end(name, &mut other.counts, on_choice)
            }
        }
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        match self {
            Self::OpenAi(_) => 0,
            Self::Other(other) => other.inner.capacity(),
        }
    }
}

impl Other {
    /// Whether the first event of a dialect that shares its path with OpenAI's shows that one.
    fn is_openai(&mut self, data: &[u8]) -> bool {
        let first = !std::mem::replace(&mut self.begun, true);
        first
            && matches!(self.dialect, Dialect::LlamaCpp | Dialect::Audio)
            && openai::has_choices(data)
    }

    fn event<'a>(
        &'a mut self,
        name: &[u8],
        data: &'a [u8],
        exception: bool,
        on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        if data == b"[DONE]" {
            return Facts { done: true, ..Facts::default() };
        }
        let Self { dialect, counts, inner, .. } = self;
        let data = match dialect {
            Dialect::Bedrock => bedrock::unwrap(data, inner).unwrap_or(data),
            _ => data,
        };
        let mut facts = with_api!(*dialect, A => read::<A>(name, data, counts, on_choice));
        facts.error |= exception;
        facts
    }
}

fn read<'a, A: Api>(
    name: &[u8],
    data: &'a [u8],
    counts: &mut Counts,
    mut on_choice: impl FnMut(Choice<'a>),
) -> Facts<'a> {
    let mut note = Note::default();
    walk(data, A::RESPONSE, |node, value| take::<A>(node, value, &mut note, &mut on_choice));
    over::<A>(name, note, counts, on_choice)
}

/// A value of an event.
#[inline]
pub(super) fn take<'a, A: Api>(
    node: Node,
    value: Value<'a>,
    note: &mut Note<'a>,
    on_choice: &mut impl FnMut(Choice<'a>),
) {
    if node < OWN {
        note.note(node, value);
    } else {
        A::say(node, value, note);
    }
    if let Some(choice) = note.ended.take() {
        on_choice(choice);
    }
}

/// The end of an event.
#[inline]
pub(super) fn over<'a, A: Api>(
    name: &[u8],
    mut note: Note<'a>,
    counts: &mut Counts,
    mut on_choice: impl FnMut(Choice<'a>),
) -> Facts<'a> {
    A::event_end(name, &mut note);
    if note.has_choice() {
        on_choice(note.choice);
    }
    let usage = (note.counts != Counts::default()).then(|| {
        *counts = note.counts.or(*counts);
        let usage = counts.usage();
        // An older count of the output says nothing of this event.
        Usage { output: usage.output.filter(|_| note.counts.has_output()), ..usage }
    });
    let Note { model, of_all, cumulative, error, done, .. } = note;
    Facts { model, usage, of_all, cumulative, fallback: None, error, done }
}

/// Reads a response body that is one text as it goes by.
#[derive(Debug)]
pub struct Whole {
    dialect: Dialect,
    scanner: Scanner,
    counts: Counts,
    said: Said,
}

/// What such a body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub model: Option<Box<str>>,
    pub usage: Usage,
    pub error: bool,
    pub finish: Option<Box<str>>,
    /// The text came to its end.
    pub complete: bool,
    /// Whether it has any text or call; none where the API does not show it.
    pub answered: Option<bool>,
}

impl Whole {
    pub fn new(dialect: Dialect) -> Self {
        let paths = with_api!(dialect, A => <A as Api>::RESPONSE);
        let (counts, said) = (Counts::default(), Said::default());
        Self { dialect, scanner: Scanner::new(paths), counts, said }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        with_api!(self.dialect, A => self.read::<A>(bytes));
    }

    fn read<A: Api>(&mut self, bytes: &[u8]) {
        let Self { scanner, counts, said, .. } = self;
        if A::SHOWS_ANSWER {
            said.answered.get_or_insert(false);
        }
        scanner.push(bytes, |node, value: Value<'_>| {
            let mut note = Note { counts: *counts, ..Note::default() };
            if node < OWN {
                note.note(node, value);
            } else {
                A::say(node, value, &mut note);
            }
            *counts = note.counts;
            said.error |= note.error;
            if note.choice.tokens
                && let Some(answered) = &mut said.answered
            {
                *answered = true;
            }
            if let Some(model) = note.model {
                said.model = Some(unescape(model, MAX_MODEL));
            }
            if let (Some(finish), None) = (note.choice.finish, &said.finish) {
                said.finish = Some(unescape(finish, MAX_FINISH_REASON));
            }
        });
    }

    pub fn said(mut self) -> Said {
        self.said.complete = self.scanner.is_over();
        self.said.usage = self.counts.usage();
        self.said
    }
}
