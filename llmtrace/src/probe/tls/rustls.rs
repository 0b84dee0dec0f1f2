//! Functions of rustls in a program or library that has a symbol table. What users call is inlined;
//! methods that are called by a table are not, whoever implements them: ring, aws-lc or another.

use std::collections::BTreeSet;

use object::ReadRef;
use rustc_demangle::try_demangle;

use super::{
    elf::{self, Elf},
    library::{self, Hook, NO_SYMBOLS, Point},
};

/// The trait in whose methods a record is encrypted, and so on: what they are for.
const METHODS: &[(&str, Hook)] = &[
    (" as rustls::crypto::cipher::MessageEncrypter>::encrypt", Hook::RustlsEncrypt),
    (" as rustls::crypto::cipher::MessageDecrypter>::decrypt", Hook::RustlsDecrypt),
    (" as rustls::crypto::cipher::Tls12AeadAlgorithm>::encrypter", Hook::RustlsEncrypter),
    (" as rustls::crypto::cipher::Tls13AeadAlgorithm>::encrypter", Hook::RustlsEncrypter),
];
/// What names of these have in them, however they are mangled.
const NEEDLES: &[&[u8]] = &[b"MessageEncrypter", b"MessageDecrypter", b"AeadAlgorithm"];

/// What names of its functions have in them.
const CRATE: &[u8] = b"rustls";

/// What stands before the version in the paths of its source files, which are in its messages.
const TRACE: &[u8] = b"rustls-0.";
/// Bytes that are looked at around it.
const MAX_TRACE: usize = 16;
/// The version whose layouts are known.
const KNOWN: u32 = 23;

const OTHER_VERSION: &str = "only rustls 0.23 can be probed, and it has another version";
const INCOMPLETE: &str = "it lacks encrypt, decrypt, or what makes keys";

/// What to probe of rustls; None if it is not there.
pub fn points<'data, R: ReadRef<'data>>(
    file: &Elf,
    elf: &object::File<'data, R>,
) -> Option<Result<Vec<Point>, &'static str>> {
    let mut versions = BTreeSet::new();
    file.windows(library::messages(elf)?, MAX_TRACE, |_, bytes| versions.extend(found(bytes)));
    if versions.is_empty() {
        return None;
    }
    // Names do not tell one version's functions from another's.
    if versions != BTreeSet::from([KNOWN]) {
        return Some(Err(OTHER_VERSION));
    }
    let points: Vec<Point> = elf::named(file, elf, NEEDLES, hook)
        .into_iter()
        .map(|(hook, code)| Point::new(code.offset, hook))
        .collect();
    let has = |hook: Hook| points.iter().any(|point| point.hook == hook);
    // Where others of its functions have names, those that would encrypt are not there: a program
    // has linked it, and does not use it.
    if points.is_empty() && file.names_in(elf, ".strtab", &[CRATE]) {
        return None;
    }
    Some(if points.is_empty() {
        Err(NO_SYMBOLS)
    } else if METHODS.iter().all(|(_, hook)| has(*hook)) {
        Ok(points)
    } else {
        Err(INCOMPLETE)
    })
}

/// Minor versions whose traces these bytes have.
fn found(bytes: &[u8]) -> impl Iterator<Item = u32> {
    memchr::memmem::find_iter(bytes, TRACE).filter_map(move |at| {
        // Other crates have names that end so: tokio-rustls.
        let other = at.checked_sub(1).is_none_or(|at| bytes[at] != b'/');
        let digits = &bytes[at + TRACE.len()..];
        let digits = &digits[..digits.len().min(3)];
        let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
        let number = str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
        (!other && digits[end] == b'.').then_some(number)
    })
}

/// What a symbol is for, by its mangled name.
fn hook(name: &str) -> Option<Hook> {
    // Without the hash. What is behind the name is of a compiler that has made a local one global.
    let path = format!("{:#}", try_demangle(name).ok()?);
    let path = path.split(".llvm.").next()?;
    METHODS.iter().find(|(method, _)| path.ends_with(method)).map(|(_, hook)| *hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_manglings() {
        for (name, expected) in [
            (
                "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..\
                 crypto..cipher..MessageEncrypter$GT$7encrypt17hd0177f55ca4fb9c5E",
                Some(Hook::RustlsEncrypt),
            ),
            (
                "_RNvXs3_NtNtNtCscqBdn3KNogk_6rustls6crypto9aws_lc_rs5tls13NtB5_20AeadMessageDecrypter\
                 NtNtB9_6cipher16MessageDecrypter7decrypt",
                Some(Hook::RustlsDecrypt),
            ),
            (
                "_RNvXs0_NtNtNtCscqBdn3KNogk_6rustls6crypto9aws_lc_rs5tls13NtB5_13Aes128GcmAead\
                 NtNtB9_6cipher18Tls13AeadAlgorithm9encrypter",
                Some(Hook::RustlsEncrypter),
            ),
            (
                "_ZN104_$LT$rustls..crypto..ring..tls12..GcmAlgorithm$u20$as$u20$rustls..crypto..\
                 cipher..Tls12AeadAlgorithm$GT$9encrypter17h15ce1f451173bba7E.llvm.12025346808538182154",
                Some(Hook::RustlsEncrypter),
            ),
            // What is inside of one, or is another method of the same trait.
            (
                "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageDecrypter$u20$as$u20$rustls..\
                 crypto..cipher..MessageDecrypter$GT$7decrypt28_$u7b$$u7b$closure$u7d$$u7d$17h83d3372\
                 d40b0ca4aE",
                None,
            ),
            (
                "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..\
                 crypto..cipher..MessageEncrypter$GT$21encrypted_payload_len17h300fc7206ed912f8E",
                None,
            ),
            ("MessageEncrypter", None),
            ("", None),
        ] {
            assert_eq!(hook(name), expected, "{name}");
        }
    }

    #[test]
    fn versions_of_it_and_of_nothing_else() {
        let all = |text: &str| found(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all("/src/rustls-0.23.46/src/lib.rs/x/rustls-0.21.12/src"), [23, 21]);
        assert!(all("/tokio-rustls-0.26.4/src/lib.rs").is_empty());
        for cut in
            ["rustls-0.23.1", "/rustls-0.", "/rustls-0.23", "/rustls-0.x.", "/rustls-0.1234."]
        {
            assert!(all(cut).is_empty(), "{cut}");
        }
    }
}
