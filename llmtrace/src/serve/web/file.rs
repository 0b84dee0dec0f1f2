//! The file, and when it is read again.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use super::auth::Auth;
use super::tls;

/// How often it is looked whether the file, or one that it names, has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// What is wrong with the file.
#[derive(Debug, Error)]
#[error("web configuration {path}: {reason}")]
pub struct WebError {
    pub(super) path: String,
    pub(super) reason: String,
}

impl WebError {
    pub(super) fn new(path: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self { path: path.display().to_string(), reason: reason.to_string() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub tls_server_config: Option<Tls>,
    pub http_server_config: Http,
    /// bcrypt hashes by user.
    pub basic_auth_users: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    #[serde(default)]
    pub client_auth_type: ClientAuth,
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    #[serde(default)]
    pub min_version: Version,
}

/// Those kinds of the exporters that check what the client shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Version {
    #[default]
    TLS12,
    TLS13,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    /// Read and of no effect: the endpoint speaks HTTP/1.1.
    pub http2: Option<bool>,
    /// More headers of every response.
    pub headers: HashMap<String, String>,
}

/// What a file says, ready to be used.
#[derive(Clone)]
pub struct Web {
    pub tls: Option<TlsAcceptor>,
    pub auth: Arc<Auth>,
    pub headers: Arc<axum::http::HeaderMap>,
    /// The files it was made of, as they were.
    stamps: Vec<(PathBuf, Option<SystemTime>)>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Web {
    /// No TLS, nobody asked who they are.
    pub fn open() -> Self {
        Self { tls: None, auth: Arc::default(), headers: Arc::default(), stamps: Vec::new() }
    }

    fn read(path: &Path) -> Result<Self, WebError> {
        // Before what is in them: one that is written meanwhile is read again.
        let mut stamps = vec![stamp(path.to_owned())];
        let text = read(path).map_err(|e| WebError::new(path, &e))?;
        // An empty file is one without anything.
        let file: File = if text.trim().is_empty() {
            File::default()
        } else {
            serde_saphyr::from_str(&text).map_err(|e| WebError::new(path, &e))?
        };
        let tls = match &file.tls_server_config {
            Some(config) => {
                // As the exporters have it: relative to the file itself.
                let beside = |p: &Path| path.parent().unwrap_or(Path::new(".")).join(p);
                let config = Tls {
                    cert_file: beside(&config.cert_file),
                    key_file: beside(&config.key_file),
                    client_ca_file: config.client_ca_file.as_deref().map(beside),
                    ..*config
                };
                let files = [config.cert_file.clone(), config.key_file.clone()];
                stamps.extend(files.into_iter().chain(config.client_ca_file.clone()).map(stamp));
                Some(tls::acceptor(&config).map_err(|e| WebError::new(path, &e))?)
            }
            None => None,
        };
        let auth = Auth::new(file.basic_auth_users).map_err(|e| WebError::new(path, &e))?;
        let headers = headers(&file.http_server_config).map_err(|e| WebError::new(path, &e))?;
        Ok(Self { tls, auth: Arc::new(auth), headers: Arc::new(headers), stamps })
    }
}

fn headers(http: &Http) -> Result<axum::http::HeaderMap, String> {
    let mut map = axum::http::HeaderMap::new();
    for (name, value) in &http.headers {
        let name: axum::http::HeaderName =
            name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        let value = value.parse().map_err(|_| format!("{value:?} is no value of a header"))?;
        map.insert(name, value);
    }
    Ok(map)
}

pub(super) fn read(path: &Path) -> std::io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(std::io::Error::other(format!("{length} bytes are too many")));
    }
    fs::read_to_string(path)
}

fn stamp(path: PathBuf) -> (PathBuf, Option<SystemTime>) {
    let changed = changed(&path);
    (path, changed)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// The file, read again when it or a certificate has changed. A clone is the same.
#[derive(Clone, Debug)]
pub struct Source {
    path: Option<PathBuf>,
    now: Arc<Mutex<(Instant, Web)>>,
}

impl Source {
    /// Without a file everything is open.
    pub fn new(path: Option<&Path>) -> Result<Self, WebError> {
        let web = path.map_or_else(|| Ok(Web::open()), Web::read)?;
        let now = Arc::new(Mutex::new((Instant::now(), web)));
        Ok(Self { path: path.map(Path::to_owned), now })
    }

    /// What is in force. A changed file with a mistake changes nothing and is reported.
    pub fn get(&self) -> Web {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (looked, web) = &mut *now;
        if let Some(path) = &self.path
            && looked.elapsed() >= LOOK_EVERY
        {
            *looked = Instant::now();
            if web.stamps.iter().any(|(file, stamp)| changed(file) != *stamp) {
                match Web::read(path) {
                    Ok(new) => *web = new,
                    Err(e) => {
                        log::error!("{e}; what was in force stays");
                        // Said once for each change.
                        web.stamps.iter_mut().for_each(|(file, stamp)| *stamp = changed(file));
                    }
                }
            }
        }
        web.clone()
    }
}
