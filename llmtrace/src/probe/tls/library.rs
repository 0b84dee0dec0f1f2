//! Which TLS libraries a file contains, and where their functions are.

use std::{collections::HashMap, fs::File, io};

use iced_x86::Register;
use object::{Object, ObjectSection, ReadRef};

use super::{
    boring,
    elf::{self, Code, Elf},
    go, rustls,
    steps::{self, Places},
};

/// A TLS library, as in the `library` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    OpenSsl,
    BoringSsl,
    GnuTls,
    Go,
    Rustls,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::OpenSsl, Self::BoringSsl, Self::GnuTls, Self::Go, Self::Rustls];

    pub fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::BoringSsl => "boringssl",
            Self::GnuTls => "gnutls",
            Self::Go => "go",
            Self::Rustls => "rustls",
        }
    }
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Read,
    Write,
    ReadEx,
    WriteEx,
    /// A write of a file's bytes.
    SendFile,
    /// A read whose 0 is the end.
    ReadToEnd,
    Handshake,
    /// Tells what a failed call met.
    Error,
    Shutdown,
    Free,
    GoRead,
    GoWrite,
    /// At a RET of either.
    GoDone,
    GoHandshake,
    RustlsEncrypt,
    RustlsDecrypt,
    /// The return of what makes a new encrypter.
    RustlsEncrypter,
}

/// A probe to be: an offset into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub offset: u64,
    pub hook: Hook,
    /// Where the function's end is seen, if not by a uretprobe.
    pub exits: Vec<u64>,
}

impl Point {
    pub fn new(offset: u64, hook: Hook) -> Self {
        Self { offset, hook, exits: Vec::new() }
    }
}

/// Longest function that is disassembled.
const MAX_CODE: u64 = 16 * 1024;
const MAX_INSTRUCTION: u64 = 15;

/// Registers of the four arguments of `SSL_read_ex`.
const EX_ARGUMENTS: &[Register] = &[Register::RDI, Register::RSI, Register::RDX, Register::RCX];

/// A function at the cheapest places that are as good as its beginning and its end.
fn cheapest(file: &Elf, code: Code, hook: Hook) -> Point {
    let arguments: &[Register] = match hook {
        Hook::ReadEx | Hook::WriteEx => EX_ARGUMENTS,
        Hook::Read | Hook::Write | Hook::ReadToEnd => {
            &[Register::RDI, Register::RSI, Register::RDX]
        }
        Hook::Handshake | Hook::Error => &[Register::RDI],
        Hook::SendFile => &[Register::RDI, Register::RCX],
        _ => return Point::new(code.offset, hook),
    };
    let found = file
        .bytes(code.offset, code.size.min(MAX_CODE))
        .ok()
        .filter(|_| code.size > 0 && code.size <= MAX_CODE)
        .and_then(|bytes| steps::places(bytes, arguments));
    match found {
        Some(Places { entry, exits }) => Point {
            offset: code.offset + entry,
            hook,
            exits: exits.into_iter().map(|exit| code.offset + exit).collect(),
        },
        None => {
            let bytes = file.bytes(code.offset, code.size.min(MAX_CODE)).unwrap_or_default();
            let at = steps::before_frame(bytes, arguments).unwrap_or(0);
            Point::new(code.offset + at, hook)
        }
    }
}

/// `SSL_read_ex` only calls a function without a name, and `SSL_read` calls it as well: probed there,
/// both cost as little as one that has cheap places of its own.
fn inner(file: &Elf, found: &HashMap<String, Code>, ex: &str, plain: &str) -> Option<u64> {
    let code = |name: &str| {
        let code = found.get(name)?;
        let size = Some(code.size).filter(|size| (1..=MAX_CODE).contains(size))?;
        Some((code.offset.cast_signed(), file.bytes(code.offset, size).ok()?))
    };
    let (at, bytes) = code(ex)?;
    let inner = at + steps::thunk(bytes, EX_ARGUMENTS)?;
    let (at, bytes) = code(plain)?;
    let offset = u64::try_from(inner).ok().filter(|_| steps::calls(bytes, inner - at))?;
    let first = file.bytes(offset, MAX_INSTRUCTION).ok()?;
    steps::begins_cheap(first).then_some(offset)
}

/// Points of functions that are there, each at its cheapest.
fn points(file: &Elf, found: &HashMap<String, Code>, functions: &[Function]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut done = Vec::new();
    for (ex, plain, hook) in
        [("SSL_read_ex", "SSL_read", Hook::ReadEx), ("SSL_write_ex", "SSL_write", Hook::WriteEx)]
    {
        if functions.iter().any(|f| f.name == ex)
            && let Some(offset) = inner(file, found, ex, plain)
        {
            points.push(Point::new(offset, hook));
            done.extend([ex, plain]);
        }
    }
    let others = functions.iter().filter(|f| !done.contains(&f.name));
    points.extend(others.filter_map(|f| Some(cheapest(file, *found.get(f.name)?, f.hook))));
    points
}

/// A library that was found, and what to probe, or why that is unknown.
#[derive(Debug)]
pub struct Library {
    pub kind: Kind,
    pub points: Result<Vec<Point>, &'static str>,
}

/// A function by its name. Without those that are needed a library is useless.
struct Function {
    name: &'static str,
    hook: Hook,
    needed: bool,
}

const fn function(name: &'static str, hook: Hook, needed: bool) -> Function {
    Function { name, hook, needed }
}

/// OpenSSL 1.1 and 3, LibreSSL, BoringSSL.
const OPENSSL: &[Function] = &[
    function("SSL_read", Hook::Read, true),
    function("SSL_write", Hook::Write, true),
    function("SSL_read_ex", Hook::ReadEx, false),
    function("SSL_write_ex", Hook::WriteEx, false),
    function("SSL_sendfile", Hook::SendFile, false),
    function("SSL_do_handshake", Hook::Handshake, false),
    function("SSL_get_error", Hook::Error, false),
    function("SSL_shutdown", Hook::Shutdown, false),
    function("SSL_free", Hook::Free, false),
];
/// Only BoringSSL has it.
const BORINGSSL_ONLY: &str = "SSL_CTX_set_grease_enabled";

const GNUTLS: &[Function] = &[
    function("gnutls_record_recv", Hook::ReadToEnd, true),
    function("gnutls_record_send", Hook::Write, true),
    function("gnutls_record_send2", Hook::Write, false),
    function("gnutls_handshake", Hook::Handshake, false),
    function("gnutls_bye", Hook::Shutdown, false),
    function("gnutls_deinit", Hook::Free, false),
];

/// One of these is in a file that has one of the libraries, whole or not.
const SURE: &[&[u8]] = &[b"SSL_read\0", b"SSL_write\0", b"gnutls_record_"];

/// Looks into a file; `main` if it is a program and no library.
pub fn search(file: &File, main: bool) -> io::Result<Vec<Library>> {
    let reader = Elf::open(file)?;
    let elf = reader.parse()?;
    if elf.architecture() != object::Architecture::X86_64 {
        return Ok(Vec::new());
    }
    let all = || OPENSSL.iter().chain(GNUTLS);
    let found = elf::functions(&reader, &elf, SURE, |name| {
        name == BORINGSSL_ONLY || all().any(|function| function.name == name)
    });
    let mut libraries = Vec::new();
    for (kind, functions) in [(Kind::OpenSsl, OPENSSL), (Kind::GnuTls, GNUTLS)] {
        let here = functions.iter().filter(|f| found.contains_key(f.name)).count();
        if here == 0 {
            continue;
        }
        let kind = if kind == Kind::OpenSsl && found.contains_key(BORINGSSL_ONLY) {
            Kind::BoringSsl
        } else {
            kind
        };
        let whole = functions.iter().all(|f| !f.needed || found.contains_key(f.name));
        let points = points(&reader, &found, functions);
        let points = if whole { Ok(points) } else { Err("it lacks read or write") };
        libraries.push(Library { kind, points });
    }
    if main
        && libraries.is_empty()
        && let Some(points) = boring::points(&reader, &elf)
    {
        libraries.push(Library { kind: Kind::BoringSsl, points });
    }
    if main && let Some(points) = go::points(&reader, &elf) {
        libraries.push(Library { kind: Kind::Go, points });
    }
    if libraries.is_empty()
        && let Some(range) = messages(&elf)
        && reader.find(range, &[OPENSSL_TRACE]).is_some()
    {
        libraries.push(Library { kind: Kind::OpenSsl, points: Err(NO_SYMBOLS) });
    }
    if let Some(points) = rustls::points(&reader, &elf) {
        libraries.push(Library { kind: Kind::Rustls, points });
    }
    Ok(libraries)
}

/// A library is there, but its functions have no names.
pub const NO_SYMBOLS: &str = "it is linked in without its symbols";
/// The name of a source file, which OpenSSL leaves behind for its messages.
const OPENSSL_TRACE: &[u8] = b"ssl/ssl_lib.c\0";
/// Bytes of a file that are searched for what tells of a library without names.
const MAX_SEARCHED: u64 = 64 << 20;

/// Where in a file texts of messages are.
pub fn messages<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>) -> Option<(u64, u64)> {
    let (offset, size) = elf.section_by_name(".rodata")?.file_range()?;
    Some((offset, size.min(MAX_SEARCHED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_elf_is_an_error() {
        let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert!(search(&file, true).is_err());
    }
}
