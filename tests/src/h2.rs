//! A client that sends many requests at once over one HTTP/2 connection (prior knowledge) and knows
//! what came back, and when.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::client::{AbortAt, Record, Request};
use crate::clock;
use crate::net::Address;

/// Nothing in these tests takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Connection {
    runtime: tokio::runtime::Runtime,
    tasks: LocalSet,
    send: SendRequest<Bytes>,
    local: std::net::SocketAddr,
}

/// What one call answered, beyond what a [`Record`] has.
#[derive(Debug, Default)]
pub struct Grpc {
    /// Lengths of the messages.
    pub messages: Vec<usize>,
    pub times_ns: Vec<u64>,
    pub status: Option<u32>,
    pub send_ns: u64,
}

impl Connection {
    /// # Panics
    /// If there is no HTTP/2 server.
    #[track_caller]
    pub fn new(address: &Address) -> Self {
        let Address::Tcp(address) = address else { panic!("HTTP/2 is tested over TCP") };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = LocalSet::new();
        let (send, local) = tasks.block_on(&runtime, async {
            let stream = TcpStream::connect(address).await.expect("the server accepts");
            stream.set_nodelay(true).expect("a socket option");
            let local = stream.local_addr().expect("an address");
            let (send, connection) =
                h2::client::handshake(stream).await.expect("the server speaks HTTP/2");
            // It ends with the connection, which the caller may do on purpose.
            tokio::task::spawn_local(async move { drop(connection.await) });
            (send, local)
        });
        Self { runtime, tasks, send, local }
    }

    /// Sends all requests at once, and waits for all answers.
    ///
    /// # Panics
    /// If one of them could not be sent or its answer not be read.
    #[track_caller]
    pub fn load(&self, requests: Vec<Request>) -> Vec<Record> {
        let all = requests.into_iter().map(|request| {
            let (send, local) = (self.send.clone(), self.local);
            self.tasks.spawn_local(async move {
                let who = request.user_agent.clone();
                let done = tokio::time::timeout(LIMIT, answer(send, request)).await;
                let record = done.unwrap_or_else(|_| panic!("{who}: no end"));
                let record = record.unwrap_or_else(|e| panic!("{who}: {e}"));
                Record { local: Some(local), ..record }
            })
        });
        let all: Vec<_> = all.collect();
        self.tasks.block_on(&self.runtime, async {
            let mut records = Vec::new();
            for one in all {
                records.push(one.await.expect("a request panicked"));
            }
            records
        })
    }

    /// One gRPC call; gives up after `most` messages.
    #[track_caller]
    pub fn call(&self, user_agent: &str, path: &str, message: &[u8], most: usize) -> Grpc {
        let call = call(self.send.clone(), user_agent, path, message, most);
        self.tasks
            .block_on(&self.runtime, async { tokio::time::timeout(LIMIT, call).await })
            .expect("no end")
            .unwrap_or_else(|e| panic!("{user_agent}: {e}"))
    }

    /// Lets the connection work for a while: what was sent is only queued before.
    pub fn work(&self, time: Duration) {
        self.tasks.block_on(&self.runtime, async { tokio::time::sleep(time).await });
    }
}

fn broken(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

async fn answer(send: SendRequest<Bytes>, request: Request) -> io::Result<Record> {
    let mut record = Record {
        user_agent: request.user_agent.clone(),
        path: request.path.clone(),
        stream: request.stream,
        outcome: "server_disconnect",
        ..Record::default()
    };
    let head = http::Request::builder()
        .method(request.method)
        .uri(format!("http://localhost{}", request.path))
        .header("user-agent", &request.user_agent)
        .header("content-type", "application/json")
        .body(())
        .map_err(io::Error::other)?;
    let mut send = send.ready().await.map_err(broken)?;
    record.send_ns = clock::now();
    let (response, mut body) = send.send_request(head, false).map_err(broken)?;
    body.send_data(request.body.clone().into(), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    record.first_byte_ns = Some(clock::now());
    record.status = Some(response.status().as_u16());
    let streamed = request.stream && record.status == Some(200);
    let mut data = response.into_body();
    loop {
        if let Some(abort) = request.abort
            && match abort.at {
                AbortAt::Events(n) => record.answer.events >= n,
                AbortAt::Tokens(n) => record.answer.token_events >= n,
            }
        {
            body.send_reset(h2::Reason::CANCEL);
            record.outcome = "client_disconnect";
            let any = record.answer.token_events > 0;
            record.phase = Some(if any { "mid_stream" } else { "before_first_token" });
            record.end_ns = clock::now();
            return Ok(record);
        }
        let Some(piece) = data.data().await else { break };
        let now = clock::now();
        record.end_ns = now;
        let piece = match piece {
            Ok(piece) => piece,
            // The server gave the stream up.
            Err(error) if error.is_reset() || error.is_io() => return Ok(record),
            Err(error) => return Err(broken(error)),
        };
        data.flow_control().release_capacity(piece.len()).map_err(broken)?;
        let before = record.answer.token_events;
        if streamed {
            record.answer.push_stream(&piece);
        } else {
            record.answer.push_json(&piece, false);
        }
        for _ in before..record.answer.token_events {
            record.token_times_ns.push(now);
        }
    }
    if !streamed {
        record.answer.push_json(b"", true);
    }
    record.outcome = record.answer.outcome(record.status);
    Ok(record)
}

async fn call(
    send: SendRequest<Bytes>,
    user_agent: &str,
    path: &str,
    message: &[u8],
    most: usize,
) -> io::Result<Grpc> {
    let head = http::Request::builder()
        .method("POST")
        .uri(format!("http://localhost{path}"))
        .header("user-agent", user_agent)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes());
    framed.extend(message);
    let mut send = send.ready().await.map_err(broken)?;
    let mut seen = Grpc { send_ns: clock::now(), ..Grpc::default() };
    let (response, mut body) = send.send_request(head, false).map_err(broken)?;
    body.send_data(framed.into(), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    let status =
        |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    seen.status = status(response.headers());
    let mut data = response.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(piece) = data.data().await {
        let piece = piece.map_err(broken)?;
        data.flow_control().release_capacity(piece.len()).map_err(broken)?;
        pending.extend_from_slice(&piece);
        while let Some((prefix, rest)) = pending.split_first_chunk::<5>() {
            let [_, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length) as usize;
            if rest.len() < length {
                break;
            }
            pending.drain(..5 + length);
            seen.messages.push(length);
            seen.times_ns.push(clock::now());
        }
        if seen.messages.len() >= most {
            body.send_reset(h2::Reason::CANCEL);
            return Ok(seen);
        }
    }
    if let Some(trailers) = data.trailers().await.map_err(broken)? {
        seen.status = status(&trailers);
    }
    Ok(seen)
}
