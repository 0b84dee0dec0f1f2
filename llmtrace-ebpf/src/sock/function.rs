//! The socket functions of the kernel, from their entry to their return: what fentry and kprobes
//! have in common.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns};
use llmtrace_common::config::loss;

use super::call::{self, Caller, MSG_ERRQUEUE, MSG_OOB, ReadEnd};
use crate::{
    emit,
    held::held,
    kernel::Access,
    memory::{self, Memory},
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
pub fn caller() -> Option<Caller> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let how = target::of_current(pid);
    if how == 0 { None } else { Some(Caller { pid, tid, how }) }
}

/// What this thread began before and did not come back from, as far as anybody saw.
#[inline(always)]
pub fn forget(tid: u32) {
    if let Some(stale) = stash::current(tid) {
        if stale.call & under_way::WRITE != 0 {
            // Its bytes are missing; the position of the next ones says how many.
            emit::lost(loss::MISSED, 0);
        }
        stale.call = 0;
    }
}

#[inline(always)]
pub fn send_begins<A: Access>(sock: u64, msg: u64) -> Option<()> {
    let who = caller()?;
    held(|| {
        forget(who.tid);
        let inode = A::inode(sock)?;
        call::write_begins::<A>(sock, inode, who, || memory::of_message::<A>(msg));
        None
    })
}

#[inline(always)]
pub fn send_ends(ret: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::current(tid)?;
    if stash.call & under_way::WRITE != 0 {
        held(|| call::write_ends(stash, ret, (pid, tid)));
    }
    None
}

#[inline(always)]
pub fn receive_begins<A: Access>(sock: u64, message: &Message) -> Option<()> {
    if message.flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return None;
    }
    let who = caller()?;
    forget(who.tid);
    let (memory, _) = memory::of_message::<A>(message.msg)?;
    let stash = stash::begin(who.tid)?;
    // SAFETY: a helper without arguments.
    stash.enter = unsafe { bpf_ktime_get_ns() };
    stash.memory = memory;
    stash.want = message.len;
    stash.sock = sock;
    stash.pos = 0;
    stash.generation = who.how;
    stash.flags = message.flags;
    stash.seen = 1;
    stash.call = under_way::READ;
    None
}

/// A part of a read has been copied, and perhaps more will be: `ret` bytes so far.
#[inline(always)]
pub fn receive_goes_on<A: Access>(sock: u64, ret: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::current(tid)?;
    // What a read of `KTLS` takes of the socket is ciphertext.
    if stash.call & (under_way::READ | under_way::KTLS) != under_way::READ || stash.sock != sock {
        return None;
    }
    let new = ret - stash.pos as i64;
    if new <= 0 {
        return None;
    }
    held(|| pass_on::<A>(stash, new, pid, tid));
    stash.pos = ret as u64;
    None
}

#[inline(always)]
pub fn receive_ends<A: Access>(ret: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = stash::current(tid)?;
    if stash.call & under_way::READ == 0 {
        return None;
    }
    stash.call = 0;
    let new = if ret > 0 { ret - stash.pos as i64 } else { ret };
    // Nothing new, or nothing was asked for: no end of the stream.
    if new == 0 && (ret > 0 || stash.want == 0) {
        return None;
    }
    held(|| pass_on::<A>(stash, new, pid, tid))
}

/// The next `ret` bytes of a read, or how it ended.
#[inline(always)]
fn pass_on<A: Access>(stash: &Stash, ret: i64, pid: u32, tid: u32) -> Option<()> {
    let sock = stash.sock;
    let inode = A::inode(sock)?;
    let (enter, flags) = (stash.enter, stash.flags);
    let read = ReadEnd { sock, inode, enter, ret, flags, ktls: false };
    let memory = || Memory { skip: stash.memory.skip + stash.pos, ..stash.memory };
    call::read_ends::<A>(&read, Caller { pid, tid, how: stash.generation }, memory);
    None
}
