//! The body of a response, on its way from bytes to facts: which framing it has, and its events.

use super::dialect::{Asked, Choice, Decoder, Dialect, Facts, Long, Route, Whole, grpc, openai};
use super::outcome::{Drops, Ns};
use super::track::{Seen, Stream};
use crate::http::{Part, ResponseHead, eventstream, json_array, ndjson, sse};

/// How the events of a response are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Sse,
    /// A JSON text a line.
    Lines,
    /// The elements of a JSON array.
    Array,
    /// AWS event stream.
    Frames,
    /// gRPC's messages.
    Messages(grpc::Call),
    /// No events: one text.
    Whole,
    /// No events, and nothing that is read.
    Opaque,
}

impl Framing {
    pub fn of(route: &Route, asked: &Asked, head: &ResponseHead<'_>) -> Self {
        if let Dialect::Grpc(call) = route.dialect {
            // A gateway's own error is no gRPC.
            let read = (call.streams || call.web) && head.status < 400;
            return if read { Self::Messages(call) } else { Self::Opaque };
        }
        let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
        if head.is_type("text/event-stream") {
            Self::Sse
        } else if lines.iter().any(|essence| head.is_type(essence)) {
            Self::Lines
        } else if head.is_type("application/vnd.amazon.eventstream") {
            Self::Frames
        } else if route.dialect == Dialect::Gemini && asked.stream && head.status < 400 {
            Self::Array
        } else {
            Self::Whole
        }
    }

    pub fn is_stream(self) -> bool {
        match self {
            Self::Messages(call) => call.streams,
            Self::Whole | Self::Opaque => false,
            Self::Sse | Self::Lines | Self::Array | Self::Frames => true,
        }
    }
}

/// What is being read of a response.
#[derive(Debug)]
pub enum Body {
    /// Nothing: no response yet, or one that cannot be read.
    None,
    Events(Box<Events>),
    Messages(Box<grpc::Messages>),
    Whole(Box<Whole>),
}

impl Body {
    pub fn new(framing: Framing, dialect: Dialect) -> Self {
        let splitter = match framing {
            Framing::Sse => Splitter::Sse(sse::Decoder::new()),
            Framing::Lines => Splitter::Lines(ndjson::Decoder::new()),
            Framing::Array => Splitter::Array(json_array::Decoder::new()),
            Framing::Frames => Splitter::Frames(eventstream::Decoder::new()),
            Framing::Messages(call) => {
                return Self::Messages(Box::new(grpc::Messages::new(call)));
            }
            Framing::Whole => return Self::Whole(Box::new(Whole::new(dialect))),
            Framing::Opaque => return Self::None,
        };
        let decoder = Decoder::new(dialect);
        Self::Events(Box::new(Events { splitter, reader: Reader { decoder, long: None, cut: 0 } }))
    }

    /// Bytes of memory held.
    pub fn size(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Events(events) => size_of::<Events>() + events.buffered(),
            Self::Messages(messages) => size_of::<grpc::Messages>() + messages.buffered(),
            Self::Whole(_) => size_of::<Whole>(),
        }
    }
}

#[derive(Debug)]
pub struct Events {
    splitter: Splitter,
    reader: Reader,
}

#[derive(Debug)]
struct Reader {
    decoder: Decoder,
    /// The event at hand, if it is too long to be kept.
    long: Option<Box<Long>>,
    /// Of so many of them not everything is known.
    cut: u32,
}

#[derive(Debug)]
enum Splitter {
    Sse(sse::Decoder),
    Lines(ndjson::Decoder),
    Array(json_array::Decoder),
    Frames(eventstream::Decoder),
}

impl Events {
    #[inline]
    pub fn push(&mut self, t: Ns, bytes: &[u8], stream: &mut Stream) {
        // The hot path, apart, so that it is compiled for itself.
        if let (Splitter::Sse(sse), Decoder::OpenAi(_)) = (&mut self.splitter, &self.reader.decoder)
        {
            let reader = &mut self.reader;
            sse.push(bytes, |event| match &mut reader.decoder {
                Decoder::OpenAi(decoder) if event.part == Part::Whole => {
                    match decoder.plain(event.data) {
                        Some(choice) => stream.plain(t, &choice),
                        None => on_openai(t, event.data, decoder, stream),
                    }
                }
                _ => reader.part(t, event.name, event.data, event.part, stream),
            });
        } else {
            self.push_other(t, bytes, stream);
        }
    }

    #[inline(never)]
    fn push_other(&mut self, t: Ns, bytes: &[u8], stream: &mut Stream) {
        let Self { splitter, reader } = self;
        match splitter {
            Splitter::Sse(sse) => {
                sse.push(bytes, |e| reader.part(t, e.name, e.data, e.part, stream));
            }
            Splitter::Lines(lines) => {
                lines.push(bytes, |line| reader.part(t, b"", line.data, line.part, stream));
            }
            Splitter::Array(array) => {
                array.push(bytes, |e| reader.part(t, b"", e.data, e.part, stream));
                stream.done |= array.is_over();
            }
            Splitter::Frames(frames) => frames.push(bytes, |frame| {
                reader.event(t, frame.name, frame.payload, frame.exception, stream);
            }),
        }
    }

    /// The response is over: an event whose end did not come is taken as it is.
    pub fn finish(&mut self, t: Ns, stream: &mut Stream) {
        let Self { splitter, reader } = self;
        match splitter {
            Splitter::Sse(sse) => sse.finish(|e| reader.part(t, e.name, e.data, e.part, stream)),
            Splitter::Lines(lines) => {
                lines.finish(|line| reader.part(t, b"", line.data, line.part, stream));
            }
            Splitter::Array(array) => {
                array.finish(|e| reader.part(t, b"", e.data, e.part, stream));
            }
            Splitter::Frames(_) => {}
        }
    }

    /// What was not read of the response.
    pub fn drops(&self) -> Drops {
        match &self.splitter {
            Splitter::Frames(frames) => {
                Drops { long_events: frames.long(), bad_frames: frames.bad() }
            }
            _ => Drops { long_events: self.reader.cut, bad_frames: 0 },
        }
    }

    fn buffered(&self) -> usize {
        let split = match &self.splitter {
            Splitter::Sse(sse) => sse.buffered(),
            Splitter::Lines(lines) => lines.buffered(),
            Splitter::Array(array) => array.buffered(),
            Splitter::Frames(frames) => frames.buffered(),
        };
        let long = self.reader.long.as_ref().map_or(0, |long| size_of::<Long>() + long.heap());
        split + self.reader.decoder.buffered() + long
    }
}

impl Reader {
    #[inline]
    fn part(&mut self, t: Ns, name: &[u8], data: &[u8], part: Part, stream: &mut Stream) {
        match part {
            Part::Whole => self.event(t, name, data, false, stream),
            part => self.long_part(t, name, data, part, stream),
        }
    }

    fn event(&mut self, t: Ns, name: &[u8], data: &[u8], exception: bool, stream: &mut Stream) {
        let mut seen = Seen::default();
        let on_choice = |choice: Choice<'_>| stream.choice(&mut seen, &choice);
        let facts = self.decoder.event(name, data, exception, on_choice);
        stream.event(t, &seen, &facts);
    }

    #[cold]
    fn long_part(&mut self, t: Ns, name: &[u8], data: &[u8], part: Part, stream: &mut Stream) {
        let Self { decoder, long, cut } = self;
        long.get_or_insert_with(|| Box::new(decoder.long())).push(data);
        if part != Part::End {
            return;
        }
        let Some(long) = long.take() else { return };
        *cut = cut.saturating_add(u32::from(long.is_cut()));
        let mut seen = Seen::default();
        let facts = decoder.long_event(name, &long, |choice| stream.choice(&mut seen, &choice));
        stream.event(t, &seen, &facts);
    }
}

#[inline(never)]
fn on_openai(t: Ns, data: &[u8], decoder: &mut openai::Decoder, stream: &mut Stream) {
    let mut seen = Seen::default();
    let facts = decoder.other(data, |choice| stream.choice(&mut seen, &choice));
    stream.event(t, &seen, &facts);
}

/// Messages of a gRPC answer: each is an event. The call's status, if it is among them.
#[inline(never)]
pub fn on_messages(
    t: Ns,
    bytes: &[u8],
    messages: &mut grpc::Messages,
    stream: &mut Stream,
) -> Option<u32> {
    messages.push(bytes, |message| {
        let tokens = !message.empty && !message.error;
        let facts = Facts { error: message.error, ..Facts::default() };
        on_message(t, Some(Choice { tokens, ..Choice::default() }), &facts, stream);
    });
    messages.status()
}

/// A message, with what it says of its one choice.
pub fn on_message(t: Ns, choice: Option<Choice<'_>>, facts: &Facts<'_>, stream: &mut Stream) {
    let mut seen = Seen::default();
    if let Some(choice) = choice {
        stream.choice(&mut seen, &choice);
    }
    stream.event(t, &seen, facts);
}
