//! `autoscaler simulate`: an autoscaler alone beside one with a floor, over a trace, without a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

mod record;

use super::args::{PlaceArgs, duration};
use super::{Output, asked, write_out};
use crate::failure::Failure;
use crate::floor::decide::{Mode, Outlook, Policy};
use crate::floor::simulate::{self, Workload};
use crate::floor::units::{Capacity, Demand, Replicas, Seconds, Unit};
use crate::forecast::history::History;
use crate::forecast::load::{self, Load};
use crate::forecast::naive;
use crate::forecast::protocol::{Answer, Question, Rolled, Rolling};
use crate::forecast::source;
use crate::forecast::span::Span;
use crate::forecast::worker::{Worker, WorkerError};
use crate::forecast::{Quantile, in_samples, season_in_samples};
use crate::show::page;
use crate::show::page::simulation::{SimulationPage, TEMPLATE};
use crate::show::print::simulation::Simulation;
use record::Record;

// The most that the worker reads.
const MOST_SAMPLES: usize = 50_000;
const MOST_VALUES: usize = 250_000;

// How far the last forecast looks, in seconds.
const LOOK: u32 = 6 * 3_600;

pub(super) const HELP: &str = "\
Both sides see the same demand, second by second. The autoscaler follows its documented algorithm with the defaults of \
its API, and sees its metric without delay; the floor is what the operator's own decision function asks for, from \
forecasts of the samples before. A pod costs from when it is asked for, and serves from when it is ready. A second is \
under-provisioned when the demand is more than the ready pods can serve.

Without a worker the forecasts are those of a seasonal naive in Rust, and the output says so.

Examples:
  autoscaler simulate --generate daily
  autoscaler simulate --generate spiky --seed 3 --format json
  autoscaler simulate --trace load.csv --per-pod-capacity 70/s --start-delay 5m --html simulation.html
  autoscaler simulate --generate weekly --state demo.db && autoscaler serve --state demo.db";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Forecaster {
    /// The worker; where it cannot start, the seasonal naive in Rust
    Auto,
    /// The worker, or nothing
    Worker,
    /// The seasonal naive in Rust
    Naive,
}

/// Simulate an autoscaler alone beside one with a floor.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The demand, as a history file
    #[arg(long, value_name = "FILE.csv", required_unless_present = "generate", conflicts_with_all = ["generate", "seed", "days"])]
    trace: Option<PathBuf>,

    /// A made-up demand
    #[arg(long, value_name = "LOAD")]
    generate: Option<Load>,

    /// What it is made up from
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    seed: u64,

    /// How many days of it there are, with those before the simulation
    #[arg(long, value_name = "DAYS", default_value = "28", value_parser = clap::value_parser!(u32).range(2..=400))]
    days: u32,

    /// How much of the end is simulated; what is before only teaches
    #[arg(long, value_name = "TIME", default_value = "7d")]
    run: Span,

    /// The distance of two samples [default: the most frequent one in the trace; 5m when it is made up]
    #[arg(long, value_name = "TIME")]
    step: Option<Span>,

    /// After which time demand repeats
    #[arg(long, value_name = "TIME", default_value = "1d")]
    season: Span,

    /// The share of samples that should stay below the line that the floor is made of
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    quantile: Quantile,

    /// How long before the demand its pods are wanted
    #[arg(long, value_name = "TIME", default_value = "15m")]
    lead_time: Span,

    /// The demand per pod that both the autoscaler and the floor aim at, as in `70/s`, `500m` or `40` [default: a
    /// fifteenth of the highest sample]
    #[arg(long, value_name = "AMOUNT")]
    per_pod_capacity: Option<Capacity>,

    /// The demand at which a pod is full [default: the capacity divided by 0.7]
    #[arg(long, value_name = "AMOUNT")]
    pod_limit: Option<Capacity>,

    /// What the trace counts, as in `/s`, `cores` or `%` [default: what the capacity does]
    #[arg(long, value_name = "UNIT")]
    unit: Option<Unit>,

    /// How long a pod takes to be ready
    #[arg(long, value_name = "TIME", default_value = "3m")]
    start_delay: Seconds,

    /// The autoscaler's minimum
    #[arg(long, value_name = "PODS", default_value = "2")]
    min: Replicas,

    /// The autoscaler's maximum
    #[arg(long, value_name = "PODS", default_value = "100")]
    max: Replicas,

    /// The floor's limit [default: the maximum]
    #[arg(long, value_name = "PODS")]
    max_floor: Option<Replicas>,

    /// The most pods by which the floor rises in a step
    #[arg(long, value_name = "PODS", default_value = "10")]
    max_step_up: Replicas,

    /// How long less has to be enough before the floor comes down
    #[arg(long, value_name = "TIME", default_value = "10m")]
    scale_down_delay: Seconds,

    /// How long the floor is held without a forecast
    #[arg(long, value_name = "TIME", default_value = "30m")]
    stale_after: Seconds,

    /// Who forecasts
    #[arg(long, value_name = "WHO", default_value = "auto")]
    forecaster: Forecaster,

    /// How long all forecasts together may take
    #[arg(long, value_name = "TIME", default_value = "10m")]
    deadline: Span,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Output,

    /// Also write it as a page with charts
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    /// Also keep it in a state file, as a workload beside those that are in it: `serve --state FILE` shows them all
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// The name of that workload [default: that of the load or the file]
    #[arg(long, value_name = "NAME", requires = "state")]
    name: Option<String>,

    #[command(flatten)]
    places: PlaceArgs,
}

pub(super) async fn run(args: SimulateArgs) -> Result<(), Failure> {
    let (trace, name) = args.trace()?;
    let (workload, policy) = args.wanted(&trace)?;
    let steps = in_samples("run", args.run, trace.step)? as usize;
    // The newest sample ends the run: what comes after it is not known.
    let Some(first) = trace.samples.len().checked_sub(steps + 1).filter(|first| *first > 0) else {
        let whole = trace.samples.len();
        return Err(Failure::input(format!(
            "the run of {} is {steps} steps, and the trace has {whole} samples",
            args.run
        ))
        .hint("choose a shorter `--run`, or give a longer trace: what is before the run teaches"));
    };
    let horizon = Outlook::horizon(args.lead_time, trace.step);
    if steps * horizon as usize > MOST_VALUES {
        let what = format!("{steps} forecasts of {horizon} steps are more than {MOST_VALUES} values");
        return Err(Failure::input(what).hint("choose a shorter `--run`, or a trace with a coarser step"));
    }
    // The last sample only ends the run: nothing is decided there.
    let known = trace.samples[..first + steps].iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    if known <= first {
        return Err(Failure::input(format!("the run of {} has no sample", args.run)).hint("choose another `--run`"));
    }
    let question = Question {
        samples: trace.samples[..known].to_vec(),
        step_seconds: trace.step.seconds(),
        season: season_in_samples(args.season, trace.step)?,
        horizon,
        quantile: args.quantile.share(),
        model: "auto".to_owned(),
    };
    let rolling = Rolling { question, first: first as u32 + 1, every: 1 };
    let record = args.state.as_deref().map(|file| Record::open(file, &args)).transpose()?;
    let (rolled, forecaster, last) = args.forecasts(&rolling, record.is_some()).await?;
    for note in &rolled.notes {
        eprintln!("note: {note}");
    }
    let asked = known - first;
    if rolled.origins.len() < asked {
        let without = asked - rolled.origins.len();
        eprintln!("note: there is no forecast from {without} of {asked} origins: more history is needed before them");
    }
    let open = rolled.skilled.iter().filter(|skilled| **skilled).count() as f64;
    let gate_open = open / rolled.skilled.len().max(1) as f64;
    let outcome =
        simulate::run_with_observer(&trace, first, &workload, &policy, &simulate::forecasts(rolled), |told| {
            if let Some(record) = &record {
                record.decided(told);
            }
        });
    if let Some(record) = record {
        record.end(&args, &trace, known, &workload, &policy, last)?;
    }
    let simulation = Simulation {
        trace: name,
        from: trace.time(first),
        to: trace.end(),
        workload,
        policy,
        quantile: args.quantile,
        forecaster,
        gate_open,
        outcome,
    };
    if let Some(file) = &args.html {
        let html = page::render(&args.places.home().templates(), TEMPLATE, &SimulationPage::new(&simulation));
        let cannot = || Failure::input(format!("cannot write the page `{}`", file.display()));
        let html = html.map_err(|broken| {
            cannot()
                .cause(format!("{}: {}", broken.place, broken.cause))
                .hint("name the folder above templates/ with `--home`")
        })?;
        std::fs::write(file, html).map_err(|cause| cannot().cause(cause).hint("check the path given to `--html`"))?;
    }
    let text = match args.format {
        Output::Text => simulation.text(),
        Output::Json => super::json(&simulation)?,
    };
    write_out(&text)
}

impl SimulateArgs {
    /// The demand and its name.
    fn trace(&self) -> Result<(History, String), Failure> {
        match (&self.trace, self.generate) {
            (Some(file), _) => {
                Ok((source::read(file, self.step)?.newest(MOST_SAMPLES), format!("`{}`", file.display())))
            }
            (None, Some(kind)) => {
                let step = self.step.or(Span::from_seconds(300)).unwrap_or(self.season);
                let trace = load::generate(kind, self.seed, self.days, step);
                if trace.samples.is_empty() {
                    return Err(Failure::input(format!("no step of {step} fits into {} days", self.days))
                        .hint("choose a shorter `--step`"));
                }
                let value = kind.to_possible_value();
                let kind = value.as_ref().map_or("made-up", |value| value.get_name());
                Ok((trace.newest(MOST_SAMPLES), format!("a {kind} load made up from seed {}", self.seed)))
            }
            (None, None) => Err(Failure::input("there is no trace").hint("give `--trace` or `--generate`")),
        }
    }

    fn wanted(&self, trace: &History) -> Result<(Workload, Policy), Failure> {
        let capacity = match self.per_pod_capacity {
            Some(capacity) => capacity,
            None => {
                let highest = trace.samples.iter().flatten().copied().fold(0.0, f64::max);
                let unit = self.unit.unwrap_or(if self.generate.is_some() { Unit::PerSecond } else { Unit::Count });
                Demand::new(highest / 15.0, unit).and_then(Capacity::new).ok_or_else(|| {
                    Failure::input("no capacity can be made of this trace").hint("give it with `--per-pod-capacity`")
                })?
            }
        };
        let full = self.pod_limit.unwrap_or_else(|| capacity.scaled(1.0 / 0.7));
        let counted = self.unit.unwrap_or(capacity.unit());
        for other in [full.unit(), counted] {
            if other != capacity.unit() {
                return Err(Failure::input(format!(
                    "the capacity of {capacity} is in {}, and not in {other}",
                    capacity.unit()
                ))
                .hint("what a pod serves, what it is full at and what the trace counts are in one unit"));
            }
        }
        if self.max < self.min || self.max == Replicas(0) {
            return Err(Failure::input(format!("a maximum of {} pods is below the minimum of {}", self.max, self.min))
                .hint("choose other `--min` and `--max`"));
        }
        let workload = Workload { limit: full, start_delay: self.start_delay, min: self.min, max: self.max };
        let policy = Policy {
            mode: Mode::Enforce,
            capacity,
            step: trace.step,
            lead_time: self.lead_time,
            max_floor: self.max_floor.unwrap_or(self.max),
            max_step_up: self.max_step_up,
            scale_down_delay: self.scale_down_delay,
            stale_after: self.stale_after,
        };
        Ok((workload, policy))
    }

    /// The forecasts, and who made them; also one from the last sample, where that is wanted.
    async fn forecasts(&self, rolling: &Rolling, last: bool) -> Result<(Rolled, String, Option<Answer>), Failure> {
        let step = rolling.question.step_seconds;
        // Far enough to be seen in a chart of two days.
        let horizon = rolling.question.horizon.max(LOOK / step);
        let question = last.then(|| Question { horizon, ..rolling.question.clone() });
        let fallback = |why: Option<String>| {
            let rolled = naive::roll(rolling).map_err(|refusal| Failure::from(WorkerError::Refused(refusal)))?;
            let because = why.map_or_else(String::new, |why| format!(", because {why}"));
            let last = question.as_ref().and_then(|question| naive::answer(question).ok());
            Ok((rolled, format!("by the seasonal naive in Rust{because}"), last))
        };
        if self.forecaster == Forecaster::Naive {
            return fallback(None);
        }
        let within = duration(self.deadline);
        let launch = self.places.launch(&self.places.home());
        let work = async |worker: &mut Worker| {
            let rolled = worker.roll(rolling, within).await?;
            let last = match &question {
                Some(question) => Some(worker.ask(question, within).await?),
                None => None,
            };
            Ok((rolled, last))
        };
        match asked(&launch, work).await? {
            Ok((rolled, last)) => {
                let by = format!("by the worker: {}", members(&rolled));
                Ok((rolled, by, last))
            }
            // A worker that works and refuses says more about the trace than a plainer model would.
            Err(error) if error.is_fatal() && self.forecaster == Forecaster::Auto => {
                let why = error.to_string();
                eprintln!("note: forecasting by the seasonal naive in Rust: {why}");
                fallback(Some(why))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The models that were used, and at which share of the origins.
fn members(rolled: &Rolled) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for member in rolled.members.iter().flatten() {
        match counts.iter_mut().find(|(name, _)| name == member) {
            Some((_, count)) => *count += 1,
            None => counts.push((member, 1)),
        }
    }
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let share = |count: usize| 100.0 * count as f64 / rolled.members.len().max(1) as f64;
    counts.iter().map(|(name, count)| format!("{name} in {:.0}%", share(*count))).collect::<Vec<_>>().join(", ")
}
