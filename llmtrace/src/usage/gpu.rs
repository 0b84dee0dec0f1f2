//! What processes use of NVIDIA's GPUs, by the driver's library (NVML), which is loaded if it is
//! there.

use std::collections::HashMap;

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use crate::metrics::GpuUse;

/// Most GPUs that are looked at.
const MAX_GPUS: u32 = 64;
/// The driver installs it by this name; the one without a number is for compilers.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What one GPU tells of the processes that use it.
#[derive(Clone, Debug, Default)]
struct Sample {
    gpu: u32,
    /// Who has memory on it, and how many bytes if that is known.
    memory: Vec<(u32, Option<u64>)>,
    /// Who computed, in per cent of the time around a moment; none where the GPU does not tell.
    busy: Option<Vec<(u32, u32)>>,
}

/// The GPUs of this machine.
pub(super) struct Gpus {
    nvml: Nvml,
    /// Time of the latest sample seen of each, as the driver has it.
    seen: HashMap<u32, u64>,
}

impl Gpus {
    /// None: there is no driver.
    pub(super) fn find() -> Option<Self> {
        let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init().ok()?;
        Some(Self { nvml, seen: HashMap::new() })
    }

    /// What those processes use, since the last look.
    pub(super) fn look(&mut self, pids: &[u32]) -> HashMap<u32, Vec<GpuUse>> {
        uses(&self.samples(), pids)
    }

    fn samples(&mut self) -> Vec<Sample> {
        let count = self.nvml.device_count().unwrap_or(0).min(MAX_GPUS);
        (0..count).filter_map(|gpu| self.sample(gpu)).collect()
    }

    fn sample(&mut self, gpu: u32) -> Option<Sample> {
        let device = self.nvml.device_by_index(gpu).ok()?;
        let computing = device.running_compute_processes().unwrap_or_default();
        let drawing = device.running_graphics_processes().unwrap_or_default();
        let memory = computing.into_iter().chain(drawing).map(|process| {
            let bytes = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            (process.pid, bytes)
        });
        let seen = self.seen.entry(gpu).or_default();
        let busy = match device.process_utilization_stats(*seen) {
            Ok(samples) => {
                *seen = samples.iter().map(|s| s.timestamp).max().unwrap_or(*seen);
                Some(samples.into_iter().map(|s| (s.pid, s.sm_util)).collect())
            }
            // Nobody computed since the last look.
            Err(NvmlError::NotFound) => Some(Vec::new()),
            Err(_) => None,
        };
        Some(Sample { gpu, memory: memory.collect(), busy })
    }
}

/// By process; those that use no GPU are left out.
fn uses(samples: &[Sample], pids: &[u32]) -> HashMap<u32, Vec<GpuUse>> {
    let mut all: HashMap<u32, Vec<GpuUse>> = HashMap::new();
    for sample in samples {
        for &pid in pids {
            let held = || sample.memory.iter().filter(|(p, _)| *p == pid);
            let busy = sample.busy.as_ref().map(|busy| {
                busy.iter()
                    .filter(|(p, _)| *p == pid)
                    .map(|(_, percent)| *percent)
                    .collect::<Vec<_>>()
            });
            let idle = busy.as_ref().is_none_or(|busy| busy.is_empty());
            if idle && held().next().is_none() {
                continue;
            }
            let utilization = busy.map(|busy| {
                let sum: u64 = busy.iter().map(|percent| u64::from(*percent)).sum();
                (sum as f64 / busy.len().max(1) as f64 / 100.0).min(1.0)
            });
            all.entry(pid).or_default().push(GpuUse {
                gpu: sample.gpu,
                // A process that computes and draws is in both lists, with the same figure.
                memory_bytes: held().filter_map(|(_, bytes)| *bytes).max(),
                utilization,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, TargetUse};

    /// Not the driver's own figures: there is no GPU where this runs. A fake of what NVML tells.
    fn fake() -> Vec<Sample> {
        vec![
            Sample {
                gpu: 0,
                memory: vec![(10, Some(4 << 30)), (10, Some(4 << 30)), (99, Some(1))],
                busy: Some(vec![(10, 80), (99, 100), (10, 40)]),
            },
            Sample { gpu: 1, memory: vec![(10, None), (11, Some(7))], busy: Some(vec![]) },
            // One that tells nothing of who computes, as in MIG.
            Sample { gpu: 2, memory: vec![(11, Some(8))], busy: None },
        ]
    }

    #[test]
    fn of_a_fake_by_process() {
        let all = uses(&fake(), &[10, 11, 12]);
        let of = |gpu, memory_bytes, utilization| GpuUse { gpu, memory_bytes, utilization };
        assert_eq!(all[&10], [of(0, Some(4 << 30), Some(0.6)), of(1, None, Some(0.0))]);
        assert_eq!(all[&11], [of(1, Some(7), Some(0.0)), of(2, Some(8), None)]);
        assert_eq!(all.len(), 2, "not those that are no targets, or use no GPU");
    }

    #[test]
    fn of_a_fake_as_series() {
        let mut all = uses(&fake(), &[10]);
        let target = TargetUse {
            pid: 10,
            process: "vllm".into(),
            gpus: all.remove(&10).unwrap(),
            ..TargetUse::default()
        };
        let metrics = Metrics::default();
        metrics.set_targets(vec![target]);
        let text = metrics.encode_text();
        let labels = r#"{pid="10",process="vllm",gpu="0"}"#;
        for line in [
            format!("llmtrace_target_gpu_memory_bytes{labels} 4294967296"),
            format!("llmtrace_target_gpu_utilization_ratio{labels} 0.6"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        // What is not known has no series.
        assert!(
            !text.contains(r#"llmtrace_target_gpu_memory_bytes{pid="10",process="vllm",gpu="1""#),
            "{text}"
        );
        assert!(!text.contains("llmtrace_target_cpu_seconds_total{"), "{text}");
    }

    #[test]
    fn without_a_driver() {
        if std::path::Path::new("/dev/nvidiactl").exists() {
            return;
        }
        assert!(Gpus::find().is_none());
    }
}
