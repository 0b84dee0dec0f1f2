use proptest::prelude::*;

use super::*;
use crate::record::{Data, Direction, Position, SockId};

fn data(at: u32, bytes: &[u8], t: Ns) -> Data<'_> {
    Data {
        id: SockId { addr: 64, generation: 1 },
        pid: 1,
        tid: 1,
        direction: Direction::Read,
        enter: t,
        exit: t,
        position: Position::Seq32(at),
        len: bytes.len() as u32,
        bytes,
        fresh: false,
        reset: false,
        more: false,
    }
}

/// What comes out, bytes as they are, a gap as its length in brackets.
#[derive(Default)]
struct Out(String);

impl Out {
    fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Bytes { bytes, .. } => self.0.push_str(std::str::from_utf8(bytes).unwrap()),
            Piece::Gap { len: Some(n), .. } => self.0.push_str(&format!("[{n}]")),
            Piece::Gap { len: None, .. } => self.0.push_str("[?]"),
        }
    }
}

fn run(records: &[Data<'_>]) -> (String, Counts) {
    let (mut stream, mut shared, mut out) = (Stream::default(), Shared::default(), Out::default());
    for d in records {
        stream.push(d, false, &mut shared, |p| out.piece(p));
    }
    stream.flush(&mut shared, &mut |p| out.piece(p));
    assert_eq!(shared.hold_left, HOLD_TOTAL);
    (out.0, shared.counts)
}

#[test]
fn in_order_and_out_of_it() {
    let (out, counts) = run(&[data(7, b"abc", 0), data(10, b"de", 1)]);
    assert_eq!((out.as_str(), counts), ("abcde", Counts::default()));
    let (out, counts) = run(&[
        data(7, b"abc", 0),
        data(13, b"gh", 1),
        data(12, b"f", 2),
        data(10, b"de", 3),
        data(15, b"i", 4),
    ]);
    assert_eq!((out.as_str(), counts.held, counts.gaps), ("abcdefghi", 2, 0));
}

#[test]
fn seen_before() {
    let (out, counts) =
        run(&[data(7, b"abc", 0), data(7, b"abc", 1), data(9, b"cde", 2), data(6, b"x", 3)]);
    assert_eq!((out.as_str(), counts.duplicates, counts.duplicate_bytes), ("abcde", 3, 5));
}

#[test]
fn around_the_end_of_the_numbers() {
    let (out, counts) =
        run(&[data(u32::MAX - 1, b"abc", 0), data(4, b"fg", 1), data(1, b"dex", 2)]);
    assert_eq!((out.as_str(), counts.gaps), ("abcdexfg", 0));
    let (out, _) = run(&[data(u32::MAX - 1, b"abc", 0), data(3, b"fg", 1)]);
    assert_eq!(out, "abc[2]fg");
}

#[test]
fn what_is_missing_is_waited_for_only_so_long() {
    let (out, counts) = run(&[
        data(0, b"a", 0),
        data(2, b"c", 10),
        data(4, b"e", 11 + HOLD_NS),
        data(1, b"b", 12 + HOLD_NS),
        data(3, b"d", 13 + HOLD_NS),
    ]);
    assert_eq!((out.as_str(), counts.gap_bytes, counts.duplicate_bytes), ("a[1]cde", 1, 1));
    let long = vec![b'x'; HOLD_BYTES / 2];
    let n = long.len() as u32;
    let (out, counts) = run(&[
        data(0, b"a", 0),
        data(2, &long, 1),
        data(2 + n, &long, 1),
        data(2 + 2 * n, b"b", 1),
        data(3 + 2 * n, b"c", 1),
    ]);
    assert_eq!((out.replace('x', "").as_str(), counts.hold_overflows), ("a[1]bc", 1));
}

#[test]
fn restarts_and_short_copies() {
    let far = data(1 << 31, b"b", 1);
    assert_eq!(run(&[data(0, b"a", 0), far]).0, "a[?]b");
    let reset = Data { reset: true, ..data(1, b"b", 1) };
    assert_eq!(run(&[data(0, b"a", 0), reset]).0, "a[?]b");
    let short = Data { len: 5, ..data(1, b"bc", 1) };
    assert_eq!(run(&[data(0, b"a", 0), short, data(6, b"g", 2)]).0, "abc[3]g");
}

#[test]
fn where_a_stream_begins_and_ends() {
    let (mut shared, mut out) = (Shared::default(), Out::default());
    let mut stream = Stream::default();
    assert_eq!(stream.lacks(7), 0, "nobody knows where it began");
    stream.begins(u32::MAX);
    stream.begins(5);
    assert_eq!(stream.lacks(1), 2);
    stream.push(&data(1, b"c", 0), true, &mut shared, |p| out.piece(p));
    assert_eq!((stream.lacks(2), stream.lacks(u32::MAX - 9)), (3, 0));
    stream.ends(5, 1, &mut shared, &mut |p| out.piece(p));
    stream.ends(5, 1, &mut shared, &mut |p| out.piece(p));
    assert_eq!((out.0.as_str(), shared.counts.gap_bytes), ("[2]c[3]", 5));
    // So far off that it is another count.
    assert_eq!(stream.lacks(5 + (1 << 31) - 1), 0);
}

#[test]
fn the_oldest_make_room() {
    let mut table: Table<()> = Table::new(32);
    for i in 0..40u64 {
        let id = SockId { addr: i * 64, generation: 1 };
        table.touch(&Data { id, ..data(0, b"a", i) });
    }
    assert!(table.len() <= 32);
    let evicted = table.take_evicted();
    assert_eq!(evicted.len() as u64, table.counts().evicted);
    assert!(evicted.iter().all(|e| e.last < 10));
    assert!(table.find(SockId { addr: 39 * 64, generation: 1 }).is_some());
}

proptest! {
    /// Any order within the window gives the stream back, from wherever it starts.
    #[test]
    fn any_order_within_the_window(
        start in any::<u32>(),
        cuts in prop::collection::vec(1usize..20, 1..30),
        keys in prop::collection::vec(any::<u16>(), 30),
        twice in prop::collection::vec(any::<bool>(), 30),
    ) {
        let text: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| b'a' + (i % 26) as u8).collect();
        let mut records = vec![];
        let mut at = 0;
        for (i, &n) in cuts.iter().enumerate() {
            let d = data(start.wrapping_add(at as u32), &text[at..at + n], i as Ns);
            // The first record is where the stream starts.
            let key = if i == 0 { 0 } else { 1 + u32::from(keys[i]) };
            records.push((key, d));
            if twice[i] {
                records.push((key + 7, d));
            }
            at += n;
        }
        records.sort_by_key(|r| r.0);
        let records: Vec<_> = records.into_iter().map(|r| r.1).collect();
        let (out, counts) = run(&records);
        prop_assert_eq!(out.as_bytes(), &text[..]);
        prop_assert_eq!(counts.gaps, 0);
    }
}
