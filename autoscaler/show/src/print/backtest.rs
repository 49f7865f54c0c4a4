//! A backtest as text for people.

use crate::print::simulation::{rule_rows, rule_table};
use crate::print::table;
use autoscaler_floor::compare::Comparison;
use autoscaler_floor::units::decimals;
use autoscaler_forecast::backtest::BacktestReport;
use serde::Serialize;
use std::fmt::Write;

/// A backtest of forecasts, and of the floor that follows them.
#[derive(Clone, Debug, Serialize)]
pub struct Backtested {
    /// Scores of the forecasts.
    #[serde(flatten)]
    pub report: BacktestReport,
    /// Comparison of floors; none for a history that nothing is scaled by.
    pub floor: Option<Comparison>,
}

/// Returns the text for people.
pub fn text(backtested: &Backtested) -> String {
    let report = &backtested.report;
    let mut out = format!("backtest of `{}`\n", report.history);
    let mut line = |label: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label:<9}{text}");
    };
    let filled = match report.missing_samples {
        0 => String::new(),
        some => format!("; {some} missing, filled from their past and not scored"),
    };
    line(
        "history",
        format!("{} samples every {}, {} to {}{filled}", report.samples, report.step, report.from, report.to),
    );
    line(
        "scored",
        format!("from {} on; each forecast sees only its past; the season is {}", report.scored_from, report.season),
    );
    for missing in &report.missing {
        line("missing", format!("{} needs {} samples, has {}", missing.model, missing.needs, missing.has));
    }
    for note in &report.notes {
        line("note", note.clone());
    }
    let (_, upper) = report.quantile.names();
    for lead in &report.leads {
        let _ = writeln!(
            out,
            "\n{} ahead: {} forecasts; gate open at {} of them, {} now",
            lead.lead,
            lead.origins,
            percent(Some(lead.gate_open)),
            if lead.gate_open_now { "open" } else { "closed" }
        );
        let places = decimals(lead.rows.iter().map(|row| row.mae).fold(0.0, f64::max)).max(2);
        let head = ["model", "MASE", "MAE", "skill", "pinball", &format!("below {upper}"), "used"].map(str::to_owned);
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
    if let Some(floor) = &backtested.floor {
        let rows = rule_rows(floor.alone, floor.with_floor, &floor.rules);
        let _ = write!(
            out,
            "\nA floor over the scored half; gate open at {}\n{}",
            percent(Some(floor.gate_open)),
            rule_table(&rows)
        );
    }
    out
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscaler_forecast::backtest::BacktestOptions;
    use autoscaler_forecast::history::History;
    use autoscaler_forecast::protocol::{LeadReport, Missing, Report, Row};

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
history  4 samples every 5m, 1970-01-01T00:05:00Z to 1970-01-01T00:20:00Z; 1 missing, filled from their past and not scored
scored   from 1970-01-01T00:15:00Z on; each forecast sees only its past; the season is 1d
missing  weekly-naive needs 4608 samples, has 4
note     a note

15m ahead: 40 forecasts; gate open at 75% of them, closed now
model       MASE   MAE  skill  pinball  below p90  used
forecast    0.50  1.00    50%     0.25      90.5%  100%
last-value  2.00  4.00  -100%     1.00      90.5%  100%
flat-mean      -  3.00      -     0.75      90.5%  100%
";
        let history = History::parse("load.csv", b"timestamp,value\n0,1\n300,2\n900,4\n1200,5\n", None).unwrap();
        let options = BacktestOptions {
            leads: vec!["15m".parse().unwrap()],
            season: "1d".parse().unwrap(),
            quantile: "0.9".parse().unwrap(),
        };
        let report = BacktestReport::new("load.csv", &history, &options, report);
        let found = text(&Backtested { report, floor: None });
        assert_eq!(found, expected);
    }
}
