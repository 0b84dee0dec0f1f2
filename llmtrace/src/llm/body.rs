//! The body of a response, on its way from bytes to facts: which framing it has, and its events.

use super::dialect::{Asked, Choice, Decoder, Dialect, Facts, Route, Whole, grpc, openai};
use super::outcome::{Drops, Ns};
use super::track::{Seen, Stream};
use crate::http::{ResponseHead, eventstream, json_array, ndjson, sse};

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
        Self::Events(Box::new(Events { splitter, decoder, long: 0 }))
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
    decoder: Decoder,
    /// Events of which only the head was read.
    long: u32,
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
        let Self { splitter, decoder, long } = self;
        // The hot path, apart, so that it is compiled for itself.
        if let (Splitter::Sse(sse), Decoder::OpenAi(decoder)) = (splitter, decoder) {
            sse.push(bytes, |event| {
                if event.truncated {
                    *long = long.saturating_add(1);
                }
                match decoder.plain(event.data) {
                    Some(choice) => stream.plain(t, &choice),
                    None => on_openai(t, event.data, decoder, stream),
                }
            });
        } else {
            self.push_other(t, bytes, stream);
        }
    }

    #[inline(never)]
    fn push_other(&mut self, t: Ns, bytes: &[u8], stream: &mut Stream) {
        let Self { splitter, decoder, long } = self;
        match splitter {
            Splitter::Sse(sse) => sse.push(bytes, |event| {
                *long = long.saturating_add(u32::from(event.truncated));
                on_event(t, event.name, event.data, false, decoder, stream);
            }),
            Splitter::Lines(lines) => lines.push(bytes, |line| {
                *long = long.saturating_add(u32::from(line.truncated));
                on_event(t, b"", line.data, false, decoder, stream);
            }),
            Splitter::Array(array) => {
                array.push(bytes, |element| {
                    *long = long.saturating_add(u32::from(element.truncated));
                    on_event(t, b"", element.data, false, decoder, stream);
                });
                stream.done |= array.is_over();
            }
            Splitter::Frames(frames) => frames.push(bytes, |frame| {
                on_event(t, frame.name, frame.payload, frame.exception, decoder, stream);
            }),
        }
    }

    /// The response is over: an event whose end did not come is taken as it is.
    pub fn finish(&mut self, t: Ns, stream: &mut Stream) {
        let Self { splitter, decoder, long } = self;
        match splitter {
            Splitter::Sse(sse) => sse.finish(|event| {
                *long = long.saturating_add(u32::from(event.truncated));
                on_event(t, event.name, event.data, false, decoder, stream);
            }),
            Splitter::Lines(lines) => lines.finish(|line| {
                *long = long.saturating_add(u32::from(line.truncated));
                on_event(t, b"", line.data, false, decoder, stream);
            }),
            Splitter::Array(array) => array.finish(|element| {
                on_event(t, b"", element.data, false, decoder, stream);
            }),
            Splitter::Frames(_) => {}
        }
    }

    /// What was not read of the response.
    pub fn drops(&self) -> Drops {
        match &self.splitter {
            Splitter::Frames(frames) => {
                Drops { long_events: frames.long(), bad_frames: frames.bad() }
            }
            _ => Drops { long_events: self.long, bad_frames: 0 },
        }
    }

    fn buffered(&self) -> usize {
        let split = match &self.splitter {
            Splitter::Sse(sse) => sse.buffered(),
            Splitter::Lines(lines) => lines.buffered(),
            Splitter::Array(array) => array.buffered(),
            Splitter::Frames(frames) => frames.buffered(),
        };
        split + self.decoder.buffered()
    }
}

#[inline(never)]
fn on_openai(t: Ns, data: &[u8], decoder: &mut openai::Decoder, stream: &mut Stream) {
    let mut seen = Seen::default();
    let facts = decoder.other(data, |choice| stream.choice(&mut seen, &choice));
    stream.event(t, &seen, &facts);
}

fn on_event(
    t: Ns,
    name: &[u8],
    data: &[u8],
    exception: bool,
    decoder: &mut Decoder,
    stream: &mut Stream,
) {
    let mut seen = Seen::default();
    let facts = decoder.event(name, data, exception, |choice| stream.choice(&mut seen, &choice));
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
