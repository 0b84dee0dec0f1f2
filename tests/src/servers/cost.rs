//! What a call costs, measured by the thread that makes it: the events of a stream, written in
//! small batches, each after the one before has left the send buffer, so that no write waits.
//!
//! A connection says what is wanted with its first line. `POST ...` is answered as an LLM would,
//! `raw` with the same bytes but no HTTP before them, `calls` and `files` by loops of other system
//! calls. The last line of the answer is `ns=` and the nanoseconds of CPU time of one call.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustix::time::{ClockId, clock_gettime};

use super::events;

const BATCH: usize = 32;
/// linux/sockios.h; the libc crate has none.
const SIOCOUTQNSD: libc::c_ulong = 0x894b;

/// Serves one connection after the other until the process is killed; `calls` of one measurement.
pub fn serve(listener: &TcpListener, calls: usize) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // One that only looks whether somebody listens ends in an error.
        let _ = connection(stream, calls);
    }
}

fn connection(mut stream: TcpStream, calls: usize) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let per_call = match first.split_whitespace().next() {
        Some("calls") => each(calls, || {
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        })?,
        Some("files") => {
            let mut zero = std::fs::File::open("/dev/zero")?;
            let mut null = std::fs::File::create("/dev/null")?;
            let mut byte = [0; 1];
            each(calls / 2, || {
                zero.read_exact(&mut byte)?;
                null.write_all(&byte)
            })? / 2.0
        }
        Some("raw") => events(&mut stream, calls)?,
        _ => {
            let mut line = String::new();
            while reader.read_line(&mut line)? > 2 {
                line.clear();
            }
            stream.write_all(events::STREAM_HEAD)?;
            events(&mut stream, calls)?
        }
    };
    stream.write_all(format!("\nns={per_call}\n").as_bytes())
}

fn events(stream: &mut TcpStream, calls: usize) -> io::Result<f64> {
    let event = events::chunk(&events::token("cost", 1));
    let mut spent = 0.0;
    for _ in 0..calls / BATCH {
        spent += each(BATCH, || stream.write_all(&event))? * BATCH as f64;
        while unsent(stream)? > 0 {
            std::thread::yield_now();
        }
    }
    Ok(spent / (calls / BATCH * BATCH) as f64)
}

/// Bytes that still wait to leave. What has left may wait for its acknowledgment for 40 ms.
#[expect(unsafe_code, reason = "an ioctl that no safe wrapper has")]
fn unsent(stream: &TcpStream) -> io::Result<i32> {
    use std::os::fd::AsRawFd as _;
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQNSD writes one int to the pointer that it is given.
    if unsafe { libc::ioctl(stream.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Nanoseconds of CPU time that one of `n` calls takes.
fn each(n: usize, mut call: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let begin = clock_gettime(ClockId::ThreadCPUTime);
    for _ in 0..n {
        call()?;
    }
    let end = clock_gettime(ClockId::ThreadCPUTime);
    let ns = (end.tv_sec - begin.tv_sec) as f64 * 1e9 + (end.tv_nsec - begin.tv_nsec) as f64;
    Ok(ns / n as f64)
}
