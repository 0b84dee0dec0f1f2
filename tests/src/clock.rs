//! The clock that the kernel stamps records with.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, nanoseconds.
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Sleeps until `CLOCK_MONOTONIC` reads `at`.
pub fn sleep_until(at: u64) {
    let now = now();
    if at > now {
        std::thread::sleep(Duration::from_nanos(at - now));
    }
}

/// Polls `condition` until it gives a value.
///
/// # Panics
/// After `limit`, naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = now() + limit.as_nanos() as u64;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(now() < end, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
