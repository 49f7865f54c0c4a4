//! The plugin `scan`: known vulnerabilities of an image, from its inventory.

mod database;

use super::{Call, Description, Finding, Outcome, Plugin, Settings, Severity};
use database::Database;
use std::path::Path;
use xtask_host::signing::PublicKey;
use xtask_host::tree::facts::Tree;
use xtask_host::{clock, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy;
use xtask_model::image::policy::plugin::SCAN;
use xtask_model::supply::inventory::Component;
use xtask_model::supply::scan::{self, FoundRecords, Gate, Subject, Vulnerability};
use xtask_model::supply::vex::{self, Statement};
use xtask_native::image::Image;

const CRATES: &str = "Cargo.lock";

pub(super) struct Scan;

impl Plugin for Scan {
    fn description(&self) -> &'static Description {
        &SCAN
    }

    fn prepare(&self, root: &Path, settings: &Settings) -> Result<(), Fault> {
        let search = Search::new(root, settings)?;
        search.database.check()
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let subject = call.subject;
        let Some(place) = subject.place.clone() else {
            terminal::step("scan", &format!("{}: its layers are in the docker engine; use `--push`", subject.kind));
            return Ok(Outcome::default());
        };
        let image = Image::open(call.client, place, subject.digest, subject.platform)?;
        let repository = &subject.reference.repository;
        let found = super::inventory_of(call.tree, call.client, &image, (repository, subject.platform))?;
        let search = Search::new(&call.tree.root, call.settings)?;
        let purl = found.inventory.purl();
        let scan = search.scan(
            Subject {
                reference: &repository.digest(image.digest).to_string(),
                purl: &purl,
                platform: &subject.platform.to_string(),
                components: &found.inventory.components,
            },
            call.tree,
        )?;
        terminal::step("scan", &format!("{}: {}", subject.kind, scan.summary()));
        let name = format!("{}-{}", subject.kind, subject.platform.dashed());
        let json = serde_json::to_vec(&scan).expect("a scan is valid JSON");
        let files = [
            ("json", json),
            ("md", scan.markdown(&search.gate).into_bytes()),
            ("sarif", sarif(&scan, &search.gate, call.tree).into_bytes()),
        ];
        let files = files.iter().map(|(end, bytes)| call.write(&format!("{name}.{end}"), bytes));
        let note = |text: &String| Finding { severity: Severity::Note, message: text.clone() };
        let mut findings: Vec<Finding> = scan.notes.iter().map(note).collect();
        findings.extend(
            scan.stopped_by(&search.gate).map(|one| Finding { severity: Severity::Error, message: sentence(one) }),
        );
        let failed = scan.stopped_by(&search.gate).next().is_some();
        Ok(Outcome { files: files.collect::<Result<_, _>>()?, findings, failed, ..Outcome::default() })
    }
}

fn sentence(one: &Vulnerability) -> String {
    let fix = one.fixed.as_ref().map_or_else(|| "no version fixes it".to_owned(), |fixed| format!("fixed in {fixed}"));
    format!("{} {} has {} ({}): {fix}", one.name, one.version, one.id, one.severity)
}

/// Settings for looking up vulnerabilities.
pub struct Search {
    database: Database,
    statements: Vec<Statement>,
    pub gate: Gate,
}

impl Search {
    /// Reads what settings of a step name.
    ///
    /// # Errors
    /// A key or a statement that cannot be read; all of them together.
    pub fn new(root: &Path, settings: &Settings) -> Result<Self, Fault> {
        let key = settings.text("public-key").map(|path| PublicKey::read(&root.join(path))).transpose()?;
        let only_fixed = settings.get("only-fixed").is_some_and(|value| value == true);
        let gate = Gate::new(settings.text("fail-on").unwrap_or("high"), only_fixed).map_err(Fault::usage)?;
        let (mut statements, mut wrong) = (Vec::new(), Vec::new());
        for path in settings.one_or_more("vex") {
            let bytes = std::fs::read(root.join(path)).map_err(|error| error.to_string());
            match bytes.and_then(|bytes| vex::read(path, &bytes)) {
                Ok(read) => statements.extend(read),
                Err(why) => wrong.push(format!("`{path}`: {why}")),
            }
        }
        if !wrong.is_empty() {
            let fault = Fault::usage("statements of the `scan` step cannot be read")
                .hint("correct the files, or `vex` of the step in `images.toml`");
            return Err(wrong.into_iter().fold(fault, Fault::cause));
        }
        let place = settings.text("database").ok_or_else(|| {
            Fault::usage("there is no database of vulnerabilities to look in")
                .hint("add a step to `images.toml`: `uses = \"scan\"` with `database`")
                .hint("or name one: `cargo xtask scan --database WHERE`, a folder or a file of OSV records, or a URL")
        })?;
        Ok(Self { database: Database::new(root, place, key)?, statements, gate })
    }

    /// Looks the components of an image up.
    pub fn scan(&self, subject: Subject<'_>, tree: &Tree) -> Result<scan::Scan, Fault> {
        let wanted: Vec<_> = subject.components.iter().filter_map(Component::wanted).collect();
        let records =
            FoundRecords { records: self.database.records(&wanted, tree.offline)?, source: self.database.to_string() };
        Ok(scan::scan(subject, &records, &self.statements, clock::now()))
    }
}

/// SARIF, with each finding at the line that brought the component.
pub fn sarif(scan: &scan::Scan, gate: &Gate, tree: &Tree) -> String {
    let read = |path: &str| {
        let bytes = tree.files.read(Path::new(path)).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let lock = tree.policy.base.lock.as_str();
    let (packages, crates) = (read(lock), read(CRATES));
    let place = |one: &Vulnerability| {
        let (path, text, start) = match one.purl.split('/').next() {
            Some("pkg:pypi") => (lock, &packages, format!("{}==", one.name)),
            Some("pkg:cargo") => (CRATES, &crates, format!("name = \"{}\"\nversion = \"{}\"", one.name, one.version)),
            _ => return (policy::FILE.to_owned(), 1),
        };
        let at = text.find(&format!("\n{start}")).map_or(1, |at| text[..=at].lines().count() + 1);
        (path.to_owned(), at)
    };
    scan.sarif(gate, env!("CARGO_PKG_VERSION"), &place)
}
