//! Progress of downloads: silent while they are quick, then a line that is kept up to date.

use crate::terminal::{self, Count};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use xtask_model::quantity;

/// Downloads that take no longer are not worth a line.
const QUICK: Duration = Duration::from_secs(1);

pub(super) struct DownloadProgress {
    began: Instant,
    total: usize,
    finished: AtomicUsize,
    cached: AtomicUsize,
    bytes: AtomicU64,
    expected: AtomicU64,
    warnings: Mutex<BTreeSet<String>>,
}

impl DownloadProgress {
    pub(super) fn new(total: usize) -> Self {
        Self {
            began: Instant::now(),
            total,
            finished: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            warnings: Mutex::default(),
        }
    }

    pub(super) fn finished(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cached(&self) {
        self.cached.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Keeps a warning until the line is gone.
    pub(super) fn warn(&self, what: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    }

    /// Shows the progress until the work is done.
    pub(super) fn show_until(&self, done: impl Fn() -> bool) {
        let (mut line, mut pause) = (None, Duration::from_micros(200));
        while !done() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
            if self.began.elapsed() < QUICK || self.bytes.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let line = line.get_or_insert_with(|| {
                terminal::Progress::begin("Downloading", &format!("wheels of {} packages", self.total))
            });
            let (came, expected) = (self.bytes.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed));
            let current = format!("{} of {}", quantity::bytes(came), quantity::bytes(expected.max(came)));
            let done = self.finished.load(Ordering::Relaxed);
            line.count(Count { done, total: self.total, what: "packages", current: &current });
        }
        line.map(terminal::Progress::end);
        let (bytes, cached) = (self.bytes.load(Ordering::Relaxed), self.cached.load(Ordering::Relaxed));
        let seconds = quantity::seconds(self.began.elapsed());
        terminal::detail(&format!(
            "{} wheels in {seconds}: {cached} on this machine, {} downloaded",
            self.total,
            quantity::bytes(bytes)
        ));
        for warning in self.warnings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            terminal::warn(warning);
        }
    }
}
