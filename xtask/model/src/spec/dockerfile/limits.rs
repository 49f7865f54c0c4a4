//! Limits of a Dockerfile, far beyond any real file: a few lines must not cost minutes or gigabytes.
//!
//! Pure. BuildKit has the limit of a line, and none of the others.

use super::ParseError;
use std::cell::Cell;

/// Bytes of a file.
pub(super) const BYTES: usize = 4_000_000;
/// Bytes of a line before it is joined with others; BuildKit's own limit.
const LINE: usize = 65_535;
/// Instructions of a file, `FROM` included.
const INSTRUCTIONS: usize = 5_000;
const STAGES: usize = 500;
/// Variables, labels and paths that the instructions of a file name.
const WORDS: usize = 10_000;
/// Bytes of all values that variables get while a file is expanded.
const VALUES: usize = 16_000_000;
/// Characters of patterns times characters of the values that they are matched against.
const STEPS: usize = 50_000_000;

pub(super) fn bytes(text: &str) -> Result<(), ParseError> {
    if text.len() > BYTES {
        return Err(too_much(1, format!("a Dockerfile of {} bytes: {BYTES} is the limit", text.len())));
    }
    match text.split_inclusive('\n').position(|line| line.len() > LINE) {
        Some(index) => {
            Err(too_much(index + 1, format!("a line of more than {LINE} bytes, the limit that BuildKit has"))
                .hint("divide it with `\\` at its end"))
        }
        None => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    instructions: usize,
    stages: usize,
    words: usize,
}

impl Counts {
    pub(super) fn instruction(&mut self, line: usize) -> Result<(), ParseError> {
        count(&mut self.instructions, 1, INSTRUCTIONS, line, "instructions")
    }

    pub(super) fn words(&mut self, line: usize, words: usize) -> Result<(), ParseError> {
        count(&mut self.words, words, WORDS, line, "variables, labels and paths")
    }

    pub(super) fn stage(&mut self, line: usize) -> Result<(), ParseError> {
        count(&mut self.stages, 1, STAGES, line, "stages")
    }
}

fn count(have: &mut usize, more: usize, limit: usize, line: usize, what: &str) -> Result<(), ParseError> {
    *have += more;
    match *have > limit {
        true => Err(too_much(line, format!("more than {limit} {what}, the limit of a Dockerfile"))),
        false => Ok(()),
    }
}

fn too_much(line: usize, what: String) -> ParseError {
    ParseError::new(line, 1, what)
}

#[derive(Debug)]
pub(super) struct Budget {
    bytes: Cell<usize>,
    steps: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: Cell::new(VALUES), steps: Cell::new(STEPS) }
    }
}

impl Budget {
    /// Takes the bytes of a value that is read or made; the error is one lowercase phrase.
    pub(super) fn spend(&self, bytes: usize) -> Result<(), String> {
        take(&self.bytes, bytes)
            .ok_or_else(|| format!("variables expand to more than {VALUES} bytes, the limit of a Dockerfile"))
    }

    /// Takes what a pattern costs that is matched against a value; the error is one lowercase phrase.
    pub(super) fn steps(&self, pattern: usize, value: usize) -> Result<(), String> {
        take(&self.steps, pattern.saturating_mul(value)).ok_or_else(|| {
            format!("patterns of variables take more than {STEPS} steps to match, the limit of a Dockerfile")
        })
    }
}

fn take(from: &Cell<usize>, much: usize) -> Option<()> {
    let left = from.get().checked_sub(much);
    from.set(left.unwrap_or(0));
    left.map(drop)
}
