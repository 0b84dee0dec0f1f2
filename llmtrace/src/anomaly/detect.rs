//! The four methods. Each is told samples on the scale of its signal and says what it expects;
//! what to do with that is the same for all ([`Detector::judge`]).

use std::collections::VecDeque;

use super::{Method, Signal};
use crate::{config, llm::Ns};

/// Values in the history of a quantile baseline before it judges.
const MIN_HISTORY: f64 = 300.0;
/// Bins of that history.
const BINS: usize = 200;
/// Deviations are never taken for smaller than this: 3 % of a time.
const MIN_NOISE: f64 = 0.03;
/// What is this much of the way to the threshold is not calm yet.
const CALM: f64 = 0.7;
/// A drift is one once its sum is that of this many intervals at twice the allowance.
const DRIFT_INTERVALS: f64 = 20.0;
/// Intervals that a sample may stand for.
const MAX_SPAN: f64 = 6.0;

/// A signal of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// When its interval began and ended.
    pub(super) from: Ns,
    pub(super) to: Ns,
    /// Middle of the interval's values.
    pub(super) y: f64,
    /// Their high end; `y` if there is just one value.
    pub(super) tail: f64,
    /// Standard error of `y`, as far as the number of requests tells it.
    pub(super) noise: f64,
}

/// What a method thinks of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) exceeds: bool,
    pub(super) calm: bool,
    /// All of these on the signal's scale.
    pub(super) value: f64,
    pub(super) expected: f64,
    pub(super) threshold: f64,
}

#[derive(Debug)]
pub(super) struct Detector {
    signal: Signal,
    pub(super) method: Method,
    state: State,
    /// When learning began.
    since: Option<Ns>,
}

#[derive(Debug)]
enum State {
    Window(VecDeque<(Ns, f32)>),
    Ewma { mean: f64, variance: f64, last: Ns },
    Quantile(History),
    Drift { mean: f64, sum: f64, last: Ns, judged: Ns },
}

impl Detector {
    pub(super) fn new(signal: Signal, method: Method) -> Self {
        let state = match method {
            Method::Window => State::Window(VecDeque::new()),
            Method::Ewma => State::Ewma { mean: 0.0, variance: 0.0, last: 0 },
            Method::Quantile => State::Quantile(History::new(signal.range())),
            Method::Drift => State::Drift { mean: 0.0, sum: 0.0, last: 0, judged: 0 },
        };
        Self { signal, method, state, since: None }
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.signal, self.method);
    }

    /// It is told other settings from here on.
    pub(super) fn set(&mut self, now: Ns, old: &config::Anomaly, new: &config::Anomaly) {
        if let State::Quantile(history) = &mut self.state
            && old.quantile_half_life != new.quantile_half_life
        {
            history.scale(now, old.quantile_half_life);
        }
    }

    fn warm(&self, now: Ns, s: &config::Anomaly) -> bool {
        self.since.is_some_and(|since| now - since.min(now) >= s.warm_up.as_nanos() as Ns)
    }

    /// What it thinks of `sample`; none while it is warming up.
    pub(super) fn judge(&mut self, sample: &Sample, s: &config::Anomaly) -> Option<Verdict> {
        if !self.warm(sample.to, s) {
            return None;
        }
        let signal = self.signal;
        match &mut self.state {
            State::Window(values) => {
                let (mean, deviation) = middle(values, s.robust)?;
                Some(charted(signal, sample, mean, deviation, s))
            }
            State::Ewma { mean, variance, .. } => {
                Some(charted(signal, sample, *mean, variance.sqrt(), s))
            }
            State::Quantile(history) => {
                let expected = history.quantile(s.quantile)?;
                Some(verdict(sample.tail, expected, beyond(signal, expected, sample.noise, s)))
            }
            State::Drift { mean, sum, judged, .. } => {
                let allowance = signal.allowance(*mean, s);
                let limit = DRIFT_INTERVALS * allowance;
                let span = span(*judged, sample.to, s);
                // One interval that is far off is for others to find.
                let step = (sample.y - *mean - allowance).clamp(-2.0 * allowance, 2.0 * allowance);
                *sum = (*sum + step * span).clamp(0.0, 1.5 * limit);
                *judged = sample.to;
                Some(Verdict {
                    exceeds: *sum > limit,
                    calm: *sum < limit / 2.0,
                    value: sample.y,
                    expected: *mean,
                    threshold: *mean + allowance,
                })
            }
        }
    }

    /// Takes `sample` into account. One that was out of bounds (`verdict`) counts as if it had been
    /// at the bound, so that a burst does not hide the next one.
    pub(super) fn learn(
        &mut self,
        sample: &Sample,
        values: &[f32],
        verdict: Option<Verdict>,
        s: &config::Anomaly,
    ) {
        let first = self.since.is_none();
        self.since.get_or_insert(sample.from);
        let bound = verdict.filter(|v| v.exceeds).map(|v| v.threshold);
        let y = bound.map_or(sample.y, |bound| sample.y.min(bound));
        let now = sample.to;
        match &mut self.state {
            State::Window(window) => {
                let keep = s.window.as_nanos() as Ns;
                while window.front().is_some_and(|(t, _)| t + keep < now) {
                    window.pop_front();
                }
                window.push_back((now, y as f32));
            }
            State::Ewma { mean, variance, last } => {
                if first {
                    (*mean, *variance) = (y, sample.noise.max(MIN_NOISE).powi(2));
                } else {
                    let weight = weight(now.saturating_sub(*last), s.ewma_half_life);
                    let off = y - *mean;
                    *mean += weight * off;
                    *variance = (1.0 - weight) * (*variance + weight * off * off);
                }
                *last = now;
            }
            State::Quantile(history) => {
                let heavy = history.heaviness(now, s.quantile_half_life);
                if values.is_empty() {
                    history.add(y, heavy);
                }
                let bound = bound.unwrap_or(f64::INFINITY);
                values.iter().for_each(|v| history.add(f64::from(*v).min(bound), heavy));
            }
            State::Drift { mean, last, .. } => {
                if first {
                    *mean = y;
                } else {
                    *mean += weight(now.saturating_sub(*last), s.drift_half_life) * (y - *mean);
                }
                *last = now;
            }
        }
    }

    /// From where on a single value is out of line with the history, if that is known.
    pub(super) fn history_bound(&self, now: Ns, s: &config::Anomaly) -> Option<f64> {
        let State::Quantile(history) = &self.state else { return None };
        let expected = history.quantile(s.quantile).filter(|_| self.warm(now, s))?;
        Some(beyond(self.signal, expected, 0.0, s))
    }
}

/// The quantile method's threshold.
fn beyond(signal: Signal, expected: f64, noise: f64, s: &config::Anomaly) -> f64 {
    let times = signal.times(expected, s.quantile_factor);
    if signal.is_share() {
        // One failure among a few requests is a large share, and says little.
        times.max(expected + signal.least(expected, s).max(2.0 * noise))
    } else {
        times
    }
}

/// How many intervals lie between.
fn span(last: Ns, now: Ns, s: &config::Anomaly) -> f64 {
    let interval = s.interval.as_nanos().max(1) as f64;
    ((now - last.min(now)) as f64 / interval).clamp(1.0, MAX_SPAN)
}

/// Weight of what is new after `passed`.
fn weight(passed: Ns, half_life: std::time::Duration) -> f64 {
    let lives = passed as f64 / half_life.as_nanos().max(1) as f64;
    // After a night without traffic the first sample is still one sample.
    (1.0 - (-lives).exp2()).min(0.5)
}

fn verdict(value: f64, expected: f64, threshold: f64) -> Verdict {
    let calm = value < expected + CALM * (threshold - expected);
    Verdict { exceeds: value > threshold, calm, value, expected, threshold }
}

/// A control chart: so many deviations above the mean, and a change that is worth the name.
fn charted(
    signal: Signal,
    sample: &Sample,
    mean: f64,
    deviation: f64,
    s: &config::Anomaly,
) -> Verdict {
    let deviation = deviation.max(sample.noise).max(MIN_NOISE);
    let threshold = mean + (s.sigmas * deviation).max(signal.least(mean, s));
    verdict(sample.y, mean, threshold)
}

/// Mean and standard deviation, or median and MAD as an estimate of it.
fn middle(values: &VecDeque<(Ns, f32)>, robust: bool) -> Option<(f64, f64)> {
    let n = values.len();
    if n < 3 {
        return None;
    }
    let all = values.iter().map(|(_, y)| f64::from(*y));
    if !robust {
        let mean = all.clone().sum::<f64>() / n as f64;
        let variance = all.map(|y| (y - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        return Some((mean, variance.sqrt()));
    }
    let mut sorted: Vec<f64> = all.collect();
    let median = *sorted.select_nth_unstable_by(n / 2, f64::total_cmp).1;
    sorted.iter_mut().for_each(|y| *y = (*y - median).abs());
    let mad = *sorted.select_nth_unstable_by(n / 2, f64::total_cmp).1;
    // What makes it the standard deviation of a normal distribution.
    Some((median, 1.4826 * mad))
}

/// A histogram whose past fades: new values weigh more and more, until all are scaled down.
#[derive(Debug)]
struct History {
    low: f64,
    width: f64,
    bins: Vec<f64>,
    total: f64,
    epoch: Option<Ns>,
}

impl History {
    fn new((low, high): (f64, f64)) -> Self {
        let width = (high - low) / BINS as f64;
        Self { low, width, bins: Vec::new(), total: 0.0, epoch: None }
    }

    /// What a value weighs now.
    fn heaviness(&mut self, now: Ns, half_life: std::time::Duration) -> f64 {
        let heavy = self.weight(now, half_life);
        if heavy < 1e6 {
            return heavy;
        }
        self.scale(now, half_life);
        1.0
    }

    fn weight(&mut self, now: Ns, half_life: std::time::Duration) -> f64 {
        let epoch = *self.epoch.get_or_insert(now);
        ((now - epoch.min(now)) as f64 / half_life.as_nanos().max(1) as f64).exp2()
    }

    /// What there is now weighs what it is worth, and what comes next weighs 1.
    fn scale(&mut self, now: Ns, half_life: std::time::Duration) {
        let heavy = self.weight(now, half_life);
        self.bins.iter_mut().for_each(|bin| *bin /= heavy);
        self.total /= heavy;
        self.epoch = Some(now);
    }

    fn add(&mut self, y: f64, heavy: f64) {
        if self.bins.is_empty() {
            self.bins = vec![0.0; BINS];
        }
        let i = ((y - self.low) / self.width).clamp(0.0, (BINS - 1) as f64) as usize;
        if let Some(bin) = self.bins.get_mut(i) {
            *bin += heavy;
            self.total += heavy;
        }
    }

    /// None if too little is known.
    fn quantile(&self, q: f64) -> Option<f64> {
        // In values of today.
        if self.total < MIN_HISTORY {
            return None;
        }
        let mut left = q * self.total;
        for (i, &bin) in self.bins.iter().enumerate() {
            if left <= bin {
                let within = if bin > 0.0 { left / bin } else { 0.0 };
                return Some(self.low + self.width * (i as f64 + within));
            }
            left -= bin;
        }
        Some(self.low + self.width * BINS as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_busy_bin_goes_on_counting() {
        let mut history = History::new(Signal::Itl.range());
        let y = Signal::Itl.scaled(0.02);
        // As many as weeks of a busy server leave, and a day's more.
        history.add(y, f64::from(1 << 24));
        (0..1 << 19).for_each(|_| history.add(y, 1.0));
        let found = Signal::Itl.natural(history.quantile(0.99).unwrap());
        assert!((0.018..0.022).contains(&found), "{found}");
    }

    #[test]
    fn a_history_of_another_half_life_is_worth_as_much() {
        let days = |n: u64| Duration::from_secs(n * 24 * 3_600);
        let hour = 3_600_000_000_000;
        let s = |n| config::Anomaly { quantile_half_life: days(n), ..config::Anomaly::default() };
        let mut detector = Detector::new(Signal::Ttft, Method::Quantile);
        let sample = |to| Sample { from: to, to, y: 0.0, tail: 0.0, noise: 0.0 };
        for at in 0..48 {
            detector.learn(&sample(at * hour), &[0.0; 100], None, &s(1));
        }
        let now = 48 * hour;
        let weigh = |detector: &mut Detector, half_life| {
            let State::Quantile(history) = &mut detector.state else { panic!() };
            // In values of today.
            let worth = history.total / history.weight(now, half_life);
            (worth, history.bins.iter().sum::<f64>())
        };
        let (before, _) = weigh(&mut detector, days(1));
        detector.set(now, &s(1), &s(7));
        let (after, bins) = weigh(&mut detector, days(7));
        assert!((after - before).abs() < 1e-6 && (bins - after).abs() < 0.1, "{before} {after}");
        // Of two days, at a half-life of one.
        assert!((2_400.0..2_600.0).contains(&before), "{before}");
    }
}
