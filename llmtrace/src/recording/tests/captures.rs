//! Captures that are not ours: link types, byte orders, clocks, and TCP as it comes.

use pcap_parser::Linktype;
use proptest::prelude::*;

use crate::record::{Direction, EndReason, Position, Record};
use crate::recording::tcp::{Counts, Flows};
use crate::recording::tests::{Packet, read};

const CLIENT: &str = "10.0.0.2:40000";
const SERVER: &str = "10.0.0.1:8000";
const REQUEST: &[u8] = b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"choices\":[],\"a\":1}";

fn packet(from: &str, seq: u32, ack: Option<u32>, flags: &'static str, payload: &[u8]) -> Packet {
    let to = if from == CLIENT { SERVER } else { CLIENT };
    Packet {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        seq,
        ack,
        flags,
        payload: payload.to_vec(),
    }
}

/// What comes of packets, one a millisecond: bytes of each direction with holes as `_`, ends.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    read: String,
    write: String,
    ends: Vec<EndReason>,
    opened: Vec<(String, bool)>,
}

fn run(packets: &[Packet]) -> (Seen, Counts) {
    let (mut flows, mut seen) = (Flows::default(), Seen::default());
    let mut take = |record: &Record<'_>| match record {
        Record::Open(open) => seen.opened.push((format!("{:?}", open.local), open.fresh)),
        Record::Data(data) => {
            assert!(matches!(data.position, Position::Seq32(_)));
            let side = match data.direction {
                Direction::Read => &mut seen.read,
                Direction::Write => &mut seen.write,
            };
            side.push_str(&String::from_utf8_lossy(data.bytes));
            side.push_str(&"_".repeat(data.len as usize - data.bytes.len()));
        }
        Record::End { reason, .. } => seen.ends.push(*reason),
        _ => panic!("{record:?}"),
    };
    for (i, packet) in packets.iter().enumerate() {
        let bytes = packet.bytes();
        let at = 1_000_000 * (1 + i as u64);
        flows.packet(at, Linktype::RAW, &bytes, bytes.len() as u32, &mut take);
    }
    flows.finish(&mut take);
    (seen, flows.counts())
}

/// A whole connection; the response in pieces of five.
fn connection() -> Vec<Packet> {
    let mut all = vec![
        packet(CLIENT, 99, None, "S", b""),
        packet(SERVER, u32::MAX - 9, Some(100), "S", b""),
        packet(CLIENT, 100, Some(u32::MAX - 8), "", b""),
        packet(CLIENT, 100, Some(u32::MAX - 8), "", REQUEST),
    ];
    let (asked, mut at) = (100 + REQUEST.len() as u32, u32::MAX - 8);
    for piece in RESPONSE.chunks(5) {
        all.push(packet(SERVER, at, Some(asked), "", piece));
        at = at.wrapping_add(piece.len() as u32);
    }
    all.push(packet(CLIENT, asked, Some(at), "F", b""));
    all.push(packet(SERVER, at, Some(asked + 1), "F", b""));
    all.push(packet(CLIENT, asked + 1, Some(at.wrapping_add(1)), "", b""));
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn whole() -> Seen {
    Seen {
        read: text(REQUEST),
        write: text(RESPONSE),
        ends: vec![EndReason::PeerFin, EndReason::LocalFin, EndReason::Closed],
        opened: vec![(format!("Ip({SERVER})"), true)],
    }
}

#[test]
fn a_connection() {
    let (seen, counts) = run(&connection());
    assert_eq!(seen, whole());
    assert_eq!((counts.holes, counts.held, counts.duplicate_bytes), (0, 0, 0));
}

#[test]
fn doubled_swapped_and_overlapping() {
    let all = connection();
    let doubled: Vec<_> = all.iter().flat_map(|p| [p.clone(), p.clone()]).collect();
    assert_eq!(run(&doubled).0, whole());
    let mut swapped = all.clone();
    swapped.swap(4, 6);
    swapped.swap(7, 8);
    let (seen, counts) = run(&swapped);
    assert_eq!((seen, counts.holes), (whole(), 0));
    assert!(counts.held >= 3);
    // Sent again, other than it was cut before.
    let mut overlapping = all.clone();
    let (at, ack) = (all[5].seq, all[5].ack);
    overlapping.insert(7, packet(SERVER, at.wrapping_sub(2), ack, "", &RESPONSE[3..22]));
    let (seen, counts) = run(&overlapping);
    assert_eq!((seen, counts.holes), (whole(), 0));
    assert!(counts.duplicate_bytes >= 19);
}

#[test]
fn what_is_missing_is_a_hole() {
    let mut all = connection();
    all.remove(6);
    let (seen, counts) = run(&all);
    let hole = format!("{}_____{}", text(&RESPONSE[..10]), text(&RESPONSE[15..]));
    assert_eq!((seen, counts.holes), (Seen { write: hole, ..whole() }, 1));
    // At the end, where nothing but the acknowledgement tells.
    let mut all = connection();
    let last = all.len() - 4;
    let lost = all.remove(last).payload.len();
    let (seen, counts) = run(&all);
    let cut = RESPONSE.len() - lost;
    let hole = text(&RESPONSE[..cut]) + &"_".repeat(lost);
    assert_eq!((seen.write, counts.holes), (hole, 1));
    // And with nothing to tell it: no end of the response, and no guess.
    let all = &connection()[..9];
    assert_eq!(run(all).0.write, text(&RESPONSE[..25]));
}

#[test]
fn joined_in_the_middle_and_reset() {
    let all = connection();
    // The request tells who serves.
    let (seen, _) = run(&all[3..]);
    assert_eq!(seen, Seen { opened: vec![(format!("Ip({SERVER})"), false)], ..whole() });
    // A response does as well, and so does the port.
    for from in [4, 5] {
        let (seen, _) = run(&all[from..]);
        assert_eq!(seen.opened[0].0, format!("Ip({SERVER})"));
        assert_eq!(seen.write, text(&RESPONSE[5 * (from - 4)..]));
    }
    let mut reset = all[..8].to_vec();
    reset.push(packet(CLIENT, all[7].ack.unwrap(), None, "R", b""));
    assert_eq!(run(&reset).0.ends, [EndReason::PeerReset, EndReason::Closed]);
    // The ports say one thing, then a request says another.
    let swap = |p: &Packet| {
        let mut p = p.clone();
        for a in [&mut p.from, &mut p.to] {
            a.set_port(if a.port() == 8000 { 50_000 } else { 4000 });
        }
        p
    };
    let wrong: Vec<_> = [&all[5..8], &all[3..]].concat().iter().map(swap).collect();
    let (seen, _) = run(&wrong);
    assert_eq!(seen.opened.len(), 2);
    assert!(seen.read.ends_with(&text(REQUEST)), "{seen:?}");
}

#[test]
fn the_same_ports_again() {
    let mut again = connection();
    let first = again.len();
    // Without its end, the first time.
    again.truncate(first - 3);
    again.extend(connection().into_iter().map(|mut p| {
        p.seq = p.seq.wrapping_add(1 << 20);
        p.ack = p.ack.map(|ack| ack.wrapping_add(1 << 20));
        p
    }));
    let (seen, counts) = run(&again);
    assert_eq!(seen.opened.len(), 2);
    assert_eq!(seen.read, text(REQUEST).repeat(2));
    assert_eq!((seen.write, counts.holes), (text(RESPONSE).repeat(2), 0));
    assert_eq!(seen.ends[0], EndReason::Closed);
}

/// A pcap file with packets of one link type.
fn pcap(link: u32, head: &[u8], nanos: bool, big: bool, v6: bool) -> Vec<u8> {
    let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let half = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let magic = if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut out = word(magic).to_vec();
    out.extend([half(2), half(4)].concat());
    [0, 0, 65_535, link].iter().for_each(|&n| out.extend(word(n)));
    let (client, server) = if v6 { ("[::2]:9", "[::1]:80") } else { (CLIENT, SERVER) };
    let p = Packet {
        from: client.parse().unwrap(),
        to: server.parse().unwrap(),
        ..packet(CLIENT, 5, None, "", REQUEST)
    };
    let bytes = [head, &p.bytes()].concat();
    let len = bytes.len() as u32;
    [1_700_000_000, 123_456, len, len].iter().for_each(|&n| out.extend(word(n)));
    out.extend(bytes);
    out
}

#[test]
fn link_types_byte_orders_and_clocks() {
    let mac = [2; 12];
    let ethernet = |kind: &[u8]| [&mac[..], kind].concat();
    let cases: [(u32, Vec<u8>, bool); 15] = [
        (1, ethernet(&[8, 0]), false),
        (1, ethernet(&[0x86, 0xDD]), true),
        (1, ethernet(&[0x81, 0, 0, 7, 8, 0]), false),
        (1, ethernet(&[0x88, 0xA8, 0, 7, 0x81, 0, 0, 9, 8, 0]), false),
        (0, vec![2, 0, 0, 0], false),
        (0, vec![0, 0, 0, 2], false),
        (0, vec![30, 0, 0, 0], true),
        (108, vec![0, 0, 0, 24], true),
        (101, vec![], false),
        (101, vec![], true),
        (12, vec![], false),
        (228, vec![], false),
        (229, vec![], true),
        (113, [&[0; 14][..], &[8, 0]].concat(), false),
        (276, [&[8, 0][..], &[0; 18]].concat(), false),
    ];
    for (link, head, v6) in &cases {
        for (nanos, big) in [(false, false), (true, false), (false, true), (true, true)] {
            let file = pcap(*link, head, nanos, big, *v6);
            let found = read(&file);
            assert_eq!(found.len(), 1, "{link}");
            let at = 1_700_000_000_000_000_000_u64 + if nanos { 123_456 } else { 123_456_000 };
            assert!(found[0].contains(&format!("at: {at}")), "{}", found[0]);
            let mut flows = Flows::default();
            let mut got = String::new();
            let mut reader = crate::recording::Reader::new(&file[..]).unwrap();
            let mut step = |found: crate::recording::Found<'_>| {
                let crate::recording::Found::Packet { link, at, bytes, original } = found else {
                    panic!("no packet");
                };
                flows.packet(at, link, bytes, original, |record| {
                    if let Record::Data(data) = record {
                        got.push_str(&String::from_utf8_lossy(data.bytes));
                    }
                });
            };
            while reader.step(&mut step).unwrap() {}
            assert_eq!(got, text(REQUEST), "{link} {head:?}");
        }
    }
}

#[test]
fn a_packet_that_was_cut_is_a_hole() {
    let mut flows = Flows::default();
    let p = packet(CLIENT, 5, None, "", REQUEST).bytes();
    let mut lens = Vec::new();
    flows.packet(1, Linktype::RAW, &p[..60], p.len() as u32, |record| {
        if let Record::Data(data) = record {
            lens.push((data.bytes.len(), data.len as usize));
        }
    });
    assert_eq!(lens, [(20, REQUEST.len())]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However packets are swapped and doubled within the window of what waits, it comes out whole.
    #[test]
    fn any_order(
        swaps in prop::collection::vec((4usize..18, 4usize..18), 0..12),
        doubles in prop::collection::vec(4usize..18, 0..6),
    ) {
        let mut all = connection();
        // Acknowledgements that came before what they acknowledge would prove a loss.
        let asked = all[4].ack;
        all.iter_mut().skip(4).for_each(|p| if p.from.port() == 8000 { p.ack = asked });
        let last = all.len() - 3;
        for (a, b) in swaps {
            all.swap(a.min(last - 1), b.min(last - 1));
        }
        for d in doubles {
            let p = all[d.min(last - 1)].clone();
            all.insert(4, p);
        }
        let (seen, counts) = run(&all);
        prop_assert_eq!(counts.holes, 0);
        prop_assert_eq!(seen, whole());
    }

    #[test]
    fn random_files_do_no_harm(
        magic in prop::sample::select(vec![0xa1b2_c3d4u32, 0xa1b2_3c4d, 0x0A0D_0D0A, 0xd4c3_b2a1]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let file = [&magic.to_le_bytes()[..], &rest].concat();
        if let Ok(mut reader) = crate::recording::Reader::new(&file[..]) {
            let mut flows = Flows::default();
            let mut step = |found: crate::recording::Found<'_>| {
                if let crate::recording::Found::Packet { link, at, bytes, original } = found {
                    flows.packet(at, link, bytes, original, |_| {});
                }
            };
            while reader.step(&mut step).is_ok_and(|more| more) {}
        }
    }
}
