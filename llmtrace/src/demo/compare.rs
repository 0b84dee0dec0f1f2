//! The server's log against the trace, request by request.

use std::{collections::HashMap, fmt};

use super::server::ServerRecord;
use crate::{llm::Finished, metrics::labels};

/// What the comparison needs of a traced exchange.
#[derive(Clone, Debug)]
pub struct Traced {
    id: Option<u64>,
    pub outcome: &'static str,
    phase: Option<&'static str>,
    pub output_tokens: u64,
    status: Option<u16>,
    pub ttft_ns: Option<u64>,
    pub tpot_ns: Option<u64>,
    first_token_ns: Option<u64>,
}

impl Traced {
    pub fn new(f: &Finished) -> Self {
        let (outcome, phase) = (labels::outcome(f.outcome), labels::phase(f.outcome));
        let tokens = f.output_tokens().map_or(0, |(n, _)| n);
        Self {
            id: f.user_agent.as_deref().and_then(|a| a.rsplit_once('/')?.1.parse().ok()),
            outcome,
            phase,
            output_tokens: tokens,
            status: f.status,
            ttft_ns: f.time_to_first_token(),
            tpot_ns: f.per_output_token(),
            first_token_ns: f.first_token,
        }
    }
}

/// What was found, and what differs.
pub struct Comparison {
    logged: usize,
    traced: usize,
    rows: Vec<(String, usize, usize)>,
    differences: Vec<String>,
    /// Largest distance between the server's and the trace's time of the first token.
    worst_first_token_ns: u64,
}

impl Comparison {
    pub fn new(logged: &[ServerRecord], traced: &[Traced]) -> Self {
        let mut by_id: HashMap<u64, Vec<&Traced>> = HashMap::new();
        let mut differences = Vec::new();
        for t in traced {
            match t.id {
                Some(id) => by_id.entry(id).or_default().push(t),
                None => differences.push("a traced request without a number".into()),
            }
        }
        let mut rows: Vec<(String, usize, usize)> = Vec::new();
        let mut worst = 0;
        for l in logged {
            let name = match &l.phase {
                Some(phase) => format!("{} ({phase})", l.outcome),
                None => l.outcome.clone(),
            };
            let difference = match by_id.remove(&l.id).unwrap_or_default()[..] {
                [] => Some("not traced".to_owned()),
                [t] => {
                    if let (Some(a), Some(b)) = (l.first_token_ns, t.first_token_ns) {
                        worst = worst.max(a.abs_diff(b));
                    }
                    differs(l, t)
                }
                [..] => Some("traced more than once".to_owned()),
            };
            let right = usize::from(difference.is_none());
            match rows.iter_mut().find(|(n, ..)| *n == name) {
                Some((_, total, same)) => {
                    *total += 1;
                    *same += right;
                }
                None => rows.push((name, 1, right)),
            }
            if let Some(difference) = difference {
                differences.push(format!("request {}: {difference}", l.id));
            }
        }
        differences.extend(by_id.keys().map(|id| format!("request {id}: not in the server's log")));
        rows.sort();
        Self {
            logged: logged.len(),
            traced: traced.len(),
            rows,
            differences,
            worst_first_token_ns: worst,
        }
    }

    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.logged > 0 && self.logged == self.traced
    }
}

fn differs(l: &ServerRecord, t: &Traced) -> Option<String> {
    if t.outcome != l.outcome || t.phase != l.phase.as_deref() {
        let (phase, other) = (t.phase.unwrap_or("-"), l.phase.as_deref().unwrap_or("-"));
        return Some(format!("{} {phase} traced, {} {other} logged", t.outcome, l.outcome));
    }
    if t.output_tokens != l.output_tokens {
        return Some(format!("{} tokens traced, {} logged", t.output_tokens, l.output_tokens));
    }
    if l.status != 0 && t.status != Some(l.status) {
        return Some(format!("status {:?} traced, {} logged", t.status, l.status));
    }
    None
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>8} {:>8}", "outcome as the server logged it", "logged", "same")?;
        for (name, total, same) in &self.rows {
            writeln!(f, "{name:<40} {total:>8} {same:>8}")?;
        }
        writeln!(
            f,
            "first token, server's own time against the kernel's: at most {:.3} ms apart",
            self.worst_first_token_ns as f64 / 1e6
        )?;
        for difference in self.differences.iter().take(20) {
            writeln!(f, "  {difference}")?;
        }
        if self.is_equal() {
            write!(f, "every one of {} requests was traced as it was", self.logged)
        } else {
            write!(
                f,
                "{} logged, {} traced, {} differences",
                self.logged,
                self.traced,
                self.differences.len()
            )
        }
    }
}
