//! Sockets whose TLS the kernel does, since the process has handed it the keys: what is sent and
//! received there is plaintext.
//!
//! The functions are those of a module, which vmlinux's types do not name, so these are kprobes
//! beside any hooks on functions. What they send on as ciphertext goes past `tcp_sendmsg`.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_ktime_get_ns},
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use super::{
    call::{self, Caller, MSG_ERRQUEUE, MSG_OOB, ReadEnd},
    function,
};
use crate::{
    kernel::{self, Access, Probed, field},
    maps::{MSG_CONTROL, MSG_CONTROLLEN, RECVMSG_NONBLOCK, SOCKET_SK},
    memory::{self, Memory},
    stash::{self, call as under_way},
};

const SOL_TLS: u32 = 282;
/// Types of control messages: to the kernel, and from it.
const TLS_SET_RECORD_TYPE: u32 = 1;
const TLS_GET_RECORD_TYPE: u32 = 2;
/// The record type of data; others are alerts and handshakes.
const APPLICATION_DATA: u8 = 23;

/// A control message that says of what type a record is: `struct cmsghdr` and a byte.
type Control = [u32; 5];

/// Whether a control message makes a record something else than data.
#[inline(always)]
fn is_no_data(control: &Control, kind: u32) -> bool {
    let [_, _, level, of, record] = *control;
    level == SOL_TLS && of == kind && record as u8 != APPLICATION_DATA
}

/// Whether what was received is an alert or the like: the kernel has put that where the process
/// wanted it (0: it did not, and gets data only). A function of its own, for the sake of its
/// callers' stacks.
#[inline(never)]
pub fn is_control(control: u64) -> bool {
    // SAFETY: the helper fails on an address that cannot be read.
    control != 0
        && unsafe { bpf_probe_read_user(control as *const Control) }
            .is_ok_and(|control| is_no_data(&control, TLS_GET_RECORD_TYPE))
}

/// Where a message has its control messages; 0 if it has none.
#[inline(always)]
fn control_of(msg: u64) -> u64 {
    match field::<u64>(msg, &MSG_CONTROLLEN) {
        Some(1..) => field(msg, &MSG_CONTROL).unwrap_or(0),
        _ => 0,
    }
}

#[inline(always)]
fn send_begins(sock: u64, bytes: (Memory, u64)) -> Option<()> {
    let who = function::caller()?;
    function::forget(who.tid);
    let inode = Probed::inode(sock)?;
    call::write_to::<Probed>(sock, inode, who, || Some(bytes), true);
    None
}

/// `tls_sw_sendmsg(sk, msg, size)`, `tls_device_sendmsg`
#[kprobe]
pub fn kprobe_tls_sendmsg(ctx: ProbeContext) -> u32 {
    let (Some(sock), Some(msg)) = (ctx.arg(0), ctx.arg::<u64>(1)) else { return 0 };
    let control = control_of(msg);
    if control != 0
        && kernel::at::<Control>(control).is_some_and(|c| is_no_data(&c, TLS_SET_RECORD_TYPE))
    {
        return 0;
    }
    if let Some(bytes) = memory::of_message::<Probed>(msg) {
        send_begins(sock, bytes);
    }
    0
}

/// `tls_sw_sendpage(sk, page, offset, size, flags)`, `tls_device_sendpage`: sendfile before 6.5
#[kprobe]
pub fn kprobe_tls_sendpage(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(size)) = (ctx.arg(0), ctx.arg(3)) {
        send_begins(sock, (Memory::OPAQUE, size));
    }
    0
}

/// The return of any of these.
#[kretprobe]
pub fn kretprobe_tls_send(ctx: RetProbeContext) -> u32 {
    function::send_ends(i64::from(ctx.ret::<i32>()));
    0
}

#[inline(always)]
fn receive_begins(sock: u64, memory: Memory, want: u64, flags: u32, control: u64) -> Option<()> {
    let who = function::caller()?;
    function::forget(who.tid);
    let stash = stash::begin(who.tid)?;
    // SAFETY: a helper without arguments.
    stash.enter = unsafe { bpf_ktime_get_ns() };
    stash.memory = memory;
    stash.want = want;
    stash.sock = sock;
    stash.pos = 0;
    stash.generation = who.how;
    stash.flags = flags;
    stash.seen = 1;
    stash.control = control;
    stash.call = under_way::READ | under_way::KTLS;
    None
}

/// `tls_sw_recvmsg(sk, msg, len, [nonblock,] flags, [addr_len])`
#[kprobe]
pub fn kprobe_tls_recvmsg(ctx: ProbeContext) -> u32 {
    let (third, fourth) = (ctx.arg(3), ctx.arg(4));
    let flags: Option<u32> = if RECVMSG_NONBLOCK.load() != 0 { fourth } else { third };
    if let (Some(sock), Some(msg), Some(len), Some(flags)) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), flags)
        && flags & (MSG_OOB | MSG_ERRQUEUE) == 0
        && let Some((memory, _)) = memory::of_message::<Probed>(msg)
    {
        receive_begins(sock, memory, len, flags, control_of(msg));
    }
    0
}

/// `tls_sw_splice_read(socket, position, pipe, len, flags)`
#[kprobe]
pub fn kprobe_tls_splice_read(ctx: ProbeContext) -> u32 {
    if let (Some(socket), Some(len)) = (ctx.arg::<u64>(0), ctx.arg(3))
        && let Some(sock) = field(socket, &SOCKET_SK)
        && sock != 0
    {
        receive_begins(sock, Memory::OPAQUE, len, 0, 0);
    }
    0
}

/// The return of both.
#[kretprobe]
pub fn kretprobe_tls_receive(ctx: RetProbeContext) -> u32 {
    receive_ends(ctx.ret::<i32>());
    0
}

#[inline(always)]
fn receive_ends(ret: i32) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::current(tid)?;
    if stash.call & (under_way::READ | under_way::KTLS) != under_way::READ | under_way::KTLS {
        return None;
    }
    stash.call = 0;
    // Nothing was asked for, or nothing that is part of the stream came.
    if ret == 0 && stash.want == 0 || ret > 0 && is_control(stash.control) {
        return None;
    }
    let read = ReadEnd {
        sock: stash.sock,
        inode: Probed::inode(stash.sock)?,
        enter: stash.enter,
        ret: ret.into(),
        flags: stash.flags,
        ktls: true,
    };
    call::read_ends::<Probed>(&read, Caller { pid, tid, how: stash.generation }, || stash.memory);
    None
}
