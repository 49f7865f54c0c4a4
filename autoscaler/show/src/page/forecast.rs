//! A forecast as text: the part of a page that says what is expected, and why by this model.

use crate::print::skill;
use autoscaler_floor::units::decimals;
use autoscaler_forecast::protocol::Missing;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::{Forecast, Point};
use jiff::Timestamp;
use serde::Serialize;

/// The rows of the short table, about.
const ROWS: usize = 12;

/// A forecast, ready for a template.
#[derive(Debug, Serialize)]
pub struct ForecastPart {
    /// Description of the model.
    pub model: String,
    /// True if the forecast has skill.
    pub skilled: bool,
    /// Description of the skill.
    pub skill: String,
    /// The lesser of the skills over the better flat line and over the seasonal naive, in percent.
    pub percent: Option<i64>,
    /// The step with the highest upper line.
    pub peak: Option<Row>,
    /// Time span of the forecast.
    pub horizon: String,
    /// The names of the lower and the upper line.
    pub lines: (String, String),
    pub made: Made,
    /// Rows of every few steps.
    pub rows: Vec<Row>,
    /// Rows of every step.
    pub all: Vec<Row>,
    /// Scores of the models, the best first.
    pub scores: Vec<ScoreRow>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Time that the worker took, in seconds.
    pub seconds: String,
}

/// Description of the history.
#[derive(Debug, Serialize)]
pub struct Made {
    /// Number of samples.
    pub samples: usize,
    /// Distance of two samples.
    pub step: String,
    /// First day.
    pub from: String,
    /// Time of the last sample.
    pub to: String,
    /// Number of missing samples that were filled.
    pub filled: usize,
}

/// A time and its numbers, as text.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub at: At,
    /// Expected value.
    pub mean: String,
    /// Value of the lower line.
    pub lower: String,
    /// Value of the upper line.
    pub upper: String,
}

/// A time, for machines and for people.
#[derive(Clone, Debug, Serialize)]
pub struct At {
    /// Time for machines.
    pub time: String,
    pub day: String,
    /// Hour and minute.
    pub clock: String,
}

impl From<Timestamp> for At {
    fn from(time: Timestamp) -> At {
        At {
            time: time.to_string(),
            day: time.strftime("%a %b %-d").to_string(),
            clock: time.strftime("%H:%M").to_string(),
        }
    }
}

/// Backtest of a model, as text.
#[derive(Debug, Serialize)]
pub struct ScoreRow {
    pub model: String,
    /// Mean absolute error.
    pub mae: String,
    /// Mean absolute error, in percent of the largest of all.
    pub bar: i64,
    /// True if the model is in the forecast.
    pub used: bool,
}

impl ForecastPart {
    /// Returns the page's part for a forecast, in numbers of this many decimals.
    pub fn new(forecast: &Forecast, places: usize) -> ForecastPart {
        let row = |point: &Point| Row {
            at: point.time.into(),
            mean: format!("{:.places$}", point.mean),
            lower: format!("{:.places$}", point.lower),
            upper: format!("{:.places$}", point.upper),
        };
        let all: Vec<Row> = forecast.points.iter().map(row).collect();
        // From the far end, so that the short table ends where the forecast does.
        let every = all.len().div_ceil(ROWS).max(1);
        let mut rows: Vec<Row> = all.iter().rev().step_by(every).cloned().collect();
        rows.reverse();

        let worst = forecast.scores.iter().map(|score| score.mae).fold(0.0, f64::max);
        let mut sorted: Vec<_> = forecast.scores.iter().collect();
        sorted.sort_by(|a, b| a.mae.total_cmp(&b.mae));
        let scores = sorted.into_iter().map(|score| ScoreRow {
            model: score.model.clone(),
            mae: format!("{:.*}", decimals(score.mae).max(places), score.mae),
            bar: if worst > 0.0 { (score.mae / worst * 100.0).round() as i64 } else { 0 },
            used: forecast.members.contains(&score.model),
        });
        let made = &forecast.history;
        let horizon = (forecast.points.len() as u32).saturating_mul(made.step.seconds());
        ForecastPart {
            model: match forecast.members.as_slice() {
                [one] => one.clone(),
                several => format!("mean of {}", several.join(", ")),
            },
            skilled: forecast.skilled,
            skill: skill(forecast),
            percent: percent(forecast),
            peak: forecast.peak().map(row),
            horizon: Span::from_seconds(horizon).map(|span| span.to_string()).unwrap_or_default(),
            lines: forecast.quantile.names(),
            made: Made {
                samples: made.samples,
                step: made.step.to_string(),
                from: made.from.strftime("%Y-%m-%d").to_string(),
                to: made.to.strftime("%Y-%m-%d %H:%M").to_string(),
                filled: made.interpolated + made.borrowed,
            },
            rows,
            all,
            scores: scores.collect(),
            missing: forecast.missing.clone(),
            notes: forecast.notes.clone(),
            seconds: format!("{:.2}", forecast.seconds),
        }
    }
}

/// The lesser of the skills over the better flat line and over the seasonal naive, in percent.
pub fn percent(forecast: &Forecast) -> Option<i64> {
    let over_flat = forecast.skill_flat?;
    let least = forecast.skill.map_or(over_flat, |skill| skill.min(over_flat));
    Some((least * 100.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::flat;
    use autoscaler_forecast::history::History;

    #[test]
    fn the_short_table_ends_with_the_forecast() {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n900,4\n", None).unwrap();
        let part = ForecastPart::new(&flat(&history, 30, 3.0), 1);
        assert_eq!((part.rows.len(), part.all.len()), (10, 30));
        assert_eq!(part.rows.last().unwrap().at.time, part.all.last().unwrap().at.time);
        assert_eq!((part.horizon.as_str(), part.percent), ("2h30m", Some(25)));
    }
}
