//! Everything that the pipeline passes over is counted here, each with one of a few reasons.

use crate::conn;
use crate::http::H1Error;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The `reason` label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Why an exchange is incomplete.
    Lost {
        /// Bytes of its request are missing.
        RequestGap = "request_gap",
        /// Bytes of its response are missing.
        ResponseGap = "response_gap",
        /// Its request could not be parsed to its end.
        RequestError = "request_error",
        /// Its response could not be parsed.
        ResponseError = "response_error",
        /// An earlier loss on a pipelined connection: its response cannot be told apart.
        Pipeline = "pipeline",
        /// More requests wait for their response than are followed.
        TooMany = "too_many_pipelined",
        /// A field of its response's head lies in a part of the header table that was missed.
        UnknownHeaders = "unknown_headers",
        /// The content coding of its response could not be undone.
        Coding = "content_coding",
        /// Undone, the content coding of its response would be too much.
        CodingBomb = "coding_bomb",
        /// Its connection had to make room for another.
        Evicted = "evicted",
        /// The kernel side stopped passing its connection on.
        Silenced = "silenced",
        /// Nothing tells how it ended.
        Unknown = "unknown",
    }
}

reasons! {
    /// Why a direction was no longer followed until its next message, or its next event.
    Resync {
        /// The connection was there before the agent.
        Joined = "joined",
        /// Bytes are missing.
        Gap = "gap",
        /// A response came whose request was not seen.
        Unasked = "response_without_request",
        /// A request for another protocol was not answered before more came.
        Unanswered = "unanswered_upgrade",
        /// A content coding of a request, or that of a WebSocket, that could not be undone.
        BadCoding = "bad_coding",
        /// HTTP/2 or WebSocket: bytes that are no frame. An event stream: a frame with a wrong checksum
        /// or length.
        BadFrame = "bad_frame",
        /// HTTP/2: a header block that could not be read.
        BadHeaders = "bad_headers",
        /// HTTP/2: a request with a field from a part of the header table that was missed.
        UnknownHeaders = "unknown_headers",
        /// HTTP/2: frames of a stream whose request was not seen.
        UnknownStream = "unknown_stream",
        /// Bytes that are no message head.
        BadHead = "bad_head",
        HeadTooLong = "head_too_long",
        BadLength = "bad_length",
        BadChunk = "bad_chunk",
        ChunkLineTooLong = "chunk_line_too_long",
        /// An event of a stream, of which only the head was read.
        LongEvent = "event_too_long",
    }
}

reasons! {
    /// Why a connection is not looked at any more.
    Verdict {
        /// Its first bytes are not HTTP.
        NotHttp = "not_http",
        /// Joined in its middle, and no request came within a bound.
        NoRequest = "no_request",
        /// It speaks another protocol since an upgrade or CONNECT.
        Tunnel = "tunnel",
        /// The kernel side saw a TLS handshake.
        Tls = "tls",
        /// The kernel side saw something else that is not HTTP.
        Other = "other",
    }
}

impl From<H1Error> for Resync {
    fn from(e: H1Error) -> Self {
        match e {
            H1Error::BadHead => Self::BadHead,
            H1Error::HeadTooLong => Self::HeadTooLong,
            H1Error::BadLength => Self::BadLength,
            H1Error::BadChunk => Self::BadChunk,
            H1Error::ChunkLineTooLong => Self::ChunkLineTooLong,
        }
    }
}

/// Kinds of record, as in the `reason` label of `llmtrace_records_total`.
pub const RECORD_KINDS: [&str; 8] =
    ["read", "write", "open", "end", "silenced", "process", "arrived", "refused"];

/// What the pipeline counted since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records by [`RECORD_KINDS`].
    pub records: [u64; RECORD_KINDS.len()],
    /// Payload bytes that came with them.
    pub bytes: u64,
    /// By [`Resync::ALL`].
    pub resyncs: [u64; Resync::ALL.len()],
    /// By [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Verdicts that the caller did not fetch in time; they are given again if need be.
    pub verdicts_dropped: u64,
    /// Records of connections that were not looked at any more.
    pub ignored: u64,
    /// Bytes of responses that came before their request and in the end had none.
    pub unasked_bytes: u64,
    /// End records that were taken early because too many waited.
    pub ends_early: u64,
    /// LLM exchanges begun and over.
    pub started: u64,
    pub finished: u64,
    /// Still open when the pipeline stopped.
    pub still_open: u64,
    /// Connections not used for too long.
    pub expired: u64,
    /// Incomplete ones among the latter, by [`Lost::ALL`].
    pub incomplete: [u64; Lost::ALL.len()],
    /// HTTP exchanges that were no call of an LLM.
    pub other_http: u64,
}

impl Counts {
    pub(super) fn resync(&mut self, reason: Resync) {
        self.resyncs[reason as usize] += 1;
    }

    pub(super) fn resyncs(&mut self, reason: Resync, times: u32) {
        self.resyncs[reason as usize] += u64::from(times);
    }

    pub(super) fn incomplete(&mut self, reason: Option<Lost>) {
        self.incomplete[reason.unwrap_or(Lost::Unknown) as usize] += 1;
    }

    pub(super) fn verdict(&mut self, reason: Verdict) {
        self.verdicts[reason as usize] += 1;
    }

    /// Everything as (group, reason, count).
    pub(super) fn all(
        &self,
        table: &conn::Counts,
        connections: usize,
    ) -> Vec<(&'static str, &'static str, u64)> {
        let records = RECORD_KINDS.iter().zip(self.records).map(|(&r, n)| ("records", r, n));
        let mut all: Vec<_> = records.collect();
        let resyncs = Resync::ALL.iter().zip(self.resyncs);
        all.extend(resyncs.map(|(r, n)| ("resyncs", r.name(), n)));
        let incomplete = Lost::ALL.iter().zip(self.incomplete);
        all.extend(incomplete.map(|(r, n)| ("incomplete", r.name(), n)));
        let silenced = Verdict::ALL.iter().zip(self.verdicts);
        all.extend(silenced.map(|(r, n)| ("silenced", r.name(), n)));
        all.extend([
            ("exchanges", "started", self.started),
            ("exchanges", "finished", self.finished),
            ("exchanges", "still_open", self.still_open),
            ("exchanges", "not_llm", self.other_http),
            ("connections", "followed", connections as u64),
            ("connections", "evicted", table.evicted),
            ("connections", "expired", self.expired),
            ("bytes", "payload", self.bytes),
            ("bytes", "gap", table.gap_bytes),
            ("bytes", "duplicate", table.duplicate_bytes),
            ("bytes", "unasked", self.unasked_bytes),
            ("stream", "gap", table.gaps),
            ("stream", "duplicate", table.duplicates),
            ("stream", "held", table.held),
            ("stream", "restart", table.restarts),
            ("stream", "hold_overflow", table.hold_overflows),
            ("stream", "ignored", self.ignored),
            ("stream", "end_early", self.ends_early),
            ("stream", "verdict_dropped", self.verdicts_dropped),
        ]);
        all
    }
}
