//! What the fuzzer starts from, and what it found, on every test run.

#[path = "../fuzz/drivers/mod.rs"]
mod drivers;

#[test]
fn corpora() {
    for (name, check) in drivers::ALL {
        let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut files = 0;
        for entry in std::fs::read_dir(folder).expect("the corpus") {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            check(&std::fs::read(path).expect("a file"));
            files += 1;
        }
        assert!(files >= 4, "{name}: {files} files");
    }
}
