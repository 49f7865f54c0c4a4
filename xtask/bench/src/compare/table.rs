//! Prints a comparison: aligned text for a terminal, Markdown for the documentation. Pure.

use super::goal::MEMORY;
use super::{Compared, Comparison, Sided};
use crate::table::{aligned, line, machine, phases, span};
use xtask_model::quantity;

const HEAD: [&str; 10] =
    ["scenario", "by", "seconds", "vs. first", "goal", "met", "CPU", "memory", "to disk", "opened"];

/// One row for each side; the first one has the scenario's name.
fn rows(results: &Comparison) -> Vec<[String; 10]> {
    let sides = |row: &Compared| {
        let sided = |(index, side): (usize, &Sided)| {
            let name = if index == 0 { row.name.to_owned() } else { String::new() };
            [
                name,
                side.by.to_owned(),
                span(side.seconds.as_ref()),
                side.times.map_or_else(String::new, |times| format!("{times:.1}×")),
                side.goal.clone().unwrap_or_default(),
                side.met.map_or("", |met| if met { "yes" } else { "no" }).to_owned(),
                side.cpu.map_or_else(String::new, |cpu| quantity_of(cpu.median)),
                memory(side),
                side.written.map_or_else(String::new, |written| quantity::bytes(written.median as u64)),
                side.opened.map_or_else(String::new, |opened| opened.to_string()),
            ]
        };
        row.sides.iter().enumerate().map(sided).collect::<Vec<_>>()
    };
    results.rows.iter().flat_map(sides).collect()
}

fn quantity_of(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

fn memory(side: &Sided) -> String {
    let Some(bytes) = side.memory else { return String::new() };
    format!("{}{}", quantity::bytes(bytes), if side.memory_met == Some(false) { ", not met" } else { "" })
}

/// Descriptions of the scenarios, numbers of runs, and reasons for missing ones.
fn notes(results: &Comparison, code: &str) -> Vec<String> {
    let mut notes = Vec::new();
    for row in &results.rows {
        let (before, after) = row.load;
        let load = format!("load {before:.2} to {after:.2}");
        notes.push(format!("{code}{}{code}: {}; {}; {load}", row.name, row.about, runs(row)));
        let phases = row.sides.first().and_then(|side| phases(&side.phases));
        notes.extend(phases.map(|phases| format!("{code}{}{code}, {}: {phases}", row.name, row.sides[0].by)));
        let why = |side: &Sided| side.why.as_ref().map(|why| format!("{code}{}{code}: {} – {why}", row.name, side.by));
        notes.extend(row.sides.iter().filter_map(why));
    }
    notes
}

/// `7 runs, buildah 3`.
fn runs(row: &Compared) -> String {
    let of = |side: &Sided| side.seconds.map(|seconds| seconds.runs);
    let Some(most) = row.sides.iter().filter_map(of).max() else { return "no runs".to_owned() };
    let fewer = row.sides.iter().filter_map(|side| Some((side.by, of(side)?))).filter(|(_, runs)| *runs < most);
    let fewer: String = fewer.map(|(by, runs)| format!(", {by} {runs}")).collect();
    format!("{most} {}{fewer}", if most == 1 { "run" } else { "runs" })
}

pub fn text(results: &Comparison) -> String {
    let mut text = aligned(&HEAD, &rows(results));
    for block in [notes(results, ""), machine(&results.machine)] {
        text += &format!("\n{}\n", block.join("\n"));
    }
    text
}

pub fn markdown(results: &Comparison) -> String {
    let mut text = String::from(INTRODUCTION);
    text += &line(&HEAD.map(str::to_owned));
    text += "|---|---|---:|---:|---:|---|---:|---:|---:|---:|\n";
    for mut row in rows(results) {
        if !row[0].is_empty() {
            row[0] = format!("`{}`", row[0]);
        }
        text += &line(&row);
    }
    text += &format!(
        "\nMedians, with minimum and maximum of all runs in brackets. Memory is the peak of xtask in any run; the goal is {} or\n\
         less in every row, and a row that needs more says `not met`. CPU is that of xtask and what it runs; a daemon works elsewhere.\n\
         To disk are the bytes that xtask wrote to files that are not in memory.\n\
         Opened are the files that xtask and what it runs opened, counted by strace in a run of its own; empty where they were not measured.\n\n",
        quantity::bytes(MEMORY)
    );
    notes(results, "`").iter().chain(&machine(&results.machine)).for_each(|line| text += &format!("- {line}\n"));
    text
}

const INTRODUCTION: &str = "\
# The native engine compared with docker buildx and buildah

Written by `cargo xtask bench --compare --write FILE`; do not edit. All rows are measured in one run on one machine, until the image
is in a registry on loopback. Docker uses the containerd store and `COPY --link`; buildah, which does not support `--link`, uses chroot
isolation and overlay storage. Both run plain command lines and get the compiled binary for free. Nothing local means: docker's caches and
images are pruned, buildah's storage and uv's cache are empty, and no layer, binary or record of the native engine exists; docker, buildah
and uv are installed.

One Dockerfile is `Dockerfile.enhanced`: packages, compiler and app, with cache mounts for crates, compiled crates and wheels. It compiles the
program too, and has no base. Compilers and crates come from the mirrors of this machine. A cache in the registry has no cache mounts, so
that side compiles the crates of others in a layer of their own, as cargo-chef does. Rows of Rust have no side for buildah: it would compile
the same in the same time, in a slower file system.

";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::statistics::Summary;
    use expect_test::expect;
    use std::collections::BTreeMap;

    fn results() -> Comparison {
        let side = |by, seconds: &[f64]| Sided {
            by,
            seconds: Summary::of(seconds),
            phases: Vec::new(),
            why: None,
            times: None,
            memory: None,
            memory_met: None,
            cpu: None,
            written: None,
            opened: None,
            goal: None,
            met: None,
        };
        let native = Sided {
            phases: vec![("start".to_owned(), Summary::of(&[0.01]).unwrap())],
            memory: Some(42_000_000),
            memory_met: Some(true),
            cpu: Summary::of(&[0.05]),
            written: Summary::of(&[1_500_000.0]),
            opened: Some(345),
            goal: Some("≤ 0.25 s".to_owned()),
            met: Some(true),
            ..side("native", &[0.2, 0.21, 0.19])
        };
        let docker = Sided {
            times: Some(35.5),
            goal: Some("≥ 40×".to_owned()),
            met: Some(false),
            ..side("docker buildx", &[7.0, 7.1, 7.2])
        };
        let buildah = Sided { why: Some("it is not installed".to_owned()), ..side("buildah", &[]) };
        let slow = side("by pip", &[9.0]);
        Comparison {
            rows: vec![Compared {
                name: "template-cold",
                about: "a template edited",
                sides: vec![native, docker, buildah, slow],
                load: (0.25, 0.5),
            }],
            machine: Machine {
                cores: 2,
                processor: "Example 9000".to_owned(),
                memory: 8_000_000_000,
                kernel: "6.1.0".to_owned(),
                file_system: ("ext4".to_owned(), false),
                system: "Debian".to_owned(),
                versions: BTreeMap::from([("docker", "26.1.5".to_owned())]),
                commit: None,
                load: (0.1, 1.5),
            },
        }
    }

    #[test]
    fn a_terminal_gets_columns() {
        expect![[r#"
            scenario       by             seconds                 vs. first  goal      met  CPU     memory   to disk  opened
            template-cold  native         0.20 s (0.19 s–0.21 s)             ≤ 0.25 s  yes  0.05 s  42.0 MB  1.5 MB   345
                           docker buildx  7.10 s (7.00 s–7.20 s)  35.5×      ≥ 40×     no
                           buildah        –
                           by pip         9.00 s

            template-cold: a template edited; 3 runs, by pip 1; load 0.25 to 0.50
            template-cold, native: start 10 ms
            template-cold: buildah – it is not installed

            2 cores of Example 9000, 8.0 GB of memory, Debian, Linux 6.1.0, ext4
            docker 26.1.5
            load average 0.10 before, 1.50 after
        "#]]
        .assert_eq(&text(&results()));
    }

    #[test]
    fn the_documentation_gets_a_table() {
        let text = markdown(&results());
        expect![[r#"
            | scenario | by | seconds | vs. first | goal | met | CPU | memory | to disk | opened |
            |---|---|---:|---:|---:|---|---:|---:|---:|---:|
            | `template-cold` | native | 0.20 s (0.19 s–0.21 s) |  | ≤ 0.25 s | yes | 0.05 s | 42.0 MB | 1.5 MB | 345 |
            |  | docker buildx | 7.10 s (7.00 s–7.20 s) | 35.5× | ≥ 40× | no |  |  |  |  |
            |  | buildah | – |  |  |  |  |  |  |  |
            |  | by pip | 9.00 s |  |  |  |  |  |  |  |
            - `template-cold`: a template edited; 3 runs, by pip 1; load 0.25 to 0.50
            - `template-cold`, native: start 10 ms
            - `template-cold`: buildah – it is not installed
            - 2 cores of Example 9000, 8.0 GB of memory, Debian, Linux 6.1.0, ext4
            - docker 26.1.5
            - load average 0.10 before, 1.50 after"#]]
        .assert_eq(&text.lines().filter(|line| line.starts_with(['|', '-'])).collect::<Vec<_>>().join("\n"));
    }
}
