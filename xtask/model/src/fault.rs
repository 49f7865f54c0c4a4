//! Expected failures, as they are reported to the user.
//!
//! A [`Fault`] is an *expected* failure: it knows its exit code, who needed the thing, the cause and the next command.
//! Any other error that reaches `main` is a bug (exit code 1). Nothing here prints.

use std::fmt;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// A bug in xtask.
    Bug = 1,
    /// Wrong usage, or an invalid policy or input file.
    Usage = 2,
    Missing = 3,
    Build = 4,
    Network = 5,
    Drift = 6,
    /// Ended by Ctrl-C or SIGTERM (128 + SIGINT).
    Interrupted = 130,
}

impl Exit {
    /// Every code but 0 with its meaning, for help and the reference.
    pub const MEANINGS: [(Self, &'static str); 7] = [
        (Self::Bug, "a bug in xtask"),
        (Self::Usage, "wrong usage, or an invalid policy or input file"),
        (Self::Missing, "a tool or engine is missing"),
        (Self::Build, "a build, step or smoke test failed"),
        (Self::Network, "a registry or the network failed"),
        (Self::Drift, "a check found a difference"),
        (Self::Interrupted, "interrupted"),
    ];
}

/// An expected failure, in the parts in which it is shown.
///
/// ```text
/// error: {what}
///   needed by: {needed_by}
///   cause: {cause}
///
/// hint: {hint}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub exit: Exit,
    /// One lowercase sentence without a full stop, the thing in backticks; may span lines (a caret under a column).
    pub what: String,
    pub needed_by: Option<String>,
    /// Causes, one line each, outermost first.
    pub causes: Vec<String>,
    /// The next command or edit, one line each.
    pub hints: Vec<String>,
    /// The network does not lead to the registry: no name, no route, no connection. Nothing else may choose a fallback, and an
    /// answer of any kind (401, 403, 429, 5xx), a certificate or a credential helper is something else.
    pub unreachable: bool,
}

impl Fault {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), needed_by: None, causes: Vec::new(), hints: Vec::new(), unreachable: false }
    }

    /// Wrong usage, policy or input: exit code 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A missing tool or engine: exit code 3.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::new(Exit::Missing, what)
    }

    /// A failed build, step or smoke test: exit code 4.
    pub fn build(what: impl Into<String>) -> Self {
        Self::new(Exit::Build, what)
    }

    /// A failed registry or network: exit code 5.
    pub fn network(what: impl Into<String>) -> Self {
        Self::new(Exit::Network, what)
    }

    /// Drift that a check found: exit code 6.
    pub fn drift(what: impl Into<String>) -> Self {
        Self::new(Exit::Drift, what)
    }

    #[must_use]
    pub fn needed_by(mut self, who: impl Into<String>) -> Self {
        self.needed_by = Some(who.into());
        self
    }

    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(who) = &self.needed_by {
            write!(f, "\n  needed by: {who}")?;
        }
        for cause in &self.causes {
            // A cause of several lines (a tool's own words) keeps its shape under ours.
            write!(f, "\n  cause: {}", cause.trim_end().replace('\n', "\n         "))?;
        }
        for (index, hint) in self.hints.iter().enumerate() {
            write!(f, "{}hint: {hint}", if index == 0 { "\n\n" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_fault_reads_from_the_thing_to_the_next_command() {
        let fault = Fault::usage("base image `ghcr.io/acme/autoscaler-base:3f9c02d1a7b4` is not in the registry")
            .needed_by("`dockerfiles/Dockerfile.fast`")
            .cause("first line\nsecond line")
            .hint("build it: `cargo xtask build-base --push`");
        expect![[r#"
            base image `ghcr.io/acme/autoscaler-base:3f9c02d1a7b4` is not in the registry
              needed by: `dockerfiles/Dockerfile.fast`
              cause: first line
                     second line

            hint: build it: `cargo xtask build-base --push`"#]]
        .assert_eq(&fault.to_string());
    }
}
