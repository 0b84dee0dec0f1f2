//! Stands in for a kubelet, which cannot be had without a cluster: answers `GET /pods` over TLS to
//! whoever shows the token.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::tls::Files;

/// A thread that answers until the test process ends.
#[derive(Debug)]
pub struct FakeKubelet {
    port: u16,
    refused: Arc<AtomicUsize>,
}

impl FakeKubelet {
    /// Serves `pods` with the certificate of these tests.
    #[track_caller]
    pub fn start(files: &Files, token: &str, pods: String) -> Self {
        let certificate = CertificateDer::from_pem_file(&files.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they belong together");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let refused = Arc::new(AtomicUsize::new(0));
        let (count, header) = (Arc::clone(&refused), format!("authorization: Bearer {token}\r\n"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(Arc::clone(&config)).expect("a good config");
                let stream = StreamOwned::new(connection, stream);
                // Whoever does not trust the certificate has gone by now.
                if answer(stream, &header, &pods).is_err() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { port, refused }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Connections that came to nothing.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    header: &str,
    pods: &str,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        let mut piece = [0; 1024];
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    let head = String::from_utf8_lossy(&head).replace("Authorization:", "authorization:");
    let (status, body) = match (head.starts_with("GET /pods HTTP/1.1\r\n"), head.contains(header)) {
        (false, _) => ("404 Not Found", ""),
        (true, false) => ("401 Unauthorized", "Unauthorized"),
        (true, true) => ("200 OK", pods),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// A kubelet's list with one container in it.
pub fn one_pod(namespace: &str, pod: &str, container: &str, image: &str, id: &str) -> String {
    serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": [{
            "metadata": { "name": pod, "namespace": namespace, "uid": "u" },
            "spec": { "containers": [{ "name": container, "image": image }] },
            "status": {
                "phase": "Running",
                "containerStatuses": [{
                    "name": container, "image": image, "ready": true,
                    "containerID": format!("containerd://{id}"),
                }],
            },
        }],
    })
    .to_string()
}

/// A file with a token, as a service account has it.
pub fn token_file(dir: &Path, token: &str) -> std::path::PathBuf {
    let path = dir.join("token");
    std::fs::write(&path, format!("{token}\n")).expect("a temporary file");
    path
}
