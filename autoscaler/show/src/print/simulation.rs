//! A simulation as text: what was simulated, what it cost, and its worst day as a chart of characters.

use crate::print::table;
use autoscaler_floor::choose::{Choice, Goal, RulePoint};
use autoscaler_floor::compare::RuleCost;
use autoscaler_floor::decide::Policy;
use autoscaler_floor::simulate::{Cost, Outcome, Step, Workload};
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use serde::Serialize;
use std::fmt::Write;

/// A simulation with all that it was made of.
#[derive(Clone, Debug, Serialize)]
pub struct Simulation {
    /// Description of the trace.
    pub trace: String,
    /// Start of the simulation.
    pub from: Timestamp,
    /// End of the simulation.
    pub to: Timestamp,
    pub workload: Workload,
    /// Policy of the floor.
    pub policy: Policy,
    /// Target that decides the height of the floor.
    pub goal: Goal,
    /// Description of the forecaster.
    pub forecaster: String,
    /// Share of the forecasts at which the gate was open.
    pub gate_open: f64,
    /// Choices of the floor, one per day.
    pub choices: Vec<Choice>,
    /// The plain rules over the same trace.
    pub rules: Vec<RuleCost>,
    pub outcome: Outcome,
}

const COLUMNS: usize = 96;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Simulation {
    /// Returns the summary, one labelled line each.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let (workload, policy, tally) = (&self.workload, &self.policy, &self.outcome.tally);
        let upper = match self.goal {
            Goal::Budget(budget) => format!("at most {budget} more pod-seconds"),
            Goal::Quantile(quantile) => quantile.names().1,
        };
        let mut decisions = format!("{} raised, {} lowered", tally.raised, tally.lowered);
        for (count, what) in [
            (tally.rate_limited, "rate-limited"),
            (tally.capped, "capped"),
            (tally.not_skilled, "without skill"),
            (tally.held, "held without a forecast"),
            (tally.stepped_back, "stepped back without a forecast"),
        ] {
            if count > 0 {
                let _ = write!(decisions, ", {count} {what}");
            }
        }
        vec![
            (
                "workload",
                format!(
                    "sized for {} per pod, full at {}; {} to {} pods, ready after {}",
                    policy.capacity, workload.limit, workload.min, workload.max, workload.start_delay
                ),
            ),
            (
                "floor",
                format!(
                    "{upper}, for the next {}; up by at most {} pods in {}, down after {} of less, at most {}",
                    policy.lead_time, policy.max_step_up, policy.step, policy.scale_down_delay, policy.max_floor
                ),
            ),
            ("forecasts", format!("{}; gate open at {:.0}% of them", self.forecaster, self.gate_open * 100.0)),
            ("made of", self.made_of()),
            ("decisions", format!("{}: {decisions}", tally.decisions)),
        ]
    }

    /// Returns the candidates of the floor, with the number of days of each.
    fn made_of(&self) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for choice in &self.choices {
            let name = match choice.open {
                true => format!("{} x {}", choice.candidate, choice.factor),
                false => "nothing".to_owned(),
            };
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let days = |count: usize| if count == 1 { "1 day".to_owned() } else { format!("{count} days") };
        counts.iter().map(|(name, count)| format!("{name} on {}", days(*count))).collect::<Vec<_>>().join(", ")
    }

    /// The rules over this trace, a row each: name, seconds and pod-seconds short, extra pod-seconds.
    pub fn rule_rows(&self) -> Vec<[String; 4]> {
        rule_rows(self.outcome.alone, self.outcome.with_floor, &self.rules)
    }

    /// The rules over this trace as shares of the autoscaler alone.
    pub fn points(&self) -> Vec<RulePoint> {
        let alone = self.outcome.alone;
        let share = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
        let point = |name: &str, cost: &Cost| RulePoint {
            name: name.to_owned(),
            short: share(cost.short_pod_seconds, alone.short_pod_seconds),
            cost: share(cost.pod_seconds as f64, alone.pod_seconds as f64) - 1.0,
        };
        let mut points = vec![point("HPA alone", &alone), point("chosen", &self.outcome.with_floor)];
        points.extend(self.rules.iter().map(|rule| point(&rule.name, &rule.cost)));
        points
    }

    /// Returns the costs, a row each: label, alone, with the floor.
    pub fn costs(&self) -> Vec<[String; 3]> {
        let (alone, with_floor) = (&self.outcome.alone, &self.outcome.with_floor);
        let both = |what: &str, of: &dyn Fn(&autoscaler_floor::simulate::Cost) -> String| {
            [what.to_owned(), of(alone), of(with_floor)]
        };
        vec![
            both("under-provisioned seconds", &|cost| grouped(cost.under_provisioned_seconds)),
            both("demand not served", &|cost| format!("{:.3}%", cost.unserved * 100.0)),
            both("pod-seconds", &|cost| grouped(cost.pod_seconds)),
            both("most pods", &|cost| cost.most_pods.to_string()),
            both("changes of scale", &|cost| grouped(cost.scalings)),
        ]
    }

    /// Returns the result in one sentence.
    pub fn sentence(&self) -> String {
        let (alone, with_floor) = (&self.outcome.alone, &self.outcome.with_floor);
        let seconds = (alone.under_provisioned_seconds, with_floor.under_provisioned_seconds);
        let more = with_floor.pod_seconds as f64 / alone.pod_seconds.max(1) as f64 - 1.0;
        let cost = if more.abs() < 5e-5 {
            "for the same pods".to_owned()
        } else {
            format!("for {:.1}% {} pod-seconds", more.abs() * 100.0, if more > 0.0 { "more" } else { "fewer" })
        };
        match seconds {
            (0, 0) => format!("neither was ever short of pods: the floor changed nothing {cost}"),
            (alone, with_floor) if alone == with_floor => {
                format!("the floor did not change the {} s short of pods, {cost}", grouped(alone))
            }
            (alone, with_floor) => {
                format!("{} s short of pods instead of {} s, {cost}", grouped(with_floor), grouped(alone))
            }
        }
    }

    /// Returns the text for people.
    pub fn text(&self) -> String {
        let mut out = format!("simulation of {}, {} to {}\n", self.trace, self.from, self.to);
        for (label, line) in self.summary() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", format!("{label:<11}{line}").trim_end());
        }
        if self.outcome.unknown_seconds > 0 {
            let unknown = grouped(self.outcome.unknown_seconds);
            let _ = writeln!(out, "{:<11}demand is unknown in {unknown} s, which do not count as short", "missing");
        }
        let head = ["", "HPA alone", "with floor"].map(str::to_owned);
        let _ = write!(out, "\n{}\n{}\n", table(&head, &self.costs()), self.sentence());
        let _ = write!(out, "\n{}", rule_table(&self.rule_rows()));
        out.push_str(&self.chart());
        out
    }

    /// The worst day: a row of bars for the demand and for the ready pods of each, and a mark where pods were missing.
    fn chart(&self) -> String {
        let day = self.worst_day();
        let Some(first) = day.first() else { return String::new() };
        let each = day.len().div_ceil(COLUMNS);
        let columns: Vec<&[Step]> = day.chunks(each).collect();
        let most =
            day.iter().map(|step| step.needed.unwrap_or(0.0).max(step.alone.0.into()).max(step.with_floor.0.into()));
        let most = most.fold(1.0, f64::max);
        let bar = |value: f64| BARS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1];
        let needed = |steps: &[Step]| {
            let known = steps.iter().filter_map(|step| step.needed);
            known.fold(None, |most: Option<f64>, value| Some(most.map_or(value, |most| most.max(value))))
        };
        let fewest = |steps: &[Step], of: fn(&Step) -> u32| bar(steps.iter().map(of).min().unwrap_or(0).into());
        let short =
            |steps: &[Step], of: fn(&Step) -> u64| if steps.iter().any(|step| of(step) > 0) { '×' } else { ' ' };

        let column =
            Span::from_seconds(self.policy.step.seconds().saturating_mul(each as u32)).unwrap_or(self.policy.step);
        let name = first.time.strftime("%A, %Y-%m-%d");
        let mut out = format!("\n{name}, the worst day: a column is {column}, a full bar {most:.0} pods\n");
        let mut row = |label: &str, line: String| {
            if !line.trim().is_empty() {
                let _ = writeln!(out, "{label:<11}{}", line.trim_end());
            }
        };
        row("needed", columns.iter().map(|steps| needed(steps).map_or(' ', bar)).collect());
        row("HPA alone", columns.iter().map(|steps| fewest(steps, |step| step.alone.0)).collect());
        row("  short", columns.iter().map(|steps| short(steps, |step| step.short.0)).collect());
        row("with floor", columns.iter().map(|steps| fewest(steps, |step| step.with_floor.0)).collect());
        row("  short", columns.iter().map(|steps| short(steps, |step| step.short.1)).collect());
        row("floor", columns.iter().map(|steps| fewest(steps, |step| step.floor.0)).collect());
        out
    }

    /// The steps of the day on which the autoscaler alone was short of pods for longest; else of that with the highest
    /// demand.
    pub fn worst_day(&self) -> &[Step] {
        let days = self.days();
        let peak = |steps: &[Step]| steps.iter().filter_map(|step| step.needed).fold(0.0, f64::max);
        let short = |steps: &[Step]| steps.iter().map(|step| step.short.0).sum::<u64>();
        let worst = days.into_iter().max_by(|a, b| short(a).cmp(&short(b)).then(peak(a).total_cmp(&peak(b))));
        worst.unwrap_or(&[])
    }

    /// The steps of each day, in UTC.
    pub fn days(&self) -> Vec<&[Step]> {
        self.outcome.steps.chunk_by(|a, b| day_of(a.time) == day_of(b.time)).collect()
    }
}

/// The autoscaler alone, the floor and the plain rules, a row each.
pub fn rule_rows(alone: Cost, with_floor: Cost, rules: &[RuleCost]) -> Vec<[String; 4]> {
    let row = |name: &str, cost: &Cost| {
        let more = cost.pod_seconds as f64 / alone.pod_seconds.max(1) as f64 - 1.0;
        [
            name.to_owned(),
            grouped(cost.under_provisioned_seconds),
            grouped(cost.short_pod_seconds.round() as u64),
            format!("{:+.1}%", more * 100.0),
        ]
    };
    let mut rows = vec![row("HPA alone", &alone), row("with floor", &with_floor)];
    rows.extend(rules.iter().map(|rule| row(&rule.name, &rule.cost)));
    rows
}

/// Returns the text of a table of rules.
pub fn rule_table(rows: &[[String; 4]]) -> String {
    table(&["rule", "seconds short", "pod-seconds short", "pod-seconds"].map(str::to_owned), rows)
}

fn day_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(86_400)
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use autoscaler_floor::decide::Mode;
    use autoscaler_floor::simulate::Tally;
    use autoscaler_floor::units::{Replicas, Seconds};

    /// Two days of six hours' steps; on the second the autoscaler alone is short once.
    pub(crate) fn simulation() -> Simulation {
        let start = Timestamp::from_second(1_767_571_200).unwrap();
        let steps = (0..8_u32).map(|index| Step {
            time: start + jiff::SignedDuration::from_secs(i64::from(index) * 21_600),
            needed: (index != 1).then(|| f64::from(1 + index % 4)),
            alone: Replicas(if index == 6 { 1 } else { 4 }),
            with_floor: Replicas(4),
            floor: Replicas(2),
            short: (if index == 6 { 90 } else { 0 }, 0),
            pods: (21_600 * 4, 21_600 * 4),
        });
        Simulation {
            trace: "`load.csv`".to_owned(),
            from: start,
            to: start + jiff::SignedDuration::from_secs(172_800),
            workload: Workload {
                limit: "100/s".parse().unwrap(),
                start_delay: Seconds(180),
                min: Replicas(2),
                max: Replicas(50),
            },
            policy: Policy {
                mode: Mode::Enforce,
                capacity: "70/s".parse().unwrap(),
                step: "6h".parse().unwrap(),
                lead_time: "6h".parse().unwrap(),
                max_floor: Replicas(50),
                max_step_up: Replicas(10),
                scale_down_delay: Seconds(600),
                stale_after: Seconds(1_800),
            },
            goal: Goal::default(),
            choices: Vec::new(),
            rules: Vec::new(),
            forecaster: "by hand".to_owned(),
            gate_open: 1.0,
            outcome: Outcome {
                alone: Cost {
                    under_provisioned_seconds: 90,
                    short_pod_seconds: 90.0,
                    unserved: 0.0012,
                    pod_seconds: 1_000_000,
                    most_pods: Replicas(4),
                    scalings: 7,
                },
                with_floor: Cost {
                    under_provisioned_seconds: 0,
                    short_pod_seconds: 0.0,
                    unserved: 0.0,
                    pod_seconds: 1_020_000,
                    most_pods: Replicas(5),
                    scalings: 5,
                },
                tally: Tally { decisions: 8, raised: 2, lowered: 1, held: 1, ..Tally::default() },
                seconds: 172_800,
                unknown_seconds: 21_600,
                steps: steps.collect(),
            },
        }
    }

    #[test]
    fn text_says_what_was_simulated_and_what_it_cost() {
        let expected = "\
simulation of `load.csv`, 2026-01-05T00:00:00Z to 2026-01-07T00:00:00Z
workload   sized for 70.0/s per pod, full at 100.0/s; 2 to 50 pods, ready after 3m
floor      at most 10% more pod-seconds, for the next 6h; up by at most 10 pods in 6h, down after 10m of less, at most 50
forecasts  by hand; gate open at 100% of them
made of
decisions  8: 2 raised, 1 lowered, 1 held without a forecast
missing    demand is unknown in 21,600 s, which do not count as short

                           HPA alone  with floor
under-provisioned seconds         90           0
demand not served             0.120%      0.000%
pod-seconds                1,000,000   1,020,000
most pods                          4           5
changes of scale                   7           5

0 s short of pods instead of 90 s, for 2.0% more pod-seconds

rule        seconds short  pod-seconds short  pod-seconds
HPA alone              90                 90        +0.0%
with floor              0                  0        +2.0%

Tuesday, 2026-01-06, the worst day: a column is 6h, a full bar 4 pods
needed     ▂▄▆█
HPA alone  ██▂█
  short      ×
with floor ████
floor      ▄▄▄▄
";
        assert_eq!(simulation().text(), expected);
    }

    #[track_caller]
    fn says(alone: (u64, u64), with_floor: (u64, u64), expected: &str) {
        let mut simulation = simulation();
        for (cost, (seconds, pods)) in
            [(&mut simulation.outcome.alone, alone), (&mut simulation.outcome.with_floor, with_floor)]
        {
            cost.under_provisioned_seconds = seconds;
            cost.pod_seconds = pods;
        }
        assert_eq!(simulation.sentence(), expected);
    }

    #[test]
    fn the_sentence_says_what_went_badly_too() {
        says((0, 100), (0, 100), "neither was ever short of pods: the floor changed nothing for the same pods");
        says((50, 1_000), (50, 1_100), "the floor did not change the 50 s short of pods, for 10.0% more pod-seconds");
        says((50, 1_000), (75, 900), "75 s short of pods instead of 50 s, for 10.0% fewer pod-seconds");
        says((0, 1_000), (5, 1_000), "5 s short of pods instead of 0 s, for the same pods");
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
