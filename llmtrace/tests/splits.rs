//! However the bytes of a connection are cut, the result is the same; and no bytes do any harm.

#[path = "../fuzz/drivers/mod.rs"]
mod drivers;

use std::path::Path;

use proptest::prelude::*;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(folder).expect("the corpus");
    let mut paths: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a file")).collect()
}

/// A change of a good input.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match self {
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Remove(at, n) => drop(bytes.drain(at.index(len)..len.min(at.index(len) + n))),
            Self::Repeat(at, n) => {
                let (from, to) = (at.index(len), len.min(at.index(len) + n));
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), prop_oneof![any::<u8>(), prop::sample::select(b"\r\n:\"{}[]\\0fF ".to_vec())])
            .prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 1usize..200).prop_map(|(at, n)| Change::Remove(at, n)),
        (at(), 1usize..200).prop_map(|(at, n)| Change::Repeat(at, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_streams(
        file in any::<prop::sample::Index>(),
        seed in any::<u8>(),
        end in prop::sample::select(b"schtg".to_vec()),
        changes in prop::collection::vec(change(), 0..6),
    ) {
        let mut corpus = corpus("exchange");
        let mut input = corpus.swap_remove(file.index(corpus.len()));
        changes.iter().for_each(|change| change.apply(&mut input));
        if let [cuts, ending, ..] = &mut input[..] {
            (*cuts, *ending) = (seed, end);
        }
        drivers::exchange::check(&input);
    }

    #[test]
    fn random_bytes(input in prop::collection::vec(any::<u8>(), 0..2000)) {
        for driver in drivers::ALL {
            (driver.check)(&input);
        }
    }

    #[test]
    fn changed_bytes(
        file in any::<prop::sample::Index>(),
        cuts in any::<u8>(),
        changes in prop::collection::vec(change(), 0..6),
    ) {
        // The other two have tests of their own, one of them in corpus.rs.
        let others = ["capture", "exchange"];
        for driver in drivers::ALL.iter().filter(|driver| !others.contains(&driver.name)) {
            let mut corpus = corpus(driver.name);
            let mut input = corpus.swap_remove(file.index(corpus.len()));
            changes.iter().for_each(|change| change.apply(&mut input));
            if let [first, ..] = &mut input[..] {
                *first = cuts;
            }
            (driver.check)(&input);
        }
    }
}
