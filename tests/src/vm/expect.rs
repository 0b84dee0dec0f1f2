//! What each kernel and each back end is expected to do. This is the table to change when a back end
//! comes or learns something; nothing here is skipped, only expected otherwise.

use super::report::{Backend, Said};

/// What the agent does when it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Captures in the way of that name (`Said::chosen`).
    Runs(&'static str),
    /// Leaves with exit code 3 and a sentence that has these words.
    Refuses(&'static str),
}

use Start::{Refuses, Runs};

/// A kernel, and [`Backend::ALL`] on it in that order.
const STARTS: [(&str, [Start; 5]); 4] = {
    const FENTRY: Start = Runs("fentry");
    const KPROBE: Start = Runs("kprobe");
    // The tracepoints on sockets came with 6.15: `tracepoint` takes system calls before.
    const SOCKETS: Start = Runs("sockets");
    const SYSCALLS: Start = Runs("syscalls");
    [
        ("5.10", [FENTRY, FENTRY, KPROBE, SYSCALLS, SYSCALLS]),
        ("6.1", [FENTRY, FENTRY, KPROBE, SYSCALLS, SYSCALLS]),
        ("6.12", [FENTRY, FENTRY, KPROBE, SYSCALLS, SYSCALLS]),
        ("7.2", [FENTRY, FENTRY, KPROBE, SOCKETS, SYSCALLS]),
    ]
};

/// Ways to capture that see what a server reads and writes by io_uring.
const SEE_IO_URING: [&str; 2] = ["fentry", "kprobe"];

/// Ways to capture that see the plaintext of a server that has given the kernel its keys.
const SEE_KTLS: [&str; 2] = ["fentry", "kprobe"];

/// Debian built this one without.
const WITHOUT_KTLS: [&str; 1] = ["5.10"];

/// Ways to capture that see the bytes of a `sendfile`. To the others it is a hole of exact size.
const SEE_SENDFILE: [&str; 0] = [];

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is traced as its client saw it.
    Whole,
    /// It is traced as `incomplete`.
    Holed,
    /// It is not traced.
    None,
}

pub fn start(kernel: &str, backend: Backend) -> Option<Start> {
    let (_, starts) = STARTS.iter().find(|(name, _)| *name == kernel)?;
    Backend::ALL.iter().zip(starts).find(|(b, _)| **b == backend).map(|(_, start)| *start)
}

/// Of a request to a server that uses io_uring.
pub fn io_uring(chosen: &str) -> Sight {
    if SEE_IO_URING.contains(&chosen) { Sight::Whole } else { Sight::None }
}

/// Of a request to a server whose TLS the kernel does.
pub fn ktls(chosen: &str) -> Sight {
    if SEE_KTLS.contains(&chosen) { Sight::Whole } else { Sight::None }
}

/// Whether a kernel has what a scenario needs: where it has not, nothing is sent.
pub fn applies(kernel: &str, scenario: &str) -> bool {
    !scenario.starts_with("tls-kernel") || !WITHOUT_KTLS.contains(&kernel)
}

/// Of a request whose answer is in part sent by `sendfile`.
pub fn sendfile(chosen: &str) -> Sight {
    if SEE_SENDFILE.contains(&chosen) { Sight::Whole } else { Sight::Holed }
}

/// How many records a way to capture may count as lost for `reason` in all scenarios together: what
/// it knows to have passed and cannot read.
pub fn lost(chosen: &str, reason: &str) -> u64 {
    const SENDFILES: u64 = 2;
    // By the program that gave the kernel its keys, and by OpenSSL.
    const KTLS_SENDFILES: u64 = 2;
    const OPENSSL_SENDFILES: u64 = 2;
    const KTLS_SPLICES: u64 = 3;
    const IO_URING_READS: u64 = 12;
    match (chosen, reason) {
        ("sockets", "opaque") => SENDFILES + OPENSSL_SENDFILES + IO_URING_READS,
        ("syscalls", "opaque") => SENDFILES + OPENSSL_SENDFILES,
        (_, "opaque") => SENDFILES + OPENSSL_SENDFILES + KTLS_SENDFILES + KTLS_SPLICES,
        _ => 0,
    }
}

/// In what the agent's start is otherwise than expected; empty if it is not.
pub fn wrong_start(expected: Start, said: &Said) -> String {
    match (expected, said) {
        (Runs(name), Said::Ready(line)) if said.chosen() != Some(name) => {
            format!("expected {name}, it said: {line}")
        }
        (Runs(_), Said::Ready(_)) => String::new(),
        (Runs(name), Said::Left { code, printed }) => {
            format!("expected {name}, it left with {code:?}: {printed}")
        }
        (Refuses(words), Said::Ready(line)) => {
            format!("expected to be refused ({words:?}), it said: {line}")
        }
        (Refuses(words), Said::Left { code: Some(3), printed }) if printed.contains(words) => {
            String::new()
        }
        (Refuses(words), Said::Left { code, printed }) => {
            format!("expected exit code 3 and {words:?}, it left with {code:?}: {printed}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_expected_passes() {
        let ready = Said::Ready("ready backend=tracepoint targets=all hooks=syscalls".into());
        let left = |code| Said::Left { code: Some(code), printed: "no such helper".into() };
        assert_eq!(wrong_start(Runs("syscalls"), &ready), "");
        assert_eq!(wrong_start(Refuses("helper"), &left(3)), "");
        for (expected, said) in [
            (Runs("sockets"), &ready),
            (Runs("syscalls"), &left(3)),
            (Refuses("helper"), &ready),
            (Refuses("helper"), &left(1)),
            (Refuses("other words"), &left(3)),
        ] {
            assert_ne!(wrong_start(expected, said), "", "{expected:?} {said:?}");
        }
    }

    #[test]
    fn every_back_end_has_an_expectation_on_every_kernel() {
        for (kernel, _) in STARTS {
            for backend in Backend::ALL {
                assert!(start(kernel, backend).is_some());
            }
        }
        assert!(start("2.4", Backend::Auto).is_none());
    }
}
