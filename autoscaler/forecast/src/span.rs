//! Lengths of time as people write them: `5m`, `1h30m`, `1d`. Whole seconds, never zero.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const UNITS: [(char, u32); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A positive number of whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u32);

impl Span {
    /// A span, unless it is zero.
    pub const fn from_seconds(seconds: u32) -> Option<Span> {
        if seconds == 0 { None } else { Some(Span(seconds)) }
    }

    /// Returns the length in seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// Returns the number of `step`s in this span; none if they do not fit evenly.
    pub fn steps(self, step: Span) -> Option<u32> {
        self.0.is_multiple_of(step.0).then_some(self.0 / step.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || format!("`{text}` is not a length of time such as `5m`, `1h30m` or `1d`");
        let mut seconds: u32 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            let (_, each) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            seconds = number.checked_mul(*each).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        Span::from_seconds(seconds).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        // Weeks are read, but `14d` says more than `2w` next to a season of `1d`.
        for (unit, each) in &UNITS[1..] {
            if rest >= *each {
                write!(f, "{}{unit}", rest / each)?;
                rest %= each;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, seconds: u32, shown: &str) {
        let span: Span = text.parse().unwrap();
        assert_eq!((span.seconds(), span.to_string().as_str()), (seconds, shown));
    }

    #[test]
    fn spans_are_read_and_shown() {
        check("5m", 300, "5m");
        check("90s", 90, "1m30s");
        check("1h30m", 5_400, "1h30m");
        check("1d", 86_400, "1d");
        check("2w", 1_209_600, "14d");
    }

    #[track_caller]
    fn refuse(text: &str) {
        let error = text.parse::<Span>().unwrap_err();
        assert!(error.contains(&format!("`{text}` is not a length of time")), "{error}");
    }

    #[test]
    fn an_invalid_length_of_time_is_refused() {
        for text in ["", "5", "m", "0m", "-5m", "1.5h", "5 m", "5min", "5µ", "99999999999s", "9999w"] {
            refuse(text);
        }
    }

    #[test]
    fn steps_fit_evenly_or_not_at_all() {
        let step = Span(300);
        assert_eq!(Span(3_600).steps(step), Some(12));
        assert_eq!(Span(400).steps(step), None);
    }
}
