//! The streams of one connection that are open.

use crate::http::h2::MAX_STREAMS;
use crate::pipeline::Sink;
use crate::pipeline::counts::Lost;
use crate::pipeline::cx::Cx;
use crate::pipeline::pending::Pending;

/// One stream: a request and its response.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: u32,
    pub pending: Box<Pending>,
    /// The request is complete.
    pub sent: bool,
    /// The response's head, not an interim one, has come.
    pub answered: bool,
    /// Something was missed that may have been about this stream. It does not matter if the
    /// response comes to its end.
    pub doubt: Option<Lost>,
}

impl Stream {
    pub fn new(id: u32, pending: Box<Pending>) -> Self {
        Self { id, pending, sent: false, answered: false, doubt: None }
    }

    /// It is over, in whatever way.
    pub fn close<K: Sink>(mut self, cx: &mut Cx<'_, K>) {
        if let Some(lost) = self.doubt {
            let t = self.pending.exchange.started();
            self.pending.lose(t, lost);
        }
        cx.finished(*self.pending);
    }
}

/// In the order of their ids, which is that of their opening.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    /// Gives the stream back if there are too many, or if it is out of order.
    pub fn open(&mut self, stream: Stream) -> Result<(), Stream> {
        if self.0.len() >= MAX_STREAMS || self.0.last().is_some_and(|last| last.id >= stream.id) {
            return Err(stream);
        }
        self.0.push(stream);
        Ok(())
    }

    #[inline]
    pub fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.0.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.0.get_mut(at)
    }

    pub fn remove(&mut self, id: u32) -> Option<Stream> {
        let at = self.0.binary_search_by_key(&id, |stream| stream.id).ok()?;
        let stream = self.0.remove(at);
        if self.0.is_empty() && self.0.capacity() > 64 {
            self.0 = Vec::new();
        }
        Some(stream)
    }

    /// All of them.
    pub fn take(&mut self) -> Vec<Stream> {
        std::mem::take(&mut self.0)
    }

    /// Those with an id past `last`.
    pub fn take_after(&mut self, last: u32) -> Vec<Stream> {
        let at = self.0.partition_point(|stream| stream.id <= last);
        self.0.split_off(at)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.0.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
