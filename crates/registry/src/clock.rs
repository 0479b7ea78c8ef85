use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time comes from: handed in, so that nothing reads the clock out of sight and tests can set it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> u64);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }

    /// A clock of the caller's own.
    pub fn from_fn(now_ms: fn() -> u64) -> Self {
        Self(now_ms)
    }

    /// Milliseconds since 1970.
    pub fn now_ms(self) -> u64 {
        (self.0)()
    }
}
