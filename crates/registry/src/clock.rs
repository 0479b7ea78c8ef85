use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from: handed in, so that nothing reads the clock out of sight and tests can set it.
///
/// There are two. What is stored or told to somebody is a time of day, which operators and time servers set back and forth.
/// What only measures how long something has been going on in this process must not notice that.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now_ms: fn() -> u64,
    steady_ms: fn() -> u64,
}

/// What the steady clock counts from.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self {
            now_ms: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            steady_ms: || u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// A clock of the caller's own, which is both.
    pub fn from_fn(now_ms: fn() -> u64) -> Self {
        Self { now_ms, steady_ms: now_ms }
    }

    /// The same, with another clock for how long something takes.
    #[must_use]
    pub fn with_steady(self, steady_ms: fn() -> u64) -> Self {
        Self { steady_ms, ..self }
    }

    /// Milliseconds since 1970: for what is stored or told.
    pub fn now_ms(self) -> u64 {
        (self.now_ms)()
    }

    /// Milliseconds since some moment before, the same one for this process: for how long something takes. It never goes
    /// back.
    pub fn steady_ms(self) -> u64 {
        (self.steady_ms)()
    }
}
