//! Which hooks to attach. A pure function of what the kernel has and what the user asked for, so
//! that it can be tested for kernels that are not here.
//!
//! Features decide, never the version: distributions carry features back and leave others out.

use super::features::Features;

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    Fentry,
    Kprobe,
    /// Tracepoints, on sockets if there are any.
    Tracepoint,
    /// Tracepoints on system calls.
    Syscall,
}

/// A set of hooks that together see every read and write of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hooks {
    /// Trampolines on the socket functions.
    Fentry,
    /// Kprobes on the socket functions.
    Kprobe,
    /// Tracepoints on sockets.
    Sockets,
    /// Tracepoints on system calls.
    Syscalls,
}

impl Hooks {
    /// The best first: what sees most at the least cost.
    pub const ALL: [Self; 4] = [Self::Fentry, Self::Sockets, Self::Kprobe, Self::Syscalls];

    /// As `--backend` and the `backend` label have it.
    pub fn backend(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Sockets | Self::Syscalls => "tracepoint",
        }
    }

    /// What is hooked, as the `hooks` label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry | Self::Kprobe => "functions",
            Self::Sockets => "sockets",
            Self::Syscalls => "syscalls",
        }
    }

    /// What these hooks do not see, or see at a cost that others do not have.
    pub fn limits(self) -> &'static str {
        match self {
            Self::Fentry => "none known",
            Self::Kprobe => "every system call of the machine costs a little more",
            Self::Sockets => "what io_uring reads is counted but not seen",
            Self::Syscalls => {
                "io_uring is not seen, and every system call of the machine costs a little more"
            }
        }
    }

    /// Whether they see what is read and written by io_uring.
    pub fn sees_io_uring(self) -> bool {
        matches!(self, Self::Fentry | Self::Kprobe)
    }

    fn asked_for(self, choice: Choice) -> bool {
        match choice {
            Choice::Auto => true,
            Choice::Fentry => self == Self::Fentry,
            Choice::Kprobe => self == Self::Kprobe,
            Choice::Tracepoint => matches!(self, Self::Sockets | Self::Syscalls),
            Choice::Syscall => self == Self::Syscalls,
        }
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    RawTracepoint(&'static str),
    BtfTracepoint(&'static str),
    Fentry(&'static str),
    Fexit(&'static str),
    Kprobe(&'static str),
    Kretprobe(&'static str),
}

impl Hook {
    /// The tracepoint's or the function's name.
    pub fn place(self) -> &'static str {
        match self {
            Self::RawTracepoint(at)
            | Self::BtfTracepoint(at)
            | Self::Fentry(at)
            | Self::Fexit(at)
            | Self::Kprobe(at)
            | Self::Kretprobe(at) => at,
        }
    }
}

/// A program and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub program: &'static str,
    pub hook: Hook,
    /// Capture is worth nothing without it.
    pub needed: bool,
}

const fn needed(program: &'static str, hook: Hook) -> Attachment {
    Attachment { program, hook, needed: true }
}

const fn wanted(program: &'static str, hook: Hook) -> Attachment {
    Attachment { program, hook, needed: false }
}

/// A way to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub hooks: Hooks,
    /// In this order: returns before entries, so that no call is half seen.
    pub attachments: Vec<Attachment>,
    /// Attached when the first unix socket turns up: it makes every system call dearer.
    pub on_unix: Option<Attachment>,
    /// Attached until the reads that were under way at the start are over: it does so too.
    pub at_start: Option<Attachment>,
    /// What sees the plaintext of sockets whose TLS the kernel does: attached while it can.
    pub ktls: Vec<Attachment>,
    /// Attached when the first such socket turns up, for returns that the kernel skips.
    pub on_ktls: Option<Attachment>,
}

/// A set of hooks that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub hooks: Hooks,
    pub reason: String,
}

/// What has to be attached whatever the hooks are.
pub fn lifecycle(features: &Features) -> Vec<Attachment> {
    use Hook::{BtfTracepoint, RawTracepoint};
    let mut list = vec![
        needed("sched_process_fork", RawTracepoint("sched_process_fork")),
        needed("sched_process_exec", RawTracepoint("sched_process_exec")),
        needed("sched_process_exit", RawTracepoint("sched_process_exit")),
        needed("inet_sock_set_state", RawTracepoint("inet_sock_set_state")),
    ];
    for reset in ["tcp_receive_reset", "tcp_send_reset"] {
        if features.has_tracepoint(reset) {
            list.push(wanted(reset, RawTracepoint(reset)));
        }
    }
    if features.has_tracepoint("sk_data_ready") {
        list.push(wanted("sk_data_ready", BtfTracepoint("sk_data_ready")));
    } else if features.kprobes {
        list.push(wanted("sock_def_readable", Hook::Kprobe("sock_def_readable")));
    }
    list
}

/// The ways to capture that this kernel might allow, the best first, and those that it cannot.
pub fn plan(features: &Features, choice: Choice) -> (Vec<Plan>, Vec<Refusal>) {
    let (mut plans, mut refused) = (Vec::new(), Vec::new());
    for hooks in Hooks::ALL.into_iter().filter(|hooks| hooks.asked_for(choice)) {
        let planned = match hooks {
            Hooks::Fentry => fentry(features),
            Hooks::Kprobe => kprobe(features),
            Hooks::Sockets => sockets(features),
            Hooks::Syscalls => syscalls(features),
        };
        match planned {
            Ok(plan) => plans.push(plan),
            Err(reason) => refused.push(Refusal { hooks, reason }),
        }
    }
    (plans, refused)
}

/// Hooks on functions do not see the return of a call that was under way before them.
fn reads(features: &Features) -> Option<Attachment> {
    let sys_exit = Hook::RawTracepoint("sys_exit");
    features.has_tracepoint("sys_exit").then(|| wanted("sys_exit_reads", sys_exit))
}

/// Plaintext that goes into the kernel's TLS and comes out of it. Kprobes whatever the other hooks
/// are, as a module's functions are not among vmlinux's types. Not all kernels have all of it:
/// `sendpage` went with 6.5, and `tls_device_*` is there where hardware may do the work.
fn ktls(features: &Features) -> Vec<Attachment> {
    use Hook::{Kprobe, Kretprobe};

    const SEND: &str = "kretprobe_tls_send";
    const RECEIVE: &str = "kretprobe_tls_receive";
    const ALL: [(&str, &str, &str, bool); 6] = [
        ("tls_sw_sendmsg", "kprobe_tls_sendmsg", SEND, true),
        ("tls_sw_recvmsg", "kprobe_tls_recvmsg", RECEIVE, true),
        ("tls_sw_splice_read", "kprobe_tls_splice_read", RECEIVE, false),
        ("tls_sw_sendpage", "kprobe_tls_sendpage", SEND, false),
        ("tls_device_sendmsg", "kprobe_tls_sendmsg", SEND, false),
        ("tls_device_sendpage", "kprobe_tls_sendpage", SEND, false),
    ];
    if !features.kprobes {
        return Vec::new();
    }
    let returns = ALL.map(|(at, _, program, needed)| (program, Kretprobe(at), needed));
    let entries = ALL.map(|(at, program, _, needed)| (program, Kprobe(at), needed));
    let all = returns.into_iter().chain(entries);
    all.map(|(program, hook, needed)| Attachment { program, hook, needed }).collect()
}

fn functions(features: &Features, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| !features.has_function(name)) {
        Some(name) => Err(format!("this kernel has no function {name}")),
        None => Ok(()),
    }
}

fn tracepoints(features: &Features, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| !features.has_tracepoint(name)) {
        Some(name) => Err(format!("this kernel has no tracepoint {name}")),
        None => Ok(()),
    }
}

fn fentry(features: &Features) -> Result<Plan, String> {
    use Hook::{Fentry, Fexit};
    functions(features, &["tcp_sendmsg", "tcp_recvmsg"])?;
    // Where an argument and the return value lie depends on how many arguments there are.
    let (entry, exit) = match features.recvmsg_arguments {
        4 => ("fentry_tcp_recvmsg", "fexit_tcp_recvmsg_4"),
        5 => ("fentry_tcp_recvmsg", "fexit_tcp_recvmsg_5"),
        6 => ("fentry_tcp_recvmsg_nonblock", "fexit_tcp_recvmsg_6"),
        n => return Err(format!("this kernel's tcp_recvmsg has {n} arguments")),
    };
    let mut attachments = vec![
        needed("fexit_tcp_sendmsg", Fexit("tcp_sendmsg")),
        needed(exit, Fexit("tcp_recvmsg")),
        needed("fentry_tcp_sendmsg", Fentry("tcp_sendmsg")),
        needed(entry, Fentry("tcp_recvmsg")),
    ];
    // Unix sockets may be a module, which vmlinux's BTF does not name.
    if functions(features, &["unix_stream_sendmsg", "unix_stream_recvmsg", "unix_release"]).is_ok()
    {
        attachments.extend([
            wanted("fexit_unix_stream_sendmsg", Fexit("unix_stream_sendmsg")),
            wanted("fexit_unix_stream_recvmsg", Fexit("unix_stream_recvmsg")),
            wanted("fentry_unix_stream_sendmsg", Fentry("unix_stream_sendmsg")),
            wanted("fentry_unix_stream_recvmsg", Fentry("unix_stream_recvmsg")),
            wanted("fentry_unix_release", Fentry("unix_release")),
        ]);
    }
    // Kretprobes are skipped when too many calls are under way: the system call's return is not.
    let sys_exit = wanted("sys_exit_skipped", Hook::RawTracepoint("sys_exit"));
    Ok(Plan {
        hooks: Hooks::Fentry,
        attachments,
        on_unix: None,
        at_start: reads(features),
        ktls: ktls(features),
        on_ktls: features.kprobes.then_some(sys_exit),
    })
}

fn kprobe(features: &Features) -> Result<Plan, String> {
    use Hook::{Kprobe, Kretprobe};
    if !features.kprobes {
        return Err("this kernel has no kprobes".into());
    }
    functions(features, &["tcp_sendmsg", "tcp_recvmsg"])?;
    let mut attachments = vec![
        needed("kretprobe_tcp_sendmsg", Kretprobe("tcp_sendmsg")),
        needed("kretprobe_tcp_recvmsg", Kretprobe("tcp_recvmsg")),
        wanted("kprobe_tcp_cleanup_rbuf", Kprobe("tcp_cleanup_rbuf")),
        needed("kprobe_tcp_sendmsg", Kprobe("tcp_sendmsg")),
        needed("kprobe_tcp_recvmsg", Kprobe("tcp_recvmsg")),
    ];
    attachments.extend([
        wanted("kretprobe_unix_stream_sendmsg", Kretprobe("unix_stream_sendmsg")),
        wanted("kretprobe_unix_stream_recvmsg", Kretprobe("unix_stream_recvmsg")),
        wanted("kprobe_unix_stream_sendmsg", Kprobe("unix_stream_sendmsg")),
        wanted("kprobe_unix_stream_recvmsg", Kprobe("unix_stream_recvmsg")),
        wanted("kprobe_unix_release", Kprobe("unix_release")),
    ]);
    // Last: what it looks after are the returns of the hooks before it.
    attachments.push(wanted("sys_exit_skipped", Hook::RawTracepoint("sys_exit")));
    Ok(Plan {
        hooks: Hooks::Kprobe,
        attachments,
        on_unix: None,
        at_start: None,
        ktls: ktls(features),
        on_ktls: None,
    })
}

fn sockets(features: &Features) -> Result<Plan, String> {
    use Hook::BtfTracepoint;
    const HOOKS: [&str; 3] = ["sock_send_length", "sock_recv_length", "tcp_sendmsg_locked"];
    tracepoints(features, &HOOKS)?;
    if !features.task_regs {
        return Err("this kernel has no bpf_task_pt_regs".into());
    }
    Ok(Plan {
        hooks: Hooks::Sockets,
        attachments: HOOKS.iter().map(|at| needed(at, BtfTracepoint(at))).collect(),
        on_unix: Some(wanted("sys_enter_close", Hook::RawTracepoint("sys_enter"))),
        at_start: None,
        ktls: Vec::new(),
        on_ktls: None,
    })
}

fn syscalls(features: &Features) -> Result<Plan, String> {
    use Hook::RawTracepoint;
    tracepoints(features, &["sys_enter", "sys_exit"])?;
    Ok(Plan {
        hooks: Hooks::Syscalls,
        attachments: vec![
            needed("sys_exit", RawTracepoint("sys_exit")),
            needed("sys_enter", RawTracepoint("sys_enter")),
        ],
        on_unix: None,
        at_start: None,
        ktls: Vec::new(),
        on_ktls: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::features::{FUNCTIONS, TRACEPOINTS};

    /// A kernel as distributions build it.
    fn full() -> Features {
        Features {
            functions: FUNCTIONS.to_vec(),
            tracepoints: TRACEPOINTS.to_vec(),
            kprobes: true,
            task_regs: true,
            recvmsg_arguments: 5,
            ktls_built_in: false,
        }
    }

    fn without_tracepoints(mut features: Features, names: &[&str]) -> Features {
        features.tracepoints.retain(|t| !names.contains(t));
        features
    }

    /// 5.10: none of the newer tracepoints.
    fn old() -> Features {
        let newer = ["tcp_sendmsg_locked", "sock_send_length", "sock_recv_length", "sk_data_ready"];
        let features = Features { task_regs: false, recvmsg_arguments: 6, ..full() };
        without_tracepoints(features, &newer)
    }

    fn order(features: &Features, choice: Choice) -> Vec<Hooks> {
        plan(features, choice).0.iter().map(|plan| plan.hooks).collect()
    }

    #[test]
    fn the_best_comes_first() {
        assert_eq!(order(&full(), Choice::Auto), Hooks::ALL);
        assert!(plan(&full(), Choice::Auto).1.is_empty());
    }

    #[test]
    fn a_kernel_without_kprobes_says_so() {
        let features = Features { kprobes: false, ..full() };
        let (plans, refused) = plan(&features, Choice::Auto);
        assert_eq!(plans.len(), 3);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].hooks, Hooks::Kprobe);
        assert!(refused[0].reason.contains("kprobes"), "{}", refused[0].reason);
        assert!(order(&features, Choice::Kprobe).is_empty());
    }

    #[test]
    fn an_old_kernel_has_no_tracepoints_on_sockets() {
        let (plans, refused) = plan(&old(), Choice::Auto);
        let hooks: Vec<_> = plans.iter().map(|p| p.hooks).collect();
        assert_eq!(hooks, [Hooks::Fentry, Hooks::Kprobe, Hooks::Syscalls]);
        assert_eq!(refused[0].hooks, Hooks::Sockets);
    }

    #[test]
    fn the_arguments_of_recvmsg_decide_where_its_return_value_is() {
        let receive = |features: &Features| {
            let plan = plan(features, Choice::Fentry).0.remove(0);
            let is = |a: &&Attachment| a.hook == Hook::Fexit("tcp_recvmsg");
            plan.attachments.iter().find(is).map(|a| a.program)
        };
        assert_eq!(receive(&full()), Some("fexit_tcp_recvmsg_5"));
        let newer = Features { recvmsg_arguments: 4, ..full() };
        assert_eq!(receive(&newer), Some("fexit_tcp_recvmsg_4"));
        let older = Features { recvmsg_arguments: 6, ..full() };
        assert_eq!(receive(&older), Some("fexit_tcp_recvmsg_6"));
        let other = Features { recvmsg_arguments: 7, ..full() };
        assert!(plan(&other, Choice::Fentry).1[0].reason.contains("7 arguments"));
    }

    #[test]
    fn tracepoints_on_sockets_need_all_three() {
        for missing in ["tcp_sendmsg_locked", "sock_send_length", "sock_recv_length"] {
            let features = without_tracepoints(full(), &[missing]);
            assert_eq!(order(&features, Choice::Tracepoint), [Hooks::Syscalls]);
        }
        let plans = plan(&full(), Choice::Tracepoint).0;
        assert_eq!(plans[0].hooks, Hooks::Sockets);
        assert!(plans[0].on_unix.is_some());
        assert_eq!(order(&full(), Choice::Syscall), [Hooks::Syscalls]);
    }

    #[test]
    fn returns_are_attached_before_entries() {
        for plan in plan(&full(), Choice::Auto).0.iter().chain(&plan(&old(), Choice::Auto).0) {
            for (i, entry) in plan.attachments.iter().enumerate() {
                let (Hook::Fentry(at) | Hook::Kprobe(at)) = entry.hook else { continue };
                let is_return = |a: &Attachment| matches!(a.hook, Hook::Fexit(f) | Hook::Kretprobe(f) if f == at);
                let after = plan.attachments[i..].iter().any(is_return);
                assert!(!after, "{at} of {:?}", plan.hooks);
            }
        }
    }

    #[test]
    fn tls_of_the_kernel_is_seen_by_kprobes_beside_hooks_on_functions() {
        for plan in plan(&full(), Choice::Auto).0 {
            let at = |place| plan.ktls.iter().filter(|a| a.hook.place() == place).count();
            let seen = matches!(plan.hooks, Hooks::Fentry | Hooks::Kprobe);
            for function in ["tls_sw_sendmsg", "tls_sw_recvmsg"] {
                assert_eq!(at(function), if seen { 2 } else { 0 }, "{:?}", plan.hooks);
            }
            let kprobes = |a: &Attachment| matches!(a.hook, Hook::Kprobe(_) | Hook::Kretprobe(_));
            assert!(plan.ktls.iter().all(kprobes));
            // The kprobe plan watches returns that are skipped anyway.
            assert_eq!(plan.on_ktls.is_some(), plan.hooks == Hooks::Fentry);
            // Returns first, as everywhere.
            let entry = plan.ktls.iter().position(|a| matches!(a.hook, Hook::Kprobe(_)));
            let last = plan.ktls.iter().rposition(|a| matches!(a.hook, Hook::Kretprobe(_)));
            assert!(!seen || last < entry);
        }
        let features = Features { kprobes: false, ..full() };
        let plan = &plan(&features, Choice::Fentry).0[0];
        assert!(plan.ktls.is_empty() && plan.on_ktls.is_none());
    }

    #[test]
    fn arrival_falls_back_to_a_kprobe() {
        let has =
            |features: &Features, program| lifecycle(features).iter().any(|a| a.program == program);
        assert!(has(&full(), "sk_data_ready"));
        assert!(has(&old(), "sock_def_readable"));
        let neither = Features { kprobes: false, ..old() };
        assert!(!has(&neither, "sk_data_ready") && !has(&neither, "sock_def_readable"));
    }
}
