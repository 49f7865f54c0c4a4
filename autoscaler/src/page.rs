//! The page: what it shows, and how a template is rendered.
//!
//! Templates are read at every request, so an edit shows on the next one and a broken one breaks only the page.

pub mod simulation;

use std::path::Path;

use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, path_loader};
use serde::Serialize;

use crate::chart::{Chart, Frame};
use crate::forecast::{Forecast, Point};
use crate::history::History;
use crate::print::{decimals, skill};
use crate::protocol::{Hello, Missing};

/// The rows of the short table, about.
const ROWS: usize = 12;

/// What the forecast's template knows.
#[derive(Debug, Serialize)]
pub struct ForecastPage {
    /// The history's name.
    pub name: String,
    /// What is running.
    pub about: About,
    /// A chart for wide screens.
    pub wide: Chart,
    /// A chart for phones.
    pub narrow: Chart,
    /// The model, in words.
    pub model: String,
    /// Whether it has skill.
    pub skilled: bool,
    /// The skill, in words.
    pub skill: String,
    /// The skill over the better flat line and over the seasonal naive, in percent.
    pub percent: Option<i64>,
    /// The last sample.
    pub now: Row,
    /// The step with the highest upper line.
    pub peak: Row,
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

/// What the error's template knows.
#[derive(Debug, Serialize)]
pub struct ErrorPage {
    /// What is running.
    pub about: About,
    /// What cannot be done.
    pub message: String,
    /// Why.
    pub causes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
}

/// What is running.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The version.
    pub version: &'static str,
    /// The source's revision, when the environment gave one.
    pub revision: Option<String>,
    /// The worker's Python.
    pub python: Option<String>,
    /// The worker's packages.
    pub packages: Vec<(String, String)>,
}

impl About {
    /// What is running, as far as it is known.
    pub fn new(revision: Option<&str>, hello: Option<&Hello>) -> About {
        About {
            version: env!("CARGO_PKG_VERSION"),
            revision: revision.map(str::to_owned),
            python: hello.map(|hello| hello.python.clone()),
            packages: hello.map(|hello| hello.packages.clone().into_iter().collect()).unwrap_or_default(),
        }
    }
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
    /// The time for machines.
    pub time: String,
    /// The day.
    pub day: String,
    /// The hour and minute.
    pub clock: String,
    /// The expected value, or the sample.
    pub mean: String,
    /// The lower line.
    pub lower: String,
    /// The upper line.
    pub upper: String,
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

impl ForecastPage {
    /// What the page shows of a forecast.
    pub fn new(name: &str, history: &History, forecast: &Forecast, about: About) -> ForecastPage {
        let largest = history.samples.iter().flatten().fold(0.0, |so_far: f64, value| so_far.max(value.abs()));
        let places = decimals(largest);
        let row = |point: &Point| Row {
            time: point.time.to_string(),
            day: point.time.strftime("%a %b %-d").to_string(),
            clock: point.time.strftime("%H:%M").to_string(),
            mean: format!("{:.places$}", point.mean),
            lower: format!("{:.places$}", point.lower),
            upper: format!("{:.places$}", point.upper),
        };
        let last = history.samples.last().copied().flatten().unwrap_or_default();
        let now = Point { time: history.end(), mean: last, lower: last, upper: last };
        let all: Vec<Row> = forecast.points.iter().map(row).collect();
        // From the far end, so that the short table ends where the forecast does.
        let every = all.len().div_ceil(ROWS).max(1);
        let mut rows: Vec<Row> = all.iter().rev().step_by(every).cloned().collect();
        rows.reverse();

        let day = (86_400 / history.step.seconds()).max(1) as usize;
        let worst = forecast.scores.iter().map(|score| score.mae).fold(0.0, f64::max);
        let mut scores: Vec<ScoreRow> = Vec::new();
        let mut sorted: Vec<_> = forecast.scores.iter().collect();
        sorted.sort_by(|a, b| a.mae.total_cmp(&b.mae));
        for score in sorted {
            scores.push(ScoreRow {
                model: score.model.clone(),
                mae: format!("{:.*}", decimals(score.mae).max(places), score.mae),
                bar: if worst > 0.0 { (score.mae / worst * 100.0).round() as i64 } else { 0 },
                used: forecast.members.contains(&score.model),
            });
        }
        let made = &forecast.history;
        let horizon = forecast.points.len() as u32 * history.step.seconds();
        ForecastPage {
            name: name.to_owned(),
            about,
            wide: Chart::new(history, forecast, Frame { width: 1040.0, height: 320.0, past: 2 * day, marks: 10 }),
            narrow: Chart::new(history, forecast, Frame { width: 358.0, height: 250.0, past: day, marks: 5 }),
            model: match forecast.members.as_slice() {
                [one] => one.clone(),
                several => format!("mean of {}", several.join(", ")),
            },
            skilled: forecast.skilled,
            skill: skill(forecast),
            percent: forecast.skill_flat.map(|over_flat| {
                let least = forecast.skill.map_or(over_flat, |skill| skill.min(over_flat));
                (least * 100.0).round() as i64
            }),
            now: row(&now),
            peak: row(forecast.peak().unwrap_or(&now)),
            horizon: crate::span::Span::from_seconds(horizon).map(|span| span.to_string()).unwrap_or_default(),
            lines: forecast.quantile.names(),
            made: Made {
                samples: made.samples,
                step: made.step.to_string(),
                from: day_of(made.from),
                to: made.to.strftime("%Y-%m-%d %H:%M").to_string(),
                filled: made.interpolated + made.borrowed,
            },
            rows,
            all,
            scores,
            missing: forecast.missing.clone(),
            notes: forecast.notes.clone(),
            seconds: format!("{:.2}", forecast.seconds),
        }
    }
}

fn day_of(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// Why a template could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenTemplate {
    /// `file:line`, as far as it is known.
    pub place: String,
    /// What is wrong.
    pub cause: String,
}

/// Renders a template of a folder, as both are now.
pub fn render(folder: &Path, name: &str, page: &impl Serialize) -> Result<String, BrokenTemplate> {
    let mut environment = Environment::new();
    environment.set_loader(path_loader(folder));
    // A misspelt name is an error, not an empty place on the page.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The style sheet is a template too, of text that is ours.
    environment.set_auto_escape_callback(
        |name| {
            if name.ends_with(".css") { AutoEscape::None } else { AutoEscape::Html }
        },
    );
    let rendered = environment.get_template(name).and_then(|template| template.render(Serde(page)));
    rendered.map_err(|error| {
        let file = folder.join(error.name().unwrap_or(name));
        let place = match error.line() {
            Some(line) => format!("{}:{line}", file.display()),
            None => file.display().to_string(),
        };
        let mut cause = match (error.kind(), error.detail()) {
            // Without a line it is the page's own template, which the place names.
            (ErrorKind::TemplateNotFound, _) if error.line().is_none() => "no such template".to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        let mut deeper = std::error::Error::source(&error);
        while let Some(source) = deeper {
            cause = format!("{cause}: {source}");
            deeper = source.source();
        }
        BrokenTemplate { place, cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::tests_support::flat;

    fn about() -> About {
        About { version: "1.2.3", revision: None, python: None, packages: Vec::new() }
    }

    fn page(name: &str) -> ForecastPage {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n900,4\n", None).unwrap();
        ForecastPage::new(name, &history, &flat(&history, 30, 3.0), about())
    }

    fn ours() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")
    }

    #[test]
    fn our_templates_render() {
        let html = render(&ours(), "forecast.html", &page("load.csv")).unwrap();
        for part in ["<svg", "load.csv", "weekly-naive", "1970-01-01T02:45:00Z", "prefers-color-scheme: dark"] {
            assert!(html.contains(part), "{part} is not on the page");
        }
        // No script, nothing from elsewhere.
        assert!(!html.contains("<script") && !html.contains("//"), "{html}");

        let error = ErrorPage { about: about(), message: "cannot".into(), causes: vec!["why".into()], hint: None };
        assert!(render(&ours(), "error.html", &error).unwrap().contains("why"));
    }

    #[test]
    fn names_are_escaped() {
        let html = render(&ours(), "forecast.html", &page("<b>x</b>")).unwrap();
        assert!(html.contains("&lt;b&gt;x") && !html.contains("<b>x"));
    }

    #[test]
    fn the_short_table_ends_with_the_forecast() {
        let page = page("a");
        assert_eq!((page.rows.len(), page.all.len()), (10, 30));
        assert_eq!(page.rows.last().unwrap().time, page.all.last().unwrap().time);
    }

    #[track_caller]
    fn broken(text: &str, line: &str, cause: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.html"), text).unwrap();
        let error = render(folder.path(), "a.html", &page("a")).unwrap_err();
        assert!(error.place.ends_with(line), "{error:?}");
        assert!(error.cause.contains(cause), "{error:?}");
    }

    #[test]
    fn a_broken_template_says_where() {
        broken("fine\n{% if %}", "a.html:2", "syntax error");
        broken("\n\n{{ nmae }}", "a.html:3", "undefined value");
        broken("{% include 'b.html' %}", "a.html:1", "b.html");
    }

    #[test]
    fn a_missing_template_says_which() {
        let error = render(Path::new("/nowhere"), "a.html", &page("a")).unwrap_err();
        assert_eq!((error.place.as_str(), error.cause.as_str()), ("/nowhere/a.html", "no such template"));
    }
}
