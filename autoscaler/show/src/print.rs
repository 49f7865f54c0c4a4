//! A forecast as text for people, as JSON and CSV for programs.

pub mod backtest;
pub mod simulation;

use autoscaler_floor::units::decimals;
use autoscaler_forecast::Forecast;
use std::fmt::Write;

/// Output format of a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table under what is known about it
    Text,
    /// One object with everything
    Json,
    /// `timestamp,mean,lower,upper`
    Csv,
}

/// Prints a forecast of the history `name`.
pub fn print(forecast: &Forecast, name: &str, format: Format) -> Result<String, serde_json::Error> {
    Ok(match format {
        Format::Text => text(forecast, name),
        Format::Json => serde_json::to_string_pretty(forecast)? + "\n",
        Format::Csv => csv(forecast),
    })
}

fn text(forecast: &Forecast, name: &str) -> String {
    let mut out = format!("forecast of `{name}`\n");
    for (label, line) in summary(forecast) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label:<9}{line}");
    }
    let (lower, upper) = forecast.quantile.names();
    let decimals = decimals(forecast.points.iter().map(|point| point.upper.abs()).fold(0.0, f64::max));
    let rows: Vec<[String; 4]> = forecast
        .points
        .iter()
        .map(|point| {
            let number = |value: f64| format!("{value:.decimals$}");
            [point.time.to_string(), number(point.mean), number(point.lower), number(point.upper)]
        })
        .collect();
    let head = ["time".to_owned(), "mean".to_owned(), lower, upper];
    out.push('\n');
    out.push_str(&table(&head, &rows));
    out
}

/// A table under its head: the first column to the left, numbers to the right.
pub fn table<const COLUMNS: usize>(head: &[String; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows.iter().chain([head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in [head].into_iter().chain(rows) {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(index, (cell, width))| match index {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Returns the summary of a forecast, one labelled line each.
pub fn summary(forecast: &Forecast) -> Vec<(&'static str, String)> {
    let made = &forecast.history;
    let mut history = format!("{} samples every {}, {} to {}", made.samples, made.step, made.from, made.to);
    let filled = made.interpolated + made.borrowed;
    if filled > 0 {
        let _ = write!(
            history,
            "; {filled} missing: {} interpolated, {} from other seasons",
            made.interpolated, made.borrowed
        );
    }
    let model = match forecast.members.as_slice() {
        [one] => one.clone(),
        several => format!("mean of {}", several.join(", ")),
    };
    let mut lines = vec![("history", history), ("model", model), ("skill", skill(forecast))];
    if !forecast.missing.is_empty() {
        let each: Vec<String> = forecast
            .missing
            .iter()
            .map(|missing| format!("{} needs {} samples, has {}", missing.model, missing.needs, missing.has))
            .collect();
        lines.push(("missing", each.join("; ")));
    }
    lines.extend(forecast.notes.iter().map(|note| ("note", note.clone())));
    lines
}

/// The skill in words: what the choice of a floor says, or how errors compare where no floor is decided.
pub fn skill(forecast: &Forecast) -> String {
    if let Some(choice) = &forecast.choice {
        return format!("{}: {}", if choice.open { "yes" } else { "none" }, choice.reason);
    }
    let over = |skill: Option<f64>, reference: &str| match skill {
        Some(skill) => format!("{:.0}% less error than {reference}", skill * 100.0),
        None => format!("not comparable with {reference}"),
    };
    format!(
        "{}: {}, {} ({} backtests)",
        if forecast.skilled { "yes" } else { "none" },
        over(forecast.skill, "seasonal-naive"),
        over(forecast.skill_flat, "a flat line"),
        forecast.backtests
    )
}

fn csv(forecast: &Forecast) -> String {
    let mut out = String::from("timestamp,mean,lower,upper\n");
    for point in &forecast.points {
        let _ = writeln!(out, "{},{},{},{}", point.time, point.mean, point.lower, point.upper);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::flat;
    use autoscaler_forecast::history::History;

    #[test]
    fn text_says_what_is_known_and_what_is_missing() {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n900,4\n", None).unwrap();
        let expected = "\
forecast of `a.csv`
history  4 samples every 5m, 1970-01-01T00:00:00Z to 1970-01-01T00:15:00Z; 1 missing: 1 interpolated, 0 from other seasons
model    mean of harmonic, holt-winters
skill    yes: 25% less error than seasonal-naive, 50% less error than a flat line (160 backtests)
missing  weekly-naive needs 2304 samples, has 4
note     a note

time                  mean   p10   p90
1970-01-01T00:20:00Z  12.5  11.5  13.5
1970-01-01T00:25:00Z  12.5  11.5  13.5
";
        let found = print(&flat(&history, 2, 12.5), "a.csv", Format::Text).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn csv_has_one_row_per_step() {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n", None).unwrap();
        let found = print(&flat(&history, 1, 3.0), "a.csv", Format::Csv).unwrap();
        assert_eq!(found, "timestamp,mean,lower,upper\n1970-01-01T00:10:00Z,3,2,4\n");
    }
}
