//! Whether this kernel takes the processor from a thread that is in the middle of a program.

use std::{fs, io::Read as _};

use super::{features, object::Functions, types::Types};

/// Most of a kernel's configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// The kernel does not preempt itself: nothing has to be done.
    None,
    /// Programs keep the processor while they work on a target's call.
    Held(Functions),
    /// A program may be preempted, and then calls of other threads are missed, and counted.
    Suffered,
}

impl Preemption {
    pub fn of(types: &Types) -> Self {
        if happens(&Facts::read()) == Some(false) {
            return Self::None;
        }
        Functions::of(types).map_or(Self::Suffered, Self::Held)
    }

    pub fn functions(self) -> Option<Functions> {
        match self {
            Self::Held(functions) => Some(functions),
            Self::None | Self::Suffered => None,
        }
    }
}

/// Where a kernel says how it preempts.
#[derive(Clone, Debug, Default)]
struct Facts {
    version: String,
    /// `sched/preempt` of debugfs: all ways, that in use in parentheses.
    debug: String,
    command_line: String,
    config: String,
}

impl Facts {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let config = text(&format!("/boot/config-{}", features::release()));
        Self {
            version: text("/proc/version"),
            debug: text("/sys/kernel/debug/sched/preempt"),
            command_line: text("/proc/cmdline"),
            config: if config.is_empty() { built_in_config() } else { config },
        }
    }
}

fn built_in_config() -> String {
    let mut config = String::new();
    if let Ok(file) = fs::File::open("/proc/config.gz") {
        // What cannot be read says nothing, like a file that is not there.
        let _ = flate2::read::GzDecoder::new(file).take(MAX_CONFIG).read_to_string(&mut config);
    }
    config
}

/// Whether it does; None if nothing says so.
fn happens(facts: &Facts) -> Option<bool> {
    let in_mode = |mode: &str| !matches!(mode, "none" | "voluntary");
    if !facts.version.is_empty() && !facts.version.contains("PREEMPT") {
        return Some(false);
    }
    if let Some((_, rest)) = facts.debug.split_once('(')
        && let Some((mode, _)) = rest.split_once(')')
    {
        return Some(in_mode(mode));
    }
    if !facts.version.contains("PREEMPT_DYNAMIC") && !facts.version.is_empty() {
        // Built in, and the only way.
        return Some(true);
    }
    let mut words = facts.command_line.split_whitespace();
    if let Some(mode) = words.find_map(|word| word.strip_prefix("preempt=")) {
        return Some(in_mode(mode));
    }
    let set = |name: &str| facts.config.lines().any(|line| line.strip_suffix("=y") == Some(name));
    if set("CONFIG_PREEMPT_NONE") || set("CONFIG_PREEMPT_VOLUNTARY") {
        return Some(false);
    }
    let modes = ["CONFIG_PREEMPT", "CONFIG_PREEMPT_LAZY", "CONFIG_PREEMPT_RT"];
    modes.iter().any(|mode| set(mode)).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str, debug: &str, command_line: &str, config: &str) -> Option<bool> {
        let [version, debug, command_line, config] =
            [version, debug, command_line, config].map(str::to_owned);
        happens(&Facts { version, debug, command_line, config })
    }

    #[test]
    fn what_a_kernel_says_first_counts() {
        let dynamic = "Linux version 7.2.13 #1 SMP PREEMPT_DYNAMIC Debian";
        let none = "CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_NONE=y\n# CONFIG_PREEMPT is not set\n";
        assert_eq!(of("Linux version 5.10.0 #1 SMP Debian", "", "", ""), Some(false));
        assert_eq!(of("Linux version 6.1.0 #1 SMP PREEMPT_RT", "", "", ""), Some(true));
        assert_eq!(of("Linux version 6.1.0 #1 SMP PREEMPT", "", "", none), Some(true));
        assert_eq!(of(dynamic, "", "quiet", none), Some(false));
        assert_eq!(of(dynamic, "", "quiet preempt=full", none), Some(true));
        assert_eq!(of(dynamic, "none (voluntary) full", "preempt=full", none), Some(false));
        assert_eq!(of(dynamic, "none voluntary full (lazy)", "", none), Some(true));
        assert_eq!(of(dynamic, "", "", "CONFIG_PREEMPT_LAZY=y"), Some(true));
        assert_eq!(of(dynamic, "", "", ""), None);
        assert_eq!(of("", "", "", ""), None);
    }
}
