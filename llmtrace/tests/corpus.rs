//! What the fuzzer starts from, and what it found, on every test run.

#[path = "../fuzz/driver.rs"]
mod driver;

#[test]
fn corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/exchange");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        driver::check(&std::fs::read(path).expect("a file"));
        files += 1;
    }
    assert!(files >= 12);
}
