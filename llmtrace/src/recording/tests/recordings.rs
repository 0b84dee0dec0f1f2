//! What is written is what is read.

use crate::record::{
    Address, Data, Direction, EndReason, Open, Position, Process, Reached, Record, Sniffed, SockId,
};
use crate::recording::link::segment;
use crate::recording::tests::{read, text};
use crate::recording::{Contents, Found, Writer};

const ID: SockId = SockId { addr: 0xffff_8880_1234_5678, generation: 7 };

fn data(
    direction: Direction,
    position: Position,
    bytes: &'static [u8],
    len: u32,
) -> Record<'static> {
    Record::Data(Data {
        id: ID,
        pid: 3,
        tid: 4,
        direction,
        enter: 1_000_000_001,
        exit: 1_000_000_777,
        position,
        len,
        bytes,
        fresh: position == Position::Count(0),
        reset: false,
        more: len > 2,
    })
}

fn open(local: Address, remote: Address) -> Record<'static> {
    Record::Open(Open {
        id: ID,
        pid: 3,
        ppid: 1,
        at: 1_000_000_000,
        local,
        remote,
        comm: "serv\u{e9}r".into(),
        cgroup: 1 << 40,
        netns: 99,
        fresh: true,
        tls: false,
        reached: None,
    })
}

/// The text of a record as it is read again, but for its socket, which gets another number.
fn expected(record: &Record<'_>) -> String {
    text(&Found::Record(record.clone()))
}

fn without_token(text: &str) -> String {
    let Some(at) = text.find("addr: ") else { return text.to_owned() };
    let digits = text[at + 6..].find(|c: char| !c.is_ascii_digit()).expect("more follows");
    format!("{}{}", &text[..at + 6], &text[at + 6 + digits..])
}

/// A recording that was made before its records told where the streams stand.
const OLD: &[u8] = include_bytes!("../../../fuzz/corpus/capture/payload.pcapng");

#[test]
fn of_an_old_recording_nothing_is_made_up() {
    let mut seen = (0, 0, 0);
    let mut reader = crate::recording::Reader::new(OLD).expect("a recording");
    let mut step = |found: Found<'_>| match found {
        Found::Record(Record::Open(open)) => {
            assert_eq!(open.reached, None);
            seen.0 += 1;
        }
        Found::Record(Record::End { reached, .. }) => {
            assert_eq!(reached, None);
            seen.1 += 1;
        }
        Found::Record(_) => seen.2 += 1,
        _ => {}
    };
    while reader.step(&mut step).expect("a recording") {}
    assert!(seen.0 > 0 && seen.1 > 0 && seen.2 > 0, "{seen:?}");
}

fn everything() -> Vec<Record<'static>> {
    let ip = |a: &str| Address::Ip(a.parse().expect("an address"));
    let unix = |p: &str| Address::Unix(p.into());
    let reached = Some(Reached { read: 7, written: u32::MAX });
    let end = |reason| Record::End { id: ID, pid: 3, at: 5, reason, reached };
    vec![
        open(ip("10.0.0.1:80"), ip("10.0.0.2:999")),
        data(Direction::Read, Position::Seq32(u32::MAX), b"abc", 3),
        data(Direction::Write, Position::Seq32(77), b"", 70_000),
        data(Direction::Write, Position::Seq32(70_077), b"de", 2),
        end(EndReason::PeerFin),
        end(EndReason::LocalFin),
        end(EndReason::PeerReset),
        end(EndReason::LocalReset),
        end(EndReason::ReadEof),
        end(EndReason::WriteBroken),
        end(EndReason::ReadReset),
        end(EndReason::Closed),
        open(ip("[::1]:80"), ip("[fe80::2]:999")),
        data(Direction::Read, Position::Seq32(5), b"v6", 2),
        end(EndReason::Closed),
        open(unix("/run/a b"), unix("")),
        Record::Arrived { id: ID, arrived: 2, at: 4 },
        data(Direction::Read, Position::Count(0), b"x", 1),
        data(Direction::Write, Position::Count(1 << 40), b"y", 1),
        Record::Silenced { id: ID, pid: 3, at: 6, sniffed: Sniffed::Tls },
        Record::Silenced { id: ID, pid: 3, at: 6, sniffed: Sniffed::Other },
        Record::Refused { id: ID, at: 6, taken: 5 },
        Record::Process { at: 7, event: Process::Fork { parent: 1, child: 2 } },
        Record::Process { at: 7, event: Process::Exec { pid: 2 } },
        Record::Process { at: 7, event: Process::Exit { pid: 2 } },
        Record::Process { at: 7, event: Process::Listen { pid: 2, port: 8080 } },
    ]
}

fn written(records: &[Record<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 1_700_000_000_000_000_000, Contents::Payload).unwrap();
    writer.name(3, "the server").unwrap();
    for record in records {
        writer.record(record).unwrap();
    }
    writer.tick(8, 2, false).unwrap();
    writer.tick(9, 2, true).unwrap();
    let written = writer.written();
    let file = writer.into_inner();
    assert_eq!(written, file.len() as u64);
    file
}

#[test]
fn every_record_comes_back() {
    let records = everything();
    let file = written(&records);
    let seen = read(&file);
    assert_eq!(seen[0], "Offset(1700000000000000000)");
    assert_eq!(seen[1], "Name(3, \"the server\")");
    assert_eq!(seen[seen.len() - 2..], ["Tick(8)", "Stop(9)"]);
    let records: Vec<_> = records.iter().map(|r| without_token(&expected(r))).collect();
    let seen: Vec<_> = seen[2..seen.len() - 2].iter().map(|s| without_token(s)).collect();
    assert_eq!(seen, records);
    // The kernel's address is nowhere in the file.
    let address = ID.addr.to_le_bytes();
    assert!(!file.windows(8).any(|w| w == address));
}

#[test]
fn more_records_without_a_packet_than_a_block_takes() {
    let event = |pid| Record::Process { at: 7, event: Process::Exec { pid } };
    let records: Vec<_> = (0..1000).map(event).collect();
    let seen = read(&written(&records));
    assert_eq!(seen.iter().filter(|s| s.contains("Exec")).count(), 1000);
}

#[test]
fn a_file_that_is_cut_anywhere_is_read_up_to_there() {
    let file = written(&everything());
    let whole = read(&file);
    for cut in (0..file.len()).step_by(41) {
        let mut seen = Vec::new();
        let Ok(mut reader) = crate::recording::Reader::new(&file[..cut]) else {
            assert!(cut < 200, "{cut}");
            continue;
        };
        while reader.step(|found| seen.push(text(&found))).unwrap() {}
        assert_eq!(seen[..], whole[..seen.len()], "{cut}");
    }
}

/// The frames: sequence numbers jump by what is missing, and both directions fit together.
#[test]
fn frames_say_what_is_missing() {
    let file = written(&everything()[..6]);
    let mut at = 0;
    let mut rows = Vec::new();
    while at < file.len() {
        let word = |i: usize| u32::from_le_bytes(file[at + i..at + i + 4].try_into().unwrap());
        if word(0) == 6 {
            let packet = &file[at + 28..at + 28 + word(20) as usize];
            let s = segment(pcap_parser::Linktype::RAW, packet, word(24)).unwrap();
            rows.push((s.from.port(), s.seq, s.ack, s.syn, s.fin, s.payload.to_vec()));
        }
        at += word(4) as usize;
    }
    let row = |port, seq, ack, flag: &str, payload: &[u8]| {
        (port, seq, ack, flag == "S", flag == "F", payload.to_vec())
    };
    assert_eq!(
        rows,
        [
            row(999, 0, None, "S", b""),
            row(80, 0, Some(1), "S", b""),
            row(999, 1, Some(1), "", b""),
            row(999, 1, Some(1), "", b"abc"),
            row(80, 1, Some(4), "", b""),
            row(80, 70_001, Some(4), "", b"de"),
            row(999, 4, Some(70_003), "F", b""),
            row(80, 70_003, Some(5), "F", b""),
        ]
    );
}
