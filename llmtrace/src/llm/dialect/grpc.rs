//! gRPC calls of LLM servers, without their protobuf schemas: each message of a streamed answer is
//! an event that bears tokens, and `grpc-status` says how the call ended. gRPC-Web is the same with the
//! trailers in the body, for clients that get to see no others.

use super::route::{self, Operation};
use super::{Asked, Dialect};
use crate::http::RequestHead;
use crate::llm::outcome::MAX_MODEL;

/// What is known of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The answer is a stream of messages.
    pub streams: bool,
    /// KServe's protocol, of which two fields are read: the model's name is the first field of a
    /// request, an error the first of a streamed answer.
    kserve: bool,
    /// gRPC-Web: the last message is the trailers.
    pub web: bool,
}

impl Call {
    const UNARY: Self = Self { streams: false, kserve: false, web: false };
    const STREAM: Self = Self { streams: true, ..Self::UNARY };
    const KSERVE: Self = Self { kserve: true, ..Self::UNARY };

    /// The first field of a request is the model's name, and that of a streamed answer an error.
    pub fn names_model(self) -> bool {
        self.kserve
    }
}

use Operation::{Chat, Completion, Embeddings};

/// `(service, method, endpoint, operation, call)`: a service is known by the end of its name, since packages
/// carry versions and vendors. TGI's `Prefill` and `Decode` are steps of a batch, not requests.
const CALLS: &[(&str, &str, &str, Operation, Call)] = &[
    // Triton, and what speaks KServe's v2 protocol.
    (
        "GRPCInferenceService",
        "ModelStreamInfer",
        "/GRPCInferenceService/ModelStreamInfer",
        Completion,
        Call { streams: true, ..Call::KSERVE },
    ),
    (
        "GRPCInferenceService",
        "ModelInfer",
        "/GRPCInferenceService/ModelInfer",
        Completion,
        Call::KSERVE,
    ),
    // TGI and its descendants; vLLM with the TGIS adapter.
    (
        "GenerationService",
        "GenerateStream",
        "/GenerationService/GenerateStream",
        Completion,
        Call::STREAM,
    ),
    ("GenerationService", "Generate", "/GenerationService/Generate", Completion, Call::UNARY),
    // vLLM's and SGLang's own engines: a stream also for a request that asks for none.
    ("VllmEngine", "Generate", "/VllmEngine/Generate", Completion, Call::STREAM),
    ("VllmEngine", "Embed", "/VllmEngine/Embed", Embeddings, Call::UNARY),
    ("SglangScheduler", "Generate", "/SglangScheduler/Generate", Completion, Call::STREAM),
    ("SglangScheduler", "Embed", "/SglangScheduler/Embed", Embeddings, Call::UNARY),
    // Gemini and Vertex.
    (
        "GenerativeService",
        "StreamGenerateContent",
        "/GenerativeService/StreamGenerateContent",
        Chat,
        Call::STREAM,
    ),
    (
        "GenerativeService",
        "GenerateContent",
        "/GenerativeService/GenerateContent",
        Chat,
        Call::UNARY,
    ),
    (
        "PredictionService",
        "StreamGenerateContent",
        "/PredictionService/StreamGenerateContent",
        Chat,
        Call::STREAM,
    ),
    (
        "PredictionService",
        "GenerateContent",
        "/PredictionService/GenerateContent",
        Chat,
        Call::UNARY,
    ),
];

/// None: not a call of an LLM.
pub fn classify<'a>(head: &RequestHead<'_>) -> Option<route::Call<'a>> {
    let kind = head.content_type?.strip_prefix("application/grpc")?;
    let web = kind.strip_prefix("-web");
    // `application/grpc-web-text` is base64.
    let begins = web.unwrap_or(kind).bytes().next();
    if !matches!(begins, None | Some(b'+' | b';')) || head.method != "POST" {
        return None;
    }
    let (service, method) = head.path().strip_prefix('/')?.split_once('/')?;
    let known = CALLS.iter().find(|(s, m, ..)| service.ends_with(s) && method == *m)?;
    let &(.., endpoint, operation, call) = known;
    let call = Call { web: web.is_some(), ..call };
    let route = route::route(Dialect::Grpc(call), operation, endpoint);
    Some(route::Call { route: if call.streams { route.streams() } else { route }, model: None })
}

/// Bytes before each message: a flag and a length.
const PREFIX: usize = 5;
/// First bytes of a message that are looked at.
const LOOK: usize = 2;
/// Flag of a message of gRPC-Web that is the trailers.
const TRAILERS: u8 = 0x80;
/// Most bytes of those that are kept: the status is usually the first of them.
const MAX_TRAILERS: usize = 1024;

/// One message of a streamed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub empty: bool,
    /// It carries an error instead of an answer.
    pub error: bool,
}

/// Counts the messages of an answer; keeps none of them.
#[derive(Debug)]
pub struct Messages {
    call: Call,
    prefix: [u8; PREFIX],
    have: usize,
    left: u32,
    look: [u8; LOOK],
    looked: usize,
    trailers: Vec<u8>,
    status: Option<u32>,
}

impl Messages {
    pub fn new(call: Call) -> Self {
        Self {
            call,
            prefix: [0; PREFIX],
            have: 0,
            left: 0,
            look: [0; LOOK],
            looked: 0,
            trailers: Vec::new(),
            status: None,
        }
    }

    /// `grpc-status` of trailers in the body.
    pub fn status(&self) -> Option<u32> {
        self.status
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.trailers.capacity()
    }

    /// Reports each message of a streamed answer at its last byte.
    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Message)) {
        while !bytes.is_empty() {
            if self.have < PREFIX {
                let n = bytes.len().min(PREFIX - self.have);
                self.prefix[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have < PREFIX {
                    return;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
                self.looked = 0;
            } else {
                let n = bytes.len().min(self.left as usize);
                for &b in bytes[..n].iter().take(LOOK - self.looked) {
                    self.look[self.looked] = b;
                    self.looked += 1;
                }
                if self.is_trailers() {
                    let keep = n.min(MAX_TRAILERS - self.trailers.len());
                    self.trailers.extend_from_slice(&bytes[..keep]);
                }
                self.left -= n as u32;
                bytes = &bytes[n..];
            }
            if self.left == 0 {
                self.have = 0;
                if self.is_trailers() {
                    let trailers = std::mem::take(&mut self.trailers);
                    self.status = self.status.or_else(|| status(&trailers));
                } else if self.call.streams {
                    on(self.message());
                }
            }
        }
    }

    fn is_trailers(&self) -> bool {
        self.call.web && self.prefix[0] & TRAILERS != 0
    }

    fn message(&self) -> Message {
        let [flag, length @ ..] = self.prefix;
        // Field 1 of ModelStreamInferResponse, with a length that is not zero.
        let error = self.call.kserve
            && flag == 0
            && self.looked == LOOK
            && self.look[0] == 0x0a
            && self.look[1] > 0;
        Message { empty: length == [0; 4], error }
    }
}

/// The status that a block of trailers tells, which is written as the fields of HTTP/1 are.
fn status(trailers: &[u8]) -> Option<u32> {
    trailers.split(|&b| b == b'\n').find_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        let is_status = name.trim().eq_ignore_ascii_case("grpc-status");
        is_status.then(|| value.trim().parse().ok())?
    })
}

/// Reads the model's name, where the first field of a request is known to be that.
#[derive(Debug)]
pub struct Request {
    kept: Vec<u8>,
    over: bool,
}

impl Request {
    pub fn new(call: Call) -> Self {
        Self { kept: Vec::new(), over: !call.kserve }
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.kept.capacity()
    }

    pub fn push(&mut self, bytes: &[u8], asked: &mut Asked) {
        const MOST: usize = PREFIX + 2 + MAX_MODEL;
        if self.over {
            return;
        }
        let n = bytes.len().min(MOST - self.kept.len());
        self.kept.extend_from_slice(&bytes[..n]);
        let Some(&[flag, _, _, _, _, tag, len]) = self.kept.first_chunk() else { return };
        let len = usize::from(len);
        let name = self.kept[PREFIX + 2..].get(..len);
        if flag != 0 || tag != 0x0a || len > MAX_MODEL {
            self.over = true;
        } else if let Some(name) = name {
            self.over = true;
            asked.model = std::str::from_utf8(name).ok().filter(|n| !n.is_empty()).map(Into::into);
        }
        if self.over {
            self.kept = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Framing;

    fn head<'a>(path: &'a str, kind: &'a str) -> RequestHead<'a> {
        RequestHead {
            method: "POST",
            target: path,
            minor: 1,
            host: None,
            user_agent: None,
            content_type: Some(kind),
            content_encoding: None,
            traceparent: None,
            tracestate: None,
            expect_continue: false,
            upgrade: false,
            keep_alive: true,
            framing: Framing::Chunked,
        }
    }

    #[test]
    fn only_known_services_are_llm_calls() {
        let endpoint = |path, kind| classify(&head(path, kind)).map(|call| call.route.endpoint);
        let stream = "/inference.GRPCInferenceService/ModelStreamInfer";
        assert_eq!(
            endpoint(stream, "application/grpc"),
            Some("/GRPCInferenceService/ModelStreamInfer")
        );
        assert_eq!(
            endpoint("/fmaas.GenerationService/GenerateStream", "application/grpc+proto"),
            Some("/GenerationService/GenerateStream")
        );
        assert_eq!(
            endpoint("/generate.v2.TextGenerationService/GenerateStream", "application/grpc"),
            Some("/GenerationService/GenerateStream")
        );
        let web = |kind| classify(&head(stream, kind)).map(|call| call.route.dialect);
        let expected = Call { streams: true, web: true, ..Call::KSERVE };
        assert_eq!(web("application/grpc-web"), Some(Dialect::Grpc(expected)));
        assert_eq!(web("application/grpc-web+proto"), Some(Dialect::Grpc(expected)));
        assert_eq!(web("application/grpc-web-text"), None);
        assert_eq!(web("application/grpc-webby"), None);
        assert_eq!(endpoint(stream, "application/json"), None);
        for other in [
            "/generate.v2.TextGenerationService/Decode",
            "/grpc.health.v1.Health/Check",
            "/inference.GRPCInferenceService/ServerLive",
            "ModelInfer",
        ] {
            assert_eq!(endpoint(other, "application/grpc"), None, "{other}");
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn messages_in_any_pieces() {
        let bytes = [frame(b"\x12\x03abc"), frame(b""), frame(b"\x0a\x02no"), frame(&[7; 300])];
        let bytes = bytes.concat();
        for size in [1, 2, 5, 6, 7, 100, bytes.len()] {
            let call = Call { streams: true, ..Call::KSERVE };
            let (mut messages, mut seen) = (Messages::new(call), Vec::new());
            bytes.chunks(size).for_each(|piece| {
                messages.push(piece, |m| seen.push((m.empty, m.error)));
            });
            let expected = [(false, false), (true, false), (false, true), (false, false)];
            assert_eq!(seen, expected, "by {size}");
        }
    }

    #[test]
    fn trailers_in_the_body() {
        let mut trailers = frame(b"grpc-message:no more\r\nGrpc-Status: 8\r\n");
        trailers[0] = TRAILERS;
        let bytes = [frame(b"\x12\x03abc"), trailers].concat();
        for size in [1, 7, bytes.len()] {
            for (streams, web, seen, status) in
                [(true, true, 1, Some(8)), (false, true, 0, Some(8)), (true, false, 2, None)]
            {
                let mut messages = Messages::new(Call { streams, web, ..Call::KSERVE });
                let mut count = 0;
                bytes.chunks(size).for_each(|piece| messages.push(piece, |_| count += 1));
                assert_eq!((count, messages.status()), (seen, status), "by {size}");
                assert_eq!(messages.buffered(), 0);
            }
        }
        // What is not text, or longer than what is kept, tells nothing and costs no more.
        let mut messages = Messages::new(Call { web: true, ..Call::KSERVE });
        messages.push(&[TRAILERS, 0xff, 0xff, 0xff, 0xff], |_| {});
        (0..100).for_each(|_| messages.push(&[0xff; 1000], |_| {}));
        assert_eq!(messages.status(), None);
        assert!(messages.buffered() <= 2 * MAX_TRAILERS);
    }

    #[test]
    fn the_model_of_a_request() {
        let bytes = frame(b"\x0a\x05llama\x12\x01x");
        for size in [1, 3, bytes.len()] {
            let mut request = Request::new(Call::KSERVE);
            let mut asked = Asked::default();
            bytes.chunks(size).for_each(|piece| request.push(piece, &mut asked));
            assert_eq!(asked.model.as_deref(), Some("llama"));
        }
        let mut asked = Asked::default();
        Request::new(Call::STREAM).push(&bytes, &mut asked);
        assert_eq!(asked.model, None);
    }
}
