use super::*;
use proptest::prelude::*;

/// Name and data of every event, and whether it came in parts.
fn decode(pieces: &[&[u8]]) -> Vec<(String, Vec<u8>, bool)> {
    let (mut decoder, mut events) = (Decoder::new(), Vec::<(String, Vec<u8>, bool)>::new());
    let mut open = false;
    let mut keep = |e: Event<'_>| {
        let name = String::from_utf8_lossy(e.name).into_owned();
        match e.part {
            Part::Whole | Part::Begin => {
                assert!(!open, "the event before has no end");
                open = e.part == Part::Begin;
                assert!(open || e.data.len() <= MAX_EVENT);
                events.push((name, e.data.to_vec(), open));
            }
            Part::More | Part::End => {
                assert!(open, "a part of nothing");
                open = e.part == Part::More;
                let last = events.last_mut().unwrap();
                last.0.push_str(&name);
                last.1.extend_from_slice(e.data);
            }
        }
    };
    for piece in pieces {
        decoder.push(piece, &mut keep);
        assert!(decoder.buffered() <= MAX_EVENT + 2 * MAX_EVENT_NAME + 16);
    }
    decoder.finish(keep);
    events
}

/// Whole, in single bytes, and cut in two everywhere.
fn decode_all(bytes: &[u8]) -> Vec<(String, String)> {
    let whole = decode(&[bytes]);
    assert_eq!(decode(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    for i in 0..bytes.len() {
        assert_eq!(decode(&[&bytes[..i], &bytes[i..]]), whole, "cut at {i}");
    }
    whole
        .into_iter()
        .map(|(name, data, _)| (name, String::from_utf8(data).expect("UTF-8")))
        .collect()
}

fn datas(bytes: &[u8]) -> Vec<String> {
    decode_all(bytes).into_iter().map(|(_, data)| data).collect()
}

#[test]
fn line_ends() {
    for end in ["\n", "\r", "\r\n"] {
        let text = "data: a\n\n: ping\n\ndata:b\n\n\n\ndata:  c\ndata\ndata: d\nid: 3\n\n"
            .replace('\n', end);
        assert_eq!(datas(text.as_bytes()), ["a", "b", " c\n\nd"], "{end:?}");
    }
    assert_eq!(datas(b"data: a\r\n\ndata: b\n\r\ndata: c\r\r"), ["a", "b", "c"]);
}

#[test]
fn names() {
    let events = decode_all(b"event: x\ndata: 1\n\ndata: 2\nevent:y\n\nevent: lost\n\ndata: 3\n\n");
    let expected = [("x", "1"), ("y", "2"), ("", "3")];
    assert_eq!(events, expected.map(|(name, data)| (name.into(), data.into())));
}

#[test]
fn byte_order_mark() {
    assert_eq!(datas(b"\xEF\xBB\xBFdata: a\n\n"), ["a"]);
    assert_eq!(datas(b"\xEF\xBB\ndata: a\n\n"), ["a"]);
    assert_eq!(datas(b"\xEFdata: a\n\ndata: b\n\n"), ["b"]);
}

#[test]
fn the_end_ends_the_last_event() {
    assert_eq!(datas(b"data: a\n\ndata: [DONE]"), ["a", "[DONE]"]);
    assert_eq!(datas(b"data: [DONE]\n"), ["[DONE]"]);
    assert_eq!(datas(b"data"), [""]);
    assert_eq!(datas(b"dat"), [""; 0]);
}

#[test]
fn long_events_are_handed_out_as_they_come() {
    let mut text = b"event: a\ndata: ".to_vec();
    text.resize(MAX_EVENT * 3, b'x');
    text.extend_from_slice(b"\nid: 1\n\ndata: y\n\n: ");
    text.resize(MAX_EVENT * 6, b'z');
    text.extend_from_slice(b"\n\ndata: 1\ndata: ");
    text.resize(MAX_EVENT * 8, b'w');
    text.extend_from_slice(b"\ndata: 2\ndata\nevent:b\ndata:3\ndataset: no\n: no\ndata:  4\n\n");
    let long = text.len();
    // The limit is reached by one short line after another.
    while text.len() < long + MAX_EVENT * 5 {
        text.extend_from_slice(b"data:v\ndata\n");
    }
    text.extend_from_slice(b"\ndata: 3\n\n");
    let whole = decode(&[&text]);
    let names: Vec<_> = whole.iter().map(|e| (e.0.as_str(), e.2)).collect();
    assert_eq!(names, [("a", true), ("", false), ("b", true), ("", true), ("", false)]);
    assert_eq!(whole[0].1, [b'x'].repeat(MAX_EVENT * 3 - 15));
    assert!(whole[2].1.starts_with(b"1\nwww") && whole[2].1.ends_with(b"w\n2\n\n3\n 4"));
    assert!(whole[2].1[2..whole[2].1.len() - 8].iter().all(|&b| b == b'w' || b == b'\n'));
    let lines = MAX_EVENT * 5 / 12 + 1;
    assert_eq!(whole[3].1, [b"v\n\n".repeat(lines - 1), b"v\n".to_vec()].concat());
    for size in [7, 1000, 65_536, MAX_EVENT - 1, MAX_EVENT, MAX_EVENT + 1] {
        assert!(decode(&text.chunks(size).collect::<Vec<_>>()) == whole, "pieces of {size}");
    }
}

/// Found by libFuzzer: of an event that is as long as one may be, the name was cut where the pieces
/// were.
#[test]
fn a_name_behind_much_data() {
    for short in 0..100 {
        let mut text = b"data: ".to_vec();
        text.resize(MAX_EVENT - short, b'x');
        let name = "n".repeat(MAX_EVENT_NAME - 3);
        text.extend_from_slice(format!("\nevent: {name}\ndata: y\n\n").as_bytes());
        let whole = decode(&[&text]);
        assert_eq!(whole[0].0, name, "{short}");
        let (head, tail) = text.split_at(text.len() - 40);
        assert!(decode(&[head, tail]) == whole, "{short}");
    }
}

proptest! {
    #[test]
    fn any_split(
        parts in prop::collection::vec(
            prop::sample::select(vec!["data:", "data: ", "data", "event: ", "event:", ":", "x", "\u{FEFF}", "\n", "\r", "\r\n", "\n\n", "id: 1", " ", "\0"]),
            0..40,
        ),
        cuts in prop::collection::vec(1usize..9, 1..40),
    ) {
        let bytes = parts.concat().into_bytes();
        let (mut rest, mut pieces) = (&bytes[..], Vec::new());
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, next) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = next;
        }
        prop_assert_eq!(decode(&pieces), decode(&[&bytes]));
    }
}
