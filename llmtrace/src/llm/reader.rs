//! Reads the text of a stream's first choice, for who asked for it.

use super::outcome::Settings;
use super::payload::Text;
use super::repetition::Repetition;

/// Bytes of the end of a text by which its continuation is known.
const TAIL: usize = 16;

#[derive(Debug)]
pub(super) struct Reader {
    repetition: Option<Repetition>,
    text: Option<Text>,
    so_far: SoFar,
}

impl Reader {
    /// None: nobody asked.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        let repetition = settings.quality.then(Repetition::new);
        let text = settings.payload.then(Text::default);
        let asked = repetition.is_some() || text.is_some();
        asked.then_some(Self { repetition, text, so_far: SoFar::default() })
    }

    /// The inside of a JSON string: a piece, or all that there is so far.
    pub(super) fn push(&mut self, text: &[u8], so_far: bool) {
        let piece = if so_far { self.so_far.new_of(text) } else { text };
        if let Some(repetition) = &mut self.repetition {
            repetition.push(piece);
        }
        if let Some(kept) = &mut self.text {
            kept.push_json(piece);
        }
    }

    /// How much the answer repeats itself, and its text.
    pub(super) fn finish(self) -> (Option<f32>, Option<Text>) {
        (self.repetition.and_then(|mut repetition| repetition.ratio()), self.text)
    }

    /// Bytes of memory held.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.text.as_ref().map_or(0, |text| text.bytes.capacity())
    }
}

/// What is new in texts of which each is all that there is so far. A server may be told to send
/// pieces after all: then they do not continue each other, and are taken as they are from there on.
#[derive(Debug, Default)]
struct SoFar {
    len: usize,
    tail: [u8; TAIL],
    pieces: bool,
}

impl SoFar {
    fn new_of<'t>(&mut self, text: &'t [u8]) -> &'t [u8] {
        if self.pieces {
            return text;
        }
        let kept = self.len.min(TAIL);
        let before = text.get(..self.len);
        if !before.is_some_and(|before| before.ends_with(&self.tail[..kept])) {
            self.pieces = true;
            return text;
        }
        let new = &text[self.len..];
        self.len = text.len();
        let end = &text[text.len() - text.len().min(TAIL)..];
        self.tail[..end.len()].copy_from_slice(end);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> String {
        let settings = Settings { payload: true, quality: true, ..Settings::default() };
        let mut reader = Reader::new(&settings).unwrap();
        texts.iter().for_each(|text| reader.push(text.as_bytes(), true));
        String::from_utf8(reader.finish().1.unwrap().bytes).unwrap()
    }

    #[test]
    fn texts_that_grow() {
        let whole = "It was the best of times, it was the worst of times";
        let growing: Vec<_> = (1..=whole.len()).map(|n| &whole[..n]).collect();
        assert_eq!(read(&growing), whole);
        assert_eq!(read(&[whole, whole]), whole);
    }

    #[test]
    fn pieces_after_all() {
        assert_eq!(read(&["It was", " the best", " of", " times"]), "It was the best of times");
        assert_eq!(read(&["a", "bcd", "bcde"]), "abcdbcde");
    }

    #[test]
    fn nobody_asked() {
        assert!(Reader::new(&Settings::default()).is_none());
    }
}
