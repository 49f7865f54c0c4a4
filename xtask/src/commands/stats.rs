//! `stats`: reads the ledger and prints its summary, or fails if builds have become slower.

mod replay;

use crate::documents;
use crate::flags::{Format, Global, StatsFlags};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::facts::Tree;
use xtask_host::{clock, file, process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::policy::ImageKind;
use xtask_model::record::ledger::{self, Record};
use xtask_model::record::stats::{self, GateResult, TimeGate, chart, page};
use xtask_model::spec::reference::{Digest, Repository};

/// Prints the statistics, then fails if the gate fails.
pub fn run(global: &Global, flags: &StatsFlags) -> anyhow::Result<()> {
    let trees = global.trees()?;
    let tree = &trees[0];
    let records = records(&trees, global, flags)?;
    if let Some((from, to)) = &flags.replay {
        return replay::run(global, &trees, (from, to), &records, flags.html.as_deref());
    }
    let until = clock::now();
    let since = until - flags.since;
    let stats = stats::sum(&records, since, until);
    let gate = flags.gate_factor.map(|factor| stats::gate(&records, since, usize::from(flags.gate_builds), factor));
    match global.format {
        Format::Json => {
            let mut json = serde_json::to_value(&stats)?;
            json["gate"] = serde_json::to_value(&gate)?;
            json["records"] = serde_json::to_value(&stats.records)?;
            documents::STATS.print(&json)?;
        }
        Format::Text | Format::Github | Format::Gitlab => super::print(&chart::print(&stats, signs()))?,
    }
    if let Some(path) = &flags.html {
        file::write(path, &page::print(&stats, &tree.policy.project.name))?;
        terminal::step("wrote", &format!("`{}`", path.display()));
    }
    match (gate, flags.gate_factor) {
        (Some(gates), Some(factor)) => Ok(hold(&gates, factor, flags.gate_builds)?),
        _ => Ok(()),
    }
}

/// Unicode bars on a terminal, plain characters for programs.
fn signs() -> chart::Charset {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    match std::io::stdout().is_terminal() && !dumb {
        true => chart::Charset::Unicode,
        false => chart::Charset::Plain,
    }
}

fn records(trees: &[Tree], global: &Global, flags: &StatsFlags) -> Result<Vec<Record>, Fault> {
    let read = xtask_host::tree::ledger::read(&trees[0].root)?;
    for (line, why) in &read.skipped {
        terminal::warn(&format!("{}:{line}: skipped, not a record: {why}", ledger::PATH));
    }
    let mut records = read.records;
    if flags.from_registry {
        global.check_online("--from-registry")?;
        let name = |record: &Record| (record.when, record.commit.clone(), record.machine());
        let mut known: BTreeSet<_> = records.iter().map(name).collect();
        let published = published(trees, &trees[0].client())?;
        // A build in CI may have left its record on this disk as well, or in the index before another platform was added.
        records.extend(published.into_iter().filter(|record| known.insert(name(record))));
        records.sort_by_key(|record| record.when);
    }
    if !global.app.is_empty() {
        records.retain(|record| record.app.as_ref().is_some_and(|app| global.app.contains(app)));
    }
    Ok(records)
}

/// Records in published images.
fn published(trees: &[Tree], client: &Client) -> Result<Vec<Record>, Fault> {
    let mut records = Vec::new();
    let of = |tree: &Tree| [ImageKind::Base, ImageKind::App].map(|kind| tree.repository(kind));
    let repositories: BTreeSet<Repository> = trees.iter().flat_map(of).collect();
    for repository in repositories {
        let mut seen: BTreeSet<Digest> = BTreeSet::new();
        for tag in client.tags(&repository)?.present().unwrap_or_default() {
            process::interrupted()?;
            if publish::records::is(&tag) {
                continue;
            }
            let Answer::Present(head) = client.head(&repository, &tag)? else { continue };
            if !seen.insert(head.digest) {
                continue;
            }
            let Answer::Present(found) = publish::read(client, &repository, head.digest)? else { continue };
            for (_, line) in found.notes.iter().filter(|(name, _)| name.starts_with(ledger::ANNOTATION)) {
                match ledger::parse_line(line) {
                    Ok(record) => records.push(record),
                    Err(why) => terminal::warn(&format!("`{}` has no valid record: {why}", repository.tag(&tag))),
                }
            }
        }
    }
    Ok(records)
}

fn hold(gates: &[TimeGate], factor: f64, count: u16) -> Result<(), Fault> {
    if gates.is_empty() {
        terminal::step("gate", "passed: no fast build is recorded in this time");
    }
    let mut slow = Vec::new();
    for TimeGate { of, found } in gates {
        match found {
            GateResult::TooFew { builds, needed } => {
                terminal::step(
                    "gate",
                    &format!("passed: {of}: {builds} fast builds are recorded, {needed} are needed to compare"),
                );
            }
            GateResult::Compared { before, now, slower } => {
                let (before, now) = (chart::seconds(*before), chart::seconds(*now));
                if *slower {
                    slow.push(format!("{of}: {now} instead of {before} (medians of {count})"));
                } else {
                    let what = format!(
                        "passed: {of}: the last {count} fast builds took {now} (median), those before {before}"
                    );
                    terminal::step("gate", &what);
                }
            }
        }
    }
    if slow.is_empty() {
        return Ok(());
    }
    let fault = Fault::drift(format!("fast builds have become slower, by more than {factor} times"));
    let hint = "`cargo xtask stats` shows the phases; the first slow build's commit is in `target/ledger/builds.jsonl`";
    Err(slow.into_iter().fold(fault, Fault::cause).hint(hint))
}
