//! Whether a request kept what was promised.

use super::policy::Slo;
use crate::llm::{Finished, Ns, Outcome, Phase};

/// What was met and what was not; none: not asked for, or not to be told of this request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    pub ttft: Option<bool>,
    pub tpot: Option<bool>,
    pub e2e: Option<bool>,
    /// All of those that were asked for.
    pub all: Option<bool>,
}

impl Judged {
    /// As the `slo` label has them.
    pub(super) fn each(&self) -> [Option<bool>; SLOS.len()] {
        [self.ttft, self.tpot, self.e2e, self.all]
    }
}

/// Values of the `slo` label.
pub(super) const SLOS: [&str; 4] = ["ttft", "tpot", "e2e", "all"];

pub(super) fn judge(f: &Finished, slo: &Slo) -> Judged {
    let mut judged = match f.outcome {
        // What was not seen whole says nothing.
        Outcome::Incomplete => return Judged::default(),
        Outcome::HttpError
        | Outcome::StreamError
        | Outcome::ServerDisconnect
        | Outcome::Timeout => {
            let missed = |limit: Option<Ns>| limit.map(|_| false);
            Judged {
                ttft: missed(slo.ttft),
                tpot: missed(slo.tpot),
                e2e: missed(slo.e2e),
                all: None,
            }
        }
        Outcome::Success => Judged {
            ttft: within(slo.ttft, first_token(f)),
            tpot: within(slo.tpot, f.per_output_token()),
            e2e: within(slo.e2e, Some(since(f, f.end))),
            all: None,
        },
        // Who leaves before a limit has passed leaves it open whether it would have been kept.
        Outcome::ClientDisconnect(phase) => {
            let past =
                |limit: Option<Ns>| limit.filter(|limit| since(f, f.end) > *limit).map(|_| false);
            let (ttft, tpot) = match phase {
                Phase::BeforeFirstToken => (past(slo.ttft), None),
                Phase::MidStream => {
                    (within(slo.ttft, first_token(f)), within(slo.tpot, f.per_output_token()))
                }
            };
            Judged { ttft, tpot, e2e: past(slo.e2e), all: None }
        }
    };
    let each = [judged.ttft, judged.tpot, judged.e2e];
    judged.all = if each.contains(&Some(false)) {
        Some(false)
    } else if f.outcome == Outcome::Success && each.contains(&Some(true)) {
        Some(true)
    } else {
        None
    };
    judged
}

fn within(limit: Option<Ns>, took: Option<Ns>) -> Option<bool> {
    Some(took? <= limit?)
}

fn first_token(f: &Finished) -> Option<Ns> {
    f.first_token.map(|t| since(f, t))
}

fn since(f: &Finished, t: Ns) -> Ns {
    t.saturating_sub(f.start)
}

#[cfg(test)]
mod tests {
    use wildmatch::WildMatch;

    use super::*;
    use crate::llm::{Role, Usage};

    const MS: Ns = 1_000_000;

    fn slo() -> Slo {
        Slo {
            model: WildMatch::new("*"),
            ttft: Some(50 * MS),
            tpot: Some(10 * MS),
            e2e: Some(200 * MS),
        }
    }

    /// A stream of 11 tokens: the first after `first`, then one each `gap`, then the end.
    fn stream(outcome: Outcome, first: Ns, gap: Ns, end: Ns) -> Finished {
        Finished {
            stream: true,
            outcome,
            first_token: Some(first * MS),
            last_token: Some((first + 10 * gap) * MS),
            first_tokens: 1,
            token_events: 11,
            end: end * MS,
            usage: Usage { output: Some(11), ..Usage::default() },
            ..Finished::new(Role::Server, 0)
        }
    }

    fn each(f: &Finished) -> [Option<bool>; 4] {
        judge(f, &slo()).each()
    }

    #[test]
    fn limits_are_inclusive() {
        let (yes, no) = (Some(true), Some(false));
        let ok = Outcome::Success;
        assert_eq!(each(&stream(ok, 50, 10, 200)), [yes; 4]);
        assert_eq!(each(&stream(ok, 51, 10, 200)), [no, yes, yes, no]);
        assert_eq!(each(&stream(ok, 50, 11, 200)), [yes, no, yes, no]);
        assert_eq!(each(&stream(ok, 50, 10, 201)), [yes, yes, no, no]);
        // What has no tokens of its own is judged by the whole only.
        let whole = Finished { first_token: None, ..stream(ok, 1, 1, 20) };
        assert_eq!(each(&whole), [None, None, yes, yes]);
        let only_ttft = Slo { tpot: None, e2e: None, ..slo() };
        assert_eq!(judge(&whole, &only_ttft), Judged::default());
    }

    #[test]
    fn errors_meet_nothing_and_losses_say_nothing() {
        for outcome in
            [Outcome::HttpError, Outcome::StreamError, Outcome::ServerDisconnect, Outcome::Timeout]
        {
            assert_eq!(each(&stream(outcome, 1, 1, 20)), [Some(false); 4], "{outcome:?}");
        }
        assert_eq!(each(&stream(Outcome::Incomplete, 1, 1, 20)), [None; 4]);
    }

    #[test]
    fn who_leaves_early_leaves_it_open() {
        let (yes, no) = (Some(true), Some(false));
        let before = Outcome::ClientDisconnect(Phase::BeforeFirstToken);
        let mid = Outcome::ClientDisconnect(Phase::MidStream);
        let none = |end| Finished { first_token: None, ..stream(before, 1, 1, end) };
        assert_eq!(each(&none(50)), [None; 4]);
        assert_eq!(each(&none(51)), [no, None, None, no]);
        assert_eq!(each(&stream(mid, 50, 10, 160)), [yes, yes, None, None]);
        assert_eq!(each(&stream(mid, 50, 11, 200)), [yes, no, None, no]);
        assert_eq!(each(&stream(mid, 50, 10, 201)), [yes, yes, no, no]);
    }
}
