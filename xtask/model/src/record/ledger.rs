//! The ledger: a record of every build, one JSON object a line, in `target/ledger/builds.jsonl`.
//!
//! Pure; `xtask_host::tree::ledger` reads and writes the file. A record never changes;
//! an invalid line is skipped with a warning, and never makes a build fail.

use crate::image::key::EditKind;
use crate::image::presence::{BUILT, Published};
use crate::spec::reference::Platform;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of [`Record`]'s encoding. Records of a later one are passed over.
pub const SCHEMA: u32 = 1;

pub const PATH: &str = "target/ledger/builds.jsonl";

/// Prefix of the annotations of an index with the records of the builds that published it, as compact JSON. Written in CI,
/// whose disks vanish.
pub const ANNOTATION: &str = "dev.xtask.build.";

/// The annotation of the build that published this platform: each comes from a machine of its own, and keeps its record.
pub fn annotation(platform: &Platform) -> String {
    format!("{ANNOTATION}{}", platform.to_string().replace('/', "-"))
}

/// Moment at which the last platform of an image was built, if that was recorded.
pub fn built(image: &Published) -> Option<Timestamp> {
    let noted = image.notes.iter().filter(|(name, _)| name.starts_with(BUILT)).filter_map(|(_, at)| at.parse().ok());
    let records = image.notes.iter().filter(|(name, _)| name.starts_with(ANNOTATION));
    // Before the annotation there was CI's record of the build, with the moment at which it began.
    noted.max().or_else(|| records.filter_map(|(_, line)| Some(parse_line(line).ok()?.when)).max())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BuildKind {
    #[serde(rename = "reused")]
    Reused,
    #[serde(rename = "fast")]
    Fast,
    #[serde(rename = "base")]
    Base,
    #[serde(rename = "base+fast")]
    BaseFast,
    #[serde(rename = "enhanced")]
    Enhanced,
    #[serde(rename = "undecided")]
    Undecided,
}

impl BuildKind {
    pub const ALL: [Self; 6] = [Self::Reused, Self::Fast, Self::Base, Self::BaseFast, Self::Enhanced, Self::Undecided];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reused => "reused",
            Self::Fast => "fast",
            Self::Base => "base",
            Self::BaseFast => "base+fast",
            Self::Enhanced => "enhanced",
            Self::Undecided => "undecided",
        }
    }
}

impl fmt::Display for BuildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Compressed bytes of one platform, each where it is known. Configs and manifests, some kilobytes, are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// Of layers that this build made, or had in its build cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pulled: Option<u64>,
    /// Of those that were made, what neither the base nor `latest` had in the registry already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<u64>,
    /// Of layers that came from the base, or of an image that existed already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Start time, RFC 3339.
    pub when: Timestamp,
    /// The app, where the policy names several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The commit, with `-dirty` where the tree differed from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    pub decision: BuildKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Kind of the app's edit, if an earlier app was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<EditKind>,
    /// Wall-clock seconds of the whole command.
    pub seconds: f64,
    /// Seconds by phase, in order: `base build`, `app publish`. Phases may overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<(String, f64)>,
    #[serde(default)]
    pub bytes: Bytes,
    /// Steps of the Dockerfiles, and how many came from the build cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<[usize; 2]>,
    /// The engine: `29.1.3`, or a builder's name; `None` if nothing was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    pub cores: usize,
    #[serde(default)]
    pub ci: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Machine properties that affect a build's time. Times of different machines are never combined. No host name
/// is part of it: records are published with images.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine {
    pub ci: bool,
    pub platform: Option<Platform>,
    pub cores: usize,
    pub builder: Option<String>,
    /// Builds of different apps are never combined either.
    pub app: Option<String>,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ci { "CI" } else { "local" })?;
        if let Some(platform) = &self.platform {
            write!(f, ", {platform}")?;
        }
        write!(f, ", {} {}", self.cores, if self.cores == 1 { "core" } else { "cores" })?;
        if let Some(name) = &self.builder {
            write!(f, ", builder {name}")?;
        }
        self.app.as_ref().map_or(Ok(()), |app| write!(f, ", app {app}"))
    }
}

/// Prefix of a builder's name in [`Record::engine`].
pub const BUILDER: &str = "builder ";

/// The native engine in [`Record::engine`].
pub const NATIVE: &str = "native";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// The records, oldest first.
    pub records: Vec<Record>,
    pub skipped: Vec<(usize, String)>,
}

/// Reads a ledger's text. A killed process may leave half a line, which the next record then follows on one of its own.
pub fn parse(text: &str) -> Read {
    let mut read = Read::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match parse_line(line) {
            Ok(record) => read.records.push(record),
            Err(why) => read.skipped.push((index + 1, why)),
        }
    }
    read.records.sort_by_key(|record| record.when);
    read
}

/// Reads one record.
///
/// # Errors
/// Invalid text, or a record of a later schema.
pub fn parse_line(line: &str) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u32,
    }
    let version: Versioned = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if version.schema != SCHEMA {
        return Err(format!("its schema is {}, this xtask knows {SCHEMA}", version.schema));
    }
    let record: Record = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let times = || record.phases.iter().map(|(_, seconds)| *seconds).chain([record.seconds]);
    // JSON has no infinity, but 1e999 is one.
    match times().all(|seconds| seconds.is_finite() && seconds >= 0.0) {
        true => Ok(record),
        false => Err("its times are not numbers of seconds".to_owned()),
    }
}

impl Record {
    pub fn compact(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers have a JSON form")
    }

    pub fn machine(&self) -> Machine {
        let builder = self.engine.as_deref().and_then(|engine| engine.strip_prefix(BUILDER)).map(str::to_owned);
        Machine { ci: self.ci, platform: self.platform.clone(), cores: self.cores, builder, app: self.app.clone() }
    }

    /// True if the native engine built it: it has times of its own, on whatever machine.
    pub fn is_native(&self) -> bool {
        self.engine.as_deref() == Some(NATIVE)
    }

    /// Kind of the edit. For older records it is derived from reasons and phases.
    pub fn change(&self) -> Option<EditKind> {
        let compiled = || self.phases.iter().any(|(name, _)| name == "app compile");
        let says = |words: &str| self.reasons.iter().any(|reason| reason.contains(words));
        self.change.or_else(|| match () {
            () if compiled() || says(": sources of ") || says(": locked crates of ") => Some(EditKind::Program),
            () if says("was edited") || says(" is new") || says(" is gone") => Some(EditKind::Files),
            () => None,
        })
    }

    /// True if its layers went to a registry, which is part of its time.
    pub fn is_pushed(&self) -> bool {
        self.bytes.pushed.is_some()
    }

    pub fn counts(&self) -> bool {
        self.failed.is_none()
    }
}

#[cfg(any(test, feature = "test-data"))]
pub mod test_data;

#[cfg(test)]
mod tests {
    use super::test_data::record;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_half_written_line_costs_only_itself() {
        let (one, two) = (record(BuildKind::Fast, 10, 1.0), record(BuildKind::Base, 5, 2.0));
        let text = format!("{}\n{}\n\n{}\n", one.compact(), &one.compact()[..40], two.compact());
        let read = parse(&text);
        assert_eq!(read.records, [two, one]);
        assert_eq!(read.skipped.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2]);
    }

    #[track_caller]
    fn refused(line: &str, why: &str) {
        let said = parse_line(line).unwrap_err();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn invalid_records_are_refused() {
        refused("{}", "missing field `schema`");
        refused(r#"{"schema": 2}"#, "its schema is 2");
        refused("[1]", "invalid");
        let negative = record(BuildKind::Fast, 1, -1.0).compact();
        refused(&negative, "its times are not numbers of seconds");
        refused(&record(BuildKind::Fast, 1, 2.0).compact().replace("1970-", "x"), "timestamp format is invalid");
    }

    #[test]
    fn machines_differ_by_kind_not_by_name() {
        let desk = record(BuildKind::Fast, 1, 1.0);
        let old = Record { platform: None, cores: 1, ..desk.clone() };
        let far = Record { ci: true, engine: Some("builder kube".to_owned()), ..desk.clone() };
        assert_eq!(
            [&desk, &old, &far].map(|record| record.machine().to_string()),
            ["local, linux/amd64, 2 cores", "local, 1 core", "CI, linux/amd64, 2 cores, builder kube"]
        );
        assert_eq!(parse_line(&far.compact()).unwrap().machine(), far.machine());
    }

    #[test]
    fn kinds_are_written_as_they_are_called() {
        for kind in BuildKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_between_records_lose_no_record(noise in "[^\\n\\r]{0,60}", second in 0_i64..4_000_000_000, thousandths in 0_u32..4_000_000) {
            let record = record(BuildKind::BaseFast, second, f64::from(thousandths) / 500.0);
            let text = format!("{}\n{noise}\n{}\n", record.compact(), record.compact());
            prop_assert_eq!(parse(&text).records, [record.clone(), record]);
        }
    }
}
