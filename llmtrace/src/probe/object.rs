//! The kernel programs, built by build.rs and carried inside the binary.

use llmtrace_common::config::kfunc;

use super::types::Types;

/// ELF needs its headers aligned; `include_bytes!` alone promises nothing.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/llmtrace.bpf.o")));

/// The eBPF object file, fitted to a kernel. Words, since instructions are, and for alignment.
pub struct Object(Vec<u64>);

impl Object {
    pub fn new(functions: Option<Functions>) -> Self {
        let words = OBJECT.0.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            fitted(u64::from_ne_bytes(word), functions)
        });
        Self(words.collect())
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the words are valid for as many bytes, which have no alignment and no bad values.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&*self.0)) }
    }
}

/// Ids, among the kernel's types, of its functions by which a program keeps the processor; in the
/// order of [`kfunc::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Functions([u32; kfunc::NAMES.len()]);

impl Functions {
    /// None if this kernel does not have them (before 6.14), or refuses calls of global functions in
    /// between (before 6.15, which knows of each whether it may sleep).
    pub fn of(types: &Types) -> Option<Self> {
        if !types.has_member("bpf_subprog_info", "might_sleep") {
            return None;
        }
        let mut ids = [0; kfunc::NAMES.len()];
        for (id, name) in ids.iter_mut().zip(kfunc::NAMES) {
            *id = types.function(name)?;
        }
        Some(Self(ids))
    }
}

/// One instruction: a call of a helper that there is not becomes one of a kernel function, or sets
/// the register that the call would.
fn fitted(instruction: u64, functions: Option<Functions>) -> u64 {
    /// `BPF_JMP | BPF_CALL`, source register 0: a helper.
    const HELPER: u64 = 0x85;
    /// Source register 2: a kernel function.
    const FUNCTION: u64 = 0x2085;
    /// `r0 = 0`.
    const NOTHING: u64 = 0xb7;
    let number = (instruction >> 32) as usize;
    let index = number.wrapping_sub(kfunc::FIRST);
    if instruction as u32 != HELPER as u32 || index >= kfunc::NAMES.len() {
        return instruction;
    }
    functions.map_or(NOTHING, |Functions(ids)| FUNCTION | u64::from(ids[index]) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(object: &[u64], instruction: u64) -> usize {
        object.iter().filter(|word| **word == instruction).count()
    }

    #[test]
    fn no_call_without_a_function_is_left() {
        let before: Vec<u64> =
            OBJECT.0.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect();
        let numbers: [u64; 4] = std::array::from_fn(|n| (kfunc::FIRST + n) as u64);
        let calls = numbers.map(|number| count(&before, 0x85 | number << 32));
        assert!(calls[0] > 0 && calls[1] > 0 && calls[1..] == [calls[1]; 3], "{calls:?}");
        let ids = [0x111, 0x222, 0x333, 0x444];
        for functions in [None, Some(Functions(ids))] {
            let object = Object::new(functions);
            assert_eq!(numbers.map(|number| count(&object.0, 0x85 | number << 32)), [0; 4]);
            let now = ids.map(|id| count(&object.0, 0x2085 | u64::from(id) << 32));
            assert_eq!(now, if functions.is_some() { calls } else { [0; 4] });
        }
    }
}
