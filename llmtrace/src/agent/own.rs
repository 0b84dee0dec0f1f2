//! What the agent counts of itself, on its way to the metrics.

use std::sync::Arc;

use llmtrace_common::config::{Loss, loss};

use super::{Agent, wall_offset};
use crate::{
    kubernetes::Found,
    metrics::{Own, TargetInfo},
    probe::{self, Capture, process},
    usage::MAX_PROCESSES,
};

/// How often targets are searched for an io_uring.
const URING_NS: u64 = 2_000_000_000;
/// How often it is measured what targets use.
const USAGE_NS: u64 = 5_000_000_000;

/// What kernel sides counted that are gone: counters only go up.
#[derive(Debug, Default)]
pub(super) struct Before {
    losses: [Loss; loss::COUNT as usize],
    missed_runs: u64,
}

impl Before {
    /// This one goes.
    pub(super) fn add(&mut self, capture: &Capture) {
        (self.losses, self.missed_runs) = (self.losses(capture), self.missed_runs(capture));
    }

    pub(super) fn losses(&self, now: &Capture) -> [Loss; loss::COUNT as usize] {
        let mut sum = self.losses;
        for (sum, now) in sum.iter_mut().zip(now.losses()) {
            sum.records += now.records;
            sum.bytes += now.bytes;
        }
        sum
    }

    fn missed_runs(&self, now: &Capture) -> u64 {
        self.missed_runs + now.missed_runs()
    }
}

/// How often targets are looked up in Kubernetes.
const INFO_NS: u64 = 2_000_000_000;
/// Most targets that are told of.
const MAX_INFO: usize = 1024;

impl Agent {
    /// Time passes for the pipeline, and counters reach the metrics.
    pub(super) fn beat(&mut self, now: u64) {
        self.pipeline.tick(now, &mut self.out);
        self.tapped_tick(now, false);
        for id in self.pipeline.take_verdicts() {
            self.capture.silence(id.addr, id.generation);
        }
        let mut own = Own {
            targets: (self.capture.target_pids().len() + self.wanted.cgroups.len()) as u64,
            ..Own::default()
        };
        for (group, reason, n) in self.pipeline.counts() {
            match group {
                "records" => own.records.push(("ring", reason, n)),
                "resyncs" => own.resyncs.push((reason, n)),
                "incomplete" => own.incomplete.push((reason, n)),
                "silenced" => own.records.push(("verdict", reason, n)),
                "stream" => own.records.push(("connection", reason, n)),
                "bytes" if reason == "gap" => own.lost_bytes.push(("connection", reason, n)),
                _ => {}
            }
        }
        own.connections = self.pipeline.connections() as u64;
        if self.undecodable > 0 {
            own.lost_records.push(("record", "undecodable", self.undecodable));
        }
        let losses = self.before.losses(&self.capture);
        for (name, lost) in loss::NAMES.into_iter().zip(losses) {
            own.lost_records.push(("kernel", name, lost.records));
            own.lost_bytes.push(("kernel", name, lost.bytes));
        }
        own.lost_records.push(("kernel", "missed_run", self.before.missed_runs(&self.capture)));
        own.tls_libraries = self.capture.tls().libraries();
        if !self.chosen.hooks.sees_io_uring() {
            if now >= self.next_uring {
                self.next_uring = now + URING_NS;
                self.look_for_io_uring();
            }
            own.io_uring_targets = Some(self.io_uring.len() as u64);
        }
        self.capture.print_log();
        if self.out.kubernetes.is_some() && now >= self.next_info {
            self.next_info = now + INFO_NS;
            self.info = self.target_info();
        }
        own.target_info = self.info.clone();
        for note in self.capture.tls().take_notes() {
            log::warn!("TLS: {note}");
        }
        self.out.metrics.set_own(own);
        self.out.metrics.tick(now);
        // A recording has one clock, and its request log the same.
        if self.tap.is_none() {
            self.out.set_wall_offset(wall_offset());
        }
        self.out.flush();
        if now >= self.next_usage {
            self.next_usage = now + USAGE_NS;
            self.measure();
        }
    }

    /// Has what targets use looked at: those that take part in LLM requests first.
    fn measure(&mut self) {
        let Some(usage) = &self.usage else { return };
        let mut pids = self.capture.target_pids();
        pids.extend(self.wanted.covered());
        pids.retain(|pid| *pid != std::process::id());
        pids.sort_unstable_by_key(|pid| (!self.out.takes_part(*pid), *pid));
        pids.dedup();
        pids.truncate(MAX_PROCESSES);
        usage.look(pids);
    }

    /// Targets that are in pods, as far as they are known.
    fn target_info(&mut self) -> Arc<[TargetInfo]> {
        let Some(kubernetes) = &mut self.out.kubernetes else { return Arc::default() };
        let mut pids = self.capture.target_pids();
        pids.extend(self.wanted.covered());
        pids.sort_unstable();
        pids.dedup();
        let known = pids.into_iter().filter_map(|pid| match kubernetes.find(pid) {
            Found::Member(member) => Some(TargetInfo {
                pid,
                process: process::comm(pid),
                container: member.container.clone(),
                pod: member.pod.clone(),
                namespace: member.namespace.clone(),
                image: member.image.clone(),
            }),
            _ => None,
        });
        known.take(MAX_INFO).collect()
    }

    /// Says so once of each target that has an io_uring, which the hooks in use do not see.
    fn look_for_io_uring(&mut self) {
        let pids = self.capture.target_pids();
        self.io_uring.retain(|pid| pids.contains(pid));
        for pid in pids {
            if probe::target::uses_io_uring(pid) && self.io_uring.insert(pid) {
                log::warn!(
                    "process {pid} has an io_uring: what it reads by it is not seen by \
                     the {} back end (fentry and kprobe see it, where the kernel allows them)",
                    self.chosen.hooks.backend()
                );
            }
        }
    }
}
