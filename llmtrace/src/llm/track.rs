//! The tokens of one stream and their times.

use std::sync::Arc;

use super::dialect::{Choice, Facts};
use super::json::unescape;
use super::outcome::{
    ItlHistogram, MAX_CHOICES, MAX_FINISH_REASON, MAX_MODEL, MAX_TOKEN_TIMES, Ns, Settings,
    TokenSource, Usage,
};
use super::payload::Text;
use super::progress::Progress;
use super::reader::Reader;

/// One choice of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    index: u32,
    /// The event at hand bears tokens of this choice.
    touched: bool,
    /// Some event bore tokens of this choice, the last one that counted at `last`.
    seen: bool,
    last: Ns,
    /// Every token-bearing event told its count; the counts since the last one that was used.
    counted: bool,
    count: u64,
    /// Every token-bearing event had a cumulative count; the newest, and the last that was used.
    cumulates: bool,
    total: Option<u64>,
    used: u64,
}

impl Slot {
    fn new(index: u32) -> Self {
        Self { index, counted: true, cumulates: true, ..Self::default() }
    }

    /// Tokens since the last call, if they are known.
    #[inline]
    fn take(&mut self) -> Option<u64> {
        if self.counted {
            return Some(std::mem::take(&mut self.count));
        }
        let total = self.total.filter(|_| self.cumulates)?;
        let new = total.saturating_sub(self.used);
        self.used = total;
        Some(new)
    }
}

/// What is known of a stream so far.
#[derive(Debug)]
pub struct Stream {
    pub events: u64,
    pub token_events: u64,
    pub first_token: Option<Ns>,
    pub last_token: Option<Ns>,
    pub first_tokens: u32,
    pub max_stall: Option<Ns>,
    pub error: bool,
    pub done: bool,
    pub model: Option<Box<str>>,
    pub itl: Option<Box<ItlHistogram>>,
    pub token_times: Option<Vec<Ns>>,
    /// What looks at the text of the first choice, if anybody does.
    reader: Option<Box<Reader>>,
    /// What came since somebody looked.
    progress: Progress,
    finish: Option<(u32, Box<str>)>,
    usage: Usage,
    fallback: Usage,
    /// The last counts were those of all choices together.
    usage_of_all: bool,
    /// The number of tokens of every token-bearing event was known.
    exact: bool,
    /// Sum of the counts that events told themselves.
    counted: u64,
    first: Slot,
    more: Vec<Slot>,
    bounds: Arc<[Ns]>,
    bucket: usize,
}

impl Stream {
    pub fn new(settings: &Settings) -> Self {
        Self {
            events: 0,
            token_events: 0,
            first_token: None,
            last_token: None,
            first_tokens: 0,
            max_stall: None,
            error: false,
            done: false,
            model: None,
            itl: None,
            token_times: settings.token_times.then(Vec::new),
            reader: Reader::new(settings).map(Box::new),
            progress: Progress::default(),
            finish: None,
            usage: Usage::default(),
            fallback: Usage::default(),
            usage_of_all: false,
            exact: true,
            counted: 0,
            first: Slot::new(0),
            more: Vec::new(),
            bounds: Arc::clone(&settings.itl_bounds),
            bucket: 0,
        }
    }

    /// One choice of the event at hand.
    #[inline]
    pub fn choice(&mut self, seen: &mut Seen, choice: &Choice<'_>) {
        seen.choices += 1;
        seen.index = choice.index;
        if let Some(reason) = choice.finish {
            self.finish(choice.index, reason);
        }
        self.counted = self.counted.saturating_add(u64::from(choice.count.unwrap_or(0)));
        let Some(slot) = self.slot(choice.index) else {
            seen.tokens |= choice.tokens;
            seen.untracked |= choice.tokens;
            return;
        };
        if let Some(n) = choice.count {
            slot.count += u64::from(n);
        } else if choice.tokens {
            slot.counted = false;
        }
        if choice.tokens {
            slot.touched = true;
            seen.tokens = true;
        }
        if self.reader.is_some() {
            self.read(choice);
        }
    }

    #[inline(never)]
    fn read(&mut self, choice: &Choice<'_>) {
        if choice.index == 0
            && choice.tokens
            && let Some(reader) = &mut self.reader
        {
            reader.push(choice.text, choice.text_so_far);
        }
    }

    /// How much the answer repeats itself, and its text: what was asked for of the two.
    pub fn take_read(&mut self) -> (Option<f32>, Option<Text>) {
        self.reader.take().map_or((None, None), |reader| reader.finish())
    }

    /// An event that says one thing of one choice, and nothing else.
    #[inline]
    pub fn plain(&mut self, t: Ns, choice: &Choice<'_>) {
        let mut seen = Seen::default();
        self.choice(&mut seen, choice);
        self.events += 1;
        if seen.tokens {
            self.tokens(t, &seen, false, false);
        }
    }

    /// The end of the event at hand.
    #[inline]
    pub fn event(&mut self, t: Ns, seen: &Seen, facts: &Facts<'_>) {
        self.events += 1;
        self.error |= facts.error;
        self.done |= facts.done;
        if let Some(model) = facts.model
            && self.model.is_none()
        {
            self.model = Some(unescape(model, MAX_MODEL));
        }
        if let Some(fallback) = facts.fallback {
            self.fallback = fallback.or(self.fallback);
        }
        let mut has_total = false;
        if let Some(usage) = facts.usage {
            // Counts of all choices say of one choice what is new only if there is but one.
            let of_one = seen.choices == 1 && (!facts.of_all || self.more.is_empty());
            has_total = of_one && usage.output.is_some();
            self.usage(seen, usage, of_one);
        }
        if seen.tokens {
            self.tokens(t, seen, has_total, facts.cumulative);
        }
    }

    #[inline]
    fn tokens(&mut self, t: Ns, seen: &Seen, has_total: bool, cumulative: bool) {
        let mut k = 0;
        if self.first.touched {
            k += self.slot_tokens(t, None, has_total);
        }
        if !self.more.is_empty() {
            for i in 0..self.more.len() {
                if self.more[i].touched {
                    k += self.slot_tokens(t, Some(i), has_total);
                }
            }
        }
        if k == 0 && cumulative && self.first_token.is_some() {
            return;
        }
        self.exact &= !seen.untracked;
        self.token_events += 1;
        self.progress.tokens += k.max(1);
        match self.last_token {
            Some(last) => {
                let gap = t.saturating_sub(last);
                self.max_stall = Some(self.max_stall.map_or(gap, |max| max.max(gap)));
            }
            None => {
                self.first_token = Some(t);
                self.progress.first = true;
                self.first_tokens = u32::try_from(k.max(1)).unwrap_or(u32::MAX);
            }
        }
        self.last_token = Some(t);
        if let Some(times) = &mut self.token_times
            && times.len() < MAX_TOKEN_TIMES
        {
            times.push(t);
        }
    }

    /// The tokens that the event at hand has of one choice.
    #[inline]
    fn slot_tokens(&mut self, t: Ns, more: Option<usize>, has_total: bool) -> u64 {
        let slot = match more {
            None => &mut self.first,
            Some(i) => &mut self.more[i],
        };
        slot.touched = false;
        slot.cumulates &= has_total;
        let known = slot.take();
        self.exact &= known.is_some();
        let k = known.unwrap_or(1);
        // An event without a new token does not end a gap.
        if k == 0 && slot.seen {
            return 0;
        }
        let gap = slot.seen.then(|| t.saturating_sub(slot.last));
        slot.seen = true;
        slot.last = t;
        if let Some(gap) = gap {
            self.observe(gap, k);
        }
        k
    }

    /// A gap before `k` tokens is `k` observations of `gap / k`.
    #[inline]
    fn observe(&mut self, gap: Ns, k: u64) {
        let each = gap / k;
        self.progress.gap(each);
        let bounds = &self.bounds;
        let i = self.bucket;
        // Most gaps fall where the last one did.
        let same = bounds.get(i).is_none_or(|&bound| each <= bound)
            && (i == 0 || bounds.get(i - 1).is_some_and(|&bound| each > bound));
        if !same {
            self.bucket = bounds.partition_point(|&bound| bound < each);
        }
        let itl = self.itl.get_or_insert_with(|| {
            Box::new(ItlHistogram {
                bounds: Arc::clone(bounds),
                counts: vec![0; bounds.len() + 1].into(),
                sum: 0,
            })
        });
        let count = &mut itl.counts[self.bucket];
        *count = count.saturating_add(u32::try_from(k).unwrap_or(u32::MAX));
        itl.sum = itl.sum.saturating_add(gap);
    }

    fn usage(&mut self, seen: &Seen, usage: Usage, of_one: bool) {
        // The last count that is not null wins.
        self.usage = usage.or(self.usage);
        self.usage_of_all = !of_one;
        if of_one
            && usage.output.is_some()
            && let Some(slot) = self.slot(seen.index)
        {
            slot.total = usage.output;
        }
    }

    /// None: too many choices to follow this one.
    #[inline]
    fn slot(&mut self, index: u32) -> Option<&mut Slot> {
        if index == 0 {
            return Some(&mut self.first);
        }
        self.other_slot(index)
    }

    fn other_slot(&mut self, index: u32) -> Option<&mut Slot> {
        let at = match self.more.iter().position(|slot| slot.index == index) {
            Some(at) => at,
            None if self.more.len() < MAX_CHOICES => {
                self.more.push(Slot::new(index));
                self.more.len() - 1
            }
            None => return None,
        };
        self.more.get_mut(at)
    }

    fn finish(&mut self, index: u32, reason: &[u8]) {
        if self.finish.as_ref().is_none_or(|(first, _)| index < *first) {
            self.finish = Some((index, unescape(reason, MAX_FINISH_REASON)));
        }
    }

    pub fn has_finished(&self) -> bool {
        self.finish.is_some()
    }

    pub fn take_finish_reason(&mut self) -> Option<Box<str>> {
        self.finish.take().map(|(_, reason)| reason)
    }

    /// The server's counts.
    pub fn total_usage(&self) -> Usage {
        let mut usage = self.usage;
        if !self.usage_of_all {
            // The last count was of one choice; it stands for all if only one has any.
            let totals = std::iter::once(&self.first).chain(&self.more).filter_map(|s| s.total);
            usage.output = totals.reduce(u64::saturating_add).or(usage.output);
        }
        if usage.output.is_none() && self.counted > 0 && self.all_counted() {
            usage.output = Some(self.counted);
        }
        usage.or(self.fallback)
    }

    fn all_counted(&self) -> bool {
        std::iter::once(&self.first).chain(&self.more).all(|slot| slot.counted)
    }

    /// What came since the last call.
    pub fn take_progress(&mut self) -> Progress {
        self.progress.take(self.events)
    }

    pub fn itl_source(&self) -> TokenSource {
        if self.exact && self.token_events > 0 { TokenSource::Usage } else { TokenSource::Events }
    }

    /// Heap bytes held.
    pub fn heap(&self) -> usize {
        self.reader.as_ref().map_or(0, |reader| reader.size())
            + self.more.capacity() * size_of::<Slot>()
            + self.itl.as_ref().map_or(0, |itl| size_of_val(&*itl.counts) + size_of_val(&**itl))
    }
}

/// What was seen of the event at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    choices: u32,
    /// Index of the last of them.
    index: u32,
    tokens: bool,
    /// One of those with tokens is not followed.
    untracked: bool,
}
