//! How much of an answer repeats itself, found as it streams: no text is kept, only hashes of the
//! latest few hundred sequences of words.

/// Words of a sequence.
const GRAM: u32 = 4;
/// Sequences that are remembered: `SETS` sets of four, of which a new one replaces the oldest of its
/// set. A loop of fewer is always found, one of more in part.
const SETS: usize = 112;
/// Of fewer sequences nothing is said.
const MIN_GRAMS: u32 = 20;

const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
const LANES: u64 = 0x0001_0001_0001_0001;

/// What is known of the text so far.
///
/// Words are what lies between spaces, as JSON has them; in scripts without spaces, and where
/// characters are escaped, each character is one. So how a server cuts its text into events does
/// not matter.
#[derive(Debug)]
pub(super) struct Repetition {
    /// 16 bits of the hash of each sequence, four in a set, the latest in the lowest bits.
    sets: [u64; SETS],
    /// Hashes of the words before, the latest first.
    words: [u64; GRAM as usize - 1],
    /// Of the word at hand; 0: none has begun.
    word: u64,
    /// The byte before was a backslash.
    escaped: bool,
    seen: u32,
    grams: u32,
    repeated: u32,
}

impl Repetition {
    pub(super) fn new() -> Self {
        Self {
            sets: [0; SETS],
            words: [0; GRAM as usize - 1],
            word: 0,
            escaped: false,
            seen: 0,
            grams: 0,
            repeated: 0,
        }
    }

    /// The inside of a JSON string, escapes and all.
    pub(super) fn push(&mut self, text: &[u8]) {
        for &b in text {
            if self.escaped {
                self.escaped = false;
                match b {
                    b'n' | b't' | b'r' | b'f' | b'b' => self.end_word(),
                    b'u' => {
                        self.end_word();
                        self.add(b);
                    }
                    _ => self.add(b),
                }
                continue;
            }
            match b {
                b'\\' => self.escaped = true,
                b' ' => self.end_word(),
                // The first byte of a character of Chinese, Japanese and the like.
                0xE3..=0xE9 => {
                    self.end_word();
                    self.add(b);
                }
                _ => self.add(b),
            }
        }
    }

    #[inline]
    fn add(&mut self, b: u8) {
        // Never 0 behind a byte, but for one chance in 2^64.
        self.word = (self.word.rotate_left(5) ^ (u64::from(b) + 1)).wrapping_mul(PRIME);
    }

    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word == 0 {
            return;
        }
        let [one, two, three] = self.words;
        self.words = [word, one, two];
        self.seen = self.seen.saturating_add(1);
        if self.seen >= GRAM {
            let order = three.rotate_left(48) ^ two.rotate_left(32) ^ one.rotate_left(16) ^ word;
            self.gram(order.wrapping_mul(PRIME));
        }
    }

    fn gram(&mut self, hash: u64) {
        let set = &mut self.sets[((hash >> 32) as usize * SETS) >> 32];
        let print = u64::from(hash as u16).max(1);
        // Whether one of the four is equal: a lane that is zero borrows from its highest bit.
        let other = *set ^ print.wrapping_mul(LANES);
        let equal = other.wrapping_sub(LANES) & !other & (LANES << 15) != 0;
        self.grams = self.grams.saturating_add(1);
        if equal {
            self.repeated = self.repeated.saturating_add(1);
        } else {
            *set = *set << 16 | print;
        }
    }

    /// Share of the sequences that came before; none if there are too few to say.
    pub(super) fn ratio(&mut self) -> Option<f32> {
        self.end_word();
        (self.grams >= MIN_GRAMS).then(|| (f64::from(self.repeated) / f64::from(self.grams)) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(text: &str) -> Option<f32> {
        let mut whole = Repetition::new();
        whole.push(text.as_bytes());
        let whole = whole.ratio();
        // In pieces of any size it is the same.
        for size in [1, 3, 7] {
            let mut pieces = Repetition::new();
            text.as_bytes().chunks(size).for_each(|piece| pieces.push(piece));
            assert_eq!(pieces.ratio(), whole);
        }
        whole
    }

    /// Words of no sense, none of them twice in a row of four.
    fn words(n: u64) -> String {
        (0..n).map(|i| format!("w{} ", i.wrapping_mul(PRIME) >> 48)).collect()
    }

    #[test]
    fn takes_less_than_a_kibibyte() {
        assert!(size_of::<Repetition>() <= 1024, "{}", size_of::<Repetition>());
    }

    #[test]
    fn what_does_not_repeat() {
        assert_eq!(ratio("the quick brown fox jumps"), None);
        assert_eq!(ratio(&words(300)), Some(0.0));
        // Long texts do not fill anything up.
        assert!(ratio(&words(20_000)).is_some_and(|r| r < 0.02));
    }

    #[test]
    fn loops() {
        let of = |period: u64| ratio(&words(period).repeat(2_000 / period as usize)).unwrap();
        assert!(of(1) > 0.99);
        assert!(of(10) > 0.99);
        // All but the first round.
        assert!((of(100) - 0.95).abs() < 0.01, "{}", of(100));
        assert!(of(250) > 0.6, "{}", of(250));
        // Half of it new, half a loop.
        let half = words(200) + &"again and again the same ".repeat(40);
        assert!((ratio(&half).unwrap() - 0.49).abs() < 0.02);
    }

    #[test]
    fn escapes_and_scripts_without_spaces() {
        assert_eq!(ratio(&r"a\nb\tc\n".repeat(30)), ratio(&"a b c ".repeat(30)));
        let chinese = "人工智能是计算机科学的一个分支它企图了解智能的实质并生产出一种新";
        assert_eq!(ratio(chinese), Some(0.0));
        assert!(ratio(&chinese.repeat(4)).unwrap() > 0.7);
        let escaped: String = chinese.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
        assert!(ratio(&escaped.repeat(4)).unwrap() > 0.7);
    }
}
