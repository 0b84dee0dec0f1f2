//! TLS and passwords for the agent's endpoint, asked with curl.

use std::fs;
use std::process::Command;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::tls::Files;

/// bcrypt of "secret".
const HASH: &str = "$2b$10$T9BdLKIzwS2K9zkMx3h2GuS/GSJlwAAuVmsc/lcDaq7s7jNCm0gAG";

/// What curl is answered: status and body; status 0 if it could not connect.
fn curl(agent: &Agent, files: &Files, args: &[&str], url: &str) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}", "--cacert"]);
    command.arg(&files.certificate).args(args);
    let out = command.arg(url.replace("PORT", &agent.port().to_string())).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn only_who_knows_the_password_reads_and_only_by_tls() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let config = dir.join("web.yml");
    let text = format!(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n  min_version: TLS13\n\
         http_server_config:\n  headers:\n    X-Frame-Options: deny\n\
         basic_auth_users:\n  prometheus: {HASH}\n"
    );
    fs::write(&config, text).unwrap();
    let agent =
        Options::default().pid(std::process::id()).arg("--web.config.file", &config).start();
    let ask = |args: &[&str], url: &str| curl(&agent, &files, args, url);
    let metrics = "https://127.0.0.1:PORT/metrics";
    assert_eq!(ask(&[], metrics).0, 401);
    assert_eq!(ask(&["--user", "prometheus:wrong"], metrics).0, 401);
    let (status, body) = ask(&["--user", "prometheus:secret"], metrics);
    assert_eq!(status, 200);
    assert!(body.contains("llmtrace_build_info"), "{body}");
    let (_, head) = ask(&["--user", "prometheus:secret", "--include"], metrics);
    assert!(head.to_lowercase().contains("x-frame-options: deny"), "{head}");
    assert_eq!(ask(&[], "https://127.0.0.1:PORT/").0, 401);
    // Probes have no password.
    assert_eq!(ask(&[], "https://127.0.0.1:PORT/readyz").0, 200);
    assert_eq!(ask(&[], "http://127.0.0.1:PORT/metrics").0, 0, "no plain HTTP");
    assert_eq!(ask(&["--tls-max", "1.2"], "https://127.0.0.1:PORT/readyz").0, 0);
    agent.stop();
}

#[test]
fn only_who_shows_a_certificate_reads() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let config = dir.join("web.yml");
    let text = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n  \
                client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n";
    fs::write(&config, text).unwrap();
    let agent =
        Options::default().pid(std::process::id()).arg("--web.config.file", &config).start();
    let url = "https://127.0.0.1:PORT/metrics";
    assert_eq!(curl(&agent, &files, &[], url).0, 0);
    let own = ["--cert", files.certificate.to_str().unwrap(), "--key", files.key.to_str().unwrap()];
    let (status, _) = curl(&agent, &files, &own, url);
    assert_eq!(status, 200, "the certificate is its own authority");
    agent.stop();
}

#[test]
fn a_file_that_is_wrong_is_refused_at_the_start() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let config = dir.join("web.yml");
    fs::write(&config, "basic_auth_users:\n  bob: secret\n").unwrap();
    let options = Options::default().pid(std::process::id()).arg("--web.config.file", &config);
    let left = options.try_start().unwrap_err();
    assert_eq!(left.status.code(), Some(1));
    assert!(left.printed.contains("no bcrypt hash"), "{}", left.printed);
}
