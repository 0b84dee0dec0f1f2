//! The socket functions of the kernel, from their entry to their return: what fentry and kprobes
//! have in common.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns};
use llmtrace_common::config::loss;

use super::call::{self, Caller, MSG_ERRQUEUE, MSG_OOB, ReadEnd};
use crate::{
    emit,
    emit::copy::Loops,
    kernel::Access,
    memory,
    stash::{self, Stash, call as under_way},
    target,
};

/// What a receiving function was handed.
pub struct Message {
    pub msg: u64,
    pub len: u64,
    pub flags: u32,
}

#[inline(always)]
fn caller() -> Option<Caller> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let how = target::of_current(pid);
    if how == 0 { None } else { Some(Caller { pid, tid, how }) }
}

/// What this thread began before and did not come back from, as far as anybody saw.
#[inline(always)]
fn forget(tid: u32) {
    if let Some(stale) = stash::recall(tid)
        && stale.call & under_way::WRITE != 0
    {
        // Its bytes are missing; the position of the next ones says how many.
        emit::lost(loss::MISSED, 0);
    }
}

#[inline(always)]
pub fn send_begins<A: Access>(sock: u64, msg: u64) -> Option<()> {
    let who = caller()?;
    forget(who.tid);
    let (memory, want) = memory::of_message::<A>(msg)?;
    let inode = A::inode(sock)?;
    call::write_begins::<A>(sock, inode, who, memory, want);
    None
}

#[inline(always)]
pub fn send_ends<L: Loops>(ret: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::recall(tid)?;
    if stash.call & under_way::WRITE != 0 {
        call::write_ends::<L>(&stash, ret, (pid, tid));
    }
    None
}

#[inline(always)]
pub fn receive_begins<A: Access>(sock: u64, message: &Message) -> Option<()> {
    let who = caller()?;
    forget(who.tid);
    if message.flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return None;
    }
    let (memory, _) = memory::of_message::<A>(message.msg)?;
    stash::remember(&Stash {
        tid: who.tid,
        call: under_way::READ,
        contended: 0,
        // SAFETY: a helper without arguments.
        enter: unsafe { bpf_ktime_get_ns() },
        memory,
        want: message.len,
        sock,
        pos: 0,
        generation: who.how,
        flags: message.flags,
        fd: 0,
        pad: 0,
    });
    None
}

#[inline(always)]
pub fn receive_ends<A: Access, L: Loops>(sock: u64, ret: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::recall(tid)?;
    if stash.call & under_way::READ == 0 || stash.sock != sock || ret == 0 && stash.want == 0 {
        return None;
    }
    let inode = A::inode(sock)?;
    let read = ReadEnd {
        sock,
        inode,
        memory: stash.memory,
        enter: stash.enter,
        ret,
        flags: stash.flags,
    };
    call::read_ends::<A, L>(&read, Caller { pid, tid, how: stash.generation });
    None
}
