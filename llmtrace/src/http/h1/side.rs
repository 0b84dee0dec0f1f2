//! What differs between the two directions: the head, and what a response must know of requests.

use super::Asked;
use crate::http::head::{self, Framing, RequestHead, ResponseHead};
use crate::http::{H1Error, MAX_PIPELINE};

/// What follows a head.
#[derive(Clone, Copy)]
pub(super) enum Next {
    Interim(u16),
    Message(Framing),
}

/// What differs between the two directions.
pub(super) trait Side {
    type Head<'a>;
    fn parse<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(Self::Head<'a>, usize, Next)>, H1Error>;
}

#[derive(Debug, Default)]
pub(super) struct Requests;

impl Side for Requests {
    type Head<'a> = RequestHead<'a>;

    fn parse<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(RequestHead<'a>, usize, Next)>, H1Error> {
        Ok(head::request(bytes)?.map(|(head, len)| {
            let framing = head.framing;
            (head, len, Next::Message(framing))
        }))
    }
}

/// The requests whose responses are to come, two bits each, the oldest lowest.
#[derive(Debug, Default)]
pub(super) struct Responses {
    asked: u128,
    len: u8,
}

const _: () = assert!(MAX_PIPELINE * 2 <= u128::BITS as usize);

impl Responses {
    pub(super) fn push(&mut self, asked: Asked) -> bool {
        if usize::from(self.len) == MAX_PIPELINE {
            return false;
        }
        self.asked |= (asked as u128) << (2 * self.len);
        self.len += 1;
        true
    }

    fn pop(&mut self) -> Asked {
        if self.len == 0 {
            return Asked::Other;
        }
        let first = self.asked & 3;
        self.asked >>= 2;
        self.len -= 1;
        match first {
            0 => Asked::Head,
            1 => Asked::Connect,
            _ => Asked::Other,
        }
    }
}

impl Side for Responses {
    type Head<'a> = ResponseHead<'a>;

    fn parse<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(ResponseHead<'a>, usize, Next)>, H1Error> {
        let Some((mut head, len)) = head::response(bytes)? else { return Ok(None) };
        if (100..200).contains(&head.status) && head.status != 101 {
            let status = head.status;
            return Ok(Some((head, len, Next::Interim(status))));
        }
        match self.pop() {
            Asked::Head => head.framing = Framing::None,
            Asked::Connect if (200..300).contains(&head.status) => head.framing = Framing::Tunnel,
            _ => {}
        }
        let framing = head.framing;
        Ok(Some((head, len, Next::Message(framing))))
    }
}
