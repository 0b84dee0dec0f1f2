//! Where in a function a probe is cheap.
//!
//! The kernel replaces the probed instruction by a breakpoint. Some instructions it then emulates
//! (pushes and branches among them); all others it has to single-step, which costs a second
//! exception: in a virtual machine that exception alone was two thirds of a server's time. And a
//! uretprobe always sits on the first instruction. So a function is probed at a later instruction
//! that still sees its arguments, and at one before each RET that sees its result already, if there
//! are such.

use std::collections::HashSet;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, Register,
};

/// Offsets into a function's code.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    pub entry: u64,
    pub exits: Vec<u64>,
}

/// Finds the places; None if the function is not of that shape. `arguments` are registers that have
/// to be as they were on entry.
pub fn places(code: &[u8], arguments: &[Register]) -> Option<Places> {
    let all = instructions(code);
    let targets = targets(&all);
    let (entry, depth) = entry(&all, &targets, arguments)?;
    let rets = all.iter().enumerate().filter(|(_, i)| i.mnemonic() == Mnemonic::Ret);
    let mut exits = Vec::new();
    for (index, _) in rets {
        let exit = exit(&all, index, &targets, depth)?;
        if !exits.contains(&exit) {
            exits.push(exit);
        }
    }
    // One that leaves by a jump returns elsewhere.
    let inside = |i: &&Instruction| (i.near_branch_target() as usize) < code.len();
    let leaves = all.iter().filter(|i| i.flow_control() == FlowControl::UnconditionalBranch);
    let leaves = leaves.filter(|i| !inside(i)).count();
    let indirect = all.iter().any(|i| i.flow_control() == FlowControl::IndirectBranch);
    (!exits.is_empty() && leaves == 0 && !indirect).then_some(Places { entry, exits })
}

fn is_branch(i: &Instruction) -> bool {
    matches!(i.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
}

/// Whether the kernel emulates it.
fn is_emulated(i: &Instruction) -> bool {
    i.is_jcc_short_or_near()
        || matches!(i.code(), Code::Push_r64 | Code::Jmp_rel8_64 | Code::Jmp_rel32_64)
}

/// A place before the stack grows: there a uretprobe works as at the beginning, and is as cheap as
/// the entry.
pub fn before_frame(code: &[u8], arguments: &[Register]) -> Option<u64> {
    let all = instructions(code);
    let mut info = InstructionInfoFactory::new();
    let targets = targets(&all);
    for i in &all {
        if targets.contains(&i.ip()) {
            return None;
        }
        if is_emulated(i) {
            return Some(i.ip());
        }
        if i.flow_control() != FlowControl::Next
            || writes(&mut info, i, arguments)
            || growth(i) != Some(0)
        {
            return None;
        }
    }
    None
}

/// Where a function is entered for good, if it first sees whether its stack suffices, as Go's do.
pub fn after_stack_check(code: &[u8], arguments: &[Register]) -> Option<u64> {
    let all = instructions(code);
    entry(&all, &targets(&all), arguments).map(|(at, _)| at)
}

/// What a function calls with the arguments that it was called with, and nothing else, to return
/// what that returns, or 0 if that is negative: an offset from its own beginning.
pub fn thunk(code: &[u8], arguments: &[Register]) -> Option<i64> {
    let all = instructions(code);
    let mut info = InstructionInfoFactory::new();
    let mut called = None;
    for i in &all {
        match (called, i.flow_control()) {
            (None, FlowControl::Call) if i.is_call_near() => {
                called = Some(i.near_branch_target().cast_signed());
            }
            (None, FlowControl::Next) if !writes(&mut info, i, arguments) => {}
            (Some(_), FlowControl::Next)
                if i.mnemonic() == Mnemonic::Cmovs || !writes(&mut info, i, &[Register::RAX]) => {}
            (Some(_), FlowControl::Return) => return called,
            _ => return None,
        }
    }
    None
}

/// Whether a function calls what is at this offset from its beginning.
pub fn calls(code: &[u8], target: i64) -> bool {
    let is = |i: &Instruction| i.is_call_near() && i.near_branch_target().cast_signed() == target;
    instructions(code).iter().any(is)
}

/// Whether a uprobe and a uretprobe at the beginning are cheap.
pub fn begins_cheap(code: &[u8]) -> bool {
    instructions(code).first().is_some_and(is_emulated)
}

fn instructions(code: &[u8]) -> Vec<Instruction> {
    Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect()
}

fn targets(all: &[Instruction]) -> HashSet<u64> {
    all.iter().filter(|i| is_branch(i)).map(Instruction::near_branch_target).collect()
}

/// The last such place in the straight line from the start, and how far the stack has grown there.
fn entry(
    all: &[Instruction],
    targets: &HashSet<u64>,
    arguments: &[Register],
) -> Option<(u64, i64)> {
    let mut info = InstructionInfoFactory::new();
    let mut depth = 0;
    let mut found = None;
    for i in all {
        if targets.contains(&i.ip()) {
            break;
        }
        if is_emulated(i) {
            found = Some((i.ip(), depth));
        }
        if i.flow_control() != FlowControl::Next || writes(&mut info, i, arguments) {
            break;
        }
        depth += growth(i)?;
    }
    found
}

/// How much an instruction makes the stack grow; None if that cannot be told.
fn growth(i: &Instruction) -> Option<i64> {
    if i.op0_register() != Register::RSP || i.mnemonic() == Mnemonic::Push {
        return Some(-i64::from(i.stack_pointer_increment()));
    }
    match i.mnemonic() {
        Mnemonic::Sub if i.op_count() == 2 && i.op1_register() == Register::None => {
            Some(i.immediate(1).cast_signed())
        }
        Mnemonic::Add if i.op_count() == 2 && i.op1_register() == Register::None => {
            Some(-i.immediate(1).cast_signed())
        }
        Mnemonic::Cmp | Mnemonic::Test => Some(0),
        _ => None,
    }
}

fn writes(info: &mut InstructionInfoFactory, i: &Instruction, registers: &[Register]) -> bool {
    info.info(i).used_registers().iter().any(|used| {
        !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
            && registers.contains(&used.register().full_register())
    })
}

/// The branch to the failure of the stack protector before a RET: the result is in place, the frame
/// still there, and every way to the RET leads over it.
fn exit(all: &[Instruction], ret: usize, targets: &HashSet<u64>, entered: i64) -> Option<u64> {
    let mut info = InstructionInfoFactory::new();
    let mut depth = 0;
    for at in (0..ret).rev() {
        let i = &all[at];
        // Somebody may come from elsewhere, past what lies before.
        if targets.contains(&all[at + 1].ip()) {
            return None;
        }
        if i.is_jcc_short_or_near() {
            let target = all.iter().find(|t| t.ip() == i.near_branch_target())?;
            let fails = target.flow_control() == FlowControl::Call;
            // Deeper than at the entry, it would look like a call inside the call.
            return (fails && depth <= entered).then_some(i.ip());
        }
        if i.flow_control() != FlowControl::Next || writes(&mut info, i, &[Register::RAX]) {
            return None;
        }
        depth -= growth(i)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGUMENTS: &[Register] = &[Register::RDI, Register::RSI, Register::RDX];

    /// `SSL_read` of Debian's OpenSSL 3.0, up to its RET, with what the branches lead to.
    const SSL_READ: &[u8] = &[
        0x48, 0x83, 0xec, 0x18, // sub rsp, 0x18
        0x31, 0xc0, // xor eax, eax
        0x85, 0xd2, // test edx, edx
        0x78, 0x1a, // js 0x24
        0x48, 0x89, 0xe1, // mov rcx, rsp
        0xe8, 0x00, 0x00, 0x00, 0x00, // call
        0x8b, 0x04, 0x24, // mov eax, [rsp]
        0x48, 0x8b, 0x54, 0x24, 0x08, // mov rdx, [rsp+8]
        0x75, 0x0e, // jne 0x2a
        0x48, 0x83, 0xc4, 0x18, // add rsp, 0x18
        0x31, 0xd2, // xor edx, edx
        0xc3, // ret
        0x90, // nop
        0x31, 0xc0, // 0x24: xor eax, eax
        0x90, // nop
        0xeb, 0xec, // 0x27: jmp 0x15
        0x90, // nop
        0xe8, 0x00, 0x00, 0x00, 0x00, // 0x2a: call __stack_chk_fail
    ];

    #[test]
    fn branches_are_chosen() {
        let found = places(SSL_READ, ARGUMENTS);
        assert_eq!(found, Some(Places { entry: 8, exits: vec![0x1a] }));
        // The argument is gone before there is a place.
        assert_eq!(places(SSL_READ, &[Register::RAX]), None);
    }

    /// `SSL_read_ex` of the same.
    const SSL_READ_EX: &[u8] = &[
        0x48, 0x83, 0xec, 0x08, // sub rsp, 8
        0xe8, 0xc7, 0xfd, 0xff, 0xff, // call -0x230
        0x31, 0xd2, // xor edx, edx
        0x85, 0xc0, // test eax, eax
        0x0f, 0x48, 0xc2, // cmovs eax, edx
        0x48, 0x83, 0xc4, 0x08, // add rsp, 8
        0x31, 0xd2, // xor edx, edx
        0xc3, // ret
    ];

    #[test]
    fn a_function_that_only_calls_another_is_told() {
        assert_eq!(thunk(SSL_READ_EX, ARGUMENTS), Some(-0x230));
        assert!(calls(SSL_READ_EX, -0x230) && !calls(SSL_READ_EX, 0));
        // It changes an argument, or the result, or does something else.
        let changed = |at: usize, bytes: &[u8]| {
            let mut code = SSL_READ_EX.to_vec();
            code.splice(at..at, bytes.iter().copied());
            code
        };
        assert_eq!(thunk(&changed(0, &[0x31, 0xf6]), ARGUMENTS), None);
        assert_eq!(thunk(&changed(9, &[0x31, 0xc0]), ARGUMENTS), None);
        assert_eq!(thunk(&changed(9, &[0x74, 0x00]), ARGUMENTS), None);
        assert_eq!(thunk(SSL_READ, ARGUMENTS), None);
        for cut in 0..SSL_READ_EX.len() {
            assert_eq!(thunk(&SSL_READ_EX[..cut], ARGUMENTS), None);
        }
    }

    #[test]
    fn a_return_is_probed_before_the_stack_grows_or_at_the_beginning() {
        // SSL_get_error: xor eax, eax; test esi, esi; jle
        let error = [0x31, 0xc0, 0x85, 0xf6, 0x7e, 0x0a, 0xc3];
        assert_eq!(before_frame(&error, &[Register::RDI]), Some(4));
        // gnutls_record_send: xor r8d, r8d; xor ecx, ecx; jmp
        let send = [0x45, 0x31, 0xc0, 0x31, 0xc9, 0xe9, 0x86, 0x9c, 0xff, 0xff];
        assert_eq!(before_frame(&send, ARGUMENTS), Some(5));
        assert_eq!(before_frame(&send, &[Register::RCX]), None);
        assert_eq!(before_frame(SSL_READ, ARGUMENTS), None);
        assert!(begins_cheap(&[0x55]) && !begins_cheap(SSL_READ) && !begins_cheap(&[]));
        // cmp rsp, [r14+0x10]; jbe
        let go = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x40, 0x55];
        assert_eq!(after_stack_check(&go, &[Register::RAX]), Some(4));
    }

    #[test]
    fn other_shapes_are_left_alone() {
        // No stack protector: push rbx; mov rbx, rdi; pop rbx; ret
        assert_eq!(places(&[0x53, 0x48, 0x89, 0xfb, 0x5b, 0xc3], ARGUMENTS), None);
        // The stack is deeper at the exit than at the entry.
        let mut deeper = SSL_READ.to_vec();
        deeper[3] = 0x10;
        assert_eq!(places(&deeper, ARGUMENTS), None);
        // A way around the exit: the jump leads behind it.
        let mut around = SSL_READ.to_vec();
        around[0x28] = 0xf3;
        assert_eq!(places(&around, ARGUMENTS), None);
        assert_eq!(places(&[], ARGUMENTS), None);
        for cut in 0..SSL_READ.len() {
            let _ = places(&SSL_READ[..cut], ARGUMENTS);
        }
    }
}
