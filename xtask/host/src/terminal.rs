//! Talk on stderr: what is happening, and how long it took. Data goes to stdout, by the command that has it.
//!
//! Nothing here decides anything; `-q` and `-v` only choose what is shown.

use anstyle::{AnsiColor, Style};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// A step begins or has been decided: a right-aligned verb and what it is about. On a terminal it is wrapped within its column.
pub fn step(verb: &str, what: &str) {
    step_or(verb, what, what);
}

/// The same for a line of which a shorter form says enough where the terminal has no room for the line: not for what a person may copy.
pub fn step_or(verb: &str, what: &str, short: &str) {
    use std::io::IsTerminal as _;
    if volume() >= Volume::Normal {
        let columns = std::io::stderr().is_terminal().then(width);
        let what = columns.map_or_else(|| what.to_owned(), |width| fitted(verb, what, short, width));
        print(format_args!("{STEP}{verb:>12}{STEP:#} {what}"));
    }
}

/// Something a person should know that does not end the work.
pub fn warn(what: &str) {
    if HUSHED.load(Ordering::Relaxed) && !WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned())
    {
        return;
    }
    print(format_args!("{WARN}warning{WARN:#}: {what}"));
}

/// A line of a running tool, for those who asked with `-v`.
pub fn detail(line: &str) {
    if volume() >= Volume::Verbose {
        print(format_args!("{DIM}             {line}{DIM:#}"));
    }
}

pub fn error(what: &str) {
    print(format_args!("{ERROR}error{ERROR:#}: {what}"));
}

/// Texts shown for works that run at the same time, oldest first. They share the terminal's last line.
static LIVE: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

const CLEAR: &str = "\r\x1b[2K";

/// Prints a line in place of what is shown of running work, which comes back with its next change.
fn print(line: fmt::Arguments<'_>) {
    let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    anstream::eprintln!("{}{line}", if live.is_empty() { "" } else { CLEAR });
}

/// A line that is kept up to date on a terminal while long work runs, and printed sparsely elsewhere.
pub struct Progress {
    id: usize,
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
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self { id: COUNT.fetch_add(1, Ordering::Relaxed), verb, began: Instant::now(), shown: None, live }
    }

    /// Shows the newest line of the running tool: in place on a terminal, every line with `-v`, else one each 15 s.
    pub fn line(&mut self, line: &str) {
        detail(line);
        let line = line.trim();
        if !line.is_empty() && self.is_due() {
            let passed = self.began.elapsed().as_secs();
            let text = |width| clipped(&format!("{passed:>10} s {line}"), width);
            self.show(&text, &clipped(line, 90));
        }
    }

    /// Shows how much of the work is done: a bar on a terminal, else a line each 15 s.
    pub fn count(&mut self, count: Count<'_>) {
        if self.is_due() {
            let passed = self.began.elapsed().as_secs();
            let plain = format!("{} of {} {}", count.done, count.total, count.what);
            self.show(&|width| bar(width, passed, count), &plain);
        }
    }

    fn is_due(&self) -> bool {
        let pause = Duration::from_millis(if self.live { 100 } else { 15_000 });
        volume() == Volume::Normal && self.shown.unwrap_or(self.began).elapsed() >= pause
    }

    fn show(&mut self, live: &dyn Fn(usize) -> String, plain: &str) {
        self.shown = Some(Instant::now());
        if self.live {
            let mut all = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
            let (width, others) = (width(), all.keys().filter(|id| **id != self.id).count());
            all.insert(self.id, live(width / (others + 1)));
            anstream::eprint!("{CLEAR}{DIM}{}{DIM:#}", joined(all.values(), width));
        } else {
            print(format_args!("{:>12} {} s: {plain}", self.verb, self.began.elapsed().as_secs()));
        }
    }

    pub fn end(self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id).is_some() {
            anstream::eprint!("{CLEAR}");
        }
    }
}

/// Work that is counted.
#[derive(Clone, Copy)]
pub struct Count<'a> {
    /// Finished parts.
    pub done: usize,
    /// All parts.
    pub total: usize,
    /// Name of a part, in the plural.
    pub what: &'a str,
    /// The parts that are being worked on.
    pub current: &'a str,
}

/// Columns of the terminal behind stderr.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

/// A bar with numbers, in fewer columns than the terminal has: a full line would wrap, and could not be cleared. The bar gives way
/// before the numbers do.
fn bar(width: usize, seconds: u64, count: Count<'_>) -> String {
    const LONGEST: usize = 30;
    const SHORTEST: usize = 5;
    let Count { done, total, what, current } = count;
    let numbers = format!("{done}/{total} {what}");
    let head = format!("{seconds:>10} s ");
    let room = width.saturating_sub(head.len() + numbers.len() + 4).min(LONGEST);
    let filled = (room * done.min(total)).checked_div(total).unwrap_or(0);
    let drawn = if room < SHORTEST { String::new() } else { format!("[{:<room$}] ", "=".repeat(filled)) };
    let current = if current.is_empty() { String::new() } else { format!(": {current}") };
    clipped(&format!("{head}{drawn}{numbers}{current}"), width)
}

/// Texts of several works, joined into one line.
fn joined<'t>(texts: impl Iterator<Item = &'t String>, width: usize) -> String {
    let rest = |(index, text): (usize, &'t String)| if index == 0 { text.clone() } else { format!(" |{text}") };
    clipped(&texts.enumerate().map(rest).collect::<String>(), width)
}

/// Columns of a step's verb.
const VERB: usize = 12;

/// A step's text for a terminal of this width: one line if the text or its short form fits, else wrapped.
fn fitted(verb: &str, what: &str, short: &str, width: usize) -> String {
    let head = verb.chars().count().max(VERB) + 1;
    let text = if head + what.chars().count() > width { short } else { what };
    text.lines().map(|line| wrapped(line, head, width)).collect::<Vec<_>>().join(&format!("\n{:VERB$} ", ""))
}

/// Text that begins at column `head`, broken between words and continued in the steps' column. A word that is too long for the column
/// begins further left. One that is longer than the terminal is left to the terminal to break: what is copied from it stays whole.
fn wrapped(text: &str, head: usize, width: usize) -> String {
    let (mut out, mut column) = (String::new(), head);
    for (number, word) in words(text, width.saturating_sub(VERB + 1)).into_iter().enumerate() {
        let (length, space) = (word.chars().count(), usize::from(number > 0));
        if column + space + length <= width {
            out += &" ".repeat(space);
            column += space + length;
        } else {
            let indent = (VERB + 1).min(width.saturating_sub(length));
            out += &format!("\n{:indent$}", "");
            column = indent + length;
        }
        out += word;
    }
    out
}

/// Words of a text. What is quoted, such as a command, is one word if it has room in a line.
fn words(text: &str, room: usize) -> Vec<&str> {
    let (mut found, mut begin, mut quoted) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        match char {
            '`' => quoted = !quoted,
            ' ' if !quoted => {
                found.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[begin..]);
    let parts = |word: &'_ str| word.chars().count() > room;
    found.into_iter().flat_map(|word| if parts(word) { word.split(' ').collect() } else { vec![word] }).collect()
}

/// As much of a line as leaves the last column free.
fn clipped(line: &str, width: usize) -> String {
    line.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_that_run_at_once_share_a_line() {
        for width in 60..=200 {
            let count = Count { done: 7, total: 314, what: "crates", current: "serde" };
            let half = width / 2;
            let texts = [clipped("        12 s installing essential packages", half), bar(half, 3, count)];
            let line = joined(texts.iter(), width);
            assert!(line.chars().count() < width, "{width}: {line}");
            assert!(line.contains("12 s installing") && line.contains("3 s ") && line.contains("7/314"), "{line}");
        }
        assert_eq!(joined([&"one".to_owned()].into_iter(), 80), "one");
    }

    const REFERENCE: &str = "`ghcr.io/acme/platform/autoscaler-base:3f9c02d1a7b4`";

    /// Lines of ordinary builds, with their short forms.
    fn steps() -> Vec<(&'static str, String, String)> {
        let same = |verb, what: &str| (verb, what.to_owned(), what.to_owned());
        let reuse = |name: &str| format!("base {name}: it is on this machine");
        let plan = |name: &str| format!("app {name} for linux/amd64, linux/arm64");
        let short = "`autoscaler-base:3f9c02d1a7b4`";
        vec![
            ("reusing", reuse(REFERENCE), reuse(short)),
            ("planned", plan(REFERENCE), plan(short)),
            same("because", "app: `autoscaler/templates/list.html` was edited"),
            same("because", "12 more changes: `cargo xtask explain` lists them"),
            same(
                "image",
                "app built, 32.5 MB, dependencies pulled (31.4 MB in 12 files) (plan 0.07 s, compile 4.21 s, build 0.35 s)",
            ),
            same("tags", "3f9c02d1a7b4, sha-0123456789abcdef0123456789abcdef01234567, main, latest"),
            same("local", &format!("{REFERENCE} is on this machine only: `--push` publishes it")),
            same("fallback", "`docker.io/library/python:3.12-slim` is unreachable: using a root from Debian packages"),
            same("passed over", "the import of `torch`: it is not in `requirements-enhanced.lock`"),
            same(
                "watching",
                &format!("runs `ghcr.io/acme/autoscaler@sha256:{}` in 0.21 s", "0123456789abcdef".repeat(4)),
            ),
            same("finished", "nothing to build in 0.11 s"),
            same("note", "é`ü` und `"),
            same("a verb that is longer", "than its column, and words that follow it in the line"),
            same("empty", ""),
        ]
    }

    #[test]
    fn steps_fit_every_terminal_and_lose_nothing() {
        for width in [40, 60, 80, 120, 200] {
            for (verb, what, short) in steps() {
                let text = fitted(verb, &what, &short, width);
                let whole = format!("{verb:>12} {text}");
                for (number, line) in whole.lines().enumerate() {
                    let is_word = !line.contains(' ');
                    assert!(line.chars().count() <= width || is_word, "{width}: {line}");
                    assert!(
                        number == 0 || line.starts_with("   ") || line.chars().count() >= width - 13,
                        "{width}: {whole}"
                    );
                }
                let said: Vec<&str> = text.split_whitespace().collect();
                let fits = verb.chars().count().max(12) + 1 + what.chars().count() <= width;
                let expected = if fits { &what } else { &short };
                assert_eq!(said.join(" "), *expected, "{width}");
                assert!(!fits || text == what, "{width}: {text}");
            }
        }
    }

    #[test]
    fn a_long_step_continues_in_its_column() {
        let what = format!("{REFERENCE} is on this machine only: `--push` publishes it");
        let text = |width| format!("{:>12} {}", "local", fitted("local", &what, &what, width));
        assert_eq!(
            text(80),
            "       local `ghcr.io/acme/platform/autoscaler-base:3f9c02d1a7b4` is on this\n             \
             machine only: `--push` publishes it"
        );
        // What may be copied is in one piece, and words that fit follow it.
        assert_eq!(
            text(60),
            "       local \n        `ghcr.io/acme/platform/autoscaler-base:3f9c02d1a7b4`\n             \
             is on this machine only: `--push` publishes it"
        );
        let command = "12 more changes: `cargo xtask explain` lists them";
        assert_eq!(
            fitted("because", command, command, 50),
            "12 more changes:\n             `cargo xtask explain` lists them"
        );
    }

    #[test]
    fn a_bar_fits_every_terminal_and_keeps_its_numbers() {
        let current =
            "regex-automata, k8s-openapi, kube-client(build), libsqlite3-sys(build), rustls, autoscaler, serde, syn";
        for width in 40..=200 {
            for done in [0, 7, 120, 314] {
                let line = bar(width, 125, Count { done, total: 314, what: "crates", current });
                assert!(line.chars().count() < width, "{width}: {line}");
                assert!(line.contains(&format!("{done}/314 crates")), "{width}: {line}");
            }
        }
        let line = bar(80, 3, Count { done: 157, total: 314, what: "crates", current: "syn" });
        assert_eq!(line, "         3 s [===============               ] 157/314 crates: syn");
        assert!(bar(80, 3, Count { done: 0, total: 0, what: "crates", current: "" }).ends_with("] 0/0 crates"));
    }
}
