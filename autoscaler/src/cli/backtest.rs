//! `autoscaler backtest`: how good forecasts of a history would have been.

use std::path::PathBuf;

use clap::Args;

use super::args::{PlaceArgs, duration};
use super::{Output, asked, write_out};
use crate::failure::Failure;
use crate::forecast::Quantile;
use crate::forecast::backtest::{BacktestOptions, BacktestReport};
use crate::forecast::source;
use crate::forecast::span::Span;
use crate::show::print;

pub(super) const HELP: &str = "\
The first half of the history only teaches. From up to 400 origins in the second half every model forecasts from what \
came before, and so does `forecast`: what would have been used there, with all its choosing. MASE is the error in those \
of a seasonal naive over the first half, skill the share of the seasonal naive's error at the same origins that is gone, \
`below p90` the share of samples under the upper line. The gate is open where the forecast beats the plain references \
by more than luck; floors are enforced only then.";

/// Backtest a history file, and print how good forecasts would have been.
#[derive(Debug, Args)]
pub(super) struct BacktestArgs {
    /// The history
    #[arg(long, value_name = "FILE.csv")]
    history: PathBuf,

    /// How long before; can be given more than once
    #[arg(long = "lead", value_name = "TIME", default_value = "15m", value_delimiter = ',')]
    leads: Vec<Span>,

    /// The distance of two samples [default: the most frequent one in the history]
    #[arg(long, value_name = "TIME")]
    step: Option<Span>,

    /// After which time demand repeats
    #[arg(long, value_name = "TIME", default_value = "1d")]
    season: Span,

    /// The share of samples that should stay below the upper line
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    quantile: Quantile,

    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "10m")]
    deadline: Span,

    /// How to print it
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
    let report = asked(&launch, async |worker| worker.backtest(&question, within).await).await?;
    let report = BacktestReport::new(&args.history.display().to_string(), &history, &options, report?);
    let text = match args.format {
        Output::Text => print::backtest::text(&report),
        Output::Json => super::json(&report)?,
    };
    write_out(&text)
}
