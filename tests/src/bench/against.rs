//! Two builds of the agent on one server: what a change costs or saves, whatever else the machine
//! does meanwhile.

use std::path::Path;

use super::drive::Load;
use super::pairs::{Run, traced, untraced, warm_up};
use super::report::{Table, median, range};
use crate::agent::Options;
use crate::stack::Server;

/// A run without an agent, one with this agent and one with the other.
struct Round {
    bare: Run,
    this: Run,
    other: Run,
}

impl Round {
    /// Throughput with an agent / without, of this one and of the other.
    fn ratios(&self) -> (f64, f64) {
        let bare = self.bare.events_per_second;
        (self.this.events_per_second / bare, self.other.events_per_second / bare)
    }

    /// CPU time that an agent adds to an event, of this one and of the other.
    fn added(&self) -> (f64, f64) {
        let bare = self.bare.us_per_event();
        (self.this.us_per_event() - bare, self.other.us_per_event() - bare)
    }
}

/// `count` rounds; which of the three comes first changes from round to round. The other build
/// chooses its hooks by itself, as this one does.
pub fn table(title: &str, server: &Server, load: &Load, count: usize, other: &Path) -> Table {
    warm_up(server, load);
    let rounds: Vec<Round> = (0..count)
        .map(|n| {
            let mut runs = [None, None, None];
            for turn in 0..runs.len() {
                let which = (n + turn) % runs.len();
                runs[which] = Some(match which {
                    0 => untraced(server, load),
                    1 => traced(Options::default(), server, load),
                    _ => traced(Options::default().program(other), server, load),
                });
            }
            let [bare, this, other] = runs.map(|run| run.expect("each had its turn"));
            Round { bare, this, other }
        })
        .collect();
    let header = [
        "round",
        "events/s without",
        "this: ratio",
        "other: ratio",
        "this: us added/event",
        "other: us added/event",
        "this: found",
        "other: found",
    ];
    let mut table = Table::new(title, &header);
    let share = |run: &Run| run.found.as_ref().map_or(0.0, |found| found.share);
    for (n, round) in rounds.iter().enumerate() {
        let (ratios, added) = (round.ratios(), round.added());
        table.row(&[
            (n + 1).to_string(),
            format!("{:.0}", round.bare.events_per_second),
            format!("{:.3}", ratios.0),
            format!("{:.3}", ratios.1),
            format!("{:.3}", added.0),
            format!("{:.3}", added.1),
            format!("{:.4}", share(&round.this)),
            format!("{:.4}", share(&round.other)),
        ]);
    }
    let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<_>>();
    let (this, other) = (of(|round| round.ratios().0), of(|round| round.ratios().1));
    let (added, others) = (of(|round| round.added().0), of(|round| round.added().1));
    let better = of(|round| round.ratios().0 / round.ratios().1);
    let (low, high) = range(&better);
    table.note(format!(
        "Medians of {count} interleaved rounds: this agent leaves {:.3} of the throughput and adds \
         {:.3} us of CPU per event, the other {:.3} and {:.3} us; this / other {:.3} ({low:.3} to \
         {high:.3}).",
        median(&this),
        median(&added),
        median(&other),
        median(&others),
        median(&better),
    ));
    table.figures = serde_json::json!({
        "this": { "ratio": median(&this), "added_us_per_event": median(&added) },
        "other": { "ratio": median(&other), "added_us_per_event": median(&others) },
        "this_by_other": median(&better),
    });
    table
}
