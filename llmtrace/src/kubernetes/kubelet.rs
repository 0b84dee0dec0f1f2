//! Asks the kubelet of the node for its pods.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio_rustls::rustls;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::pods::{self, Member};

/// Longest answer that is read, in bytes. A pod has some 10 kB.
const MAX_ANSWER: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest token that is read, in bytes.
const MAX_TOKEN: u64 = 64 << 10;

/// Where the kubelet is, and what it is to be convinced with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Such as `https://10.0.0.4:10250`.
    pub url: String,
    /// Read anew for each question, since it is replaced every hour.
    pub token: PathBuf,
    /// Whom the kubelet's certificate has to be from.
    pub ca: PathBuf,
    /// Take any certificate.
    pub insecure: bool,
}

/// The kubelet.
pub struct Kubelet {
    agent: ureq::Agent,
    pods: String,
    token: Option<PathBuf>,
}

impl Kubelet {
    pub fn new(options: &Options) -> Result<Self> {
        let url = options.url.trim_end_matches('/');
        let encrypted = url.starts_with("https://");
        if !encrypted && !url.starts_with("http://") {
            bail!("the kubelet's URL has to begin with https:// or http://: {url}");
        }
        let mut tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if encrypted {
            tls = if options.insecure {
                tls.disable_verification(true)
            } else {
                tls.root_certs(authorities(&options.ca)?)
            };
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            // The node's own kubelet: no proxy is in between, and it sends nobody elsewhere.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(true)
            .user_agent(concat!("llmtrace/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build()
            .into();
        // A token must not be seen by others on its way.
        let token = encrypted.then(|| options.token.clone());
        Ok(Self { agent, pods: format!("{url}/pods"), token })
    }

    /// The containers of this node's pods, by their ids.
    pub(super) fn members(&self) -> Result<HashMap<String, Arc<Member>>> {
        let mut request = self.agent.get(&self.pods);
        if let Some(path) = &self.token {
            request = request.header("Authorization", format!("Bearer {}", token(path)?));
        }
        let mut response = request.call().map_err(|e| match e {
            ureq::Error::StatusCode(code @ (401 | 403)) => anyhow::anyhow!(
                "{}: {code}: the service account may not get nodes/pods (before Kubernetes 1.33: \
                 nodes/proxy)",
                self.pods
            ),
            e => anyhow::anyhow!("{}: {e}", self.pods),
        })?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.with_context(|| self.pods.clone())?;
        pods::parse(&body).with_context(|| format!("{}: not a list of pods", self.pods))
    }
}

fn token(path: &Path) -> Result<String> {
    let shown = || format!("the token {}", path.display());
    if fs::metadata(path).with_context(shown)?.len() > MAX_TOKEN {
        bail!("{} is too long", shown());
    }
    Ok(fs::read_to_string(path).with_context(shown)?.trim().to_owned())
}

fn authorities(path: &Path) -> Result<RootCerts> {
    let shown = || format!("the kubelet's CA {}", path.display());
    let pem = fs::read(path).with_context(shown)?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        bail!("{}: no certificate is in it", shown());
    }
    Ok(RootCerts::from(certificates))
}
