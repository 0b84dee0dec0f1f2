//! Programs that do nothing, where a back end's hooks on a write are: what the kernel takes for
//! calling a hook, whatever is in it.

use std::borrow::Cow;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::Context as _;
use aya::programs::{
    BtfTracePoint, FEntry, FExit, KProbe, ProbeKind, RawTracePoint, loaded_programs,
};
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

/// Where a program goes.
#[derive(Clone, Copy, Debug)]
enum At {
    Fentry(&'static str),
    Fexit(&'static str),
    Kprobe(&'static str),
    Kretprobe(&'static str),
    BtfTracepoint(&'static str),
    RawTracepoint(&'static str),
}

impl At {
    fn place(self) -> &'static str {
        match self {
            Self::Fentry(at)
            | Self::Fexit(at)
            | Self::Kprobe(at)
            | Self::Kretprobe(at)
            | Self::BtfTracepoint(at)
            | Self::RawTracepoint(at) => at,
        }
    }
}

/// The hooks that a write to a TCP socket goes through, as the agent's `probe::plan` has them. That
/// of an arrival runs in the writer's time where both ends are on one machine.
fn hooks(backend: &str) -> &'static [At] {
    use At::{BtfTracepoint, Fentry, Fexit, Kprobe, Kretprobe, RawTracepoint};
    match backend {
        "fentry" => &[Fentry("tcp_sendmsg"), Fexit("tcp_sendmsg")],
        "kprobe" => &[Kprobe("tcp_sendmsg"), Kretprobe("tcp_sendmsg"), RawTracepoint("sys_exit")],
        "tracepoint" => &[BtfTracepoint("tcp_sendmsg_locked"), BtfTracepoint("sock_send_length")],
        _ => &[RawTracepoint("sys_enter"), RawTracepoint("sys_exit")],
    }
}

/// Attached programs; dropped, they are gone.
#[expect(dead_code, reason = "they are held")]
enum Program {
    Fentry(FEntry),
    Fexit(FExit),
    Kprobe(KProbe),
    BtfTracepoint(BtfTracePoint),
    RawTracepoint(RawTracePoint),
}

/// What does nothing in place of a back end.
pub struct Empty {
    _programs: Vec<Program>,
}

impl Empty {
    /// # Panics
    /// If a hook cannot be attached where the agent's could.
    #[track_caller]
    pub fn attach(backend: &str) -> Self {
        let btf = Btf::from_sys_fs().expect("the kernel's types");
        let arrival = ["sk_data_ready"]
            .into_iter()
            .filter(|at| id_of(&btf, At::BtfTracepoint(at)).is_some())
            .map(At::BtfTracepoint);
        let all = hooks(backend).iter().copied().chain(arrival);
        let programs = all.map(|at| match attach(&btf, at) {
            Ok(program) => program,
            Err(error) => panic!("an empty program at {at:?}: {error:#}"),
        });
        Self { _programs: programs.collect() }
    }
}

/// The type that a program at `at` refers to.
fn id_of(btf: &Btf, at: At) -> Option<u32> {
    match at {
        At::Fentry(name) | At::Fexit(name) => btf.id_by_type_name_kind(name, BtfKind::Func).ok(),
        At::BtfTracepoint(name) => {
            btf.id_by_type_name_kind(&format!("btf_trace_{name}"), BtfKind::Typedef).ok()
        }
        _ => None,
    }
}

fn attach(btf: &Btf, at: At) -> anyhow::Result<Program> {
    use bpf_attach_type::{BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_TRACE_RAW_TP};
    use bpf_prog_type::{
        BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_TRACING,
    };
    let (kind, expected) = match at {
        At::Fentry(_) => (BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY as u32),
        At::Fexit(_) => (BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT as u32),
        At::BtfTracepoint(_) => (BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP as u32),
        At::RawTracepoint(_) => (BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
        At::Kprobe(_) | At::Kretprobe(_) => (BPF_PROG_TYPE_KPROBE, 0),
    };
    // The newest program of that name is the one.
    let _held = load(kind as u32, expected, id_of(btf, at).unwrap_or(0))?;
    let ours = loaded_programs().filter_map(Result::ok).filter(|info| info.name() == NAME);
    let info = ours.max_by_key(|info| info.id()).context("it is not among the loaded ones")?;
    let name = Cow::Borrowed("empty");
    // SAFETY: the type of the program is the one that it was loaded as.
    Ok(unsafe {
        match at {
            At::Fentry(_) => {
                let mut program = FEntry::from_program_info(info, name)?;
                program.attach()?;
                Program::Fentry(program)
            }
            At::Fexit(_) => {
                let mut program = FExit::from_program_info(info, name)?;
                program.attach()?;
                Program::Fexit(program)
            }
            At::BtfTracepoint(_) => {
                let mut program = BtfTracePoint::from_program_info(info, name)?;
                program.attach()?;
                Program::BtfTracepoint(program)
            }
            At::RawTracepoint(at) => {
                let mut program = RawTracePoint::from_program_info(info, name)?;
                program.attach(at)?;
                Program::RawTracepoint(program)
            }
            At::Kprobe(_) | At::Kretprobe(_) => {
                let returns = matches!(at, At::Kretprobe(_));
                let kind = if returns { ProbeKind::Return } else { ProbeKind::Entry };
                let mut program = KProbe::from_program_info(info, name, kind)?;
                program.attach(at.place(), 0)?;
                Program::Kprobe(program)
            }
        }
    })
}

const NAME: &[u8] = b"llmtrace_empty";

/// `r0 = 0; exit`, loaded by hand: no object file, so no toolchain for one.
fn load(kind: u32, expected: u32, btf_id: u32) -> io::Result<OwnedFd> {
    /// The fields of `union bpf_attr` that BPF_PROG_LOAD has had since 5.5.
    #[repr(C)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log: [u32; 2],
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
        prog_btf_fd: u32,
        func_info_rec_size: u32,
        func_info: u64,
        func_info_cnt: u32,
        line_info_rec_size: u32,
        line_info: u64,
        line_info_cnt: u32,
        attach_btf_id: u32,
        attach_prog_fd: u32,
        unused: u32,
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    const PROGRAM: [u64; 2] = [0xb7, 0x95];
    let mut prog_name = [0; 16];
    prog_name[..NAME.len()].copy_from_slice(NAME);
    let attr = Attr {
        prog_type: kind,
        insn_cnt: PROGRAM.len() as u32,
        insns: PROGRAM.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: expected,
        prog_btf_fd: 0,
        func_info_rec_size: 0,
        func_info: 0,
        func_info_cnt: 0,
        line_info_rec_size: 0,
        line_info: 0,
        line_info_cnt: 0,
        attach_btf_id: btf_id,
        attach_prog_fd: 0,
        unused: 0,
    };
    // SAFETY: `attr` is valid for its size, and so is what it points to.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the call has made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
