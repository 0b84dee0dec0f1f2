//! Where Alertmanager's webhooks arrive.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

type Calls = Arc<Mutex<Vec<(String, Value)>>>;

/// Keeps what it is sent. Its thread ends with the process.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    calls: Calls,
}

impl Receiver {
    #[track_caller]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let calls = Calls::default();
        let kept = Arc::clone(&calls);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                // One that cannot be read is one that the test misses.
                thread::spawn(move || serve(stream, &kept));
            }
        });
        Self { port, calls }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and body of every call so far.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().expect("no thread panics").clone()
    }
}

fn serve(stream: TcpStream, kept: &Calls) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body)?;
        kept.lock().expect("no thread panics").push((path, body));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
