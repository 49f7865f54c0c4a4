//! Failures that a person reads: what cannot be done, why, and what to do next.
//!
//! The kind decides the exit code. Nothing here prints: `main` does, once.

use std::fmt;

/// Kind of a failure, by who has to act; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bug in autoscaler: 1.
    Bug,
    /// The caller's, a flag or a file: 2.
    Input,
    /// The installation's, the worker cannot start: 3.
    Worker,
    /// The forecast failed: 4.
    Forecast,
}

impl Kind {
    /// Returns the exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Bug => 1,
            Kind::Input => 2,
            Kind::Worker => 3,
            Kind::Forecast => 4,
        }
    }
}

/// One failure. Displays as the message, then indented causes, then the hint.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    /// Error message: lowercase, no full stop.
    pub message: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// Next step for the user.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a cause or a hint yet.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// A failure of the caller's input.
    pub fn input(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Input, message)
    }

    /// Adds a cause below those there are.
    pub fn cause(mut self, cause: impl fmt::Display) -> Failure {
        self.causes.push(cause.to_string());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  cause: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_hint_follow_the_message() {
        let failure = Failure::input("cannot read `a.csv`").cause("no such file").hint("check the path");
        assert_eq!(failure.to_string(), "cannot read `a.csv`\n  cause: no such file\n\nhint: check the path");
    }
}
