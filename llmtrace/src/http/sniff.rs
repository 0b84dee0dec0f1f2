//! Where a message may begin: pure, cheap tests of the first bytes of a segment.

use super::MAX_HEAD;

/// What the first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    Yes,
    No,
    /// So far so good, but too little to tell.
    Partial,
}

const METHODS: [&[u8]; 9] = [
    b"POST ",
    b"GET ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

/// Whether `bytes` begin with a request line of HTTP/1.x.
pub fn looks_like_request(bytes: &[u8]) -> Sniff {
    let mut rest = None;
    for method in METHODS {
        if let Some(r) = bytes.strip_prefix(method) {
            rest = Some((r, method == b"CONNECT "));
            break;
        }
        if method.starts_with(bytes) {
            return Sniff::Partial;
        }
    }
    let Some((rest, connect)) = rest else { return Sniff::No };
    match rest.first() {
        None => return Sniff::Partial,
        Some(b'/' | b'*') => {}
        Some(b'h' | b'H') if is_start_of_scheme(rest) => {}
        Some(_) if connect => {}
        Some(_) => return Sniff::No,
    }
    let window = &rest[..rest.len().min(MAX_HEAD)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_HEAD { Sniff::No } else { Sniff::Partial };
    };
    let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") {
        Sniff::Yes
    } else {
        Sniff::No
    }
}

fn is_start_of_scheme(rest: &[u8]) -> bool {
    [&b"http://"[..], b"https://"].iter().any(|scheme| {
        let n = rest.len().min(scheme.len());
        rest[..n].eq_ignore_ascii_case(&scheme[..n])
    })
}

/// Whether `bytes` begin with a status line of HTTP/1.x.
pub fn looks_like_response(bytes: &[u8]) -> Sniff {
    const FORM: &[u8] = b"HTTP/1.x nnn";
    for (i, &form) in FORM.iter().enumerate() {
        let Some(&b) = bytes.get(i) else { return Sniff::Partial };
        let fits = match form {
            b'x' => b == b'0' || b == b'1',
            b'n' => b.is_ascii_digit(),
            _ => b == form,
        };
        if !fits {
            return Sniff::No;
        }
    }
    match bytes.get(FORM.len()) {
        None => Sniff::Partial,
        Some(b' ' | b'\r' | b'\n') => Sniff::Yes,
        Some(_) => Sniff::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let line = b"POST /v1/chat/completions HTTP/1.1\r\nhost";
        for n in 0..line.len() {
            let expected = if n > 35 { Sniff::Yes } else { Sniff::Partial };
            assert_eq!(looks_like_request(&line[..n]), expected, "{n}");
        }
        for yes in ["GET * HTTP/1.0\n", "PUT HTTP://x/ HTTP/1.1\r\n", "CONNECT a:1 HTTP/1.1\r\n"] {
            assert_eq!(looks_like_request(yes.as_bytes()), Sniff::Yes, "{yes}");
        }
        for no in ["post /", "GETS /", "GET x", "GET / HTTP/2.0\r\n", "GET /\r\n", "data: {}", "\0"]
        {
            assert_eq!(looks_like_request(no.as_bytes()), Sniff::No, "{no}");
        }
    }

    #[test]
    fn responses() {
        for (bytes, expected) in [
            ("HTTP/1.1 200 OK\r\n", Sniff::Yes),
            ("HTTP/1.0 200\n", Sniff::Yes),
            ("HTTP/1.1 200", Sniff::Partial),
            ("", Sniff::Partial),
            ("HTTP/2 200 OK", Sniff::No),
            ("HTTP/1.1 2000", Sniff::No),
            ("0\r\n\r\n", Sniff::No),
        ] {
            assert_eq!(looks_like_response(bytes.as_bytes()), expected, "{bytes}");
        }
    }
}
