//! Input of the template for one workload: from a history file, or from the operator's state. Both use the same template.

use crate::chart::{Chart, Frame};
use crate::curve::Curve;
use crate::levels::Levels;
use crate::page::forecast::{At, ForecastPart};
use crate::page::{About, Notice};
use crate::state::{Decided, Said, ScalerName, StoredWorkload};
use autoscaler_floor::decide::Mode;
use autoscaler_floor::units::decimals;
use autoscaler_floor::units::{Demand, Unit};
use autoscaler_forecast::Forecast;
use autoscaler_forecast::choice::Choice;
use autoscaler_forecast::history::History;
use autoscaler_forecast::span::Span;
use serde::Serialize;

pub const TEMPLATE: &str = "forecast.html";

/// Time span of the past that a page shows.
pub const PAST: Span = Span::from_seconds(2 * DAY).unwrap();

const DAY: u32 = 86_400;
/// This many times as much past as future, from half a day to two.
const SHOWN_BESIDE: u32 = 16;
const MOST_ROWS: usize = 40;

/// A workload, ready for a template.
#[derive(Debug, Serialize)]
pub struct WorkloadPage {
    pub name: String,
    /// True for a scaler of an operator: the page has decisions and a link to the list.
    pub scaler: bool,
    pub about: About,
    pub notices: Vec<Notice>,
    /// Description in one line.
    pub subtitle: String,
    pub tiles: Vec<Tile>,
    /// Chart of demand and forecast.
    pub demand: Option<Drawn<Chart>>,
    /// Chart of the pods.
    pub pods: Option<Drawn<Levels>>,
    pub forecast: Option<ForecastPart>,
    /// Shortage against cost on this workload's own last weeks.
    pub tradeoff: Option<Drawn<Curve>>,
    /// Decisions that changed something or have new reasons, the newest first.
    pub decisions: Vec<DecisionRow>,
    /// Conditions of the status.
    pub conditions: Vec<ConditionRow>,
    /// The spec, a labelled line each.
    pub facts: Vec<(&'static str, String)>,
}

/// A number with what it is.
#[derive(Debug, Serialize)]
pub struct Tile {
    pub label: String,
    pub value: String,
    /// Explanation of the value.
    pub detail: String,
    /// A word next to it, and whether it is a good one.
    pub tag: Option<(String, bool)>,
}

/// A chart for wide screens, and one for phones.
#[derive(Debug, Serialize)]
pub struct Drawn<T> {
    /// Drawing for wide screens.
    pub wide: T,
    /// Drawing for phones.
    pub narrow: T,
    /// Text for screen readers.
    pub label: String,
}

/// A decision, as text.
#[derive(Debug, Serialize)]
pub struct DecisionRow {
    pub at: At,
    /// The floor, or how it was changed.
    pub floor: String,
    /// True if the floor was changed.
    pub changed: bool,
    /// Number of running pods.
    pub replicas: String,
    pub reasons: Vec<Said>,
    /// Reason that it could not be written.
    pub failed: Option<String>,
    /// Number of similar decisions that came right after it.
    pub alike: usize,
}

/// A condition, as text.
#[derive(Debug, Serialize)]
pub struct ConditionRow {
    /// Type of the condition.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// True if the condition is as it should be; none if it is unknown.
    pub good: Option<bool>,
    /// Reason in one word.
    pub reason: String,
    /// Reason for people.
    pub message: String,
    /// Time of the last change.
    pub since: At,
}

impl WorkloadPage {
    /// The page of a history file.
    pub fn of_file(name: &str, history: &History, forecast: &Forecast, about: About) -> WorkloadPage {
        let places = decimals(largest(Some(history)));
        let part = ForecastPart::new(forecast, places);
        let last = history.samples.last().copied().flatten().unwrap_or_default();
        let tiles = [
            Tile {
                label: "last sample".to_owned(),
                value: format!("{last:.places$}"),
                detail: moment(&history.end().into()),
                tag: None,
            },
            Tile {
                label: "expected at the peak".to_owned(),
                value: part.peak.as_ref().map(|peak| peak.mean.clone()).unwrap_or_default(),
                detail: part.peak.as_ref().map(|peak| moment(&peak.at)).unwrap_or_default(),
                tag: None,
            },
            Tile {
                label: format!("capacity to have ready ({})", part.lines.1),
                value: part.peak.as_ref().map(|peak| peak.upper.clone()).unwrap_or_default(),
                detail: part.peak.as_ref().map(|peak| format!("by {} UTC", peak.at.clock)).unwrap_or_default(),
                tag: None,
            },
            skill_tile(&part, None),
        ];
        WorkloadPage {
            name: name.to_owned(),
            scaler: false,
            about,
            notices: Vec::new(),
            subtitle: format!("{} samples every {} since {}", part.made.samples, part.made.step, part.made.from),
            tiles: tiles.into(),
            demand: Some(drawn(history, Some(forecast), &[], history.step)),
            pods: None,
            forecast: Some(part),
            tradeoff: None,
            decisions: Vec::new(),
            conditions: Vec::new(),
            facts: Vec::new(),
        }
    }

    /// Returns the page of a scaler, from the operator's state.
    pub fn of_scaler(
        name: &ScalerName,
        stored: &StoredWorkload,
        about: About,
        mut notices: Vec<Notice>,
    ) -> WorkloadPage {
        let profile = &stored.profile;
        let places = decimals(largest(stored.history.as_ref()));
        let part = stored.forecast.as_ref().map(|forecast| ForecastPart::new(forecast, places));
        let newest = stored.decisions.first();
        if profile.paused {
            notices
                .push(Notice { poor: false, text: "Paused by its annotation: the floor does not change.".to_owned() });
        }
        if let Some(missing) = &profile.missing {
            notices.push(Notice { poor: true, text: format!("No prediction: {missing}") });
        }
        for condition in profile.conditions.iter().filter(|condition| condition.good() == Some(false)) {
            notices.push(Notice { poor: true, text: format!("{}: {}", condition.reason, condition.message) });
        }
        let demand = stored.history.as_ref().map(|history| {
            let asked: Vec<(i64, f64)> = stored
                .decisions
                .iter()
                .rev()
                .filter_map(|decided| Some((decided.at.as_second(), decided.peak?)))
                .collect();
            drawn(history, stored.forecast.as_ref(), &asked, profile.step)
        });
        let pods = demand.as_ref().and_then(|drawn| pods(&stored.decisions, profile.step, drawn));
        WorkloadPage {
            name: name.to_string(),
            scaler: true,
            about,
            notices,
            subtitle: format!(
                "{}, every {}",
                profile
                    .target
                    .as_deref()
                    .map_or_else(|| profile.hpa.clone(), |target| format!("{}, {target}", profile.hpa)),
                profile.step
            ),
            tiles: tiles(stored, newest, part.as_ref()),
            demand,
            pods,
            forecast: part,
            tradeoff: stored.forecast.as_ref().and_then(tradeoff),
            decisions: decisions(&stored.decisions),
            conditions: profile
                .conditions
                .iter()
                .map(|condition| ConditionRow {
                    kind: condition.kind.clone(),
                    status: condition.status.clone(),
                    good: condition.good(),
                    reason: condition.reason.clone(),
                    message: condition.message.clone(),
                    since: condition.since.into(),
                })
                .collect(),
            facts: facts(stored),
        }
    }
}

fn moment(at: &At) -> String {
    format!("{}, {} UTC", at.day, at.clock)
}

fn largest(history: Option<&History>) -> f64 {
    let samples = history.iter().flat_map(|history| history.samples.iter().flatten());
    samples.fold(0.0, |so_far: f64, value| so_far.max(value.abs()))
}

/// Returns the tile with the shortage that the choice prevents on the last weeks; without a choice, with the skill of the
/// forecast.
fn skill_tile(part: &ForecastPart, choice: Option<&Choice>) -> Tile {
    if let Some(chosen) = choice.and_then(Choice::chosen) {
        return Tile {
            label: "shortage prevented".to_owned(),
            value: format!("{:.0} %", 100.0 * (1.0 - chosen.short)),
            detail: format!("for {:.1} % more pod-seconds, over the last weeks", 100.0 * chosen.cost),
            tag: Some(if part.skilled { ("worth it".to_owned(), true) } else { ("not worth it".to_owned(), false) }),
        };
    }
    Tile {
        label: "error saved".to_owned(),
        value: part.percent.map_or_else(|| "?".to_owned(), |percent| format!("{percent} %")),
        detail: "against the best plain reference".to_owned(),
        tag: Some(if part.skilled { ("skilled".to_owned(), true) } else { ("no skill".to_owned(), false) }),
    }
}

/// A demand with its unit, as far as it is one; as short as a tile is wide.
pub(super) fn amount(value: f64, unit: Unit) -> String {
    const SIZES: [(f64, &str); 4] =
        [(1_099_511_627_776.0, "Ti"), (1_073_741_824.0, "Gi"), (1_048_576.0, "Mi"), (1_024.0, "Ki")];
    let size = SIZES.into_iter().find(|(each, _)| unit == Unit::Bytes && value >= *each);
    match (Demand::new(value, unit), size) {
        (None, _) => "?".to_owned(),
        (Some(_), Some((each, name))) if value / each < 1e6 => {
            let value = value / each;
            format!("{value:.*} {name}", decimals(value))
        }
        (Some(_), _) if value >= 1e12 => format!("{value:.1e}"),
        (Some(demand), _) => demand.to_string(),
    }
}

fn tiles(stored: &StoredWorkload, newest: Option<&Decided>, part: Option<&ForecastPart>) -> Vec<Tile> {
    let profile = &stored.profile;
    let unit = profile.unit;
    let unknown = || "?".to_owned();
    let sample =
        stored.history.as_ref().and_then(|history| Some((history.samples.last().copied().flatten()?, history)));
    let floor = newest
        .map(|newest| (newest.original, newest.floor))
        .or_else(|| profile.floor_status.map(|status| (status.original, status.floor)));
    let mode = match (profile.paused, profile.mode) {
        (true, _) => ("paused".to_owned(), false),
        (false, Mode::Enforce) => ("enforced".to_owned(), true),
        (false, Mode::Recommend) => ("recommended".to_owned(), false),
    };
    vec![
        Tile {
            label: "demand".to_owned(),
            value: sample.map_or_else(unknown, |(value, _)| amount(value, unit)),
            detail: match (newest.and_then(|newest| newest.peak), sample) {
                (Some(peak), _) => {
                    format!("{} of the next {}: {}", profile.quantile.names().1, profile.lead_time, amount(peak, unit))
                }
                (None, Some((_, history))) => moment(&history.end().into()),
                (None, None) => "no samples yet".to_owned(),
            },
            tag: None,
        },
        Tile {
            label: "floor".to_owned(),
            value: floor.map_or_else(unknown, |(_, floor)| floor.to_string()),
            detail: match floor {
                Some((original, _)) => format!("original {original}, at most {}", profile.max_floor),
                None => "no decision yet".to_owned(),
            },
            tag: Some(mode),
        },
        Tile {
            label: "pods".to_owned(),
            value: newest.and_then(|newest| newest.replicas).map_or_else(unknown, |pods| pods.to_string()),
            detail: match profile.max_replicas {
                Some(most) => format!("the autoscaler's maximum is {most}"),
                None => "the autoscaler has not been read yet".to_owned(),
            },
            tag: None,
        },
        part.map_or_else(
            || Tile {
                label: "error saved".to_owned(),
                value: unknown(),
                detail: "no forecast yet".to_owned(),
                tag: None,
            },
            |part| skill_tile(part, stored.forecast.as_ref().and_then(|forecast| forecast.choice.as_ref())),
        ),
    ]
}

fn drawn(history: &History, forecast: Option<&Forecast>, asked: &[(i64, f64)], step: Span) -> Drawn<Chart> {
    // A forecast of minutes is not seen at the end of two days.
    let ahead = forecast.map_or(DAY, |forecast| (forecast.points.len() as u32).saturating_mul(step.seconds()));
    let past = ahead.saturating_mul(SHOWN_BESIDE).clamp(DAY / 2, 2 * DAY);
    let day = (past / 2 / step.seconds()).max(1) as usize;
    let draw = |width, height, past, marks| Chart::new(history, forecast, asked, Frame { width, height, past, marks });
    let end = moment(&history.end().into());
    let label = match forecast.and_then(|forecast| Some((forecast.peak()?, forecast))) {
        Some((peak, forecast)) => {
            let places = decimals(peak.upper);
            let upper = forecast.quantile.names().1;
            format!(
                "Demand until {end}, then the forecast: {:.places$} at its peak, {upper} {:.places$}",
                peak.mean, peak.upper
            )
        }
        None => format!("Demand until {end}"),
    };
    Drawn { wide: draw(1040.0, 320.0, 2 * day, 10), narrow: draw(358.0, 250.0, day, 5), label }
}

/// Under the chart of demand, over the same time.
fn pods(decisions: &[Decided], step: Span, demand: &Drawn<Chart>) -> Option<Drawn<Levels>> {
    let draw = |chart: &Chart, width, height, marks| {
        Levels::new(decisions, step, chart.axes.from, chart.axes.to, Frame { width, height, past: 0, marks })
    };
    let newest = decisions.first()?;
    let ran = newest.replicas.map(|pods| format!(", {pods} pods")).unwrap_or_default();
    Some(Drawn {
        wide: draw(&demand.wide, 1040.0, 200.0, 10)?,
        narrow: draw(&demand.narrow, 358.0, 180.0, 5)?,
        label: format!("Pods until {}: a floor of {}{ran}", moment(&newest.at.into()), newest.floor),
    })
}

fn tradeoff(forecast: &Forecast) -> Option<Drawn<Curve>> {
    let choice = forecast.choice.as_ref()?;
    let draw = |width, height| Curve::new(&choice.curve, Frame { width, height, past: 0, marks: 0 });
    let label = format!("Shortage against cost over {} days: {}", choice.days, choice.reason);
    Some(Drawn { wide: draw(1040.0, 300.0)?, narrow: draw(358.0, 250.0)?, label })
}

fn decisions(decided: &[Decided]) -> Vec<DecisionRow> {
    let mut rows: Vec<DecisionRow> = Vec::new();
    let mut alike = 0;
    for decided in decided {
        if decided.reasons.is_empty() && decided.changed.is_none() {
            // It said what an older one says, which comes later in this order.
            alike += 1;
            continue;
        }
        if rows.len() == MOST_ROWS {
            break;
        }
        rows.push(DecisionRow {
            at: decided.at.into(),
            floor: decided.changed.map_or_else(|| decided.floor.to_string(), |(from, to)| format!("{from} → {to}")),
            changed: decided.changed.is_some(),
            replicas: decided.replicas.map_or_else(|| "?".to_owned(), |pods| pods.to_string()),
            reasons: decided.reasons.clone(),
            failed: decided.failed.clone(),
            alike: std::mem::take(&mut alike),
        });
    }
    rows
}

fn facts(stored: &StoredWorkload) -> Vec<(&'static str, String)> {
    let profile = &stored.profile;
    let mode = match profile.mode {
        Mode::Enforce => "Enforce: the floor is written",
        Mode::Recommend => "Recommend: nothing is written",
    };
    let mut facts = vec![
        ("query", profile.query.clone()),
        ("per-pod capacity", profile.capacity.clone()),
        ("mode", mode.to_owned()),
        ("autoscaler", profile.hpa.clone()),
    ];
    facts.extend(profile.target.clone().map(|target| ("scale target", target)));
    facts.extend([
        ("lead time", format!("{} of the next {}", profile.quantile.names().1, profile.lead_time)),
        ("step and season", format!("{}, {}", profile.step, profile.season)),
        ("maximum floor", profile.max_floor.to_string()),
    ]);
    facts
}

#[cfg(test)]
mod tests;
