//! Attaches the kernel programs to functions of a file.

use std::{fs::File, os::fd::AsRawFd, path::PathBuf, thread};

use aya::{
    Ebpf,
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope},
    },
};

use super::library::{Hook, Point};

/// What is attached to one library.
#[derive(Debug, Default)]
pub struct Attached(Vec<(&'static str, UProbeLinkId)>);

/// The kernel programs of a hook: on entry, and on return.
fn programs(hook: Hook) -> (&'static str, Option<&'static str>) {
    match hook {
        Hook::Read => ("tls_read", Some("tls_done")),
        Hook::Write => ("tls_write", Some("tls_done")),
        Hook::ReadEx => ("tls_read_ex", Some("tls_done")),
        Hook::WriteEx => ("tls_write_ex", Some("tls_done")),
        Hook::SendFile => ("tls_sendfile", Some("tls_done")),
        Hook::ReadToEnd => ("tls_read_to_end", Some("tls_done")),
        Hook::Error => ("tls_error", Some("tls_done")),
        Hook::Shutdown => ("tls_shutdown", None),
        Hook::Handshake => ("tls_handshake", Some("tls_done")),
        Hook::Free => ("tls_free", None),
        Hook::GoRead => ("go_read", None),
        Hook::GoWrite => ("go_write", None),
        Hook::GoDone => ("go_done", None),
        Hook::GoHandshake => ("go_handshake", None),
        Hook::RustlsEncrypt => ("rustls_encrypt", None),
        Hook::RustlsDecrypt => ("rustls_decrypt", Some("rustls_decrypted")),
        Hook::RustlsEncrypter => ("rustls_encrypter", None),
    }
}

/// Attaches everything or, if that fails, nothing.
pub fn attach(ebpf: &mut Ebpf, file: &File, points: &[Point]) -> Result<Attached, String> {
    // The very file that was looked into, whatever has its path by now.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut attached = Attached::default();
    for point in points {
        let (entry, done) = programs(point.hook);
        // The return first: an entry without one would leave a call under way for ever.
        let mut places: Vec<(&'static str, u64)> = match done {
            Some(done) if point.exits.is_empty() => vec![(done, point.offset)],
            Some(_) => point.exits.iter().map(|exit| ("tls_leave", *exit)).collect(),
            None => Vec::new(),
        };
        places.push((entry, point.offset));
        for (name, offset) in places {
            let linked = program(ebpf, name).and_then(|program| {
                program
                    .attach(
                        UProbeAttachLocation::AbsoluteOffset(offset),
                        &path,
                        UProbeScope::AllProcesses,
                    )
                    .map_err(|e| super::super::attach::chain(&e))
            });
            match linked {
                Ok(link) => attached.0.push((name, link)),
                Err(e) => {
                    detach(ebpf, [attached]);
                    return Err(format!("{name} at {offset:#x}: {e}"));
                }
            }
        }
    }
    Ok(attached)
}

/// A program that is loaded, as it is when it is first needed.
fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, String> {
    let program = ebpf.program_mut(name).ok_or("not in the object")?;
    let program: &mut UProbe = program.try_into().map_err(|_| "no uprobe")?;
    if program.fd().is_err() {
        program.load().map_err(|e| super::super::attach::chain(&e))?;
    }
    Ok(program)
}

/// The kernel waits a tenth of a second for each link, in which the ring of a busy server would fill:
/// a thread of its own waits for it.
pub fn detach(ebpf: &mut Ebpf, attached: impl IntoIterator<Item = Attached>) {
    let mut links = Vec::new();
    for (name, link) in attached.into_iter().flat_map(|attached| attached.0) {
        if let Ok(program) = program(ebpf, name) {
            links.extend(program.take_link(link));
        }
    }
    if !links.is_empty() {
        // Without a thread they are dropped here, which is as good but for the wait.
        let _ = thread::Builder::new().name("detach".into()).spawn(move || drop(links));
    }
}
