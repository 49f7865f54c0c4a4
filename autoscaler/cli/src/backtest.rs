//! `autoscaler backtest`: how good forecasts of a history would have been.

use super::args::{PlaceArgs, duration};
use super::{Output, asked, write_out};
use autoscaler_floor::choose;
use autoscaler_floor::compare::{self, Comparison};
use autoscaler_floor::decide::{Mode, Outlook, Policy};
use autoscaler_floor::simulate::{Setup, Workload};
use autoscaler_floor::units::{Capacity, Demand, Replicas, Seconds, Unit};
use autoscaler_forecast::Quantile;
use autoscaler_forecast::backtest::{BacktestOptions, BacktestReport};
use autoscaler_forecast::calendar::Calendar;
use autoscaler_forecast::failure::Failure;
use autoscaler_forecast::history::History;
use autoscaler_forecast::protocol::{Question, Rolling};
use autoscaler_forecast::source;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::worker::Worker;
use autoscaler_show::print;
use autoscaler_show::print::backtest::Backtested;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

// The floor is compared over at most four weeks, in seconds.
const MOST_SCORED: u32 = 28 * 86_400;

pub(super) const HELP: &str = "\
The first half of the history only teaches. From up to 400 origins in the second half every model forecasts from what \
came before, and so does `forecast`: what would have been used there, with all its choosing. MASE is the error in those \
of a seasonal naive over the first half, skill the share of the seasonal naive's error at the same origins that is gone, \
`below p90` the share of samples under the upper line. The gate is open where the forecast beats the plain references \
by more than luck. Last comes what a floor would have done over the scored half, next to the autoscaler alone and the plain \
rules, with the defaults of `simulate` and the shortest lead as its lead time.";

/// Backtest a history file, and print how good forecasts would have been.
#[derive(Debug, Args)]
pub(super) struct BacktestArgs {
    /// History file
    #[arg(long, value_name = "FILE.csv")]
    history: PathBuf,

    /// Lead time to score; can be given more than once
    #[arg(long = "lead", value_name = "TIME", default_value = "15m", value_delimiter = ',')]
    leads: Vec<Span>,

    /// The distance of two samples [default: the most frequent one in the history]
    #[arg(long, value_name = "TIME")]
    step: Option<Span>,

    /// Time after which demand repeats
    #[arg(long, value_name = "TIME", default_value = "1d")]
    season: Span,

    /// The share of samples that should stay below the upper line
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    quantile: Quantile,

    /// The demand that one pod serves, for the floor over the scored half [default: a fifteenth of the highest sample]
    #[arg(long, value_name = "AMOUNT")]
    per_pod_capacity: Option<Capacity>,

    /// Time limit of the backtest
    #[arg(long, value_name = "TIME", default_value = "10m")]
    deadline: Span,

    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Output,

    #[command(flatten)]
    places: PlaceArgs,
}

pub(super) async fn run(args: BacktestArgs) -> Result<(), Failure> {
    let history = source::read(&args.history, args.step)?;
    let options = BacktestOptions { leads: args.leads, season: args.season, quantile: args.quantile };
    let question = options.question(&history)?;
    let within = duration(args.deadline);
    let launch = args.places.launch(&args.places.home());
    let floor = FloorQuestion::new(&history, &options, args.per_pod_capacity);
    let work = async |worker: &mut Worker| {
        let report = worker.backtest(&question, within).await?;
        let peaks = match &floor {
            Some(floor) => worker.roll(&floor.rolling(), within).await.map(|rolled| rolled.peaks).unwrap_or_default(),
            None => BTreeMap::new(),
        };
        Ok((report, peaks))
    };
    let (report, peaks) = asked(&launch, work).await??;
    let report = BacktestReport::new(&args.history.display().to_string(), &history, &options, report);
    let report = Backtested { report, floor: floor.and_then(|floor| floor.compare(&history, peaks)) };
    let text = match args.format {
        Output::Text => print::backtest::text(&report),
        Output::Json => super::json(&report)?,
    };
    write_out(&text)
}

/// A floor over the second half of a history, with the defaults of `simulate`.
struct FloorQuestion {
    question: Question,
    policy: Policy,
    workload: Workload,
    season: Span,
    first: usize,
}

impl FloorQuestion {
    /// None for a history that nothing is scaled by: of samples more than an hour apart, or of zeros.
    fn new(history: &History, options: &BacktestOptions, capacity: Option<Capacity>) -> Option<FloorQuestion> {
        let highest = history.samples.iter().flatten().copied().fold(0.0, f64::max);
        let capacity = match capacity {
            Some(capacity) => capacity,
            None => Capacity::new(Demand::new(highest / 15.0, Unit::Count)?)?,
        };
        let (step, lead_time) = (history.step, options.leads.iter().copied().min()?);
        let question = Question {
            samples: history.samples.clone(),
            step_seconds: step.seconds(),
            season: options.season.steps(step)?,
            horizon: Outlook::horizon(lead_time, step),
            quantile: options.quantile.share(),
            model: "auto".to_owned(),
            lead: Some(lead_time.seconds().div_ceil(step.seconds())),
            replay: Some(u32::try_from(history.samples.len()).ok()?),
        };
        let policy = Policy {
            mode: Mode::Enforce,
            capacity,
            step,
            lead_time,
            max_floor: Replicas(100),
            max_step_up: Replicas(10),
            scale_down_delay: Seconds(600),
            stale_after: Seconds(1_800),
        };
        let workload = Workload {
            limit: capacity.scaled(1.0 / 0.7),
            start_delay: Seconds(180),
            min: Replicas(2),
            max: Replicas(100),
        };
        let longest = (MOST_SCORED / step.seconds()) as usize;
        let first = (history.samples.len() / 2).max(history.samples.len().saturating_sub(longest));
        let scaled = step.seconds() <= 3_600 && first > question.season as usize;
        scaled.then_some(FloorQuestion { question, policy, workload, season: options.season, first })
    }

    /// One origin: what is wanted of the answer are the peaks at all of them.
    fn rolling(&self) -> Rolling {
        Rolling { question: self.question.clone(), first: self.question.samples.len() as u32, every: 1 }
    }

    fn compare(&self, history: &History, peaks: BTreeMap<String, Vec<f64>>) -> Option<Comparison> {
        let calendar = Calendar::default();
        let (workload, policy) = (&self.workload, &self.policy);
        let setup = Setup { trace: history, first: self.first, workload, policy, calendar: &calendar };
        let reading = calendar.read(history, self.question.horizon as usize);
        let peaks = choose::aligned(peaks, history.samples.len());
        let candidates = choose::candidates(&self.question, history, &reading, peaks);
        (!candidates.is_empty()).then(|| compare::compare(&setup, self.season.seconds(), &candidates))
    }
}
