//! W3C `traceparent` and `tracestate`, read strictly: what is not right is none.

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) sampled: bool,
}

/// Length of version 00; later ones may go on after a dash.
const LENGTH: usize = 55;

pub(super) fn parse(text: &str) -> Option<Parent> {
    let bytes = text.as_bytes();
    let (head, rest) = bytes.split_at_checked(LENGTH)?;
    let [version] = hex(head.get(..2)?)?;
    let known = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest.first() == Some(&b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|at| head.get(*at) == Some(&b'-'));
    if !known || !dashes {
        return None;
    }
    let (trace, span) = (hex(head.get(3..35)?)?, hex(head.get(36..52)?)?);
    let [flags] = hex(head.get(53..)?)?;
    (trace != [0; 16] && span != [0; 8]).then_some(Parent { trace, span, sampled: flags & 1 == 1 })
}

/// Most members of a `tracestate`.
const MAX_MEMBERS: usize = 32;
/// Longest key or value of one.
const MAX_MEMBER: usize = 256;

/// A `tracestate` as it may be passed on: without white space and empty members.
pub(super) fn state(text: &str) -> Option<String> {
    let mut members = Vec::new();
    let blank = |c: char| c == ' ' || c == '\t';
    for member in text.split(',').map(|member| member.trim_matches(blank)) {
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let in_key = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-*/@".contains(&c);
        let in_value = |c: u8| matches!(c, b' '..=b'~') && c != b'=';
        let fine = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && key.bytes().all(in_key)
            && !value.is_empty()
            && value.bytes().all(in_value)
            && key.len().max(value.len()) <= MAX_MEMBER;
        if !fine || members.len() == MAX_MEMBERS {
            return None;
        }
        members.push(member);
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// Lower case only, as the standard has it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (to, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_good_one() {
        let parent = parse(GOOD).unwrap();
        assert_eq!((parent.trace[0], parent.trace[15]), (0x0a, 0x9c));
        assert_eq!(parent.span, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(parent.sampled);
        assert!(!parse(&GOOD.replace("-01", "-00")).unwrap().sampled);
        // Other flags mean nothing here.
        assert!(!parse(&GOOD.replace("-01", "-fe")).unwrap().sampled);
        // A version of the future, which may have more to say.
        assert_eq!(parse(&format!("cc{}", &GOOD[2..])), Some(parent));
        assert_eq!(parse(&format!("cc{}-more", &GOOD[2..])), Some(parent));
    }

    #[test]
    fn states() {
        let fine = "rojo=00f067aa0ba902b7, congo@a=t61 rcW!,,\t1/x=~ ";
        assert_eq!(state(fine).as_deref(), Some("rojo=00f067aa0ba902b7,congo@a=t61 rcW!,1/x=~"));
        let many = |n: usize| (0..n).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(state(&many(32)).is_some());
        let long = format!("k={}", "v".repeat(257));
        for bad in
            ["", " , ", "k", "k=", "=v", "K=v", "k=a=b", "k=\u{e9}", "*k=v", &many(33), &long]
        {
            assert_eq!(state(bad), None, "{bad}");
        }
    }

    #[test]
    fn bad_ones() {
        let zero_trace = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = GOOD.replace("b7ad6b7169203331", &"0".repeat(16));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replace("-01", "-0g"),
            &format!("{GOOD}-more"),
            &format!("{GOOD} "),
            &format!(" {GOOD}"),
            &format!("ff{}", &GOOD[2..]),
            &format!("cc{}.more", &GOOD[2..]),
            &GOOD.replacen('-', "_", 1),
            &zero_trace,
            &zero_span,
            &"\u{e9}".repeat(28),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
