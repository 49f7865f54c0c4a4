//! Keeps one worker alive: restarts it after trouble, with back-off and a budget.
//!
//! One request at a time, in the order of arrival: the worker is one process with one thread.

use crate::naive;
use crate::protocol::{Answer, Hello, Question, Refusal, Renewal};
use crate::worker::{Launch, Trouble, Worker, WorkerError};
use std::collections::VecDeque;
use std::sync::{Mutex as StateMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Limits of restarts of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Restarts {
    /// After this number of failures within `window` it rests, until the oldest of them has left the window.
    pub budget: usize,
    /// The time over which failures are counted.
    pub window: Duration,
    /// The wait after a first failure; doubles with each in the window.
    pub first_wait: Duration,
}

impl Default for Restarts {
    fn default() -> Restarts {
        Restarts { budget: 5, window: Duration::from_secs(120), first_wait: Duration::from_millis(250) }
    }
}

impl Restarts {
    /// Returns the time of the next allowed start, after failures at these times (the oldest first).
    fn next_start(&self, failures: &VecDeque<Instant>) -> Option<Instant> {
        let last = failures.back()?;
        if failures.len() >= self.budget {
            return failures.front().map(|oldest| *oldest + self.window);
        }
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
        Some(*last + self.first_wait * 2_u32.pow(doublings))
    }
}

/// State of the worker, for probes that must not wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first start is under way.
    Starting,
    /// A worker has said hello.
    Ready(Hello),
    /// There is none, for this reason.
    Down(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers started, whether or not they said hello.
    pub starts: u64,
    /// Number of failures that ended a worker.
    pub failures: u64,
}

/// A forecast, and why it is not the worker's where it is not.
#[derive(Clone, Debug)]
pub struct Forecasted {
    pub answer: Answer,
    /// Reason that the worker could not make it.
    pub instead_of: Option<String>,
}

// Refusals that the history does not cause: the naive can still do it.
const OUR_TROUBLE: [&str; 3] = ["bug", "deadline", "model-failed"];

/// The one worker and what became of those before it.
#[derive(Debug)]
pub struct Supervisor {
    launch: Launch,
    restarts: Restarts,
    slot: Mutex<Slot>,
    seen: StateMutex<(Status, Counts)>,
}

#[derive(Debug, Default)]
struct Slot {
    worker: Option<Worker>,
    failures: VecDeque<Instant>,
    last: String,
}

impl Supervisor {
    /// A supervisor without a worker yet: `keep` or `ask` starts one.
    pub fn new(launch: Launch, restarts: Restarts) -> Supervisor {
        let seen = StateMutex::new((Status::Starting, Counts::default()));
        Supervisor { launch, restarts, slot: Mutex::new(Slot::default()), seen }
    }

    /// Returns the state of the worker.
    pub fn status(&self) -> Status {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub fn counts(&self) -> Counts {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Asks for a forecast. The deadline includes waiting for other requests and for a restart.
    pub async fn ask(&self, question: &Question, within: Duration) -> Result<Answer, WorkerError> {
        let deadline = Instant::now() + within;
        let late = || WorkerError::Ask(Trouble::Late { after: within });
        let mut slot = timeout_at(deadline, self.slot.lock()).await.map_err(|_| late())?;
        // A worker that was idle may have ended unseen: that costs the caller a restart, not the answer.
        self.ensure_worker(&mut slot, deadline).await?;
        self.answered(&mut slot, question, None, deadline.saturating_duration_since(Instant::now())).await
    }

    /// A forecast in any case that the history allows: by the worker, or by the seasonal naive in Rust while that one is
    /// dead, late, busy for longer than `queue_timeout`, or cannot fit a model. A restart is never waited for.
    pub async fn forecast(
        &self,
        question: &Question,
        renewal: Option<&Renewal>,
        queue_timeout: Duration,
        within: Duration,
    ) -> Result<Forecasted, Refusal> {
        let mut asked = self.ask_now(question, renewal, queue_timeout, within).await;
        if matches!(&asked, Err(WorkerError::Refused(refusal)) if refusal.code == "bad-fit") {
            asked = self.ask_now(question, None, queue_timeout, within).await;
        }
        let instead = match asked {
            Ok(answer) => return Ok(Forecasted { answer, instead_of: None }),
            Err(WorkerError::Refused(refusal)) if !OUR_TROUBLE.contains(&refusal.code.as_str()) => return Err(refusal),
            Err(error) => error.to_string(),
        };
        let answer = naive::answer(question)?;
        Ok(Forecasted { answer, instead_of: Some(instead) })
    }

    async fn ask_now(
        &self,
        question: &Question,
        renewal: Option<&Renewal>,
        queue_timeout: Duration,
        within: Duration,
    ) -> Result<Answer, WorkerError> {
        let slot = timeout_at(Instant::now() + queue_timeout, self.slot.lock()).await;
        let mut slot = slot.map_err(|_| WorkerError::Busy { after: queue_timeout })?;
        if matches!(self.status(), Status::Starting) || slot.worker.is_none() {
            // The keeper starts it, or is about to; a first answer is not worth seconds of imports.
            return Err(WorkerError::Resting { again_in: Duration::ZERO, last: self.last(&slot) });
        }
        self.answered(&mut slot, question, renewal, within).await
    }

    fn last(&self, slot: &Slot) -> String {
        if slot.last.is_empty() { "it has not started yet".to_owned() } else { slot.last.clone() }
    }

    async fn answered(
        &self,
        slot: &mut Slot,
        question: &Question,
        renewal: Option<&Renewal>,
        within: Duration,
    ) -> Result<Answer, WorkerError> {
        // Taken out while it works: a caller that gives up midway leaves an answer that would be taken for the next
        // one's, so such a worker is dropped with the caller's future.
        let Some(mut worker) = slot.worker.take() else {
            return Err(WorkerError::Ask(Trouble::Late { after: within }));
        };
        let answer = worker.renew(question, renewal, within).await;
        match &answer {
            Err(error) if error.is_fatal() => self.failed(slot, error),
            _ => slot.worker = Some(worker),
        }
        answer
    }

    /// Keeps a worker alive until dropped: a worker that ends by itself is replaced before anybody asks.
    pub async fn keep(&self) {
        const LOOK: Duration = Duration::from_millis(500);
        loop {
            {
                let mut slot = self.slot.lock().await;
                // Its troubles are in the status and in the log already.
                let _ = self.ensure_worker(&mut slot, Instant::now()).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the worker at once: it keeps nothing, and unloading its libraries takes time.
    pub async fn stop(&self) {
        if let Some(worker) = self.slot.lock().await.worker.take() {
            worker.kill().await;
        }
    }

    /// Ensures that a worker runs, waiting for the back-off no longer than the deadline.
    async fn ensure_worker(&self, slot: &mut Slot, deadline: Instant) -> Result<(), WorkerError> {
        if let Some(status) = slot.worker.as_mut().and_then(Worker::exited) {
            self.failed(slot, &WorkerError::Ask(Trouble::Exited { status: Some(status), last_words: Vec::new() }));
        }
        if slot.worker.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        while slot.failures.front().is_some_and(|oldest| *oldest + self.restarts.window <= now) {
            slot.failures.pop_front();
        }
        if let Some(next) = self.restarts.next_start(&slot.failures).filter(|next| *next > now) {
            if next > deadline {
                return Err(WorkerError::Resting { again_in: next - now, last: slot.last.clone() });
            }
            sleep_until(next).await;
        }
        self.count(|counts| counts.starts += 1);
        let started = Instant::now();
        match Worker::start(&self.launch).await {
            Ok(worker) => {
                let hello = worker.hello().clone();
                let packages: Vec<String> =
                    hello.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
                tracing::info!(
                    python = %hello.python,
                    process = worker.process_id(),
                    packages = %packages.join(", "),
                    seconds = started.elapsed().as_secs_f64(),
                    "worker ready"
                );
                self.show(Status::Ready(hello));
                slot.worker = Some(worker);
                Ok(())
            }
            Err(error) => {
                self.failed(slot, &error);
                Err(error)
            }
        }
    }

    fn failed(&self, slot: &mut Slot, error: &WorkerError) {
        // Dropping kills.
        slot.worker = None;
        slot.failures.push_back(Instant::now());
        slot.last = error.to_string();
        tracing::error!(error = %error, failures = slot.failures.len(), "worker lost");
        self.count(|counts| counts.failures += 1);
        self.show(Status::Down(error.to_string()));
    }

    fn show(&self, status: Status) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0 = status;
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTARTS: Restarts =
        Restarts { budget: 3, window: Duration::from_secs(60), first_wait: Duration::from_secs(1) };

    #[track_caller]
    fn check(failures: &[u64], next: Option<u64>) {
        let start = Instant::now();
        let at = |seconds: &u64| start + Duration::from_secs(*seconds);
        let failures = failures.iter().map(at).collect();
        assert_eq!(RESTARTS.next_start(&failures), next.as_ref().map(at));
    }

    #[test]
    fn waits_double_and_the_budget_ends_them() {
        check(&[], None);
        check(&[10], Some(11));
        check(&[10, 11], Some(13));
        check(&[10, 11, 13], Some(70));
    }
}
