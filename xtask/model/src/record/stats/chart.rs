//! Statistics for a terminal: a table, and bars where the terminal has the signs for them. Pure.

use super::{Day, MachineStats, Saved, Stats};
use crate::quantity;
use crate::record::ledger::BuildKind;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    Unicode,
    /// `#` alone.
    Plain,
}

const WIDTH: usize = 40;

const DAYS: usize = 31;

pub fn print(stats: &Stats, signs: Charset) -> String {
    if stats.builds == 0 {
        return "no build was recorded in this period\n".to_owned();
    }
    let mut out = format!("builds a day (UTC)\n{}", days(&stats.days, signs));
    for on in &stats.machines {
        out += &format!("\n{}\n{}", on.machine, table(on));
        if on.fast.len() > 1 {
            out += &format!("fast builds, oldest first: {}\n", spark(&on.fast, signs));
        }
        if !on.fast_phases.is_empty() {
            let phases = on.fast_phases.iter().take(6);
            let phases: Vec<String> = phases.map(|(name, time)| format!("{name} {}", seconds(*time))).collect();
            out += &format!("a fast build's phases: {}\n", phases.join(", "));
        }
        out += &format!("{}\n", saved(&on.saved));
    }
    if let (Some(all), true) = (together(stats), stats.machines.len() > 1) {
        out += &format!("\n{all}\n");
    }
    out
}

/// The time saved on all machines, as far as it is measured.
pub fn together(stats: &Stats) -> Option<String> {
    let (total, builds) = stats.saved?;
    let verb = if total < 0.0 { "lost" } else { "saved" };
    let unmeasured = |on: &&MachineStats| on.saved == Saved::NoYardstick;
    let others: usize = stats.machines.iter().filter(unmeasured).map(|on| on.fast.len()).sum();
    let rest =
        if others > 0 { format!("; {others} more have no build from scratch to compare with") } else { String::new() };
    Some(format!("time {verb} by {builds} fast builds, each on its own machine: {}{rest}", seconds(total.abs())))
}

pub fn seconds(seconds: f64) -> String {
    let magnitude = Duration::try_from_secs_f64(seconds.abs()).unwrap_or(Duration::MAX);
    let hours = magnitude.as_secs() / 3600;
    let text = match hours {
        0 => quantity::seconds(magnitude),
        _ => format!("{hours} h {:02} min", magnitude.as_secs() % 3600 / 60),
    };
    if seconds < 0.0 { format!("-{text}") } else { text }
}

pub fn saved(saved: &Saved) -> String {
    match saved {
        Saved::NoFastBuild => "time saved: none, no fast build in this period".to_owned(),
        Saved::NoYardstick => {
            "time saved: not known, no build from scratch was measured on such a machine\nmeasure one: `cargo xtask build-enhanced`"
                .to_owned()
        }
        Saved::Measured { seconds: total, enhanced, measured, cached, spent, builds, .. } => {
            let scratch = format!("{builds} fast builds x {} from scratch", seconds(*enhanced));
            let took = format!("{} for the fast builds", seconds(*spent));
            let sum = match *total < 0.0 {
                true => format!("time lost: {} = {took} - {scratch}", seconds(-total)),
                false => format!("time saved: {} = {scratch} - {took}", seconds(*total)),
            };
            let day = measured.to_string();
            let warm = match cached {
                Some([all, cached]) if *cached > 0 => format!(", {cached} of {all} steps from the cache"),
                _ => String::new(),
            };
            format!(
                "{sum}\neach counts with its own time; `build-enhanced` was last measured on {}{warm}",
                &day[..10.min(day.len())],
            )
        }
    }
}

fn table(on: &MachineStats) -> String {
    let mut lines = vec![["BUILD", "COUNT", "FAILED", "MEDIAN", "SLOWEST", "PUSHED"].map(str::to_owned)];
    let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), seconds);
    for (kind, summary) in &on.kinds {
        let pushed = if summary.pushed > 0 { quantity::bytes(summary.pushed) } else { "-".to_owned() };
        lines.push([
            kind.to_string(),
            summary.builds.to_string(),
            summary.failed.to_string(),
            time(summary.median),
            time(summary.slowest),
            pushed,
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let print = |line: &[String; 6]| {
        let cells = line[1..].iter().zip(&widths[1..]).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:<width$}{}\n", line[0], cells.collect::<String>(), width = widths[0])
    };
    lines.iter().map(print).collect()
}

fn days(days: &[Day], signs: Charset) -> String {
    let shown = &days[days.len().saturating_sub(DAYS)..];
    let count = |day: &Day| day.kinds.values().sum::<usize>();
    let most = shown.iter().map(count).max().unwrap_or(0).max(1);
    let line = |day: &Day| {
        let of = |kind: &BuildKind| Some(format!("{} {kind}", day.kinds.get(kind)?));
        let kinds: Vec<String> = BuildKind::ALL.iter().filter_map(of).collect();
        let bar = bar(count(day) as f64 / most as f64, WIDTH.min(most * 4), signs);
        let line = format!("{}  {bar} {}", day.date, kinds.join(", "));
        format!("{}\n", line.trim_end())
    };
    shown.iter().map(line).collect()
}

/// A share between 0 and 1 as a bar of at most `width` characters. What is not nothing is never shown as nothing.
fn bar(share: f64, width: usize, signs: Charset) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    match signs {
        Charset::Plain => "#".repeat(eighths.div_ceil(8)),
        Charset::Unicode => {
            let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
            "█".repeat(eighths / 8) + rest
        }
    }
}

/// The last times as a row of columns, or as numbers.
fn spark(times: &[f64], signs: Charset) -> String {
    let shown = &times[times.len().saturating_sub(60)..];
    let slowest = shown.iter().copied().fold(0.0, f64::max);
    let range = format!("{} to {}", seconds(shown.iter().copied().fold(f64::MAX, f64::min)), seconds(slowest));
    match signs {
        Charset::Plain => range,
        Charset::Unicode => {
            let levels = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
            let level = |time: &f64| if slowest > 0.0 { (time / slowest * 7.0).round() as usize } else { 0 };
            let row: String = shown.iter().map(|time| levels[level(time).min(7)]).collect();
            format!("{row} ({range})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stats::tests::{team, two_machines};
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn a_team_in_a_terminal() {
        expect![[r#"
            builds a day (UTC)
            1970-01-01  ████████████ 2 fast, 1 base+fast
            1970-01-02  ████ 1 fast
            1970-01-03  ████████ 1 reused, 1 fast

            local, linux/amd64, 2 cores
            BUILD      COUNT  FAILED  MEDIAN  SLOWEST  PUSHED
            reused         1       0  0.20 s   0.20 s       -
            fast           4       1  3.00 s   4.00 s       -
            base+fast      1       0  40.0 s   40.0 s       -
            fast builds, oldest first: ▅█▆ (2.00 s to 4.00 s)
            a fast build's phases: app build 1.50 s
            time saved: 4 min 21 s = 3 fast builds x 90.0 s from scratch - 9.00 s for the fast builds
            each counts with its own time; `build-enhanced` was last measured on 1970-01-01, 2 of 4 steps from the cache
        "#]]
        .assert_eq(&print(&team(), Charset::Unicode));
        expect![[r#"
            builds a day (UTC)
            1970-01-01  ############ 2 fast, 1 base+fast
            1970-01-02  #### 1 fast
            1970-01-03  ######## 1 reused, 1 fast

            local, linux/amd64, 2 cores
            BUILD      COUNT  FAILED  MEDIAN  SLOWEST  PUSHED
            reused         1       0  0.20 s   0.20 s       -
            fast           4       1  3.00 s   4.00 s       -
            base+fast      1       0  40.0 s   40.0 s       -
            fast builds, oldest first: 2.00 s to 4.00 s
            a fast build's phases: app build 1.50 s
            time saved: 4 min 21 s = 3 fast builds x 90.0 s from scratch - 9.00 s for the fast builds
            each counts with its own time; `build-enhanced` was last measured on 1970-01-01, 2 of 4 steps from the cache
        "#]]
        .assert_eq(&print(&team(), Charset::Plain));
    }

    #[test]
    fn each_machine_has_times_of_its_own() {
        expect![[r#"
            builds a day (UTC)
            1970-01-01  ######################## 5 fast, 1 enhanced

            local, linux/amd64, 2 cores
            BUILD     COUNT  FAILED  MEDIAN  SLOWEST  PUSHED
            fast          2       0  3.00 s   4.00 s       -
            enhanced      1       0  90.0 s   90.0 s       -
            fast builds, oldest first: 2.00 s to 4.00 s
            a fast build's phases: app build 1.50 s
            time saved: 2 min 54 s = 2 fast builds x 90.0 s from scratch - 6.00 s for the fast builds
            each counts with its own time; `build-enhanced` was last measured on 1970-01-01, 2 of 4 steps from the cache

            CI, linux/amd64, 4 cores
            BUILD  COUNT  FAILED  MEDIAN  SLOWEST  PUSHED
            fast       3       0  40.0 s   50.0 s       -
            fast builds, oldest first: 30.0 s to 50.0 s
            a fast build's phases: app build 20.0 s
            time saved: not known, no build from scratch was measured on such a machine
            measure one: `cargo xtask build-enhanced`

            time saved by 2 fast builds, each on its own machine: 2 min 54 s; 3 more have no build from scratch to compare with
        "#]].assert_eq(&print(&two_machines(), Charset::Plain));
    }

    #[test]
    fn without_a_measure_it_says_how_to_take_one() {
        let mut stats = team();
        stats.machines[0].saved = Saved::NoYardstick;
        assert!(print(&stats, Charset::Plain).ends_with("measure one: `cargo xtask build-enhanced`\n"));
    }

    #[test]
    fn hours_and_losses_read_well() {
        assert_eq!([7_260.0, -12.0, 0.25].map(seconds), ["2 h 01 min", "-12.0 s", "0.25 s"]);
    }

    proptest! {
        #[test]
        fn a_bar_grows_with_its_share_and_keeps_its_width(one in 0.0..1.0_f64, other in 0.0..1.0_f64, width in 1_usize..60) {
            for signs in [Charset::Unicode, Charset::Plain] {
                let length = |share| bar(share, width, signs).chars().count();
                prop_assert!(length(one.min(other)) <= length(one.max(other)));
                prop_assert!(length(1.0) == width && length(0.0) == 0);
            }
        }
    }
}
