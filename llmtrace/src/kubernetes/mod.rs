//! What processes are called in Kubernetes: the pod and container that the kubelet knows them by.
//!
//! A process's cgroup has the id of its container; the kubelet of the node says which pod that is
//! of. It is asked on a thread of its own, at the start and when an id comes up that it has not
//! told of; nobody waits for it but the start.

mod kubelet;
mod pods;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

pub use kubelet::{Kubelet, Options};
pub use pods::Member;

use crate::probe::container::{self, Container};

/// Least time between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an id that the kubelet did not know is not asked for again.
const HOPELESS: Duration = Duration::from_secs(30);
/// Most such ids, and processes, that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// How long the start waits for the first answer.
const FIRST: Duration = Duration::from_secs(5);

type Members = HashMap<String, Arc<Member>>;

/// What a process is, as far as it is known by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not in a pod.
    Outside,
    /// In a pod that the kubelet has not told of, perhaps not yet.
    Unknown,
    Member(Arc<Member>),
}

/// Knows the pods of this node.
pub struct Kubernetes {
    members: Arc<Mutex<Members>>,
    ask: SyncSender<()>,
    asked: HashMap<String, Instant>,
    of: fn(u32) -> Option<Container>,
    containers: HashMap<u32, Option<Container>>,
}

impl Kubernetes {
    /// Asks the kubelet for the first time, and has it asked again from then on.
    pub fn start(options: &Options) -> Result<Self> {
        Self::start_with(Kubelet::new(options)?, container::of_process)
    }

    fn start_with(kubelet: Kubelet, of: fn(u32) -> Option<Container>) -> Result<Self> {
        let members = Arc::default();
        let (ask, asked) = sync_channel(1);
        let (answered, first) = sync_channel(1);
        ask.try_send(())?;
        let shared = Arc::clone(&members);
        thread::Builder::new()
            .name("kubelet".into())
            .spawn(move || follow(&kubelet, &asked, &answered, &shared))?;
        // Without an answer by then, names are better later than tracing is.
        let _ = first.recv_timeout(FIRST);
        Ok(Self { members, ask, asked: HashMap::new(), of, containers: HashMap::new() })
    }

    /// What a process is.
    pub fn find(&mut self, pid: u32) -> Found {
        if self.containers.len() >= MAX_REMEMBERED {
            self.containers.clear();
        }
        let container = self.containers.entry(pid).or_insert_with(|| (self.of)(pid));
        let Some(Container { id, in_pod: true }) = container else { return Found::Outside };
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.get(id) {
            return Found::Member(member.clone());
        }
        drop(members);
        if self.asked.get(id).is_none_or(|at| at.elapsed() >= HOPELESS) {
            if self.asked.len() >= MAX_REMEMBERED {
                self.asked.clear();
            }
            self.asked.insert(id.clone(), Instant::now());
            // Full: the question is about to be asked anyway.
            let _ = self.ask.try_send(());
        }
        Found::Unknown
    }

    /// The process is another one now, or none.
    pub fn forget(&mut self, pid: u32) {
        self.containers.remove(&pid);
    }
}

/// Asks whenever it is told to, until nobody is left to tell.
fn follow(
    kubelet: &Kubelet,
    asked: &Receiver<()>,
    answered: &SyncSender<()>,
    members: &Mutex<Members>,
) {
    let mut said = String::new();
    while asked.recv().is_ok() {
        match kubelet.members() {
            Ok(new) => {
                *members.lock().unwrap_or_else(PoisonError::into_inner) = new;
                said.clear();
            }
            // The same trouble is told of once.
            Err(e) => {
                let text = format!("{e:#}");
                if text != said {
                    log::warn!("pods have no names: {text}");
                    said = text;
                }
            }
        }
        let _ = answered.try_send(());
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests;
