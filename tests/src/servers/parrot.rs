//! Answers with whatever bytes a request's body holds: for responses that no server would write.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::thread;

use super::http::Reader;
use crate::net::Stream;

/// Serves until the process is killed; one response, then the connection is closed.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || -> io::Result<()> {
            let mut writer = stream.try_clone()?;
            if let Some(request) = Reader::new(Stream::Tcp(stream)).request()? {
                writer.write_all(&request.body)?;
            }
            Ok(())
        });
    }
}
