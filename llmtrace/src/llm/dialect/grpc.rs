//! gRPC calls of LLM servers, without their protobuf schemas: each message of a streamed answer is
//! an event that bears tokens, and `grpc-status` says how the call ended.

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
}

impl Call {
    const UNARY: Self = Self { streams: false, kserve: false };
    const STREAM: Self = Self { streams: true, kserve: false };
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
        Call { streams: true, kserve: true },
    ),
    (
        "GRPCInferenceService",
        "ModelInfer",
        "/GRPCInferenceService/ModelInfer",
        Completion,
        Call { streams: false, kserve: true },
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
    // `application/grpc-web` is another framing.
    if !matches!(kind.bytes().next(), None | Some(b'+' | b';')) || head.method != "POST" {
        return None;
    }
    let (service, method) = head.path().strip_prefix('/')?.split_once('/')?;
    let known = CALLS.iter().find(|(s, m, ..)| service.ends_with(s) && method == *m)?;
    let &(.., endpoint, operation, call) = known;
    let route = route::route(Dialect::Grpc(call), operation, endpoint);
    Some(route::Call { route: if call.streams { route.streams() } else { route }, model: None })
}

/// Bytes before each message: a flag and a length.
const PREFIX: usize = 5;
/// First bytes of a message that are looked at.
const LOOK: usize = 2;

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
}

impl Messages {
    pub fn new(call: Call) -> Self {
        Self { call, prefix: [0; PREFIX], have: 0, left: 0, look: [0; LOOK], looked: 0 }
    }

    /// Reports each message at its last byte.
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
                self.left -= n as u32;
                bytes = &bytes[n..];
            }
            if self.left == 0 {
                self.have = 0;
                on(self.message());
            }
        }
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
        assert_eq!(endpoint(stream, "application/grpc-web"), None);
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
            let call = Call { streams: true, kserve: true };
            let (mut messages, mut seen) = (Messages::new(call), Vec::new());
            bytes.chunks(size).for_each(|piece| {
                messages.push(piece, |m| seen.push((m.empty, m.error)));
            });
            let expected = [(false, false), (true, false), (false, true), (false, false)];
            assert_eq!(seen, expected, "by {size}");
        }
    }

    #[test]
    fn the_model_of_a_request() {
        let bytes = frame(b"\x0a\x05llama\x12\x01x");
        for size in [1, 3, bytes.len()] {
            let mut request = Request::new(Call { streams: false, kserve: true });
            let mut asked = Asked::default();
            bytes.chunks(size).for_each(|piece| request.push(piece, &mut asked));
            assert_eq!(asked.model.as_deref(), Some("llama"));
        }
        let mut asked = Asked::default();
        Request::new(Call::STREAM).push(&bytes, &mut asked);
        assert_eq!(asked.model, None);
    }
}
