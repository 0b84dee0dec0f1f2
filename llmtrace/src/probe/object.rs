//! The kernel programs, built by build.rs and carried inside the binary.

/// ELF needs its headers aligned; `include_bytes!` alone promises nothing.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/llmtrace.bpf.o")));

/// The eBPF object file.
pub fn bytes() -> &'static [u8] {
    &OBJECT.0
}
