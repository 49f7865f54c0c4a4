//! Retries: exponential back-off with full jitter, and `Retry-After`.
//!
//! It decides and sleeps; it sends nothing. Ctrl-C ends a pause within a tenth of a second.

use super::Limits;
use super::deadline::Deadline;
use super::transport::ExchangeError;
use crate::process;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};
use xtask_model::fault::Fault;

/// No single pause is longer, whatever a registry asks for.
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) struct Retry {
    first: Duration,
    limit: u32,
    made: u32,
    left: Duration,
    connect_tries: u32,
    /// Until when the operation may wait for the network.
    pub(crate) deadline: Deadline,
}

impl Retry {
    /// For an operation that moves no more than short documents.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::until(limits, Deadline::new(limits))
    }

    pub(crate) fn until(limits: &Limits, deadline: Deadline) -> Self {
        let Limits { backoff: first, tries, retry_budget: left, connect_tries, .. } = *limits;
        Self { first, limit: tries.max(1), made: 0, left, connect_tries, deadline }
    }

    pub(crate) fn failed(&self) -> u32 {
        self.made
    }

    /// Resets the number of tries after progress; the time budget is not reset.
    pub(crate) fn progress(&mut self) {
        self.made = 0;
    }

    /// Pauses before the next try, or ends with the fault of the last one.
    pub(crate) fn pause_or_fail(
        &mut self,
        what: &str,
        broken: ExchangeError,
        after: Option<Duration>,
    ) -> Result<(), Fault> {
        process::interrupted()?;
        let given_up = broken.unreachable && self.made + 1 >= self.connect_tries;
        if !broken.again || (given_up && self.connect_tries < self.limit) {
            return Err(broken.fault(what));
        }
        if self.pause(after)? {
            return Ok(());
        }
        let fault = broken.fault(what);
        Err(match after {
            Some(asked) if self.made < self.limit => {
                fault.cause(format!("it asks to wait {} s, longer than the time left for retries", asked.as_secs()))
            }
            _ if self.made > 1 => fault.cause(format!("gave up after {} tries", self.made)),
            _ => fault,
        })
    }

    /// Waits before the next try; `false` if there must not be one.
    pub(crate) fn pause(&mut self, retry_after: Option<Duration>) -> Result<bool, Fault> {
        process::interrupted()?;
        self.made += 1;
        if self.made >= self.limit {
            return Ok(false);
        }
        let ceiling = self.first.saturating_mul(1 << (self.made - 1).min(16)).min(LONGEST);
        if retry_after.is_some_and(|asked| asked > self.left) || (self.left.is_zero() && !self.first.is_zero()) {
            return Ok(false);
        }
        let wait = match retry_after {
            Some(asked) => asked.min(LONGEST),
            None => ceiling.mul_f64(fraction()).min(self.left),
        };
        self.left -= wait;
        self.deadline.pause(wait);
        let until = Instant::now() + wait;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            std::thread::sleep(rest.min(Duration::from_millis(100)));
            process::interrupted()?;
        }
        Ok(true)
    }
}

/// A number from 0 to 1 that differs between processes and calls; not for secrets.
fn fraction() -> f64 {
    let random = std::hash::RandomState::new().hash_one(Instant::now());
    (random >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(tries: u32, total: u64) -> Retry {
        let (first, left) = (Duration::from_millis(2), Duration::from_millis(total));
        Retry { first, limit: tries, made: 0, left, connect_tries: tries, deadline: Deadline::new(&Limits::default()) }
    }

    #[test]
    fn tries_are_bounded() {
        let mut retry = retry(5, 1000);
        let pauses = (0..20).filter(|_| retry.pause(None).unwrap()).count();
        assert_eq!(pauses, 4);
    }

    #[test]
    fn time_is_bounded_even_with_progress() {
        let mut retry = retry(5, 20);
        let mut pauses = 0;
        while retry.pause(Some(Duration::from_millis(5))).unwrap() {
            retry.progress();
            pauses += 1;
        }
        assert_eq!(pauses, 4);
    }

    #[test]
    fn a_registry_that_asks_for_more_than_there_is_gets_no_wait() {
        let began = Instant::now();
        assert!(!retry(5, 1000).pause(Some(Duration::from_secs(30))).unwrap());
        // Not even the longest pause there is, where that would be in vain.
        assert!(!retry(5, 100_000).pause(Some(Duration::from_secs(3600))).unwrap());
        assert!(began.elapsed() < Duration::from_millis(500));
    }

    #[test]
    fn jitter_differs_and_stays_within_bounds() {
        let seen: Vec<f64> = (0..100).map(|_| fraction()).collect();
        assert!(seen.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(seen.iter().any(|f| *f < 0.3) && seen.iter().any(|f| *f > 0.7));
    }
}
