use super::*;
use proptest::prelude::*;

fn decode(pieces: &[&[u8]]) -> Vec<(String, Vec<u8>, bool)> {
    let (mut decoder, mut events) = (Decoder::new(), Vec::new());
    let mut keep = |e: Event<'_>| {
        let name = String::from_utf8_lossy(e.name).into_owned();
        events.push((name, e.data.to_vec(), e.truncated));
    };
    for piece in pieces {
        decoder.push(piece, &mut keep);
        assert!(decoder.buffered() <= MAX_EVENT + MAX_EVENT_NAME + 16);
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
fn long_events_are_cut() {
    let mut text = b"data: ".to_vec();
    text.resize(MAX_EVENT * 3, b'x');
    text.extend_from_slice(b"\n\ndata: y\n\n: ");
    text.resize(MAX_EVENT * 6, b'z');
    text.extend_from_slice(b"\n\ndata: 1\ndata: ");
    text.resize(MAX_EVENT * 8, b'w');
    text.extend_from_slice(b"\ndata: 2\n\ndata: 3\n\n");
    let whole = decode(&[&text]);
    let lengths: Vec<_> = whole.iter().map(|e| (e.1.len(), e.2)).collect();
    assert_eq!(lengths, [(MAX_EVENT - 6, true), (1, false), (lengths[2].0, true), (1, false)]);
    for size in [1000, 65_536, MAX_EVENT - 1, MAX_EVENT] {
        assert!(decode(&text.chunks(size).collect::<Vec<_>>()) == whole, "pieces of {size}");
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
