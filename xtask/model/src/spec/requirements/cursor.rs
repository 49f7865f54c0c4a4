//! A place in one logical line, for readers that go from left to right.
//!
//! Pure; never moves past the end.

use super::lines::LineError;

#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(crate) fn is_done(&self) -> bool {
        self.rest().is_empty()
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(crate) fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// Goes past the characters for which `wanted` holds.
    pub(crate) fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    pub(crate) fn blanks(&mut self) {
        self.take(char::is_whitespace);
    }

    pub(crate) fn bad(&self, why: impl Into<String>) -> LineError {
        LineError::new(self.at, why)
    }

    pub(crate) fn expected(&self, what: &str) -> LineError {
        self.bad(format!("expected {what}"))
    }
}
