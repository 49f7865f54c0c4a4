//! Question of a backtest, and the report made of its answer.
//!
//! Pure: spans to samples on the way in, samples to spans on the way out.

use crate::failure::Failure;
use crate::history::History;
use crate::protocol::{Backtest, Missing, Report, Row};
use crate::span::Span;
use crate::{LONGEST_HORIZON, Quantile, in_samples, season_in_samples};
use jiff::Timestamp;
use serde::Serialize;

// The worker takes no more at a time.
const MOST_LEADS: usize = 8;

/// Options of a backtest, whatever the history.
#[derive(Clone, Debug)]
pub struct BacktestOptions {
    pub leads: Vec<Span>,
    /// Time after which demand repeats.
    pub season: Span,
    /// The share of samples that should stay below the upper line.
    pub quantile: Quantile,
}

impl BacktestOptions {
    /// The question to the worker, or why this history cannot be asked it.
    pub fn question(&self, history: &History) -> Result<Backtest, Failure> {
        let step = history.step;
        let mut leads = Vec::new();
        for lead in &self.leads {
            let steps = in_samples("lead", *lead, step)?;
            if steps > LONGEST_HORIZON {
                let what = format!("the lead of {lead} is {steps} steps, more than {LONGEST_HORIZON}");
                return Err(Failure::input(what).hint("choose a shorter `--lead`"));
            }
            leads.push(steps);
        }
        leads.sort_unstable();
        leads.dedup();
        if leads.len() > MOST_LEADS {
            return Err(Failure::input(format!("{} leads are more than {MOST_LEADS}", leads.len()))
                .hint("ask for some of them at a time"));
        }
        Ok(Backtest {
            samples: history.samples.clone(),
            step_seconds: step.seconds(),
            season: season_in_samples(self.season, step)?,
            leads,
            quantile: self.quantile.share(),
        })
    }
}

/// Result of a backtest with its times.
#[derive(Clone, Debug, Serialize)]
pub struct BacktestReport {
    /// Name of the history.
    pub history: String,
    /// Number of samples used.
    pub samples: usize,
    /// Distance of two samples.
    pub step: Span,
    /// Time of the first sample.
    pub from: Timestamp,
    /// Time of the last sample.
    pub to: Timestamp,
    /// Number of missing samples, filled from their past.
    pub missing_samples: usize,
    /// Time from which on forecasts are scored; the samples before it only train the models.
    pub scored_from: Timestamp,
    /// Time after which demand repeats.
    pub season: Span,
    /// The share of samples that should stay below the upper line.
    pub quantile: Quantile,
    pub leads: Vec<Lead>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Time that the worker took, in seconds.
    pub seconds: f64,
}

/// Scores of one lead time.
#[derive(Clone, Debug, Serialize)]
pub struct Lead {
    pub lead: Span,
    /// Number of forecasts compared with a sample.
    pub origins: usize,
    /// Share of them at which the gate was open.
    pub gate_open: f64,
    /// True if the gate is open at the end.
    pub gate_open_now: bool,
    /// Row `forecast`, then a row for every model.
    pub rows: Vec<Row>,
}

impl BacktestReport {
    /// Makes the report of an answer.
    pub fn new(name: &str, history: &History, options: &BacktestOptions, report: Report) -> BacktestReport {
        let first = history.samples.len().saturating_sub(report.samples);
        let step = history.step;
        let span = |samples: u32| Span::from_seconds(samples.saturating_mul(step.seconds())).unwrap_or(step);
        BacktestReport {
            history: name.to_owned(),
            samples: report.samples,
            step,
            from: history.time(first),
            to: history.end(),
            missing_samples: report.borrowed,
            scored_from: history.time(first + report.taught),
            season: options.season,
            quantile: options.quantile,
            leads: report
                .leads
                .into_iter()
                .map(|lead| Lead {
                    lead: span(lead.lead),
                    origins: lead.origins,
                    gate_open: lead.skilled,
                    gate_open_now: lead.skilled_now,
                    rows: lead.rows,
                })
                .collect(),
            missing: report.missing,
            notes: report.notes,
            seconds: report.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::parse("load.csv", b"timestamp,value\n0,1\n300,2\n900,4\n1200,5\n", None).unwrap()
    }

    fn options(leads: &[&str]) -> BacktestOptions {
        BacktestOptions {
            leads: leads.iter().map(|lead| lead.parse().unwrap()).collect(),
            season: "1d".parse().unwrap(),
            quantile: "0.9".parse().unwrap(),
        }
    }

    #[test]
    fn leads_become_samples_in_order() {
        let question = options(&["1h", "15m", "60m"]).question(&history()).unwrap();
        assert_eq!((question.leads, question.season), (vec![3, 12], 288));
    }

    #[track_caller]
    fn refuse(leads: &[&str], message: &str) {
        let failure = options(leads).question(&history()).unwrap_err();
        assert_eq!((failure.message.as_str(), failure.kind.exit_code()), (message, 2));
    }

    #[test]
    fn leads_that_do_not_fit_are_refused() {
        refuse(&["7m"], "the lead of 7m is not a multiple of the step of 5m");
        refuse(&["15d"], "the lead of 15d is 4320 steps, more than 4032");
        let many: Vec<String> = (1..10).map(|index| format!("{}m", 5 * index)).collect();
        refuse(&many.iter().map(String::as_str).collect::<Vec<_>>(), "9 leads are more than 8");
    }
}
