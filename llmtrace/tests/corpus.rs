//! What the fuzzers start from, and what they found, on every test run.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "../fuzz/driver.rs"]
mod driver;

#[track_caller]
fn replay(target: &str, least: usize, run: impl Fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        run(&std::fs::read(path).expect("a file"));
        files += 1;
    }
    assert!(files >= least);
}

#[test]
fn exchange() {
    replay("exchange", 12, driver::check);
}

#[test]
fn ndjson() {
    replay("ndjson", 4, bodies::ndjson);
}

#[test]
fn json_array() {
    replay("json_array", 4, bodies::json_array);
}

#[test]
fn eventstream() {
    replay("eventstream", 5, bodies::eventstream);
}

#[test]
fn multipart() {
    replay("multipart", 3, bodies::multipart);
}

#[test]
fn dialect() {
    replay("dialect", bodies::DIALECTS.len(), bodies::dialect);
}
