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
    let all: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect();
    let targets: HashSet<u64> =
        all.iter().filter(|i| is_branch(i)).map(Instruction::near_branch_target).collect();
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
    i.is_jcc_short_or_near() || i.code() == Code::Push_r64
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
