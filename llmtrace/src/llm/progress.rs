//! What streams do while they run: for those who cannot wait for their end.

use super::outcome::{Ns, Role};

/// Gaps that are kept between two looks; of more, the last ones.
pub const RECENT_GAPS: usize = 32;

/// What a stream brought since it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Tokens as far as events tell them, else token-bearing events.
    pub tokens: u64,
    /// Tokens of earlier looks.
    pub told: u64,
    pub events: u64,
    /// Whether the first token-bearing event is among them.
    pub first: bool,
    /// Microseconds, the oldest overwritten first.
    gaps: [u32; RECENT_GAPS],
    seen: u32,
    events_before: u64,
}

impl Progress {
    /// What a stream brought; `gaps` are in nanoseconds.
    pub fn new(tokens: u64, events: u64, gaps: &[Ns]) -> Self {
        let mut new = Self { tokens, events, ..Self::default() };
        gaps.iter().for_each(|gap| new.gap(*gap));
        new
    }

    /// Inter-token latencies, in microseconds: all of them, or a sample of the last ones.
    pub fn gaps(&self) -> &[u32] {
        let kept = (self.seen as usize).min(RECENT_GAPS);
        self.gaps.get(..kept).unwrap_or_default()
    }

    #[inline]
    pub(super) fn gap(&mut self, gap: Ns) {
        self.gaps[self.seen as usize % RECENT_GAPS] =
            u32::try_from(gap / 1_000).unwrap_or(u32::MAX);
        self.seen = self.seen.wrapping_add(1);
    }

    /// `events` is how many there were so far.
    pub(super) fn take(&mut self, events: u64) -> Self {
        let taken = Self { events: events.saturating_sub(self.events_before), ..self.clone() };
        let told = self.told.saturating_add(self.tokens);
        *self = Self { told, events_before: events, ..Self::default() };
        taken
    }
}

/// An LLM exchange that is under way.
#[derive(Clone, Debug)]
pub struct Running<'a> {
    pub role: Role,
    pub endpoint: &'static str,
    /// As the response named it, else the request; none if neither has so far.
    pub model: Option<&'a str>,
    /// Whether the response is a stream or, before it began, one was asked for.
    pub stream: bool,
    pub status: Option<u16>,
    /// First byte of the request head.
    pub start: Ns,
    /// Streams only.
    pub first_token: Option<Ns>,
    pub last_token: Option<Ns>,
    /// Token-bearing events so far.
    pub token_events: u64,
    /// Since the last look.
    pub progress: Progress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_all_or_the_last() {
        let mut p = Progress::default();
        for n in 1..=3 {
            p.gap(n * 1_000);
        }
        let first = p.take(5);
        assert_eq!((first.gaps(), first.events), (&[1, 2, 3][..], 5));
        for n in 1..=40 {
            p.gap(n * 1_000);
        }
        let mut gaps = p.take(7).gaps().to_vec();
        gaps.sort_unstable();
        assert_eq!(gaps, (9..=40).collect::<Vec<_>>());
        let rest = p.take(7);
        assert_eq!((rest.events, rest.gaps()), (0, &[][..]));
        p.gap(u64::MAX);
        assert_eq!(p.take(7).gaps(), [u32::MAX]);
    }
}
