//! What the fuzzers start from, and what they found, on every test run.

#[path = "../fuzz/drivers/mod.rs"]
mod drivers;

use proptest::prelude::*;

/// Files that tcpdump, tshark and `llmtrace record` wrote, and how many exchanges they hold.
const CAPTURES: [(&str, usize); 7] = [
    ("ethernet-vlan.pcap", 1),
    ("lo-nanos-big.pcap", 1),
    ("cooked-v2.pcapng", 2),
    ("missing.pcap", 2),
    ("payload.pcapng", 2),
    ("redacted.pcapng", 2),
    ("cut.pcapng", 1),
];

fn capture(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/capture/");
    std::fs::read(format!("{folder}{name}")).expect("a file of the corpus")
}

#[test]
fn captures() {
    for (name, exchanges) in CAPTURES {
        let log = drivers::capture::run(&capture(name));
        assert_eq!(log.0.len(), exchanges, "{name}: {:#?}", log.0);
    }
    let of = |name| drivers::capture::run(&capture(name)).0;
    let missing = of("missing.pcap");
    let incomplete = missing.iter().filter(|f| f.contains("outcome: Incomplete"));
    assert_eq!(incomplete.count(), 1, "{missing:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Bytes of a good file changed at random, lengths among them.
    #[test]
    fn changed_captures(
        file in prop::sample::select(CAPTURES.map(|c| c.0).to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = capture(file);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        drivers::capture::run(&bytes);
    }
}

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
