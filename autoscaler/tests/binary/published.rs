//! Simulations that the README shows: they are what the program prints now, and what is promised of the default holds for them.
//!
//! `UPDATE_EXPECT=1 cargo test -p autoscaler --test binary published` writes them. All are by plain rules, so that they need no
//! Python and are the same on every machine.

use crate::support::{autoscaler, crate_folder, run};
use serde_json::Value;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Loads, with the demand per pod where a fifteenth of the highest sample is not what the recorded ones had.
const LOADS: [(&str, Option<&str>); 10] = [
    ("daily", None),
    ("weekly", None),
    ("spiky", None),
    ("noise", None),
    ("plateau", None),
    ("growing", None),
    ("cron", None),
    ("requests", Some("4")),
    ("mentions", Some("3")),
    ("group-cpu", Some("2")),
];
/// The loads that are simulated with three seeds.
const SEEDED: usize = 4;
const EVENTS: [&str; 5] = ["clock-change", "holiday", "outage", "burst", "level"];
const RULES: [&str; 5] = ["day ago", "week ago", "headroom 1.1", "headroom 1.3", "equal cost"];

struct Simulated {
    load: &'static str,
    capacity: Option<&'static str>,
    seed: u32,
    event: Option<&'static str>,
    found: Value,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Cost {
    seconds: u64,
    pod_seconds: u64,
}

impl Simulated {
    fn new(load: &'static str, capacity: Option<&'static str>, seed: u32, event: Option<&'static str>) -> Simulated {
        Simulated { load, capacity, seed, event, found: Value::Null }
    }

    fn run(mut self) -> Simulated {
        let seed = self.seed.to_string();
        let mut command = autoscaler();
        command.args([
            "simulate",
            "--forecaster",
            "naive",
            "--format",
            "json",
            "--generate",
            self.load,
            "--seed",
            &seed,
        ]);
        command.args(self.capacity.iter().flat_map(|capacity| ["--per-pod-capacity", capacity]));
        command.args(self.event.iter().flat_map(|event| ["--event", event]));
        let ran = run(&mut command);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        self.found = serde_json::from_str(&ran.stdout).unwrap();
        self
    }

    fn name(&self) -> String {
        format!("`{}` {} {}", self.load, self.seed, self.event.unwrap_or_default())
    }

    fn side(&self, side: &str) -> Cost {
        Cost::read(&self.found["outcome"][side])
    }

    /// The rule whose name ends like this.
    fn rule(&self, name: &str) -> Cost {
        let rules = self.found["rules"].as_array().unwrap();
        let found = rules.iter().find(|rule| rule["name"].as_str().unwrap().ends_with(name));
        Cost::read(&found.unwrap_or_else(|| panic!("no rule {name}"))["cost"])
    }

    /// A cost as the tables show it, against the autoscaler alone.
    fn shown(&self, cost: Cost) -> String {
        let extra = 100.0 * (cost.pod_seconds as f64 / self.side("alone").pod_seconds as f64 - 1.0);
        format!("{} s, {:+.1}%", thousands(cost.seconds), if extra.abs() < 0.05 { 0.0 } else { extra })
    }

    fn alone(&self) -> String {
        format!("{} s", thousands(self.side("alone").seconds))
    }
}

impl Cost {
    fn read(value: &Value) -> Cost {
        let number = |name: &str| value[name].as_u64().unwrap();
        Cost { seconds: number("under_provisioned_seconds"), pod_seconds: number("pod_seconds") }
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Runs all, on two threads.
fn all(wanted: Vec<Simulated>) -> Vec<Simulated> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mine = std::iter::from_fn(|| wanted.get(next.fetch_add(1, Ordering::SeqCst)));
        let run = mine.map(|one| Simulated::new(one.load, one.capacity, one.seed, one.event).run());
        run.collect::<Vec<Simulated>>()
    };
    let done: Vec<Simulated> = std::thread::scope(|scope| {
        let threads = [scope.spawn(take), scope.spawn(take)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let place = |one: &Simulated| {
        wanted.iter().position(|other| (other.load, other.seed, other.event) == (one.load, one.seed, one.event))
    };
    let mut sorted = done;
    sorted.sort_by_key(place);
    sorted
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn loads_table(simulated: &[Simulated]) -> String {
    let rows = simulated.iter().map(|one| {
        let mut row = vec![format!("`{}`", one.load), one.seed.to_string(), one.alone()];
        row.push(format!("**{}**", one.shown(one.side("with_floor"))));
        row.extend(RULES.map(|rule| one.shown(one.rule(rule))));
        row
    });
    let names = ["day ago", "week ago", "headroom 1.1", "headroom 1.3", "equal-cost headroom"];
    let header: Vec<&str> = ["load", "seed", "HPA alone", "with floor"].into_iter().chain(names).collect();
    table(&header, rows)
}

fn events_table(simulated: &[Simulated]) -> String {
    let rows = simulated.iter().map(|one| {
        let event = format!("`{}`", one.event.unwrap_or_default());
        let costs = ["with_floor"].map(|side| one.side(side)).into_iter().chain([one.rule("day ago")]);
        let costs: Vec<String> = costs.map(|cost| one.shown(cost)).collect();
        [vec![event, format!("`{}`", one.load), one.alone()], costs].concat()
    });
    table(&["event", "load", "HPA alone", "with floor", "day ago"], rows)
}

/// Compares one part of the README, between `<!-- simulations: NAME -->` and `<!-- end -->`, and writes it where that is asked for.
fn check(name: &str, text: &str) {
    let path = crate_folder().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- simulations: {name} -->\n");
    let (before, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("no `{begin}` in the README"));
    let (shown, after) = rest.split_once("<!-- end -->").expect("an end");
    if shown.trim() == text.trim() {
        return;
    }
    let repair = "UPDATE_EXPECT=1 cargo test -p autoscaler --test binary published";
    assert!(std::env::var_os("UPDATE_EXPECT").is_some(), "`{name}` has changed; write it: {repair}\n{text}");
    std::fs::write(&path, format!("{before}{begin}\n{}\n\n<!-- end -->{after}", text.trim())).unwrap();
}

#[test]
fn the_simulations_of_the_readme_are_current_and_the_default_is_not_dominated() {
    let seeds = |at: usize| if at < SEEDED { 1..=3 } else { 1..=1 };
    let loads = LOADS
        .iter()
        .enumerate()
        .flat_map(|(at, (load, capacity))| seeds(at).map(|seed| Simulated::new(load, *capacity, seed, None)));
    let simulated = all(loads.collect());
    let mut wrong = Vec::new();
    let mut far_better = 0;
    for one in &simulated {
        let (alone, ours) = (one.side("alone"), one.side("with_floor"));
        for rule in RULES {
            let other = one.rule(rule);
            if ours.seconds > other.seconds && ours.pod_seconds > other.pod_seconds {
                wrong.push(format!("{}: {}, {rule} {}", one.name(), one.shown(ours), one.shown(other)));
            }
        }
        let prevented = |cost: Cost| alone.seconds as f64 - cost.seconds as f64;
        let better = prevented(ours) > 0.0 && prevented(ours) >= 1.5 * prevented(one.rule("equal cost"));
        far_better += usize::from(one.seed == 1 && better);
    }
    assert!(wrong.is_empty(), "dominated:\n{}", wrong.join("\n"));
    assert!(far_better * 2 >= LOADS.len(), "half again as much as equal-cost headroom on {far_better} loads");
    check("loads", &loads_table(&simulated));
}

#[test]
fn one_odd_day_costs_at_most_one_day_and_the_gate_reopens_within_two() {
    let events =
        EVENTS.iter().flat_map(|event| ["daily", "plateau"].map(|load| Simulated::new(load, None, 1, Some(event))));
    let simulated = all(events.collect());
    let mut wrong = Vec::new();
    for one in &simulated {
        let most = one.rule("day ago").seconds + one.side("alone").seconds / 7;
        let shut = one.found["choices"].as_array().unwrap().iter().filter(|choice| choice["open"] == false).count();
        let ours = one.side("with_floor");
        if ours.seconds > most || shut > 2 {
            wrong.push(format!("{}: {} s, at most {most} s; shut on {shut} days", one.name(), ours.seconds));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    check("events", &events_table(&simulated));
}

#[test]
fn the_simulation_that_the_readme_shows_is_current() {
    let ran = run(autoscaler().args(["simulate", "--forecaster", "naive", "--generate", "daily"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.trim_end().lines().map(str::trim_end).collect();
    let command = "$ autoscaler simulate --generate daily --forecaster naive";
    check("daily", &format!("```console\n{command}\n{}\n```", lines.join("\n")));
}
