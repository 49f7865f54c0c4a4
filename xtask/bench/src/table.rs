//! Prints results: aligned text for a terminal, Markdown for the documentation. Pure.

use super::machine::Machine;
use super::statistics::{Summary, ratio};
use super::{Measured, OVERHEAD_BUDGET, Results};
use std::time::Duration;
use xtask_model::quantity;

/// Seconds, or milliseconds below 0.1 s.
fn seconds(seconds: f64) -> String {
    if seconds < 0.1 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    quantity::seconds(Duration::from_secs_f64(seconds))
}

pub(super) fn span(summary: Option<&Summary>) -> String {
    match summary {
        None => "–".to_owned(),
        Some(one) if one.runs == 1 => seconds(one.median),
        Some(many) => format!("{} ({}–{})", seconds(many.median), seconds(many.min), seconds(many.max)),
    }
}

fn times(measured: &Measured) -> String {
    let ratio = measured.plain.as_ref().and_then(|plain| ratio(plain, &measured.ours));
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.1}×"))
}

/// One row for each scenario; `code` encloses its name.
fn rows(results: &Results, code: &str) -> Vec<[String; 5]> {
    let row = |measured: &Measured| {
        [
            format!("{code}{}{code}", measured.name),
            measured.about.to_owned(),
            span(Some(&measured.ours)),
            span(measured.plain.as_ref()),
            times(measured),
        ]
    };
    results.scenarios.iter().map(row).collect()
}

const HEAD: [&str; 5] = ["scenario", "what", "cargo xtask", "plain docker build", "ratio"];

pub(super) fn phases(phases: &[(String, Summary)]) -> Option<String> {
    let shown = phases.iter().filter(|(_, summary)| summary.median >= 0.0005);
    let shown: Vec<String> = shown.map(|(name, summary)| format!("{name} {}", seconds(summary.median))).collect();
    (!shown.is_empty()).then(|| shown.join(", "))
}

fn overhead(measured: &Measured) -> Option<String> {
    let overhead = measured.overhead.as_ref()?;
    let verdict = if overhead.median <= OVERHEAD_BUDGET { "within" } else { "over" };
    Some(format!("{}, {verdict} its budget of {}", span(Some(overhead)), seconds(OVERHEAD_BUDGET)))
}

pub(super) fn machine(machine: &Machine) -> Vec<String> {
    let versions: Vec<String> = machine.versions.iter().map(|(tool, version)| format!("{tool} {version}")).collect();
    let cores = if machine.cores == 1 { "core" } else { "cores" };
    let (kind, unjournaled) = &machine.file_system;
    let file_system = format!("{kind}{}", if *unjournaled { " without a journal" } else { "" });
    let mut lines = vec![
        format!(
            "{} {cores} of {}, {} of memory, {}, Linux {}, {file_system}",
            machine.cores,
            machine.processor,
            quantity::bytes(machine.memory),
            machine.system,
            machine.kernel
        ),
        versions.join(", "),
        format!("load average {:.2} before, {:.2} after", machine.load.0, machine.load.1),
    ];
    if let Some((commit, time)) = &machine.commit {
        lines.push(format!("commit {commit} of {time}"));
    }
    lines
}

pub(super) fn aligned<const N: usize>(head: &[&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|head| head.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

pub(super) fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

pub fn text(results: &Results) -> String {
    let mut text = aligned(&HEAD, &rows(results, ""));
    let mut details = Vec::new();
    for measured in &results.scenarios {
        details.extend(phases(&measured.phases).map(|phases| format!("{}: {phases}", measured.name)));
        details.extend(overhead(measured).map(|part| format!("{}: xtask's own part {part}", measured.name)));
    }
    for block in [details, machine(&results.machine)].iter().filter(|block| !block.is_empty()) {
        text += &format!("\n{}\n", block.join("\n"));
    }
    text
}

pub fn markdown(results: &Results) -> String {
    let mut text = String::from(INTRODUCTION);
    text += &line(&HEAD.map(str::to_owned));
    text += "|---|---|---:|---:|---:|\n";
    rows(results, "`").iter().for_each(|row| text += &line(row));
    text += "\nMedians, with minimum and maximum of all runs in brackets; a single number is one run.\n";
    text += "\n## Where the time goes\n\n";
    text += "`start` is cargo, which checks or compiles xtask, and the start of the process; the compiler runs in parallel with\n";
    text += "the base's build. xtask's own part excludes docker, the compiler and steps.\n\n";
    text += "| scenario | phases, medians | xtask's own part |\n|---|---|---|\n";
    for measured in &results.scenarios {
        if let Some(phases) = phases(&measured.phases) {
            let overhead = overhead(measured).unwrap_or_else(|| "–".to_owned());
            text += &line(&[format!("`{}`", measured.name), phases, overhead]);
        }
    }
    text += "\n## Measured on\n\n";
    machine(&results.machine).iter().for_each(|line| text += &format!("- {line}\n"));
    text
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench --write docs/benchmarks.md`; do not edit. All scenarios are measured in one run on one machine, with a
private engine and a registry on loopback, until the image is in the registry. The comparison is the same work with
`docker buildx build --push` of `dockerfiles/Dockerfile.enhanced`, with the same root, secrets and compression: what a team
with one Dockerfile and no build system does.

";

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::collections::BTreeMap;

    fn results() -> Results {
        let of = |seconds: &[f64]| Summary::of(seconds).unwrap();
        let measured = |name, ours, plain| Measured {
            name,
            about: "what happens",
            ours,
            plain,
            overhead: None,
            phases: Vec::new(),
        };
        let template = Measured {
            overhead: Some(of(&[0.2, 0.25, 0.21])),
            phases: vec![("start".to_owned(), of(&[0.08])), ("app build".to_owned(), of(&[0.5]))],
            ..measured("template", of(&[0.6, 0.8, 0.7]), Some(of(&[2.1, 2.0, 2.2])))
        };
        Results {
            scenarios: vec![measured("start-binary", of(&[0.004]), None), template],
            machine: Machine {
                cores: 2,
                processor: "Example 9000".to_owned(),
                memory: 8_000_000_000,
                kernel: "6.1.0".to_owned(),
                file_system: ("ext4".to_owned(), false),
                system: "Debian".to_owned(),
                versions: BTreeMap::from([("docker", "26.1.5".to_owned()), ("rustc", "1.95.0".to_owned())]),
                commit: Some(("1234567".to_owned(), "2026-01-02T03:04:05Z".to_owned())),
                load: (0.1, 1.5),
            },
        }
    }

    #[test]
    fn a_terminal_gets_columns() {
        expect![[r#"
            scenario      what          cargo xtask             plain docker build      ratio
            start-binary  what happens  4 ms                    –                       –
            template      what happens  0.70 s (0.60 s–0.80 s)  2.10 s (2.00 s–2.20 s)  3.0×

            template: start 80 ms, app build 0.50 s
            template: xtask's own part 0.21 s (0.20 s–0.25 s), within its budget of 0.30 s

            2 cores of Example 9000, 8.0 GB of memory, Debian, Linux 6.1.0, ext4
            docker 26.1.5, rustc 1.95.0
            load average 0.10 before, 1.50 after
            commit 1234567 of 2026-01-02T03:04:05Z
        "#]]
        .assert_eq(&text(&results()));
    }

    #[test]
    fn the_documentation_gets_tables() {
        let text = markdown(&results());
        expect![[r#"
            | scenario | what | cargo xtask | plain docker build | ratio |
            |---|---|---:|---:|---:|
            | `start-binary` | what happens | 4 ms | – | – |
            | `template` | what happens | 0.70 s (0.60 s–0.80 s) | 2.10 s (2.00 s–2.20 s) | 3.0× |
            | scenario | phases, medians | xtask's own part |
            |---|---|---|
            | `template` | start 80 ms, app build 0.50 s | 0.21 s (0.20 s–0.25 s), within its budget of 0.30 s |"#]]
        .assert_eq(&text.lines().filter(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n"));
    }
}
