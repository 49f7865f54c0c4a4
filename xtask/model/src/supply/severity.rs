//! Severity of a vulnerability: the scores of CVSS 3 and 4, and the words of databases.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The rating of CVSS 3.1, section 5, which that of CVSS 4.0 equals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The database does not say.
    #[default]
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// The words of `fail-on`, the mildest first.
    pub const WORDS: [&str; 5] = ["unknown", "low", "medium", "high", "critical"];

    /// The rating of a base score.
    pub fn of_score(score: f64) -> Self {
        match score {
            ..4.0 => Self::Low,
            ..7.0 => Self::Medium,
            ..9.0 => Self::High,
            _ => Self::Critical,
        }
    }

    /// The rating that GitHub, RustSec or Debian writes.
    pub fn of_word(word: &str) -> Self {
        match word.trim_end_matches('*').to_ascii_lowercase().as_str() {
            "unimportant" | "negligible" | "low" => Self::Low,
            "medium" | "moderate" => Self::Medium,
            "high" | "important" => Self::High,
            "critical" => Self::Critical,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::WORDS[*self as usize])
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Unknown, Self::Low, Self::Medium, Self::High, Self::Critical];
        let at = Self::WORDS.iter().position(|word| *word == text);
        at.map(|at| all[at]).ok_or_else(|| format!("expected one of {}", Self::WORDS.join(", ")))
    }
}

/// The score of a vector: the base score of CVSS 3.0 and 3.1, in CVSS 4.0 the one of all its metrics; `None` for any other text.
pub fn score(vector: &str) -> Option<f64> {
    match vector.starts_with("CVSS:4.0/") {
        true => vector.parse::<cvss::v4::Vector>().ok().map(|vector| vector.score().value()),
        false => base_score(vector),
    }
}

/// The base score of CVSS 3. Metrics that follow those of the base are allowed, and have no effect.
fn base_score(vector: &str) -> Option<f64> {
    let metrics = vector.strip_prefix("CVSS:3.1/").or_else(|| vector.strip_prefix("CVSS:3.0/"))?;
    let metric = |name: &str| metrics.split('/').find_map(|metric| metric.strip_prefix(name)?.strip_prefix(':'));
    let changed = match metric("S")? {
        "C" => true,
        "U" => false,
        _ => return None,
    };
    let weight = |name: &str, weights: &[(&str, f64)]| {
        let value = metric(name)?;
        weights.iter().find(|(known, _)| *known == value).map(|(_, weight)| *weight)
    };
    let vector = weight("AV", &[("N", 0.85), ("A", 0.62), ("L", 0.55), ("P", 0.2)])?;
    let complexity = weight("AC", &[("L", 0.77), ("H", 0.44)])?;
    let (low, high) = if changed { (0.68, 0.5) } else { (0.62, 0.27) };
    let privileges = weight("PR", &[("N", 0.85), ("L", low), ("H", high)])?;
    let interaction = weight("UI", &[("N", 0.85), ("R", 0.62)])?;
    let effect = |name: &str| weight(name, &[("H", 0.56), ("L", 0.22), ("N", 0.0)]);
    let lost = 1.0 - (1.0 - effect("C")?) * (1.0 - effect("I")?) * (1.0 - effect("A")?);
    let impact = match changed {
        true => 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02_f64).powi(15),
        false => 6.42 * lost,
    };
    if impact <= 0.0 {
        return Some(0.0);
    }
    let exploitability = 8.22 * vector * complexity * privileges * interaction;
    let sum = if changed { 1.08 * (impact + exploitability) } else { impact + exploitability };
    Some(rounded_up(sum.min(10.0)))
}

/// `Roundup` of CVSS 3.1, appendix A: to one decimal, unharmed by binary fractions.
fn rounded_up(value: f64) -> f64 {
    let whole = (value * 100_000.0).round();
    match whole % 10_000.0 == 0.0 {
        true => whole / 100_000.0,
        false => ((whole / 10_000.0).floor() + 1.0) / 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_calculator() {
        // Published scores of known vulnerabilities.
        for (vector, score) in [
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
            ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H", 7.5),
            ("CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
            ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 1.6),
            ("CVSS:3.0/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1),
            ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:C/C:N/I:N/A:N", 0.0),
            ("CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N/E:F/RL:X", 6.4),
        ] {
            assert_eq!(super::score(vector), Some(score), "{vector}");
        }
        for wrong in ["", "CVSS:4.0/AV:N/AC:L", "CVSS:3.1/AV:N", "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"] {
            assert_eq!(score(wrong), None, "{wrong}");
        }
        let ratings = [3.9, 4.0, 6.9, 7.0, 8.9, 9.0].map(|score| Severity::of_score(score).to_string());
        assert_eq!(ratings, ["low", "medium", "medium", "high", "high", "critical"]);
        for (at, word) in Severity::WORDS.iter().enumerate() {
            assert_eq!(word.parse::<Severity>().unwrap() as usize, at);
        }
    }

    /// Vectors with base, threat, environmental and supplemental metrics, each with its score by `cvss` 3.6 of PyPI.
    #[test]
    fn scores_of_version_4_are_those_of_another_library() {
        let table = include_str!("scan/cvss4.txt");
        let mut scores = std::collections::BTreeSet::new();
        for line in table.lines() {
            let (expected, vector) = line.split_once(' ').unwrap();
            assert_eq!(score(vector).map(|score| format!("{score:.1}")).as_deref(), Some(expected), "{vector}");
            scores.insert(expected);
        }
        assert!(table.lines().count() >= 200 && scores.len() > 60, "{scores:?}");
        let wrong = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:X";
        for wrong in
            [wrong, &format!("{wrong}/SA:N"), "CVSS:4.1/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"]
        {
            assert_eq!(score(wrong), None, "{wrong}");
        }
    }
}
