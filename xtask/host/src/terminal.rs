//! Talk on stderr: what is happening, and how long it took. Data goes to stdout, by the command that has it.
//!
//! Nothing here decides anything; `-q` and `-v` only choose what is shown.

use anstyle::{AnsiColor, Style};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volume {
    /// Errors only.
    Quiet,
    Normal,
    Verbose,
}

static VOLUME: OnceLock<Volume> = OnceLock::new();

pub fn set_volume(volume: Volume) {
    let _ = VOLUME.set(volume);
}

pub fn volume() -> Volume {
    match *VOLUME.get().unwrap_or(&Volume::Normal) {
        Volume::Normal if HUSHED.load(Ordering::Relaxed) => Volume::Quiet,
        volume => volume,
    }
}

/// Set while only warnings and errors are printed.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Warnings of hushed work, each printed once.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Does work of which only errors, and each warning once, are printed; with `-v`, everything. For work that is repeated.
pub fn hushed<T>(work: impl FnOnce() -> T) -> T {
    HUSHED.store(true, Ordering::Relaxed);
    let done = work();
    HUSHED.store(false, Ordering::Relaxed);
    done
}

const STEP: Style = AnsiColor::Green.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// A step begins or has been decided: a right-aligned verb and what it is about.
pub fn step(verb: &str, what: &str) {
    if volume() >= Volume::Normal {
        anstream::eprintln!("{STEP}{verb:>12}{STEP:#} {what}");
    }
}

/// Something a person should know that does not end the work.
pub fn warn(what: &str) {
    if HUSHED.load(Ordering::Relaxed) && !WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned())
    {
        return;
    }
    anstream::eprintln!("{WARN}warning{WARN:#}: {what}");
}

/// A line of a running tool, for those who asked with `-v`.
pub fn detail(line: &str) {
    if volume() >= Volume::Verbose {
        anstream::eprintln!("{DIM}             {line}{DIM:#}");
    }
}

pub fn error(what: &str) {
    anstream::eprintln!("{ERROR}error{ERROR:#}: {what}");
}

/// A line that is kept up to date on a terminal while long work runs, and printed sparsely elsewhere.
pub struct Progress {
    verb: &'static str,
    began: Instant,
    shown: Option<Instant>,
    live: bool,
}

impl Progress {
    /// Says that `what` begins.
    pub fn begin(verb: &'static str, what: &str) -> Self {
        use std::io::IsTerminal as _;
        step(verb, what);
        let live = volume() == Volume::Normal && std::io::stderr().is_terminal();
        Self { verb, began: Instant::now(), shown: None, live }
    }

    /// Shows the newest line of the running tool: in place on a terminal, every line with `-v`, else one each 15 s.
    pub fn line(&mut self, line: &str) {
        detail(line);
        let line = line.trim();
        if line.is_empty() || volume() != Volume::Normal {
            return;
        }
        let pause = Duration::from_millis(if self.live { 100 } else { 15_000 });
        let last = self.shown.unwrap_or(self.began);
        if last.elapsed() < pause {
            return;
        }
        self.shown = Some(Instant::now());
        let text: String = line.chars().take(90).collect();
        let passed = self.began.elapsed().as_secs();
        if self.live {
            anstream::eprint!("\r\x1b[2K{DIM}{passed:>10} s {text}{DIM:#}");
        } else {
            anstream::eprintln!("{:>12} {passed} s: {text}", self.verb);
        }
    }

    pub fn end(self) -> Duration {
        if self.live && self.shown.is_some() {
            anstream::eprint!("\r\x1b[2K");
        }
        self.began.elapsed()
    }
}
