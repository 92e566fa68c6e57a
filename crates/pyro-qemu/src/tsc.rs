//! The frequency of the host's time-stamp counter, which a guest must be told.
//!
//! An emulated microvm has no timer against which Linux could calibrate it: without
//! `tsc_early_khz` on the kernel's command line the boot hangs.

use std::time::{Duration, Instant};

use crate::sys::time_stamp_counter;

/// Long enough for an error below one in ten thousand. The guest refines the value by itself.
const MEASUREMENT: Duration = Duration::from_millis(5);

/// Measures the counter against the monotonic clock; takes 5 ms of one CPU.
pub fn measure_khz() -> u64 {
    let start = Instant::now();
    let first = time_stamp_counter();
    // A busy wait, because a sleeping thread wakes up late by an unknown time.
    let elapsed = loop {
        let elapsed = start.elapsed();
        if elapsed >= MEASUREMENT {
            break elapsed;
        }
    };
    let ticks = time_stamp_counter() - first;
    let khz = u128::from(ticks) * 1_000_000 / elapsed.as_nanos();
    u64::try_from(khz).expect("a counter below 2^64 kHz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_within_a_percent() {
        // The best of a few pairs: on a shared machine one measurement may be torn by a preemption.
        let agree = (0..20).any(|_| measure_khz().abs_diff(measure_khz()) < measure_khz() / 100);
        assert!(agree);
    }
}
