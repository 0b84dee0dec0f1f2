//! An HTTP server for tests of what is posted.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    pub path: String,
    /// As it was sent.
    pub head: String,
    pub body: Vec<u8>,
}

impl Post {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Answers each request with the next of `statuses`, then with 200, on a connection of its own.
/// Gives its URL and what it got.
pub fn receiver(statuses: &'static [u16]) -> (String, Receiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, got) = channel();
    thread::spawn(move || {
        let mut statuses = statuses.iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut post = Post { path, head, body: Vec::new() };
            // A client that only connected.
            let Some(length) = post.header("content-length") else { continue };
            post.body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut post.body).unwrap();
            // Before the answer: who has got that may look at once.
            if told.send(post).is_err() {
                return;
            }
            let status = statuses.next().copied().unwrap_or(200);
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
        }
    });
    (url, got)
}
