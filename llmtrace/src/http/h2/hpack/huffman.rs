//! The Huffman code of RFC 7541, appendix B. It is canonical: codes of one length are consecutive
//! numbers in the order of their symbols, so the lengths are the whole code.

use super::HpackError;

const SYMBOLS: usize = 257;
const EOS: u16 = 256;
const LONGEST: usize = 30;

/// Bits of each symbol's code, the end-of-string symbol last.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5,
    6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23,
    23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26,
    27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

struct Code {
    /// Symbols by length of their code, then by value.
    symbols: [u16; SYMBOLS],
    /// By length: the first code, the place of its symbol, and the end of the codes of that length
    /// and shorter, moved to the top of 32 bits.
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    limit: [u64; LONGEST + 1],
}

const CODE: Code = {
    let mut code = Code {
        symbols: [0; SYMBOLS],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        limit: [0; LONGEST + 1],
    };
    let (mut next, mut at, mut len) = (0_u32, 0, 1);
    while len <= LONGEST {
        next <<= 1;
        code.first[len] = next;
        code.place[len] = at as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == len {
                code.symbols[at] = symbol as u16;
                at += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.limit[len] = (next as u64) << (32 - len);
        len += 1;
    }
    code
};

/// Symbols to put in the place of others, one for each length of code that printable ones have.
const SHOWN: [(u32, u8); 12] = [
    (5, b'a'),
    (6, b'b'),
    (7, b'x'),
    (8, b'X'),
    (10, b'!'),
    (11, b'|'),
    (12, b'#'),
    (13, b'@'),
    (14, b'^'),
    (15, b'<'),
    (19, b'\\'),
    (24, b'\t'),
];

/// `text`, coded again, with others in the place of the symbols that are `hidden`. It takes as many
/// bits, and nothing is left of the hidden ones but how many bits a run of them took.
pub fn hide(text: &[u8], hidden: &[bool]) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u64, 0_u32);
    let mut put = |symbol: u8| {
        let len = u32::from(LENGTHS[usize::from(symbol)]);
        bits = bits << len | u64::from(code(symbol));
        held += len;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    };
    let mut at = 0;
    while at < text.len() {
        let is_hidden = |i: &usize| hidden.get(*i) == Some(&true);
        let run = (at..text.len()).take_while(is_hidden).count();
        let (symbols, rest) = text[at..].split_at(run);
        fill(symbols, &mut put);
        if let Some(&shown) = rest.first() {
            put(shown);
        }
        at += run + 1;
    }
    if held > 0 {
        let ones = 8 - held;
        out.push((bits << ones) as u8 | ((1_u16 << ones) - 1) as u8);
    }
    out
}

/// As many bits as `symbols` take, in symbols that are no more if that can be.
fn fill(symbols: &[u8], put: &mut impl FnMut(u8)) {
    // The sums that the lengths of codes have.
    let is_sum = |bits: u32| bits == 0 || bits >= 5 && bits != 9;
    let mut bits: u32 = symbols.iter().map(|&s| u32::from(LENGTHS[usize::from(s)])).sum();
    let mut room = symbols.len() as u32;
    while bits > 0 {
        let want = bits.div_ceil(room.max(1));
        let fits = |(len, _): &&(u32, u8)| *len <= bits && is_sum(bits - len);
        let long = SHOWN.iter().filter(fits).find(|(len, _)| *len >= want);
        let Some(&(len, symbol)) = long.or_else(|| SHOWN.iter().rev().find(fits)) else { return };
        put(symbol);
        bits -= len;
        room = room.saturating_sub(1);
    }
}

fn code(symbol: u8) -> u32 {
    let len = usize::from(LENGTHS[usize::from(symbol)]);
    let before = LENGTHS[..usize::from(symbol)].iter().filter(|&&l| usize::from(l) == len).count();
    CODE.first[len] + before as u32
}

/// Appends the text that `coded` stands for; at most 8 bytes for each 5 of it.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let (mut bits, mut held) = (0_u64, 0_usize);
    let mut bytes = coded.iter();
    loop {
        while held <= 56
            && let Some(&b) = bytes.next()
        {
            bits |= u64::from(b) << (56 - held);
            held += 8;
        }
        if held == 0 {
            return Ok(());
        }
        let top = bits >> 32;
        let len = (5..=LONGEST).find(|&len| top < CODE.limit[len]);
        match len {
            Some(len) if len <= held => {
                let code = (top >> (32 - len)) as u32 - CODE.first[len];
                match CODE.symbols[usize::from(CODE.place[len]) + code as usize] {
                    EOS => return Err(HpackError),
                    symbol => out.push(symbol as u8),
                }
                bits <<= len;
                held -= len;
            }
            // What is left must be the start of the end-of-string code, ones, less than a byte.
            _ => {
                let ones = held < 8 && bits >> (64 - held) == (1 << held) - 1;
                return if ones { Ok(()) } else { Err(HpackError) };
            }
        }
    }
}
