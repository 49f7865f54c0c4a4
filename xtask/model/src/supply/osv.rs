//! Records of vulnerabilities in the OSV format, schema 1.7, and whether one is about a package.

use super::severity::{self, Severity};
use crate::spec::oci::null_is_empty;
use crate::spec::versions::Ecosystem;
use serde::Deserialize;
use serde_json::Value;
use std::cmp::Ordering;

/// A record, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OsvRecord {
    pub id: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub summary: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub details: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub aliases: Vec<String>,
    /// Vulnerabilities of which a distribution's record is.
    #[serde(deserialize_with = "null_is_empty")]
    pub upstream: Vec<String>,
    /// RFC 3339.
    pub modified: Option<String>,
    pub withdrawn: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    severity: Vec<Score>,
    #[serde(deserialize_with = "null_is_empty")]
    affected: Vec<Affected>,
    database_specific: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Score {
    score: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Affected {
    package: Option<AffectedPackage>,
    #[serde(deserialize_with = "null_is_empty")]
    ranges: Vec<Range>,
    #[serde(deserialize_with = "null_is_empty")]
    versions: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    severity: Vec<Score>,
    ecosystem_specific: Value,
    database_specific: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct AffectedPackage {
    ecosystem: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    events: Vec<RangeEvent>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RangeEvent {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
    limit: Option<String>,
}

/// A package to look up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedPackage {
    pub ecosystem: Ecosystem,
    /// As the ecosystem's databases spell it: a source package of Debian.
    pub name: String,
    pub version: String,
}

/// Statement of a record about a package that it affects.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The first version with a fix that is newer than the package's.
    pub fixed: Option<String>,
    pub severity: Severity,
    pub score: Option<f64>,
}

impl OsvRecord {
    /// Statement of the record about a version; `None` if it does not affect it.
    pub fn affects(&self, wanted: &WantedPackage) -> Option<Hit> {
        if self.withdrawn.is_some() {
            return None;
        }
        let about = |affected: &&Affected| affected.package.as_ref().is_some_and(|package| package.is(wanted));
        let mut hit: Option<Hit> = None;
        for affected in self.affected.iter().filter(about).filter(|affected| affected.contains(wanted)) {
            let (severity, score) = self.severity(affected);
            let fixed = affected.fixed_in(wanted);
            hit = Some(match hit.take() {
                None => Hit { fixed, severity, score },
                Some(before) => Hit {
                    fixed: earliest(&wanted.ecosystem, before.fixed, fixed),
                    severity: before.severity.max(severity),
                    score: before.score.max_of(score),
                },
            });
        }
        hit
    }

    /// Names of the packages that it is about.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        self.affected.iter().filter_map(|affected| Some(affected.package.as_ref()?.name.as_str()))
    }

    fn severity(&self, affected: &Affected) -> (Severity, Option<f64>) {
        let scores = affected.severity.iter().chain(&self.severity);
        let score = scores.filter_map(|one| severity::score(&one.score)).reduce(f64::max);
        let word = |value: &Value, name: &str| Severity::of_word(value[name].as_str().unwrap_or_default());
        let words = [
            word(&affected.database_specific, "severity"),
            word(&affected.ecosystem_specific, "severity"),
            word(&self.database_specific, "severity"),
            word(&affected.ecosystem_specific, "urgency"),
        ];
        let said = words.into_iter().find(|word| *word != Severity::Unknown).unwrap_or_default();
        (score.map_or(said, Severity::of_score), score)
    }
}

/// The larger of two numbers, of which one may be missing.
trait MaxOf {
    fn max_of(self, other: Self) -> Self;
}

impl MaxOf for Option<f64> {
    fn max_of(self, other: Self) -> Self {
        self.into_iter().chain(other).reduce(f64::max)
    }
}

/// The older of two versions, of which one may be missing.
pub fn earliest(ecosystem: &Ecosystem, one: Option<String>, other: Option<String>) -> Option<String> {
    one.into_iter().chain(other).reduce(|one, other| match ecosystem.compare(&other, &one) {
        Some(Ordering::Less) => other,
        _ => one,
    })
}

impl AffectedPackage {
    fn is(&self, wanted: &WantedPackage) -> bool {
        if self.ecosystem != wanted.ecosystem.name() {
            return false;
        }
        match wanted.ecosystem {
            Ecosystem::Pypi => crate::spec::requirements::normalised(&self.name) == wanted.name,
            Ecosystem::Crates | Ecosystem::Debian(_) => self.name == wanted.name,
        }
    }
}

impl Affected {
    fn contains(&self, wanted: &WantedPackage) -> bool {
        let same = |version: &String| {
            *version == wanted.version || wanted.ecosystem.compare(version, &wanted.version) == Some(Ordering::Equal)
        };
        self.versions.iter().any(same) || self.in_order().any(|range| range.contains(wanted))
    }

    /// Ranges of versions; those of commits need the history of another repository.
    fn in_order(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| matches!(range.kind.as_str(), "ECOSYSTEM" | "SEMVER"))
    }

    fn fixed_in(&self, wanted: &WantedPackage) -> Option<String> {
        let fixed = self.in_order().flat_map(|range| &range.events).filter_map(|event| event.fixed.as_ref());
        let newer = fixed.filter(|fixed| wanted.ecosystem.compare(fixed, &wanted.version) == Some(Ordering::Greater));
        newer.fold(None, |least, fixed| earliest(&wanted.ecosystem, least, Some(fixed.clone())))
    }
}

impl Range {
    /// The algorithm of the schema, "Evaluation".
    fn contains(&self, WantedPackage { ecosystem, version, .. }: &WantedPackage) -> bool {
        // `0` is before every version, and `*` after it.
        let order = |to: &str| match to {
            "0" => Some(Ordering::Greater),
            "*" => Some(Ordering::Less),
            _ => ecosystem.compare(version, to),
        };
        if ecosystem.compare(version, version).is_none() {
            return false;
        }
        let limits: Vec<&String> = self.events.iter().filter_map(|event| event.limit.as_ref()).collect();
        if !limits.is_empty() && !limits.iter().any(|limit| order(limit) == Some(Ordering::Less)) {
            return false;
        }
        // The newest event before the version decides.
        let events = self.events.iter().filter_map(|event| {
            let (at, affected) = match event {
                RangeEvent { introduced: Some(at), .. } => (at, true),
                RangeEvent { fixed: Some(at), .. } | RangeEvent { last_affected: Some(at), .. } => (at, false),
                RangeEvent { .. } => return None,
            };
            let passed = match (order(at)?, &event.last_affected) {
                (Ordering::Greater, _) | (Ordering::Equal, None) => true,
                (Ordering::Equal, Some(_)) | (Ordering::Less, _) => false,
            };
            passed.then_some((at.as_str(), affected))
        });
        let newer = |one: &str, other: &str| match (one, other) {
            (_, "0") => Ordering::Greater,
            ("0", _) => Ordering::Less,
            _ => ecosystem.compare(one, other).unwrap_or(Ordering::Equal),
        };
        let last = events.reduce(|last, next| if newer(next.0, last.0).is_lt() { last } else { next });
        last.is_some_and(|(_, affected)| affected)
    }
}

/// The names of packages in a record's text, which may be others of the text too. Far quicker than reading the record.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("\"name\"").filter_map(move |(at, key)| {
        let value = text[at + key.len()..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        value.split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(affected: &str) -> OsvRecord {
        let text = format!(
            r#"{{"id": "X-1", "aliases": null, "affected": [{{"package": {{"ecosystem": "PyPI", "name": "Some_Name"}}, {affected}}}]}}"#
        );
        assert_eq!(names(&text).collect::<Vec<_>>(), ["Some_Name"]);
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn fixed(affected: &str, version: &str, expected: Option<Option<&str>>) {
        let wanted =
            WantedPackage { ecosystem: Ecosystem::Pypi, name: "some-name".to_owned(), version: version.to_owned() };
        let found = record(affected).affects(&wanted).map(|hit| hit.fixed);
        assert_eq!(found, expected.map(|fixed| fixed.map(str::to_owned)), "{version}: {affected}");
    }

    #[test]
    fn ranges_are_evaluated_as_the_schema_says() {
        let range = |events: &str| format!(r#""ranges": [{{"type": "ECOSYSTEM", "events": [{events}]}}]"#);
        // Two branches with a fix each, in no order.
        let two = range(r#"{"fixed": "2.1"}, {"introduced": "0"}, {"introduced": "2.0"}, {"fixed": "1.5"}"#);
        for (version, expected) in [
            ("1.0", Some(Some("1.5"))),
            ("1.5rc1", Some(Some("1.5"))),
            ("1.5", None),
            ("1.9", None),
            ("2.0", Some(Some("2.1"))),
            ("2.1", None),
            ("3", None),
            ("no version", None),
        ] {
            fixed(&two, version, expected);
        }
        let last = range(r#"{"introduced": "1.0"}, {"last_affected": "1.2"}"#);
        for (version, expected) in [("0.9", None), ("1.0", Some(None)), ("1.2", Some(None)), ("1.2.post1", None)] {
            fixed(&last, version, expected);
        }
        let limit = range(r#"{"introduced": "0"}, {"limit": "2.0"}"#);
        fixed(&limit, "1.9", Some(None));
        fixed(&limit, "2.0", None);
        fixed(r#""versions": ["1.0"]"#, "1.0.0", Some(None));
        fixed(r#""versions": ["1.0"], "ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]"#, "1.1", None);
        fixed(r#""versions": null, "ranges": null"#, "1.1", None);
    }

    #[test]
    fn a_withdrawn_record_and_one_of_another_ecosystem_affect_nothing() {
        let wanted =
            WantedPackage { ecosystem: Ecosystem::Pypi, name: "some-name".to_owned(), version: "1".to_owned() };
        let affected = r#""versions": ["1"]"#;
        assert!(record(affected).affects(&wanted).is_some());
        let withdrawn = OsvRecord { withdrawn: Some("2026-01-01T00:00:00Z".to_owned()), ..record(affected) };
        assert_eq!(withdrawn.affects(&wanted), None);
        assert_eq!(record(affected).affects(&WantedPackage { ecosystem: Ecosystem::Crates, ..wanted }), None);
    }

    #[test]
    fn severity_is_the_scores_or_the_word_of_the_database() {
        let wanted =
            WantedPackage { ecosystem: Ecosystem::Pypi, name: "some-name".to_owned(), version: "1".to_owned() };
        let of = |more: &str| {
            let hit = record(&format!(r#""versions": ["1"]{more}"#)).affects(&wanted).unwrap();
            (hit.severity, hit.score)
        };
        let vector = |vector: &str| format!(r#", "severity": [{{"type": "CVSS_V3", "score": "{vector}"}}]"#);
        assert_eq!(of(&vector("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H")), (Severity::Critical, Some(9.8)));
        let both = format!(r#"{}, "database_specific": {{"severity": "MODERATE"}}"#, vector("CVSS:4.0/AV:N"));
        assert_eq!(of(&both), (Severity::Medium, None));
        let fourth = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N";
        assert_eq!(of(&vector(fourth).replace("V3", "V4")), (Severity::Critical, Some(9.3)));
        assert_eq!(of(r#", "ecosystem_specific": {"urgency": "unimportant"}"#), (Severity::Low, None));
        assert_eq!(of(""), (Severity::Unknown, None));
    }
}
