//! gRPC's messages: their flags and lengths stay, and of KServe's the model's name; without the
//! schema every other byte may be of a text.

use super::FILLER;
use super::head::Head;
use crate::llm::outcome::MAX_MODEL;

/// Bytes before each message: a flag and a length.
const PREFIX: usize = 5;
/// Tag of a message's first field, where it is a text.
const FIRST: u8 = 0x0a;
/// Flag of a message of gRPC-Web that is the trailers.
const TRAILERS: u8 = 0x80;

#[derive(Debug)]
pub struct Grpc {
    /// The first field of a request is the model's name, that of a response says whether it failed.
    kserve: bool,
    asks: bool,
    web: bool,
    prefix: [u8; PREFIX],
    have: usize,
    left: u32,
    at: u32,
    /// Length of the first field, if it is a text.
    first: Option<u32>,
    trailers: Option<Box<Head>>,
}

impl Grpc {
    pub fn new(kserve: bool, asks: bool, web: bool) -> Self {
        Self {
            kserve,
            asks,
            web,
            prefix: [0; PREFIX],
            have: 0,
            left: 0,
            at: 0,
            first: None,
            trailers: None,
        }
    }

    pub fn redact(&mut self, bytes: &mut [u8]) {
        for b in bytes {
            if let Some(place) = self.prefix.get_mut(self.have) {
                *place = *b;
                self.have += 1;
                if self.have == PREFIX {
                    self.begin();
                }
            } else {
                *b = self.content(*b);
                self.at += 1;
                self.left -= 1;
            }
            if self.have == PREFIX && self.left == 0 {
                self.have = 0;
            }
        }
    }

    fn begin(&mut self) {
        let [flag, length @ ..] = self.prefix;
        (self.left, self.at, self.first) = (u32::from_be_bytes(length), 0, None);
        let trailers = self.web && flag & TRAILERS != 0;
        self.trailers = trailers.then(|| Box::new(Head::trailers()));
    }

    fn content(&mut self, b: u8) -> u8 {
        if let Some(head) = &mut self.trailers {
            let Some((b, _)) = head.byte(b) else {
                self.trailers = None;
                return FILLER;
            };
            return b;
        }
        if !self.kserve || self.prefix[0] != 0 {
            return FILLER;
        }
        match (self.at, self.first) {
            (0, _) => {
                self.first = (b == FIRST).then_some(0);
                if b == FIRST { b } else { FILLER }
            }
            // A length of one byte; no name is longer.
            (1, Some(_)) => {
                let name = u32::from(b) < 0x80 && usize::from(b) <= MAX_MODEL;
                self.first = Some(if name { u32::from(b) } else { 0 });
                b
            }
            (at, Some(len)) if self.asks && at < 2 + len => b,
            _ => FILLER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(mut grpc: Grpc, text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        bytes.iter_mut().for_each(|b| grpc.redact(std::slice::from_mut(b)));
        bytes
    }

    #[test]
    fn of_a_message_only_its_length_stays() {
        let messages = b"\0\0\0\0\x04zqzq\0\0\0\0\0\x01\0\0\0\x02zq";
        let expected = b"\0\0\0\0\x04xxxx\0\0\0\0\0\x01\0\0\0\x02xx";
        for asks in [true, false] {
            assert_eq!(redact(Grpc::new(false, asks, false), messages), expected);
        }
    }

    #[test]
    fn the_model_and_the_error_of_kserve() {
        let asked = b"\0\0\0\0\x09\x0a\x03m-1\x1a\x02zq";
        assert_eq!(redact(Grpc::new(true, true, false), asked), b"\0\0\0\0\x09\x0a\x03m-1xxxx");
        let failed = b"\0\0\0\0\x06\x0a\x04zqzq\0\0\0\0\x03\x12\x01z";
        let expected = b"\0\0\0\0\x06\x0a\x04xxxx\0\0\0\0\x03xxx";
        assert_eq!(redact(Grpc::new(true, false, false), failed), expected);
    }

    #[test]
    fn trailers_of_the_web() {
        let text = b"\0\0\0\0\x02zq\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:zq\r\n";
        let expected = b"\0\0\0\0\x02xx\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:xx\r\n";
        assert_eq!(redact(Grpc::new(false, false, true), text), expected);
    }
}
