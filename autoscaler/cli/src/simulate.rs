//! `autoscaler simulate`: an autoscaler alone and one with a floor, over a trace, without a cluster.

mod record;

use super::args::{PlaceArgs, duration};
use super::{Output, asked as asked_once, write_out};
use autoscaler_floor::choose::{self, Budget, Goal};
use autoscaler_floor::compare;
use autoscaler_floor::decide::{Mode, Outlook, Policy};
use autoscaler_floor::simulate::{Setup, Workload};
use autoscaler_floor::units::{Capacity, Demand, Replicas, Seconds, Unit};
use autoscaler_forecast::calendar::{self, Calendar, SpecialDays};
use autoscaler_forecast::failure::{Failure, Kind};
use autoscaler_forecast::history::History;
use autoscaler_forecast::load::{self, Event, Load};
use autoscaler_forecast::naive;
use autoscaler_forecast::protocol::{Answer, Question, Rolling};
use autoscaler_forecast::source;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::worker::{Worker, WorkerError};
use autoscaler_forecast::{Quantile, in_samples, season_in_samples};
use autoscaler_show::page;
use autoscaler_show::page::simulation::{SimulationPage, TEMPLATE};
use autoscaler_show::print::simulation::Simulation;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use record::Record;
use std::collections::BTreeMap;
use std::path::PathBuf;

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

Every day the rule or model is chosen that would have prevented most shortage within the budget on the days before, if it \
is better than headroom, a lower target of the autoscaler, at the same cost. Without a worker only plain rules are chosen \
from, and the output says so. The other rules see the same demand.

Examples:
  autoscaler simulate --generate daily
  autoscaler simulate --generate spiky --seed 3 --format json
  autoscaler simulate --trace load.csv --per-pod-capacity 70/s --start-delay 5m --html simulation.html
  autoscaler simulate --generate weekly --state demo.db && autoscaler serve --state demo.db";

/// Peaks of models by origin, who forecasts in words, and the forecast from the end.
type Models = (BTreeMap<String, Vec<f64>>, String, Option<Answer>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Forecaster {
    /// The worker; if it cannot start, the seasonal naive in Rust
    Auto,
    /// The worker; an error if it cannot start
    Worker,
    /// The seasonal naive in Rust
    Naive,
}

/// Simulate an autoscaler alone and one with a floor.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The demand, as a history file
    #[arg(long, value_name = "FILE.csv", required_unless_present = "generate", conflicts_with_all = ["generate", "seed", "days"])]
    trace: Option<PathBuf>,

    /// Kind of generated demand
    #[arg(long, value_name = "LOAD")]
    generate: Option<Load>,

    /// Seed of the generated demand
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    seed: u64,

    /// Unusual day in the generated demand
    #[arg(long, value_name = "EVENT", requires = "generate")]
    event: Option<Event>,

    /// The day of that event, from the first day on [default: the second of the last week]
    #[arg(long, value_name = "DAYS", requires = "event")]
    event_day: Option<u32>,

    /// The time zone by whose clock demand repeats, as in `Europe/Berlin`; a generated clock change is then on the day of the zone's own
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = calendar::zone)]
    time_zone: TimeZone,

    /// Day to leave out of the history, as in `2026-12-25`, or to treat like a weekday, as in `2026-12-25=Sunday`; can be
    /// given more than once
    #[arg(long = "special-day", value_name = "DATE[=WEEKDAY]")]
    special_days: Vec<SpecialDays>,

    /// Number of days to generate, including those before the simulation
    #[arg(long, value_name = "DAYS", default_value = "28", value_parser = clap::value_parser!(u32).range(2..=400))]
    days: u32,

    /// Time span at the end that is simulated; the samples before it only train the models
    #[arg(long, value_name = "TIME", default_value = "7d")]
    run: Span,

    /// The distance of two samples [default: the most frequent one in the trace; 5m if it is generated]
    #[arg(long, value_name = "TIME")]
    step: Option<Span>,

    /// Time after which demand repeats
    #[arg(long, value_name = "TIME", default_value = "1d")]
    season: Span,

    /// The extra pod-seconds that the floor may cost, against the autoscaler alone [default: 10%]
    #[arg(long, value_name = "SHARE", conflicts_with = "quantile")]
    budget: Option<Budget>,

    /// The share of samples that should stay below the line that the floor follows, whatever that costs
    #[arg(long, value_name = "SHARE")]
    quantile: Option<Quantile>,

    /// Time between the decision for a pod and the demand that it serves
    #[arg(long, value_name = "TIME", default_value = "15m")]
    lead_time: Span,

    /// The demand per pod that both the autoscaler and the floor aim at, as in `70/s`, `500m` or `40` [default: a
    /// fifteenth of the highest sample]
    #[arg(long, value_name = "AMOUNT")]
    per_pod_capacity: Option<Capacity>,

    /// The demand at which a pod is full [default: the capacity divided by 0.7]
    #[arg(long, value_name = "AMOUNT")]
    pod_limit: Option<Capacity>,

    /// Unit of the trace, such as `/s`, `cores` or `%` [default: the unit of the capacity]
    #[arg(long, value_name = "UNIT")]
    unit: Option<Unit>,

    /// Seconds until a new pod is ready
    #[arg(long, value_name = "TIME", default_value = "3m")]
    start_delay: Seconds,

    /// Minimum of the autoscaler
    #[arg(long, value_name = "PODS", default_value = "2")]
    min: Replicas,

    /// Maximum of the autoscaler
    #[arg(long, value_name = "PODS", default_value = "100")]
    max: Replicas,

    /// The floor's limit [default: the maximum]
    #[arg(long, value_name = "PODS")]
    max_floor: Option<Replicas>,

    /// The most pods by which the floor rises in a step
    #[arg(long, value_name = "PODS", default_value = "10")]
    max_step_up: Replicas,

    /// Seconds of lower demand after which the floor comes down
    #[arg(long, value_name = "TIME", default_value = "10m")]
    scale_down_delay: Seconds,

    /// Seconds for which the floor is held without a forecast
    #[arg(long, value_name = "TIME", default_value = "30m")]
    stale_after: Seconds,

    /// Source of the forecasts
    #[arg(long, value_name = "WHO", default_value = "auto")]
    forecaster: Forecaster,

    /// Time limit of all forecasts together
    #[arg(long, value_name = "TIME", default_value = "10m")]
    deadline: Span,

    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Output,

    /// Also write it as a page with charts
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    /// Also keep it in a state file, as a workload in addition to those in it: `serve --state FILE` shows them all
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
    let first = args.first(&trace)?;
    // The last sample only ends the run: nothing is decided there.
    let known = trace.samples[..trace.samples.len() - 1].iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    if known <= first {
        return Err(Failure::input(format!("the run of {} has no sample", args.run)).hint("choose another `--run`"));
    }
    let history = History { samples: trace.samples[..known].to_vec(), ..trace.clone() };
    let calendar = Calendar::new(args.time_zone.clone(), &args.special_days);
    let horizon = Outlook::horizon(args.lead_time, trace.step);
    // The last forecast is for a chart, and looks farther.
    let reading = calendar.read(&history, horizon.max(LOOK / trace.step.seconds()) as usize);
    let question = Question {
        samples: reading.samples.clone(),
        step_seconds: trace.step.seconds(),
        season: season_in_samples(args.season, trace.step)?,
        horizon,
        quantile: args.quantile.map_or(0.9, Quantile::share),
        model: "auto".to_owned(),
        lead: Some(args.lead_time.seconds().div_ceil(trace.step.seconds())),
        replay: Some(reading.samples.len() as u32),
    };
    let record = args.state.as_deref().map(|file| Record::open(file, &args)).transpose()?;
    let setup = Setup { trace: &trace, first, workload: &workload, policy: &policy, calendar: &calendar };
    let (models, forecaster, last) = args.models(&question, known - first, record.is_some()).await?;
    let candidates = choose::candidates(&question, &history, &reading, models);
    let chosen = compare::choose(&setup, args.season.seconds(), &candidates, args.goal());
    if chosen.forecasts.is_empty() {
        let cause = format!("a forecast needs {} samples, has {known}", 2 * question.season);
        return Err(Failure::new(Kind::Forecast, "cannot forecast").cause(cause).hint("give a longer history"));
    }
    let asked = known - first;
    if chosen.forecasts.len() < asked {
        let without = asked - chosen.forecasts.len();
        eprintln!("note: there is no forecast from {without} of {asked} origins: more history is needed before them");
    }
    let outcome = setup.run(&chosen.forecasts, |step| {
        if let Some(record) = &record {
            record.decided(step);
        }
    });
    if let Some(record) = record {
        let choice = chosen.choices.last();
        let applied = |answer: Answer| {
            let horizon = answer.mean.len() as u32;
            choose::applied(reading.timed(answer, horizon), &question, (&history, &reading), choice)
        };
        let last = last.map(|answer| (applied(answer), choice.cloned()));
        record.end(&args, &setup, known, last)?;
    }
    let simulation = Simulation {
        trace: name,
        from: trace.time(first),
        to: trace.end(),
        rules: compare::rules(&setup, &candidates, outcome.with_floor),
        workload,
        policy,
        goal: args.goal(),
        forecaster,
        gate_open: chosen.open(),
        choices: chosen.choices,
        outcome,
    };
    args.write_page(&simulation)?;
    let text = match args.format {
        Output::Text => simulation.text(),
        Output::Json => super::json(&simulation)?,
    };
    write_out(&text)
}

impl SimulateArgs {
    fn goal(&self) -> Goal {
        match (self.budget, self.quantile) {
            (Some(budget), _) => Goal::Budget(budget),
            (None, Some(quantile)) => Goal::Quantile(quantile),
            (None, None) => Goal::default(),
        }
    }

    /// The first sample of the run.
    fn first(&self, trace: &History) -> Result<usize, Failure> {
        let steps = in_samples("run", self.run, trace.step)? as usize;
        // The newest sample ends the run: what comes after it is not known.
        let Some(first) = trace.samples.len().checked_sub(steps + 1).filter(|first| *first > 0) else {
            let whole = trace.samples.len();
            return Err(Failure::input(format!(
                "the run of {} is {steps} steps, and the trace has {whole} samples",
                self.run
            ))
            .hint("choose a shorter `--run`, or give a longer trace: the samples before the run train the models"));
        };
        let horizon = Outlook::horizon(self.lead_time, trace.step);
        if steps * horizon as usize > MOST_VALUES {
            let what = format!("{steps} forecasts of {horizon} steps are more than {MOST_VALUES} values");
            return Err(Failure::input(what).hint("choose a shorter `--run`, or a trace with a coarser step"));
        }
        Ok(first)
    }

    fn write_page(&self, simulation: &Simulation) -> Result<(), Failure> {
        let Some(file) = &self.html else { return Ok(()) };
        let html = page::render(&self.places.home().templates(), TEMPLATE, &SimulationPage::new(simulation));
        let cannot = || Failure::input(format!("cannot write the page `{}`", file.display()));
        let html = html.map_err(|broken| {
            cannot()
                .cause(format!("{}: {}", broken.place, broken.cause))
                .hint("name the folder above templates/ with `--home`")
        })?;
        std::fs::write(file, html).map_err(|cause| cannot().cause(cause).hint("check the path given to `--html`"))
    }

    /// Returns the demand and its name.
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
                let trace = match self.event {
                    Some(event) => {
                        let day = self.event_day.unwrap_or(self.days.saturating_sub(6));
                        load::with_event(&self.by_the_clock(trace, day), event, day)
                    }
                    None => trace,
                };
                let value = kind.to_possible_value();
                let kind = value.as_ref().map_or("made-up", |value| value.get_name());
                Ok((trace.newest(MOST_SAMPLES), format!("a {kind} load generated from seed {}", self.seed)))
            }
            (None, None) => Err(Failure::input("no trace given").hint("give `--trace` or `--generate`")),
        }
    }

    /// A load whose day `day` is the one on which the clock of the time zone is put forward, where that is the event.
    fn by_the_clock(&self, trace: History, day: u32) -> History {
        let change = self.event.filter(|event| *event == Event::ClockChange).and_then(|_| {
            let change = Calendar::new(self.time_zone.clone(), &[]).put_forward(trace.start)?;
            let day_of_change = change.as_second().div_euclid(86_400) - i64::from(day);
            Timestamp::from_second(day_of_change * 86_400).ok()
        });
        History { start: change.unwrap_or(trace.start), ..trace }
    }

    fn wanted(&self, trace: &History) -> Result<(Workload, Policy), Failure> {
        let capacity = match self.per_pod_capacity {
            Some(capacity) => capacity,
            None => {
                let highest = trace.samples.iter().flatten().copied().fold(0.0, f64::max);
                let unit = self.unit.unwrap_or(if self.generate.is_some() { Unit::PerSecond } else { Unit::Count });
                Demand::new(highest / 15.0, unit).and_then(Capacity::new).ok_or_else(|| {
                    Failure::input("cannot derive a capacity from this trace").hint("give it with `--per-pod-capacity`")
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
                .hint("the capacity of a pod, its limit and the trace must have the same unit"));
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

    /// Peaks of the worker's models by origin, and who forecasts, in words; also a forecast from the last sample, where that
    /// is wanted.
    async fn models(&self, question: &Question, asked: usize, last: bool) -> Result<Models, Failure> {
        let ahead = Question {
            // Far enough to be seen in a chart of two days.
            horizon: question.horizon.max(LOOK / question.step_seconds),
            replay: None,
            ..question.clone()
        };
        let fallback = |why: Option<String>| {
            let because = why.map_or_else(String::new, |why| format!(", because {why}"));
            let last = last.then(|| naive::answer(&ahead).ok()).flatten();
            Ok((BTreeMap::new(), format!("plain rules in Rust{because}"), last))
        };
        if self.forecaster == Forecaster::Naive {
            return fallback(None);
        }
        let within = duration(self.deadline);
        let launch = self.places.launch(&self.places.home());
        // One origin: what is wanted of it are the peaks at all of them.
        let from = question.samples.len() as u32;
        let rolling = Rolling { question: question.clone(), first: from, every: asked.max(1) as u32 };
        let work = async |worker: &mut Worker| {
            let rolled = worker.roll(&rolling, within).await?;
            let last = if last { Some(worker.ask(&ahead, within).await?) } else { None };
            Ok((rolled, last))
        };
        match asked_once(&launch, work).await? {
            Ok((rolled, last)) => {
                rolled.notes.iter().for_each(|note| eprintln!("note: {note}"));
                let names: Vec<&str> = rolled.peaks.keys().map(String::as_str).collect();
                let by = format!("plain rules, and the worker's {}", names.join(", "));
                Ok((choose::aligned(rolled.peaks, question.samples.len()), by, last))
            }
            // A short history is no reason not to try the plain rules.
            Err(WorkerError::Refused(refusal)) if refusal.code == "not-enough-history" => {
                fallback(Some(refusal.message))
            }
            // A worker that works and refuses says more about the trace than a plainer model would.
            Err(error) if error.is_fatal() && self.forecaster == Forecaster::Auto => {
                let why = error.to_string();
                eprintln!("note: forecasting by plain rules in Rust: {why}");
                fallback(Some(why))
            }
            Err(error) => Err(error.into()),
        }
    }
}
