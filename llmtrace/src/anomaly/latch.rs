//! From verdicts to anomalies: raised after m of n, cleared after k calm ones.

use std::collections::VecDeque;

use crate::{config, llm::Ns};

#[derive(Debug, Default)]
pub(super) struct Latch {
    /// Verdicts of the last intervals, the newest in the lowest bit.
    recent: u32,
    calm: u32,
    /// When the intervals of `recent` began, the newest last.
    begins: VecDeque<Ns>,
    since: Option<Ns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Same,
    /// Raised; it began then.
    Up(Ns),
    Down,
}

impl Latch {
    pub(super) fn is_up(&self) -> bool {
        self.since.is_some()
    }

    /// Nothing was out of bounds lately.
    pub(super) fn is_quiet(&self) -> bool {
        self.recent == 0 && !self.is_up()
    }

    /// When it was raised.
    pub(super) fn since(&self) -> Option<Ns> {
        self.since
    }

    /// A sample from `from` to `to` was judged.
    pub(super) fn step(
        &mut self,
        (from, to): (Ns, Ns),
        exceeds: bool,
        calm: bool,
        s: &config::Anomaly,
    ) -> Step {
        let mask = 1_u32.checked_shl(s.raise_of).map_or(u32::MAX, |bit| bit - 1);
        self.recent = ((self.recent << 1) | u32::from(exceeds)) & mask;
        self.begins.push_back(from);
        while self.begins.len() > s.raise_of as usize {
            self.begins.pop_front();
        }
        self.calm = if calm { self.calm + 1 } else { 0 };
        if self.is_up() {
            if self.calm >= s.clear.max(1) {
                *self = Self::default();
                return Step::Down;
            }
        } else if self.recent.count_ones() >= s.raise {
            self.since = Some(to);
            let oldest = self.recent.checked_ilog2().unwrap_or(0) as usize;
            let begin = self.begins.iter().rev().nth(oldest);
            return Step::Up(begin.copied().unwrap_or(from));
        }
        Step::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m_of_n_up_and_k_down() {
        let s = config::Anomaly { raise: 2, raise_of: 3, clear: 2, ..config::Anomaly::default() };
        let mut latch = Latch::default();
        let mut at = 0;
        let mut step = |exceeds, calm| {
            at += 10;
            latch.step((at - 10, at), exceeds, calm, &s)
        };
        assert_eq!(step(true, false), Step::Same);
        assert_eq!(step(false, true), Step::Same);
        assert_eq!(step(false, true), Step::Same);
        // The first one is out of the last three.
        assert_eq!(step(true, false), Step::Same);
        assert_eq!(step(false, false), Step::Same);
        assert_eq!(step(true, false), Step::Up(30));
        assert_eq!(step(false, true), Step::Same);
        // Not out of bounds, but not calm either.
        assert_eq!(step(false, false), Step::Same);
        assert_eq!(step(false, true), Step::Same);
        assert_eq!(step(false, true), Step::Down);
        assert_eq!(step(true, false), Step::Same);
    }
}
