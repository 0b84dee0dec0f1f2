use std::fs;
use std::path::PathBuf;

use base64::Engine as _;

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

#[test]
fn who_may_read() {
    let open = Auth::default();
    assert!(open.is_open() && open.allows(None));
    let auth = Auth::new([("bob".to_owned(), HASH.to_owned())].into()).unwrap();
    assert!(!auth.is_open());
    for _ in 0..2 {
        assert!(auth.allows(Some(&basic("bob", "secret"))), "the second time from memory");
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
        assert!(!auth.allows(Some(&wrong)), "{}", String::from_utf8_lossy(&wrong));
    }
    assert!(!auth.allows(None));
}

#[test]
fn a_changed_file_is_read_again_and_a_wrong_one_is_not() {
    let path = file("again", "");
    let source = Source::new(Some(&path)).unwrap();
    assert!(source.get().auth.is_open());
    let set = |text: &str, seconds| {
        fs::write(&path, text).unwrap();
        let when = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
        fs::File::options().append(true).open(&path).unwrap().set_modified(when).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1_050));
    };
    set(&format!("basic_auth_users: {{bob: {HASH}}}\n"), 10);
    assert!(!source.get().auth.is_open());
    set("basic_auth_users: {bob: secret}\n", 20);
    assert!(!source.get().auth.is_open(), "what was in force stays");
    set("", 30);
    assert!(source.get().auth.is_open());
    fs::remove_file(path).unwrap();
}
