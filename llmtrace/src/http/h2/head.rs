//! Header blocks as message heads. A block with a field that is not known makes none: that field
//! may be the one that says how to read the message.

use super::hpack::{Fields, Name};
use crate::http::head::{Framing, RequestHead, ResponseHead};

/// The body says itself where it ends, as with chunks.
const FRAMING: Framing = Framing::Chunked;

pub fn request(fields: &Fields) -> Option<RequestHead<'_>> {
    if fields.unknown {
        return None;
    }
    Some(RequestHead {
        method: fields.get(Name::Method)?,
        // CONNECT has none.
        target: fields.get(Name::Path).unwrap_or(""),
        minor: 1,
        host: fields.get(Name::Authority),
        user_agent: fields.get(Name::UserAgent),
        content_type: fields.get(Name::ContentType),
        content_encoding: fields.get(Name::ContentEncoding),
        traceparent: fields.get(Name::Traceparent),
        tracestate: fields.get(Name::Tracestate),
        expect_continue: false,
        upgrade: false,
        keep_alive: true,
        framing: FRAMING,
    })
}

pub fn response(fields: &Fields) -> Option<ResponseHead<'_>> {
    let status = fields.get(Name::Status)?.parse().ok()?;
    // An interim response has nothing that matters.
    if fields.unknown && !(100..200).contains(&status) {
        return None;
    }
    Some(ResponseHead {
        status,
        minor: 1,
        content_type: fields.get(Name::ContentType),
        content_encoding: fields.get(Name::ContentEncoding),
        upgrade: None,
        websocket_extensions: None,
        grpc_status: grpc_status(fields),
        keep_alive: true,
        framing: FRAMING,
    })
}

/// `grpc-status`, of trailers or of a response that is nothing else.
pub fn grpc_status(fields: &Fields) -> Option<u32> {
    fields.get(Name::GrpcStatus)?.parse().ok()
}
