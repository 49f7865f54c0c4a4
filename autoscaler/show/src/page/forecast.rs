//! A forecast as text: the part of a page that says what is expected, and why by this model.

use jiff::Timestamp;
use serde::Serialize;

use crate::print::skill;
use autoscaler_floor::units::decimals;
use autoscaler_forecast::protocol::Missing;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::{Forecast, Point};

/// The rows of the short table, about.
const ROWS: usize = 12;

/// A forecast, ready for a template.
#[derive(Debug, Serialize)]
pub struct ForecastPart {
    /// The model, in words.
    pub model: String,
    /// Whether it has skill.
    pub skilled: bool,
    /// The skill, in words.
    pub skill: String,
    /// The lesser of the skills over the better flat line and over the seasonal naive, in percent.
    pub percent: Option<i64>,
    /// The step with the highest upper line.
    pub peak: Option<Row>,
    /// How far the forecast looks.
    pub horizon: String,
    /// The names of the lower and the upper line.
    pub lines: (String, String),
    /// The history in words.
    pub made: Made,
    /// Every few steps.
    pub rows: Vec<Row>,
    /// Every step.
    pub all: Vec<Row>,
    /// What each model scored, the best first.
    pub scores: Vec<ScoreRow>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// How long the worker took.
    pub seconds: String,
}

/// The history in words.
#[derive(Debug, Serialize)]
pub struct Made {
    /// How many samples.
    pub samples: usize,
    /// Their distance.
    pub step: String,
    /// The first day.
    pub from: String,
    /// The last sample.
    pub to: String,
    /// How many were missing and filled.
    pub filled: usize,
}

/// A time and its numbers, as text.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The time.
    pub at: At,
    /// The expected value.
    pub mean: String,
    /// The lower line.
    pub lower: String,
    /// The upper line.
    pub upper: String,
}

/// A time, for machines and for people.
#[derive(Clone, Debug, Serialize)]
pub struct At {
    /// The time for machines.
    pub time: String,
    /// The day.
    pub day: String,
    /// The hour and minute.
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

/// A model's backtest, as text.
#[derive(Debug, Serialize)]
pub struct ScoreRow {
    /// Its name.
    pub model: String,
    /// Its mean absolute error.
    pub mae: String,
    /// That error, in percent of the largest of all.
    pub bar: i64,
    /// Whether it is in the forecast.
    pub used: bool,
}

impl ForecastPart {
    /// What a page says of a forecast, in numbers of this many decimals.
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
