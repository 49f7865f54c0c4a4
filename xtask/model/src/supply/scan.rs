//! Known vulnerabilities of an image: the components of its inventory, against the records of a database and the statements of the repository.

mod show;

pub use show::Locate;

use super::inventory::Component;
use super::osv::{self, OsvRecord, WantedPackage};
use super::severity::Severity;
use super::vex::Statement;
use crate::spec::reference::Digest;
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A vulnerability of a component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vulnerability {
    /// `CVE-…` if it has one.
    pub id: String,
    /// Its other names.
    pub aliases: BTreeSet<String>,
    pub summary: String,
    pub severity: Severity,
    /// Score of CVSS 3 or 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Package URL of the component.
    pub purl: String,
    pub name: String,
    pub version: String,
    /// Uncompressed digest of the layer that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// First version with a fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// Reason why it does not count, and the document that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dismissed: Option<String>,
}

/// Rule for vulnerabilities that fail a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The mildest that does; `None` if none does.
    pub at: Option<Severity>,
    /// Only what a newer version fixes.
    pub only_fixed: bool,
}

impl Gate {
    /// The word for a gate that lets everything through.
    pub const NEVER: &str = "never";

    /// Reads the word of `fail-on`.
    pub fn new(word: &str, only_fixed: bool) -> Result<Self, String> {
        let at = if word == Self::NEVER { None } else { Some(word.parse()?) };
        Ok(Self { at, only_fixed })
    }

    /// True if this one fails.
    pub fn stops(&self, found: &Vulnerability) -> bool {
        let counts = found.dismissed.is_none() && (found.fixed.is_some() || !self.only_fixed);
        counts && self.at.is_some_and(|at| found.severity >= at)
    }
}

/// Findings in an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scan {
    /// Name by digest.
    pub image: String,
    pub platform: String,
    /// Source of the records.
    pub database: String,
    /// Time of the newest change in the records that were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
    /// Number of components.
    pub components: usize,
    /// Package URLs of components that no database knows the kind of.
    pub unchecked: Vec<String>,
    /// The worst first.
    pub vulnerabilities: Vec<Vulnerability>,
    /// Statements that ended or that are about nothing here.
    pub notes: Vec<String>,
}

/// The image that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name by digest.
    pub reference: &'a str,
    /// Package URL.
    pub purl: &'a str,
    pub platform: &'a str,
    pub components: &'a [Component],
}

/// Records with the place that they are from.
#[derive(Clone, Debug, Default)]
pub struct FoundRecords {
    pub source: String,
    pub records: Vec<OsvRecord>,
}

/// Looks every component up.
pub fn scan(subject: Subject<'_>, database: &FoundRecords, statements: &[Statement], now: Timestamp) -> Scan {
    let by_name = index(&database.records);
    let mut unchecked = Vec::new();
    let mut found = Vec::new();
    for component in subject.components {
        let Some(wanted) = component.wanted() else {
            unchecked.push(component.purl.clone());
            continue;
        };
        let records = by_name.get(wanted.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        found.extend(of_component(component, &wanted, records));
    }
    let notes = judge(&mut found, subject.purl, statements, now);
    let worst_first = |one: &Vulnerability, other: &Vulnerability| {
        let by = |one: &Vulnerability| (one.dismissed.is_some(), std::cmp::Reverse(one.severity));
        by(one)
            .cmp(&by(other))
            .then(other.score.unwrap_or(0.0).total_cmp(&one.score.unwrap_or(0.0)))
            .then_with(|| (&one.name, &one.id, &one.purl).cmp(&(&other.name, &other.id, &other.purl)))
    };
    found.sort_by(worst_first);
    Scan {
        image: subject.reference.to_owned(),
        platform: subject.platform.to_owned(),
        database: database.source.clone(),
        modified: database.records.iter().filter_map(|record| record.modified.clone()).max(),
        components: subject.components.len(),
        unchecked,
        vulnerabilities: found,
        notes,
    }
}

/// Records by the normalised names of the packages that they may be about.
fn index(records: &[OsvRecord]) -> BTreeMap<String, Vec<&OsvRecord>> {
    let mut by_name: BTreeMap<String, Vec<&OsvRecord>> = BTreeMap::new();
    for record in records {
        let names: BTreeSet<String> = record.packages().flat_map(spellings).collect();
        for name in names {
            by_name.entry(name).or_default().push(record);
        }
    }
    by_name
}

/// A name as a database writes it, and as Python normalises it.
pub fn spellings(name: &str) -> [String; 2] {
    [name.to_owned(), crate::spec::requirements::normalised(name)]
}

/// The vulnerabilities of a component, each once although several databases have it.
fn of_component(component: &Component, wanted: &WantedPackage, records: &[&OsvRecord]) -> Vec<Vulnerability> {
    let mut found: Vec<Vulnerability> = Vec::new();
    let mut advisories = Vec::new();
    for record in records {
        let Some(hit) = record.affects(wanted) else { continue };
        let mut names: BTreeSet<String> = record.aliases.iter().chain([&record.id]).cloned().collect();
        match record.upstream.as_slice() {
            [one] => drop(names.insert(one.clone())),
            // An advisory on several vulnerabilities is news only if no record is about each.
            [_, ..] => advisories.push((record.id.clone(), record.upstream.clone())),
            [] => {}
        }
        let mut one = Vulnerability {
            id: record.id.clone(),
            aliases: names,
            summary: summary(record),
            severity: hit.severity,
            score: hit.score,
            purl: component.purl.clone(),
            name: component.name.clone(),
            version: component.version.clone(),
            layer: component.layer,
            fixed: hit.fixed,
            dismissed: None,
        };
        // An alias may join two that were apart until now.
        let (same, others) = found.into_iter().partition(|other| !other.aliases.is_disjoint(&one.aliases));
        found = others;
        let same: Vec<Vulnerability> = same;
        for other in same {
            one.severity = one.severity.max(other.severity);
            one.score = one.score.into_iter().chain(other.score).reduce(f64::max);
            one.fixed = osv::earliest(&wanted.ecosystem, one.fixed, other.fixed);
            one.aliases.extend(other.aliases);
            if !other.summary.is_empty() {
                one.summary = other.summary;
            }
        }
        found.push(one);
    }
    let known: BTreeSet<String> = found.iter().flat_map(|one| one.aliases.clone()).collect();
    let repeats = |one: &Vulnerability| {
        advisories.iter().any(|(id, of)| one.aliases.contains(id) && of.iter().all(|name| known.contains(name)))
    };
    found.retain(|one| !repeats(one));
    for one in &mut found {
        let best = one.aliases.iter().find(|name| name.starts_with("CVE-")).or_else(|| one.aliases.first());
        one.id = best.cloned().unwrap_or_default();
        one.aliases.remove(&one.id);
    }
    found
}

/// The first sentence of a record.
fn summary(record: &OsvRecord) -> String {
    let text = if record.summary.is_empty() { &record.details } else { &record.summary };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.char_indices().nth(120) {
        None => line.to_owned(),
        Some((at, _)) => format!("{}…", &line[..at]),
    }
}

/// Applies the statements; returns what is to be said about them.
fn judge(found: &mut [Vulnerability], image: &str, statements: &[Statement], now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    for statement in statements {
        let about = |one: &&mut Vulnerability| {
            let names: Vec<&str> = one.aliases.iter().chain([&one.id]).map(String::as_str).collect();
            statement.is_about(&names, &one.purl, image)
        };
        let meant: Vec<&mut Vulnerability> = found.iter_mut().filter(about).collect();
        let named = format!("the statement on `{}` in `{}`", statement.names.join("`, `"), statement.file);
        if !statement.dismisses() {
            continue;
        }
        if meant.is_empty() {
            notes.push(format!("{named} is about nothing in this image"));
        } else if let Some(expires) = statement.expires.filter(|_| statement.is_over(now)) {
            notes.push(format!("{named} ended on {}", expires.date()));
        } else {
            for one in meant {
                one.dismissed = Some(format!("{} (`{}`)", statement.reason, statement.file));
            }
        }
    }
    notes
}

impl Scan {
    /// The vulnerabilities that stop an image.
    pub fn stopped_by<'a>(&'a self, gate: &'a Gate) -> impl Iterator<Item = &'a Vulnerability> {
        self.vulnerabilities.iter().filter(|found| gate.stops(found))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{inventory, vex};
    use super::*;

    /// A database in OSV's own format.
    pub(crate) const DATABASE: &str = include_str!("scan/database.json");

    pub(crate) fn records() -> FoundRecords {
        FoundRecords { source: "test".to_owned(), records: serde_json::from_str(DATABASE).unwrap() }
    }

    pub(crate) fn of(statements: &[Statement]) -> Scan {
        let inventory = inventory::tests::inventory();
        let (reference, purl) = (format!("127.0.0.1:5000/team/app@{}", inventory.digest), inventory.purl());
        let subject =
            Subject { reference: &reference, purl: &purl, platform: "linux/amd64", components: &inventory.components };
        scan(subject, &records(), statements, "2026-11-01T00:00:00Z".parse().unwrap())
    }

    fn short(scan: &Scan) -> Vec<String> {
        let fixed = |one: &Vulnerability| one.fixed.clone().unwrap_or_else(|| "-".to_owned());
        let line = |one: &Vulnerability| format!("{} {} {} {}", one.severity, one.id, one.name, fixed(one));
        scan.vulnerabilities.iter().map(line).collect()
    }

    #[test]
    fn each_vulnerability_is_found_once_with_its_fix() {
        let scan = of(&[]);
        assert_eq!(
            short(&scan),
            [
                "critical CVE-2026-1001 scipy 1.16.4",
                "high CVE-2026-2001 libc6 2.41-12+deb13u1",
                "medium RUSTSEC-2026-0001 serde 1.0.1",
                "unknown DSA-5000-1 libgcc-s1 -",
            ]
        );
        let scipy = &scan.vulnerabilities[0];
        assert_eq!(scipy.score, Some(9.8));
        assert_eq!(scipy.aliases, ["GHSA-aaaa-bbbb-cccc".to_owned(), "PYSEC-2026-1".to_owned()].into());
        assert_eq!(scan.vulnerabilities[1].aliases, ["DEBIAN-CVE-2026-2001".to_owned()].into(), "and not the advisory");
        assert_eq!((scan.components, scan.unchecked.len()), (6, 0));
    }

    #[test]
    fn the_gate_knows_severity_and_fix() {
        let scan = of(&[]);
        let count = |word: &str, only_fixed: bool| scan.stopped_by(&Gate::new(word, only_fixed).unwrap()).count();
        let all = ["never", "critical", "high", "medium", "low", "unknown"];
        assert_eq!(all.map(|word| count(word, false)), [0, 1, 2, 3, 3, 4]);
        assert_eq!(count("unknown", true), 3);
        assert!(Gate::new("worst", false).is_err());
    }

    #[test]
    fn statements_dismiss_until_they_end() {
        let statement = |vulnerability: &str, product: &str, expires: &str| {
            let text = format!(
                r#"{{"@context": "https://openvex.dev/ns/v0.2.0", "statements": [{{"vulnerability": "{vulnerability}", "products": ["{product}"],
                    "status": "not_affected", "justification": "vulnerable_code_not_in_execute_path", "expires": "{expires}"}}]}}"#
            );
            vex::read("vex/own.json", text.as_bytes()).unwrap().remove(0)
        };
        // By an alias, in the whole image.
        let scan = of(&[statement("GHSA-aaaa-bbbb-cccc", "pkg:oci/app", "2026-12-01")]);
        let last = scan.vulnerabilities.last().unwrap();
        assert_eq!((last.name.as_str(), scan.notes.len()), ("scipy", 0));
        assert_eq!(last.dismissed.as_deref(), Some("vulnerable code not in execute path (`vex/own.json`)"));
        assert_eq!(scan.stopped_by(&Gate { at: Some(Severity::Critical), only_fixed: false }).count(), 0);
        let scan = of(&[
            statement("CVE-2026-1001", "pkg:pypi/scipy", "2026-10-31"),
            statement("CVE-2026-1001", "pkg:pypi/numpy", "2026-12-01"),
        ]);
        assert_eq!(scan.vulnerabilities[0].dismissed, None);
        assert_eq!(
            scan.notes,
            [
                "the statement on `CVE-2026-1001` in `vex/own.json` ended on 2026-10-31",
                "the statement on `CVE-2026-1001` in `vex/own.json` is about nothing in this image",
            ]
        );
    }
}
