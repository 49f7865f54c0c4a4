//! What is asked of a backtest, and how its answer is shown.
//!
//! Pure: spans to samples on the way in, samples to spans on the way out.

use std::fmt::Write;

use jiff::Timestamp;
use serde::Serialize;

use crate::failure::Failure;
use crate::forecast::history::History;
use crate::forecast::protocol::{Backtest, Missing, Report, Row};
use crate::forecast::span::Span;
use crate::forecast::{LONGEST_HORIZON, Quantile, in_samples, season_in_samples};
use crate::show::print::{decimals, table};

// The worker takes no more at a time.
const MOST_LEADS: usize = 8;

/// What is asked, whatever the history.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How long before.
    pub leads: Vec<Span>,
    /// After which time demand repeats.
    pub season: Span,
    /// The share of samples that should stay below the upper line.
    pub quantile: Quantile,
}

impl Wish {
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

/// A backtest with its times.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The history's name.
    pub history: String,
    /// How many samples were used.
    pub samples: usize,
    /// Their distance.
    pub step: Span,
    /// The time of the first.
    pub from: Timestamp,
    /// The time of the last.
    pub to: Timestamp,
    /// How many were missing, and filled from their past.
    pub missing_samples: usize,
    /// From when on forecasts are scored; what is before only teaches.
    pub scored_from: Timestamp,
    /// After which time demand repeats.
    pub season: Span,
    /// The share of samples that should stay below the upper line.
    pub quantile: Quantile,
    /// One part per lead time.
    pub leads: Vec<Lead>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// How long the worker took.
    pub seconds: f64,
}

/// One lead time.
#[derive(Clone, Debug, Serialize)]
pub struct Lead {
    /// How long before.
    pub lead: Span,
    /// How many forecasts were compared with a sample.
    pub origins: usize,
    /// At which share of them the gate was open.
    pub gate_open: f64,
    /// Whether it is open at the end.
    pub gate_open_now: bool,
    /// `forecast`, then every model.
    pub rows: Vec<Row>,
}

impl Shown {
    /// Gives an answer its times.
    pub fn new(name: &str, history: &History, wish: &Wish, report: Report) -> Shown {
        let first = history.samples.len().saturating_sub(report.samples);
        let step = history.step;
        let span = |samples: u32| Span::from_seconds(samples.saturating_mul(step.seconds())).unwrap_or(step);
        Shown {
            history: name.to_owned(),
            samples: report.samples,
            step,
            from: history.time(first),
            to: history.end(),
            missing_samples: report.borrowed,
            scored_from: history.time(first + report.taught),
            season: wish.season,
            quantile: wish.quantile,
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

    /// As text for people.
    pub fn text(&self) -> String {
        let mut out = format!("backtest of `{}`\n", self.history);
        let mut line = |label: &str, text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{label:<9}{text}");
        };
        let filled = match self.missing_samples {
            0 => String::new(),
            some => format!("; {some} missing, filled from their past, never scored"),
        };
        line("history", format!("{} samples every {}, {} to {}{filled}", self.samples, self.step, self.from, self.to));
        line(
            "scored",
            format!("from {} on; each forecast sees its past alone, the season is {}", self.scored_from, self.season),
        );
        for missing in &self.missing {
            line("missing", format!("{} needs {} samples, has {}", missing.model, missing.needs, missing.has));
        }
        for note in &self.notes {
            line("note", note.clone());
        }
        let (_, upper) = self.quantile.names();
        for lead in &self.leads {
            let _ = writeln!(
                out,
                "\n{} ahead: {} forecasts; gate open at {} of them, {} now",
                lead.lead,
                lead.origins,
                percent(Some(lead.gate_open)),
                if lead.gate_open_now { "open" } else { "shut" }
            );
            let places = decimals(lead.rows.iter().map(|row| row.mae).fold(0.0, f64::max)).max(2);
            let head =
                ["model", "MASE", "MAE", "skill", "pinball", &format!("below {upper}"), "used"].map(str::to_owned);
            let rows = lead.rows.iter().map(|row| {
                [
                    row.model.clone(),
                    row.mase.map_or_else(|| "-".to_owned(), |mase| format!("{mase:.2}")),
                    format!("{:.places$}", row.mae),
                    percent(row.skill),
                    format!("{:.places$}", row.pinball),
                    format!("{:.1}%", row.coverage * 100.0),
                    percent(Some(row.used)),
                ]
            });
            out.push_str(&table(&head, &rows.collect::<Vec<_>>()));
        }
        out
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::protocol::LeadReport;

    fn history() -> History {
        History::parse("load.csv", b"timestamp,value\n0,1\n300,2\n900,4\n1200,5\n", None).unwrap()
    }

    fn wish(leads: &[&str]) -> Wish {
        Wish {
            leads: leads.iter().map(|lead| lead.parse().unwrap()).collect(),
            season: "1d".parse().unwrap(),
            quantile: "0.9".parse().unwrap(),
        }
    }

    #[test]
    fn leads_become_samples_in_order() {
        let question = wish(&["1h", "15m", "60m"]).question(&history()).unwrap();
        assert_eq!((question.leads, question.season), (vec![3, 12], 288));
    }

    #[track_caller]
    fn refuse(leads: &[&str], message: &str) {
        let failure = wish(leads).question(&history()).unwrap_err();
        assert_eq!((failure.message.as_str(), failure.kind.exit_code()), (message, 2));
    }

    #[test]
    fn leads_that_do_not_fit_are_refused() {
        refuse(&["7m"], "the lead of 7m is not a multiple of the step of 5m");
        refuse(&["15d"], "the lead of 15d is 4320 steps, more than 4032");
        let many: Vec<String> = (1..10).map(|index| format!("{}m", 5 * index)).collect();
        refuse(&many.iter().map(String::as_str).collect::<Vec<_>>(), "9 leads are more than 8");
    }

    #[test]
    fn the_table_has_the_bad_rows_too() {
        let row = |model: &str, mae: f64, skill: Option<f64>| Row {
            model: model.to_owned(),
            mae,
            mase: skill.map(|_| mae / 2.0),
            skill,
            pinball: mae / 4.0,
            coverage: 0.905,
            used: 1.0,
        };
        let report = Report {
            samples: 4,
            taught: 2,
            borrowed: 1,
            leads: vec![LeadReport {
                lead: 3,
                origins: 40,
                skilled: 0.75,
                skilled_now: false,
                rows: vec![
                    row("forecast", 1.0, Some(0.5)),
                    row("last-value", 4.0, Some(-1.0)),
                    row("flat-mean", 3.0, None),
                ],
            }],
            missing: vec![Missing { model: "weekly-naive".to_owned(), needs: 4_608, has: 4 }],
            notes: vec!["a note".to_owned()],
            seconds: 0.1,
        };
        let expected = "\
backtest of `load.csv`
history  4 samples every 5m, 1970-01-01T00:05:00Z to 1970-01-01T00:20:00Z; 1 missing, filled from their past, never scored
scored   from 1970-01-01T00:15:00Z on; each forecast sees its past alone, the season is 1d
missing  weekly-naive needs 4608 samples, has 4
note     a note

15m ahead: 40 forecasts; gate open at 75% of them, shut now
model       MASE   MAE  skill  pinball  below p90  used
forecast    0.50  1.00    50%     0.25      90.5%  100%
last-value  2.00  4.00  -100%     1.00      90.5%  100%
flat-mean      -  3.00      -     0.75      90.5%  100%
";
        let found = Shown::new("load.csv", &history(), &wish(&["15m"]), report).text();
        assert_eq!(found, expected);
    }
}
