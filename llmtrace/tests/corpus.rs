//! What the fuzzers start from, and what they found, on every test run.

#[path = "../fuzz/drivers/mod.rs"]
mod drivers;

#[test]
fn corpora() {
    for drivers::Driver { name, least, check } in drivers::ALL {
        let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut files = 0;
        for entry in std::fs::read_dir(folder).expect("the corpus") {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            check(&std::fs::read(path).expect("a file"));
            files += 1;
        }
        assert!(files >= least, "{name}: {files} files");
    }
}
