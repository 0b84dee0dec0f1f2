//! The values that a table of paths names, of a JSON text that lies in memory.

use super::slice::Cursor;
use super::stream::{MAX_LEVEL, NONE, Node, Paths, ROOT, Value, child};

/// Tells what [`Scanner`](super::stream::Scanner) would tell of the text, but for what a value that
/// is cut off leaves open, and strings whole.
pub fn walk<'a>(text: &'a [u8], paths: Paths, mut on: impl FnMut(Node, Value<'a>)) {
    let mut cursor = Cursor::new(text);
    let mut levels = [ROOT; MAX_LEVEL];
    // One bit a level: it is an array.
    let mut arrays = 0u16;
    let mut depth = 0;
    let mut node = ROOT;
    loop {
        let next = cursor.peek();
        match next {
            _ if node == NONE => cursor.skip(),
            b'{' | b'[' if depth == MAX_LEVEL => cursor.skip(),
            b'{' | b'[' => {
                let is_array = next == b'[';
                if is_array {
                    cursor.array()
                } else {
                    cursor.object()
                };
                on(node, Value::Container);
                levels[depth] = node;
                arrays = if is_array { arrays | 1 << depth } else { arrays & !(1 << depth) };
                depth += 1;
            }
            b'"' => {
                if let Some(inside) = cursor.string() {
                    on(node, Value::String(inside));
                }
            }
            _ => {
                let start = cursor.at();
                cursor.skip();
                let scalar = &text[start..cursor.at()];
                if !scalar.is_empty() {
                    on(node, Value::Scalar(scalar));
                }
            }
        }
        // The next value of the innermost container that has one.
        loop {
            let Some(level) = depth.checked_sub(1) else { return };
            let parent = levels[level];
            let found = if arrays & 1 << level != 0 {
                cursor.item().then(|| child(paths, parent, b"[]"))
            } else {
                cursor.key().map(|key| child(paths, parent, key))
            };
            if let Some(found) = found {
                node = found;
                break;
            }
            on(parent, Value::End);
            depth = level;
        }
    }
}
