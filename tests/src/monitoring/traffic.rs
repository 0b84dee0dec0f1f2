//! Clients that go on until they are stopped: all that a dashboard has a panel for happens to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::client::{AbortAt, Connection, Keep, Request};
use crate::net::Address;
use crate::plan::{Ask, Plan};
use crate::stack::Server;

/// Clients of one server. Dropping it stops them.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// How many of the clients ask.
    clients: AtomicUsize,
    faults: AtomicBool,
    /// How many times as long everything takes; 1: as short as tests can bear.
    pace: AtomicU64,
    next: AtomicUsize,
}

/// Between two requests of a client, for each time that it is slower.
const THINK: Duration = Duration::from_millis(40);

/// Who is asked, and how.
#[derive(Clone, Debug)]
enum Whom {
    /// Our server, as this model, which fails as it is asked to.
    App(&'static str),
    Llama,
}

impl Traffic {
    /// To our own server, which answers as `model`.
    pub fn app(server: &Server, model: &'static str, clients: usize) -> Self {
        Self::start(&server.address, &Whom::App(model), clients)
    }

    /// To llama.cpp.
    pub fn llama(server: &Server, clients: usize) -> Self {
        Self::start(&server.address, &Whom::Llama, clients)
    }

    fn start(address: &Address, whom: &Whom, clients: usize) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            clients: AtomicUsize::new(clients),
            faults: AtomicBool::new(true),
            pace: AtomicU64::new(1),
            next: AtomicUsize::new(0),
        });
        let workers = (0..clients)
            .map(|n| {
                let (shared, address, whom) = (Arc::clone(&shared), address.clone(), whom.clone());
                thread::spawn(move || work(&shared, n, &address, &whom))
            })
            .collect();
        Self { shared, workers }
    }

    /// From now on that many ask, of those that it was started with.
    pub fn set_clients(&self, clients: usize) {
        self.shared.clients.store(clients, Ordering::Relaxed);
    }

    /// Whether some of what is asked for are errors.
    pub fn set_faults(&self, faults: bool) {
        self.shared.faults.store(faults, Ordering::Relaxed);
    }

    /// From now on the server is slower so many times, as those of large models are; nothing is sent by
    /// `sendfile` any more; and clients think between their requests.
    pub fn set_pace(&self, pace: u64) {
        self.shared.pace.store(pace, Ordering::Relaxed);
    }

    /// Requests begun so far.
    pub fn count(&self) -> usize {
        self.shared.next.load(Ordering::Relaxed)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, me: usize, address: &Address, whom: &Whom) {
    let keep = match whom {
        Whom::App(_) => Keep::Always,
        Whom::Llama => Keep::NotAfterStreams,
    };
    let mut connection = Connection::new(address).keep(keep);
    while !shared.stop.load(Ordering::Relaxed) {
        if me >= shared.clients.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        let pace = shared.pace.load(Ordering::Relaxed);
        let request = match whom {
            Whom::App(model) => {
                let clients = shared.clients.load(Ordering::Relaxed) as u64;
                app(n, model, clients, shared.faults.load(Ordering::Relaxed), pace)
            }
            Whom::Llama => llama(n),
        };
        thread::sleep(THINK * u32::try_from(pace - 1).unwrap_or(u32::MAX));
        if let Err(error) = connection.send(&request) {
            // The server may be gone at the end; else what is missing fails the test.
            eprintln!("{}: {error}", request.user_agent);
        }
    }
}

/// A server that slows down with its load, and one request in twenty of each kind of bad ending.
fn app(n: usize, model: &str, clients: u64, faults: bool, pace: u64) -> Request {
    let tokens = 8 + (n as u64 * 7) % 50;
    let mut ask = Ask {
        model: model.into(),
        prompt: "word ".repeat(1 + n * 37 % 900),
        max_tokens: tokens,
        include_usage: n % 4 != 1,
        stream: n % 10 != 8,
        completions: n % 6 == 5,
        plan: Plan {
            first_delay_ms: pace * (15 + (n as u64 * 11) % 40 + clients * clients),
            interval_us: pace * (1500 + (n as u64 * 131) % 4000 + clients * 200),
            ..Plan::default()
        },
    };
    let kind = if faults { n % 20 } else { 0 };
    let mut abort = None;
    match kind {
        3 => ask.plan.status = Some(500),
        7 => ask.plan.error_after = Some(5),
        9 => ask.plan.status = Some(429),
        11 => (ask.plan.hang_after, abort) = (Some(5), Some(AbortAt::Tokens(5))),
        13 => (ask.plan.hang_after, abort) = (Some(0), Some(AbortAt::Events(1))),
        15 => ask.plan.drop_after = Some(4),
        // The kernel sends an event from a file: nobody sees its bytes, and the request is incomplete.
        17 if pace == 1 => ask.plan.sendfile = Some(3),
        // A success without a token.
        19 => ask.max_tokens = 0,
        _ => {}
    }
    // Only a stream can end in its middle.
    ask.stream |= matches!(kind, 7 | 11 | 13 | 15 | 17 | 19);
    let request = Request::new(format!("llmtrace-traffic/{n}"), &ask);
    match abort {
        Some(at) => request.abort(at, n % 40 >= 20),
        None => request,
    }
}

fn llama(n: usize) -> Request {
    let ask = Ask {
        prompt: "A story of a tracer. ".repeat(1 + n * 5 % 12),
        max_tokens: 8 + (n as u64 * 5) % 40,
        ..Ask::default()
    };
    let request = Request::new(format!("llmtrace-traffic/llama-{n}"), &ask);
    if n % 15 == 7 { request.abort(AbortAt::Tokens(4), false) } else { request }
}
