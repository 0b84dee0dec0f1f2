use httlib_hpack::Encoder;
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// RFC 7541, appendix C.4: three requests with Huffman coding.
#[test]
fn requests_of_the_rfc() {
    let mut decoder = Decoder::default();
    let first = decoder.decode(&hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap();
    assert_eq!(first.get(Name::Method), Some("GET"));
    assert_eq!(first.get(Name::Path), Some("/"));
    assert_eq!(first.get(Name::Authority), Some("www.example.com"));
    let second = decoder.decode(&hex("8286 84be 5886 a8eb 1064 9cbf")).unwrap();
    assert_eq!(second.get(Name::Authority), Some("www.example.com"));
    let third = decoder
        .decode(&hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"))
        .unwrap();
    assert_eq!(third.get(Name::Path), Some("/index.html"));
    assert_eq!(third.get(Name::Authority), Some("www.example.com"));
    assert!(!third.unknown);
}

/// RFC 7541, appendix C.6: responses whose entries push each other out of a table of 256 bytes.
#[test]
fn responses_of_the_rfc() {
    let mut decoder = Decoder::default();
    decoder.decode(&hex("3f e1 01")).unwrap();
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
    ];
    let statuses: Vec<_> = blocks
        .iter()
        .map(|block| decoder.decode(&hex(block)).unwrap().get(Name::Status).map(str::to_owned))
        .collect();
    assert_eq!(statuses, [Some("302".to_owned()), Some("307".to_owned())]);
}

#[test]
fn what_was_missed_is_unknown_and_what_came_since_is_known() {
    let mut decoder = Decoder::joined();
    // An entry from before.
    let fields = decoder.decode(&[0x88, 0xbe]).unwrap();
    assert_eq!((fields.get(Name::Status), fields.unknown), (Some("200"), true));
    // A new entry moves the old one on.
    let fields = decoder.decode(b"\x5f\x03a/b\x88").unwrap();
    assert_eq!((fields.get(Name::ContentType), fields.unknown), (Some("a/b"), false));
    let fields = decoder.decode(&[0xbe, 0x88]).unwrap();
    assert_eq!((fields.get(Name::ContentType), fields.unknown), (Some("a/b"), false));
    let fields = decoder.decode(&[0xbe, 0xbf]).unwrap();
    assert!(fields.unknown);
    // A new value for a name that was missed.
    let fields = decoder.decode(b"\x7f\x00\x01x").unwrap();
    assert!(fields.unknown);
    // In a table that is whole, the same is a mistake.
    assert!(Decoder::default().decode(&[0xbe]).is_err());
}

#[test]
fn bad_blocks() {
    for bad in [
        &[0x80][..],
        &[0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
        b"\x40\x05abc",
        // Padding of a byte or more, of zeros, and the end-of-string code.
        b"\x00\x82\x1f\xff\x00",
        b"\x00\x81\x18\x00",
        b"\x00\x84\xff\xff\xff\xff\x00",
    ] {
        assert!(Decoder::default().decode(bad).is_err(), "{bad:x?}");
    }
}

/// A block of 64 KiB that refers to one long value 64 thousand times is decoded at once, and into
/// one value.
#[test]
fn a_bomb() {
    let mut decoder = Decoder::default();
    let value = vec![b'x'; 4000];
    let mut block = b"\x44\x7f\xa1\x1e".to_vec();
    block.extend_from_slice(&value);
    block.resize(64 * 1024, 0xbe);
    let fields = decoder.decode(&block).unwrap();
    assert_eq!(fields.get(Name::Path).map(str::len), Some(4000));
    assert!(decoder.heap() < 16 * 1024, "{}", decoder.heap());
}

const NAMES: [&str; 12] = [
    ":method",
    ":path",
    ":status",
    ":authority",
    "content-type",
    "content-encoding",
    "grpc-status",
    "traceparent",
    "user-agent",
    "x-request-id",
    "date",
    "cookie",
];

/// One field: its name, its value, how it is written.
fn field() -> impl Strategy<Value = (usize, String, u8)> {
    let flags = (0_u8..4).prop_flat_map(|huffman| {
        prop::sample::select(vec![0, Encoder::WITH_INDEXING, Encoder::NEVER_INDEXED, 0x10, 0x14])
            .prop_map(move |how| how | huffman)
    });
    (0..NAMES.len(), prop_oneof!["[ -~]{0,60}", "[a-c]{1,2}"], flags)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever a library's encoder makes of header lists reads as those lists do, also for who
    /// has not seen the first of them.
    #[test]
    fn as_a_library_encodes(
        lists in prop::collection::vec(prop::collection::vec(field(), 0..12), 1..12),
        size in prop::sample::select(vec![0_u32, 64, 200, 4096]),
        missed in 0_usize..6,
    ) {
        let mut encoder = Encoder::with_dynamic_size(4096);
        let mut decoder = Decoder::default();
        let mut late = Decoder::joined();
        for (n, list) in lists.iter().enumerate() {
            let mut block = Vec::new();
            if n == 1 {
                encoder.update_max_dynamic_size(size, &mut block).unwrap();
            }
            for (name, value, flags) in list {
                let field = (NAMES[*name].as_bytes().to_vec(), value.as_bytes().to_vec(), *flags);
                encoder.encode(field, &mut block).unwrap();
            }
            let fields = decoder.decode(&block).expect("a block");
            prop_assert!(!fields.unknown);
            let first = |name: &str| {
                let mut of_name = list.iter().filter(|(n, ..)| NAMES[*n] == name);
                of_name.next().map(|(_, value, _)| value.as_str())
            };
            for name in NAMES {
                let kept = Name::of(name.as_bytes());
                prop_assert_eq!(fields.get(kept), first(name).filter(|_| kept.is_kept()));
            }
            if n >= missed {
                let seen = late.decode(&block).expect("a block");
                // What it claims to know is right.
                if !seen.unknown {
                    for name in NAMES {
                        let kept = Name::of(name.as_bytes());
                        prop_assert_eq!(seen.get(kept), fields.get(kept));
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decoder.decode(&block).is_err() {
                decoder = Decoder::joined();
            }
        }
        prop_assert!(decoder.heap() < 2 * MAX_TABLE);
    }
}
