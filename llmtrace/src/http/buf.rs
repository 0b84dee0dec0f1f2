//! Growing a buffer under a limit.

/// Appends as much of `bytes` as fits under `max` bytes in all; says how much. The capacity never
/// exceeds `max` either.
pub(super) fn append(buf: &mut Vec<u8>, bytes: &[u8], max: usize) -> usize {
    let take = bytes.len().min(max.saturating_sub(buf.len()));
    let need = buf.len() + take;
    if need > buf.capacity() {
        let target = need.max(buf.capacity() * 2).min(max);
        buf.reserve_exact(target - buf.len());
    }
    buf.extend_from_slice(&bytes[..take]);
    take
}

/// Empties a buffer, and gives its memory back if it is more than `keep`.
pub(super) fn clear(buf: &mut Vec<u8>, keep: usize) {
    if buf.capacity() > keep {
        *buf = Vec::new();
    } else {
        buf.clear();
    }
}
