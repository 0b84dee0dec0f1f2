//! Anomalies as the API shows them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Most anomalies that are shown after their end.
const MAX_ENDED: usize = 100;
/// Most that are shown before; of more, the oldest are left out.
const MAX_ACTIVE: usize = 1_000;

/// One list for all threads; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    /// JSON by id.
    active: BTreeMap<u64, Arc<str>>,
    ended: VecDeque<Arc<str>>,
}

impl Board {
    /// `line` is what there is to say of an anomaly from now on.
    pub(super) fn event(&self, id: u64, ended: bool, line: &str) {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ended {
            lists.active.remove(&id);
            lists.ended.push_front(line.into());
            lists.ended.truncate(MAX_ENDED);
        } else {
            lists.active.insert(id, line.into());
            if lists.active.len() > MAX_ACTIVE {
                lists.active.pop_first();
            }
        }
    }

    /// A JSON object of two lists, the newest first.
    pub fn json(&self) -> String {
        let (active, ended): (Vec<_>, Vec<_>) = {
            let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (lists.active.values().rev().cloned().collect(), lists.ended.iter().cloned().collect())
        };
        format!("{{\"active\":[{}],\"ended\":[{}]}}\n", active.join(","), ended.join(","))
    }
}
