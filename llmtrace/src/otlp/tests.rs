//! What a collector gets, from the bytes that were posted.
