use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::listener::{Limits, Stream};
use super::*;

/// Of "secret".
const HASH: &str = "$2b$10$T9BdLKIzwS2K9zkMx3h2GuS/GSJlwAAuVmsc/lcDaq7s7jNCm0gAG";

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("llmtrace-web-{}-{name}", std::process::id()));
    fs::write(&path, text).unwrap();
    path
}

fn basic(user: &str, password: &str) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}").into_bytes()
}

#[test]
fn mistakes_are_told() {
    for (name, text, told) in [
        ("unknown", "tls_server_confg: {}\n", "tls_server_confg"),
        ("plain", "basic_auth_users: {bob: secret}\n", "no bcrypt hash"),
        ("cert", "tls_server_config: {cert_file: no.crt, key_file: no.key}\n", "no.crt"),
        ("kind", "tls_server_config: {cert_file: a, key_file: b, client_auth_type: Any}\n", "Any"),
        ("header", "http_server_config: {headers: {'a b': c}}\n", "no name of a header"),
        ("yaml", "basic_auth_users: [\n", "configuration"),
    ] {
        let path = file(name, text);
        let error = Source::new(Some(&path)).unwrap_err().to_string();
        assert!(error.contains(told), "{name}: {error}");
        fs::remove_file(path).unwrap();
    }
    assert!(Source::new(Some("/nowhere.yml".as_ref())).is_err());
}

fn bob() -> Arc<Auth> {
    Arc::new(Auth::new([("bob".to_owned(), HASH.to_owned())].into()).unwrap())
}

#[tokio::test]
async fn who_may_read() {
    let open = Arc::new(Auth::default());
    assert!(open.is_open() && open.allows(None).await);
    let auth = bob();
    assert!(!auth.is_open());
    for _ in 0..2 {
        let right = basic("bob", "secret");
        assert!(auth.clone().allows(Some(&right)).await, "the second time from memory");
    }
    for wrong in [
        basic("bob", "Secret"),
        basic("bob", ""),
        basic("eve", "secret"),
        b"Bearer secret".to_vec(),
        b"Basic !!".to_vec(),
        b"Basic".to_vec(),
        Vec::new(),
    ] {
        let allowed = auth.clone().allows(Some(&wrong)).await;
        assert!(!allowed, "{}", String::from_utf8_lossy(&wrong));
    }
    assert!(!auth.allows(None).await);
}

#[tokio::test]
async fn who_guesses_waits_for_a_turn_and_who_is_known_does_not() {
    let auth = bob();
    let (right, wrong) = (basic("bob", "secret"), basic("bob", "guess"));
    assert!(auth.clone().allows(Some(&right)).await);
    let turn = auth.turn.clone().acquire_owned().await.unwrap();
    assert!(auth.clone().allows(Some(&right)).await);
    let soon = Duration::from_millis(300);
    let guess = tokio::time::timeout(soon, auth.clone().allows(Some(&wrong))).await;
    assert!(guess.is_err(), "another one is being tried");
    drop(turn);
    assert!(!auth.allows(Some(&wrong)).await);
}

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// The next connection, if it is taken soon.
async fn taken(listener: &mut Listener) -> Option<Stream> {
    let next = axum::serve::Listener::accept(listener);
    Some(tokio::time::timeout(Duration::from_millis(300), next).await.ok()?.0)
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let mut listener = Listener::with(socket, Source::new(None).unwrap(), limits).unwrap();
    let _clients = [connect(to).await, connect(to).await, connect(to).await];
    let (first, second) = (taken(&mut listener).await, taken(&mut listener).await);
    assert!(first.is_some() && second.is_some());
    assert!(taken(&mut listener).await.is_none(), "there is no room for a third");
    drop(first);
    assert!(taken(&mut listener).await.is_some());
}

#[tokio::test]
async fn connections_that_are_quiet_are_given_up() {
    let limits = Limits { quiet: Duration::from_millis(200), ..Limits::default() };
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let mut listener = Listener::with(socket, Source::new(None).unwrap(), limits).unwrap();
    let mut client = connect(to).await;
    let mut stream = taken(&mut listener).await.unwrap();
    let mut byte = [0];
    // As long as something comes it stays.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1);
    }
    let error = stream.read(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);

    // Half a request, and one that is over and leaves the connection open.
    let server = tokio::spawn(async { axum::serve(listener, axum::Router::new()).await });
    for (request, answer) in
        [("GET / HTTP/1.1\r\n", ""), ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404")]
    {
        let mut client = connect(to).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let all = client.read_to_string(&mut text);
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap().unwrap();
        assert!(text.starts_with(answer) && answer.is_empty() == text.is_empty(), "{text}");
    }
    server.abort();
}

#[test]
fn a_changed_file_is_read_again_and_a_wrong_one_is_not() {
    let path = file("again", "");
    let source = Source::new(Some(&path)).unwrap();
    assert!(source.get().auth.is_open());
    let set = |text: &str, seconds| {
        fs::write(&path, text).unwrap();
        let when = std::time::SystemTime::now() + Duration::from_secs(seconds);
        fs::File::options().append(true).open(&path).unwrap().set_modified(when).unwrap();
        std::thread::sleep(Duration::from_millis(1_050));
    };
    set(&format!("basic_auth_users: {{bob: {HASH}}}\n"), 10);
    assert!(!source.get().auth.is_open());
    set("basic_auth_users: {bob: secret}\n", 20);
    assert!(!source.get().auth.is_open(), "what was in force stays");
    set("", 30);
    assert!(source.get().auth.is_open());
    fs::remove_file(path).unwrap();
}
