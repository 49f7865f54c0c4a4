//! Questions about a history, and the forecast that comes back with its times.
//!
//! Turns spans into samples on the way in, and lead times into times on the way out.

pub mod backtest;
pub mod calendar;
pub mod choice;
pub mod failure;
pub mod history;
pub mod home;
pub mod load;
pub mod naive;
pub mod protocol;
pub mod source;
pub mod span;
pub mod supervisor;
pub mod worker;

use crate::choice::Choice;
use crate::failure::Failure;
use crate::history::History;
use crate::protocol::{Answer, Missing, Question, Score};
use crate::span::Span;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

// The worker refuses more; two weeks of 5-minute steps.
pub(crate) const LONGEST_HORIZON: u32 = 4_032;
const LONGEST_SEASON: u32 = 20_160;

/// A model that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// The mean of those that beat the plain references on this history
    Auto,
    /// The same time one season ago
    SeasonalNaive,
    /// The same time one week ago
    WeeklyNaive,
    /// Exponential smoothing of level, trend and season
    HoltWinters,
    /// Waves of the day and the week, with AR(1) errors
    Harmonic,
    /// Level, the shape of a day and what the days of a week add to it
    DayWeek,
    /// Smoothing without the shape of the day, with half the slope of the history
    Theta,
    /// Level and damped trend without a season
    DampedTrend,
    /// The last value, repeated
    LastValue,
    /// The mean of the last two seasons
    FlatMean,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Auto => "auto",
            Model::SeasonalNaive => "seasonal-naive",
            Model::WeeklyNaive => "weekly-naive",
            Model::HoltWinters => "holt-winters",
            Model::Harmonic => "harmonic",
            Model::DayWeek => "day-week",
            Model::Theta => "theta",
            Model::DampedTrend => "damped-trend",
            Model::LastValue => "last-value",
            Model::FlatMean => "flat-mean",
        })
    }
}

/// The share of samples that stay below the upper line: more than a half, less than all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Quantile(f64);

impl Default for Quantile {
    fn default() -> Quantile {
        Quantile(0.9)
    }
}

impl Quantile {
    pub fn share(self) -> f64 {
        self.0
    }

    /// The names of the lower and the upper line: `p10` and `p90`.
    pub fn names(self) -> (String, String) {
        // 0.9 * 100 is 90.00000000000001.
        let percent = |share: f64| format!("p{}", (share * 1e8).round() / 1e6);
        (percent(1.0 - self.0), percent(self.0))
    }
}

impl FromStr for Quantile {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantile, String> {
        text.parse::<f64>().unwrap_or(f64::NAN).try_into().map_err(|_| format!("`{text}` is not between 0.5 and 1"))
    }
}

impl TryFrom<f64> for Quantile {
    type Error = String;

    fn try_from(share: f64) -> Result<Quantile, String> {
        if share > 0.5 && share < 1.0 {
            Ok(Quantile(share))
        } else {
            Err(format!("`{share}` is not between 0.5 and 1"))
        }
    }
}

impl From<Quantile> for f64 {
    fn from(quantile: Quantile) -> f64 {
        quantile.0
    }
}

/// Options of a forecast, whatever the history.
#[derive(Clone, Debug)]
pub struct ForecastOptions {
    /// Time span to forecast.
    pub horizon: Span,
    /// Time after which demand repeats.
    pub season: Span,
    /// Quantile of the upper line.
    pub quantile: Quantile,
    pub model: Model,
}

impl ForecastOptions {
    /// The question to the worker, or why this history cannot be asked it.
    pub fn question(&self, history: &History) -> Result<Question, Failure> {
        let step = history.step;
        let horizon = in_samples("horizon", self.horizon, step)?;
        let season = season_in_samples(self.season, step)?;
        if horizon > LONGEST_HORIZON {
            return Err(Failure::input(format!(
                "the horizon of {} is {horizon} steps, more than {LONGEST_HORIZON}",
                self.horizon
            ))
            .hint("choose a shorter `--horizon`, or a history with a coarser step"));
        }
        Ok(Question {
            samples: history.samples.clone(),
            step_seconds: step.seconds(),
            season,
            horizon,
            quantile: self.quantile.share(),
            model: self.model.to_string(),
            lead: None,
            replay: None,
        })
    }
}

/// A span in samples, of the flag that has its name.
pub fn in_samples(name: &str, span: Span, step: Span) -> Result<u32, Failure> {
    span.steps(step).ok_or_else(|| {
        Failure::input(format!("the {name} of {span} is not a multiple of the step of {step}"))
            .hint(format!("the history has a sample every {step}: choose `--{name}` accordingly"))
    })
}

/// Returns the length of a season in samples.
pub fn season_in_samples(span: Span, step: Span) -> Result<u32, Failure> {
    let season = in_samples("season", span, step)?;
    if (2..=LONGEST_SEASON).contains(&season) {
        return Ok(season);
    }
    Err(Failure::input(format!("the season of {span} is {season} steps, not 2 to {LONGEST_SEASON}"))
        .hint("choose another `--season`"))
}

/// A forecast with its times and with how much to trust it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forecast {
    pub history: Made,
    /// The model used, `mean` for the mean of several.
    pub model: String,
    /// Models in the forecast.
    pub members: Vec<String>,
    /// True if the forecast is better than plain references on this history.
    pub skilled: bool,
    /// The share of the seasonal naive's error that is gone.
    pub skill: Option<f64>,
    /// The share of the better flat line's error that is gone.
    pub skill_flat: Option<f64>,
    /// Number of past forecasts compared with the samples that followed.
    pub backtests: u32,
    /// `additive`, or `proportional` when busy hours have larger errors.
    pub band: String,
    /// The share of samples that stay below the upper line.
    pub quantile: Quantile,
    /// Scores of the models.
    pub scores: Vec<Score>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Candidate that the floor is made of, and the reason for it; none if this forecast decides no floor.
    #[serde(default)]
    pub choice: Option<Choice>,
    /// Steps of the forecast.
    pub points: Vec<Point>,
    /// Time that the worker took, in seconds.
    pub seconds: f64,
}

/// The history that a forecast was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// Number of samples used.
    pub samples: usize,
    /// Distance of two samples.
    pub step: Span,
    /// The time of the first sample.
    pub from: Timestamp,
    /// The time of the last sample.
    pub to: Timestamp,
    /// Missing samples that were filled by a straight line.
    pub interpolated: usize,
    /// Missing samples that were taken from other seasons.
    pub borrowed: usize,
}

/// One step of a forecast.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub time: Timestamp,
    /// Expected value.
    pub mean: f64,
    /// Value of the lower line.
    pub lower: f64,
    /// Value of the upper line.
    pub upper: f64,
}

impl Forecast {
    /// Gives an answer its times: the first step is the one after the history's last sample.
    pub fn new(history: &History, options: &ForecastOptions, answer: Answer) -> Forecast {
        let count = history.samples.len();
        let lines = answer.mean.iter().zip(&answer.lower).zip(&answer.upper).enumerate();
        let points = lines
            .map(|(lead, ((mean, lower), upper))| Point {
                time: history.time(count + lead),
                mean: *mean,
                lower: *lower,
                upper: *upper,
            })
            .collect();
        Forecast {
            history: Made {
                samples: answer.samples,
                step: history.step,
                from: history.time(count.saturating_sub(answer.samples)),
                to: history.end(),
                interpolated: answer.interpolated,
                borrowed: answer.borrowed,
            },
            model: answer.model,
            members: answer.members,
            skilled: answer.skilled,
            skill: answer.skill,
            skill_flat: answer.skill_flat,
            backtests: answer.backtests,
            band: answer.band,
            quantile: options.quantile,
            scores: answer.scores,
            missing: answer.missing,
            notes: answer.notes,
            choice: None,
            points,
            seconds: answer.seconds,
        }
    }

    /// Returns the step with the highest upper line, for which the capacity has to be ready.
    pub fn peak(&self) -> Option<&Point> {
        self.points.iter().max_by(|a, b| a.upper.total_cmp(&b.upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::parse("load.csv", b"timestamp,value\n0,1\n300,2\n900,4\n", None).unwrap()
    }

    fn options(horizon: &str, season: &str) -> ForecastOptions {
        ForecastOptions {
            horizon: horizon.parse().unwrap(),
            season: season.parse().unwrap(),
            quantile: "0.9".parse().unwrap(),
            model: Model::Auto,
        }
    }

    #[test]
    fn spans_become_samples() {
        let question = options("1h", "1d").question(&history()).unwrap();
        assert_eq!((question.horizon, question.season, question.step_seconds), (12, 288, 300));
        assert_eq!(question.samples, [Some(1.0), Some(2.0), None, Some(4.0)]);
    }

    #[track_caller]
    fn refuse(horizon: &str, season: &str, message: &str) {
        let failure = options(horizon, season).question(&history()).unwrap_err();
        assert_eq!((failure.message.as_str(), failure.kind.exit_code()), (message, 2));
        assert!(failure.hint.is_some());
    }

    #[test]
    fn what_does_not_fit_the_history_is_refused() {
        refuse("1h1s", "1d", "the horizon of 1h1s is not a multiple of the step of 5m");
        refuse("1h", "7m", "the season of 7m is not a multiple of the step of 5m");
        refuse("15d", "1d", "the horizon of 15d is 4320 steps, more than 4032");
        refuse("1h", "5m", "the season of 5m is 1 steps, not 2 to 20160");
    }

    #[test]
    fn the_lines_of_a_quantile_have_names() {
        let names = |text: &str| text.parse::<Quantile>().unwrap().names();
        assert_eq!(names("0.9"), ("p10".to_owned(), "p90".to_owned()));
        assert_eq!(names("0.999"), ("p0.1".to_owned(), "p99.9".to_owned()));
        for text in ["0.5", "1", "NaN", "ninety"] {
            assert!(text.parse::<Quantile>().is_err(), "{text}");
        }
    }

    #[test]
    fn models_are_named_as_the_worker_and_the_flag_name_them() {
        use clap::ValueEnum;
        for model in Model::value_variants() {
            assert_eq!(model.to_possible_value().unwrap().get_name(), model.to_string());
        }
    }
}
