//! A histogram of durations that is filled without a lock.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in milliseconds: a small blob takes one, a layer over a slow line many minutes.
const BOUNDS_MS: [u64; 17] = [1, 3, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000];

/// How many durations fell between which bounds.
#[derive(Debug)]
pub(super) struct Histogram {
    /// One for each bound, and one for what is above the last.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    /// Wraps after 584 years of requests.
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

/// What a histogram held at one moment.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    /// Upper bound in seconds, and how many were at most that and more than the bound before.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) sum_s: f64,
    pub(super) count: u64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // From below: most requests are short.
        let bucket = BOUNDS_MS.iter().position(|bound| nanoseconds <= bound * 1_000_000).unwrap_or(BOUNDS_MS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let bounds = BOUNDS_MS.iter().map(|bound| *bound as f64 / 1000.0).chain([f64::INFINITY]);
        Snapshot {
            count: counts.iter().sum(),
            buckets: bounds.zip(counts).collect(),
            sum_s: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_below_its_bound_and_none_is_lost() {
        let histogram = Histogram::default();
        for (duration, bound) in [
            (Duration::ZERO, 0.001),
            (Duration::from_millis(1), 0.001),
            (Duration::from_nanos(1_000_001), 0.003),
            (Duration::from_secs(60), 60.0),
            (Duration::from_secs(901), f64::INFINITY),
        ] {
            let before = histogram.snapshot();
            histogram.observe(duration);
            let after = histogram.snapshot();
            let grown: Vec<f64> =
                before.buckets.iter().zip(&after.buckets).filter(|(before, after)| before.1 < after.1).map(|(_, after)| after.0).collect();
            assert_eq!(grown, [bound], "{duration:?}");
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count, 5);
        assert!((snapshot.sum_s - 961.002).abs() < 0.001, "{}", snapshot.sum_s);
    }
}
