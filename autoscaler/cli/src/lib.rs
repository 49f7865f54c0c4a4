//! The command line: what can be asked, and what each question does.

mod args;
mod backtest;
mod doctor;
mod run;
mod simulate;

use self::args::{AskedArgs, PlaceArgs, ServerArgs};
use autoscaler_cluster::crd;
use autoscaler_forecast::Forecast;
use autoscaler_forecast::failure::{Failure, Kind};
use autoscaler_forecast::source;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::supervisor::{Restarts, Supervisor};
use autoscaler_forecast::worker::{Launch, Worker, WorkerError};
use autoscaler_show::healthcheck;
use autoscaler_show::metrics::Metrics;
use autoscaler_show::print::{self, Format};
use autoscaler_show::server::{Server, ServerContext, Watched};
use autoscaler_show::state::{Retention, State};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const AFTER_HELP: &str = "\
Examples:
  autoscaler forecast --history samples/requests.csv --horizon 1h
  autoscaler forecast --history load.csv --horizon 6h --quantile 0.95 --format json
  autoscaler backtest --history samples/requests.csv --lead 15m --lead 1h
  autoscaler simulate --generate daily
  autoscaler doctor --prometheus http://127.0.0.1:9090
  autoscaler crd | kubectl apply -f -
  autoscaler run --prometheus http://prometheus.monitoring:9090
  autoscaler serve --listen 0.0.0.0:8080 --history load.csv

Exit codes:
  0  done
  1  a bug in autoscaler (of `healthcheck`: not healthy)
  2  usage or bad input
  3  the worker cannot start (of `doctor`: something is missing)
  4  the forecast failed";

const HISTORY_HELP: &str = "\
The history is CSV with the header `timestamp,value`: RFC 3339 or whole Unix seconds, in order of time, evenly spaced. \
A missing sample is an empty value, `NaN` or no row at all, and never counts as zero: gaps of up to 3 samples are \
interpolated, longer ones taken from other seasons. More than a fifth missing, or a gap longer than a season, is refused.";

/// Forecasts demand with calibrated bands, and raises the minimum of autoscalers ahead of it.
#[derive(Debug, Parser)]
#[command(name = "autoscaler", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Log filter for stderr: error, warn, info, debug, trace, or per target (`worker=debug`)
    #[arg(long, global = true, env = "AUTOSCALER_LOG", value_name = "FILTER")]
    log: Option<String>,

    /// Log format
    #[arg(long, global = true, env = "AUTOSCALER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Human-readable lines
    Text,
    /// One JSON object per line, for log collectors
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator in a cluster, and serve its pages
    #[command(after_help = run::HELP)]
    Run(Box<run::RunArgs>),
    /// Print the definition of PredictiveScaler for `kubectl apply -f -`
    Crd,
    /// Forecast a history file, and print time, mean and band
    #[command(after_help = HISTORY_HELP)]
    Forecast(ForecastArgs),
    /// Backtest a history file, and print how good forecasts would have been
    #[command(after_help = backtest::HELP)]
    Backtest(backtest::BacktestArgs),
    /// Simulate an autoscaler alone and one with a floor
    #[command(after_help = simulate::HELP)]
    Simulate(Box<simulate::SimulateArgs>),
    /// Serve a page with the forecast, /healthz, /readyz and /metrics
    #[command(after_help = HISTORY_HELP)]
    Serve(ServeArgs),
    /// Check the requirements of `run`
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Ask a running server whether it is ready
    Healthcheck(HealthcheckArgs),
}

#[derive(Debug, Args)]
struct ForecastArgs {
    /// History file
    #[arg(long, value_name = "FILE.csv")]
    history: PathBuf,

    /// Time span to forecast
    #[arg(long, value_name = "TIME", default_value = "1h")]
    horizon: Span,

    #[command(flatten)]
    asked: AskedArgs,

    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The history; read again when it changes [default: the bundled sample]
    #[arg(long, value_name = "FILE.csv", env = "AUTOSCALER_HISTORY")]
    history: Option<PathBuf>,

    /// A state file, as `run` and `simulate --state` write one: the pages of its workloads instead of a history's
    #[arg(long, value_name = "FILE", conflicts_with = "history")]
    state: Option<PathBuf>,

    /// Time span to forecast
    #[arg(long, value_name = "TIME", default_value = "6h")]
    horizon: Span,

    #[command(flatten)]
    asked: AskedArgs,

    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Args)]
struct HealthcheckArgs {
    /// URL to request
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/readyz")]
    url: String,

    /// Time to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "3s")]
    timeout: Span,
}

impl Cli {
    /// Does what was asked. Data goes to stdout, talk to stderr.
    pub fn run(self) -> Result<(), Failure> {
        // One forecast is its own progress; a server's log is what there is to see of it.
        let quiet = !matches!(self.command, Command::Serve(_) | Command::Run(_));
        log(self.log.as_deref().unwrap_or(if quiet { "off" } else { "info" }), self.log_format)?;
        match self.command {
            Command::Run(args) => run(run::run(*args)),
            Command::Crd => write_out(&crd::definition()),
            Command::Forecast(args) => run(forecast(args)),
            Command::Backtest(args) => run(backtest::run(args)),
            Command::Simulate(args) => run(simulate::run(*args)),
            Command::Serve(args) => run(serve(args)),
            Command::Doctor(args) => run(doctor::run(args)),
            Command::Healthcheck(args) => {
                let timeout = Duration::from_secs(args.timeout.seconds().into());
                // Docker knows 0 and 1 only.
                healthcheck::check(&args.url, timeout).map_err(|cause| Failure::new(Kind::Bug, cause))
            }
        }
    }
}

fn log(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|cause| Failure::input(format!("`{filter}` is not a log filter")).cause(cause))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

fn run(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|cause| Failure::new(Kind::Bug, "cannot start the runtime").cause(cause))?.block_on(work)
}

async fn forecast(args: ForecastArgs) -> Result<(), Failure> {
    // A file that cannot be read is said at once, not after seconds of imports.
    let history = source::read(&args.history, args.asked.step)?;
    let options = args.asked.options(args.horizon);
    let question = options.question(&history)?;

    let launch = args.places.launch(&args.places.home());
    let answer = asked(&launch, async |worker| worker.ask(&question, args.asked.deadline()).await).await??;
    let forecast = Forecast::new(&history, &options, answer);
    let text = print::print(&forecast, &args.history.display().to_string(), args.format)
        .map_err(|cause| Failure::new(Kind::Bug, "cannot print the forecast").cause(cause))?;
    write_out(&text)
}

/// Starts a worker, asks it one thing, and stops it. The outer failure is a signal that came first.
async fn asked<T>(
    launch: &Launch,
    ask: impl AsyncFnOnce(&mut Worker) -> Result<T, WorkerError>,
) -> Result<Result<T, WorkerError>, Failure> {
    let ended = async {
        let mut worker = Worker::start(launch).await?;
        let answer = ask(&mut worker).await;
        // After any other trouble it is dropped, which kills it.
        if !answer.as_ref().is_err_and(WorkerError::is_fatal) {
            worker.stop().await;
        }
        answer
    };
    tokio::select! {
        ended = ended => Ok(ended),
        // Dropping the worker kills it; Ctrl-C on a terminal does not reach its group.
        end = end() => {
            end?;
            Err(Failure::new(Kind::Forecast, "stopped before the worker answered"))
        }
    }
}

/// Output format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A summary and a table
    Text,
    /// One JSON object
    Json,
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    Ok(text.map_err(|cause| Failure::new(Kind::Bug, "cannot print the result").cause(cause))? + "\n")
}

fn write_out(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever closed the pipe has read enough.
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(cause) => Err(Failure::new(Kind::Forecast, "cannot write to stdout").cause(cause)),
        Ok(()) => Ok(()),
    }
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let home = args.places.home();
    let revision = args::revision();
    let context = ServerContext {
        templates: args.server.templates(&home),
        metrics: Arc::new(Metrics::new(revision.as_deref())),
        supervisor: Arc::new(Supervisor::new(args.places.launch(&home), Restarts::default())),
        revision,
    };
    let (supervisor, templates) = (Arc::clone(&context.supervisor), context.templates.clone());
    let (server, shown, keeps) = match &args.state {
        Some(path) => {
            let state = State::open_existing(path, Retention::default()).map_err(|cause| {
                Failure::input(format!("cannot read the state `{}`", path.display()))
                    .cause(cause)
                    .hint("`autoscaler simulate --state FILE` and `autoscaler run` write one")
            })?;
            (Server::of_state(context, state), path.clone(), false)
        }
        None => {
            let history = args.history.clone().unwrap_or_else(|| home.sample());
            let options = args.asked.options(args.horizon);
            let watched = Watched::new(history.clone(), args.asked.step, options, args.asked.deadline());
            (Server::of_file(context, watched), history, true)
        }
    };
    let (listener, address) = args.server.bind().await?;
    // Before the first line that says "listening": a signal after it must end us quietly.
    let ending = Signals::new()?;
    tracing::info!(%address, shown = %shown.display(), templates = %templates.display(), "listening");
    let keeper = keeps.then(|| {
        let supervisor = Arc::clone(&supervisor);
        tokio::spawn(async move { supervisor.keep().await })
    });
    server.run(listener, ending.first()).await;
    if let Some(keeper) = keeper {
        keeper.abort();
        // What the keeper held is free only once it has ended.
        let _ = keeper.await;
    }
    supervisor.stop().await;
    tracing::info!("ended");
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let cannot = |cause| Failure::new(Kind::Bug, "cannot wait for signals").cause(cause);
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
        })
    }

    async fn first(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn end() -> Result<(), Failure> {
    Signals::new()?.first().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
