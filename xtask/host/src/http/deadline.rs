//! The time that one operation may take: it grows with the bytes that it moves, at a minimum speed.
//!
//! It measures and never sleeps. Pauses that a registry asks for are not counted: these have a limit of their own.

use super::Limits;
use std::time::{Duration, Instant};
use xtask_model::quantity;

/// The deadline of one operation, all of its tries included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    began: Instant,
    base: Duration,
    /// Bytes a second.
    speed: u64,
    /// Bytes that have moved, or for an upload all that will.
    bytes: u64,
    /// Bytes that are to come at most.
    expected: u64,
    idle: Duration,
}

/// No single request waits longer, whatever size it is said to have.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

impl Deadline {
    /// The deadline of an operation that begins now and exchanges short documents.
    pub(crate) fn new(limits: &Limits) -> Self {
        let (base, speed) = (limits.deadline, limits.min_speed.max(1));
        Self { began: Instant::now(), base, speed, bytes: 0, expected: 0, idle: limits.idle_timeout }
    }

    /// The deadline of a download of at most `most` bytes. It grows with the received bytes.
    pub(crate) fn of_download(limits: &Limits, most: u64) -> Self {
        Self { expected: most, ..Self::new(limits) }
    }

    /// The deadline of an upload. A registry is silent while it puts a large blob together, 1 s for 10 MB at most.
    pub(crate) fn of_upload(limits: &Limits, bytes: u64) -> Self {
        let short = Self::new(limits);
        let idle = short.idle.saturating_mul(2) + Duration::from_secs(bytes / 10_000_000);
        Self { bytes, expected: bytes, idle, ..short }
    }

    /// Counts bytes that moved.
    pub(crate) fn grow(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn pause(&mut self, pause: Duration) {
        self.began += pause;
    }

    /// Time allowed for a number of bytes.
    fn allowed(&self, bytes: u64) -> Duration {
        self.base.saturating_add(Duration::from_secs(bytes / self.speed))
    }

    /// The longest that a request may still take; never zero, which would mean no limit.
    pub(crate) fn left(&self) -> Duration {
        let allowed = self.allowed(self.expected.max(self.bytes));
        allowed.saturating_sub(self.began.elapsed()).clamp(Duration::from_millis(1), LONGEST)
    }

    /// True if it is over for the bytes that have moved.
    pub(crate) fn is_over(&self) -> bool {
        self.began.elapsed() >= self.allowed(self.bytes)
    }

    /// The longest silence, and the time over which the speed is measured.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    /// Both limits, as messages say them: `limit: 60 s, and 1 s more for each 10.0 kB of 4.2 MB`.
    pub(crate) fn limits(&self) -> String {
        let (base, speed) = (quantity::seconds(self.base), quantity::bytes(self.speed));
        format!("limit: {base}, plus 1 s for each {speed} of {}", quantity::bytes(self.bytes))
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace { since: Instant::now(), bytes: 0, speed: self.speed, window: self.idle }
    }
}

/// The speed at which bytes move now.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    bytes: u64,
    speed: u64,
    window: Duration,
}

impl Pace {
    /// Counts bytes that moved; an error in words where too few did within the last window.
    pub(crate) fn moved(&mut self, bytes: u64) -> Result<(), String> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.window {
            return Ok(());
        }
        let (bytes, wanted) = (self.bytes, self.speed as f64 * elapsed.as_secs_f64());
        (self.since, self.bytes) = (Instant::now(), 0);
        if bytes as f64 >= wanted {
            return Ok(());
        }
        let (bytes, speed) = (quantity::bytes(bytes), quantity::bytes(self.speed));
        Err(format!("{bytes} in {}, slower than the minimum of {speed} a second", quantity::seconds(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let (deadline, idle_timeout) = (Duration::from_secs(60), Duration::from_millis(20));
        Limits { deadline, idle_timeout, min_speed: 10_000, ..Limits::default() }
    }

    #[test]
    fn a_deadline_grows_with_the_bytes() {
        let mut deadline = Deadline::of_download(&limits(), 2_000_000);
        assert_eq!(deadline.allowed(0), Duration::from_secs(60));
        assert!(deadline.left() > Duration::from_secs(250) && !deadline.is_over());
        deadline.grow(1_000_000);
        assert_eq!(deadline.allowed(deadline.bytes), Duration::from_secs(160));
        let said = deadline.limits();
        assert!(said.contains("60.0 s") && said.contains("10.0 kB") && said.contains("1.0 MB"), "{said}");
        deadline.grow(u64::MAX);
        assert_eq!(deadline.left(), LONGEST);
        let late = Deadline { base: Duration::ZERO, ..Deadline::of_download(&limits(), 2_000_000) };
        assert!(late.is_over(), "what has not come earns no time");
    }

    #[test]
    fn an_upload_may_be_silent_for_longer() {
        assert_eq!(Deadline::of_upload(&limits(), 50_000_000).idle(), Duration::from_millis(5040));
    }

    #[test]
    fn a_drip_is_slower_than_the_minimum() {
        let mut pace = Deadline::new(&limits()).pace();
        pace.moved(1).unwrap();
        std::thread::sleep(Duration::from_millis(25));
        let why = pace.moved(1).unwrap_err();
        assert!(why.contains("2 B in") && why.contains("10.0 kB a second"), "{why}");
        std::thread::sleep(Duration::from_millis(25));
        pace.moved(1_000_000).unwrap();
    }
}
