//! The geometry of the page's chart: demand and forecast to SVG paths and axis marks.
//!
//! Pure numbers; colours, fonts and words are the template's.

use jiff::Timestamp;
use serde::Serialize;

use crate::forecast::Forecast;
use crate::history::History;

/// How large a chart is, in SVG units, and how much of the past it shows.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
    /// The most samples of history.
    pub past: usize,
    /// Between how many marks on the time axis, about.
    pub marks: usize,
}

pub(crate) const LEFT: f64 = 46.0;
pub(crate) const RIGHT: f64 = 10.0;
pub(crate) const TOP: f64 = 14.0;
pub(crate) const BOTTOM: f64 = 26.0;

/// A chart, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Chart {
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
    /// Where the plot is.
    pub left: f64,
    /// Where the plot ends.
    pub right: f64,
    /// The upper edge of the plot.
    pub top: f64,
    /// The lower edge of the plot.
    pub bottom: f64,
    /// The path of the demand; broken where samples are missing.
    pub demand: String,
    /// The path of the expected value.
    pub mean: String,
    /// The outline of the band.
    pub band: String,
    /// Where the forecast begins.
    pub now: f64,
    /// Marks on the time axis.
    pub times: Vec<Mark>,
    /// Marks on the value axis.
    pub values: Vec<Mark>,
}

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Where, in SVG units.
    pub at: f64,
    /// What it says.
    pub text: String,
    /// Whether a day begins there.
    pub day: bool,
}

impl Chart {
    /// Draws the end of a history and its forecast.
    pub fn new(history: &History, forecast: &Forecast, frame: Frame) -> Chart {
        let count = history.samples.len();
        let first = count.saturating_sub(frame.past);
        let last = count - 1 + forecast.points.len();
        let (right, bottom) = (frame.width - RIGHT, frame.height - BOTTOM);
        let x = |index: f64| LEFT + (index - first as f64) / ((last - first).max(1) as f64) * (right - LEFT);

        let shown = || history.samples[first..].iter().flatten().copied();
        let values = || shown().chain(forecast.points.iter().flat_map(|point| [point.lower, point.upper]));
        // Demand is read against zero.
        let floor = values().fold(0.0, f64::min);
        let ceiling = values().fold(f64::NEG_INFINITY, f64::max).max(floor);
        let axis = Axis::new(floor, ceiling);
        let y = |value: f64| bottom - (value - axis.low) / (axis.high - axis.low) * (bottom - TOP);

        let mut demand = String::new();
        let mut pen_down = false;
        for (index, sample) in history.samples.iter().enumerate().skip(first) {
            match sample {
                Some(value) => {
                    push(&mut demand, if pen_down { 'L' } else { 'M' }, x(index as f64), y(*value));
                    pen_down = true;
                }
                None => pen_down = false,
            }
        }
        let mut mean = String::new();
        // The history ends with a value; from there the eye follows on.
        if let Some(value) = history.samples[count - 1] {
            push(&mut mean, 'M', x((count - 1) as f64), y(value));
        }
        let mut band = String::new();
        for (lead, point) in forecast.points.iter().enumerate() {
            let verb = if mean.is_empty() { 'M' } else { 'L' };
            push(&mut mean, verb, x((count + lead) as f64), y(point.mean));
            push(&mut band, if lead == 0 { 'M' } else { 'L' }, x((count + lead) as f64), y(point.upper));
        }
        for (lead, point) in forecast.points.iter().enumerate().rev() {
            push(&mut band, 'L', x((count + lead) as f64), y(point.lower));
        }
        band.push('Z');

        let from = history.time(first).as_second();
        let to = history.time(last).as_second();
        let times = time_marks(from, to, frame.marks)
            .into_iter()
            .map(|(second, day)| Mark {
                at: round(x(first as f64 + (second - from) as f64 / f64::from(history.step.seconds()))),
                text: clock(second, if day { "%b %-d" } else { "%H:%M" }),
                day,
            })
            // Half a label would hang over the edge.
            .filter(|mark| mark.at > LEFT + 12.0 && mark.at < right - 12.0)
            .collect();
        let values = axis.marks().map(|(value, text)| Mark { at: round(y(value)), text, day: false }).collect();
        Chart {
            width: frame.width,
            height: frame.height,
            left: LEFT,
            right,
            top: TOP,
            bottom,
            demand,
            mean,
            band,
            now: round(x((count - 1) as f64)),
            times,
            values,
        }
    }
}

pub(crate) fn clock(second: i64, format: &str) -> String {
    Timestamp::from_second(second).map(|time| time.strftime(format).to_string()).unwrap_or_default()
}

pub(crate) fn push(path: &mut String, verb: char, x: f64, y: f64) {
    path.push_str(&format!("{verb}{} {}", round(x), round(y)));
}

/// Tenths: finer than any screen draws, and half as long.
pub(crate) fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Whole steps of 1, 2 or 5 that enclose all values.
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    step: f64,
}

impl Axis {
    pub(crate) fn new(floor: f64, ceiling: f64) -> Axis {
        let range = if ceiling > floor { ceiling - floor } else { 1.0 };
        let rough = range / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|nice| nice * power).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        Axis { low: (floor / step).floor() * step, high: ((floor + range) / step).ceil() * step, step }
    }

    pub(crate) fn marks(&self) -> impl Iterator<Item = (f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let places = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        (0..=count).map(move |index| {
            let value = self.low + index as f64 * self.step;
            (value, format!("{value:.places$}"))
        })
    }
}

/// Round hours (or days) between two times, about `marks` of them, and whether a day begins there.
pub(crate) fn time_marks(from: i64, to: i64, marks: usize) -> Vec<(i64, bool)> {
    const DAY: i64 = 86_400;
    const EVERY: [i64; 13] =
        [60, 300, 900, 1_800, 3_600, 2 * 3_600, 3 * 3_600, 6 * 3_600, 12 * 3_600, DAY, 2 * DAY, 7 * DAY, 28 * DAY];
    let rough = (to - from) / marks.max(1) as i64;
    let every = EVERY.into_iter().find(|every| *every >= rough).unwrap_or(365 * DAY);
    let first = from + (-from).rem_euclid(every);
    (0..)
        .map(|index| first + index * every)
        .take_while(|second| *second <= to)
        .map(|second| (second, second.rem_euclid(DAY) == 0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn axis(floor: f64, ceiling: f64, expected: &[&str]) {
        let marks: Vec<String> = Axis::new(floor, ceiling).marks().map(|(_, text)| text).collect();
        assert_eq!(marks, expected);
    }

    #[test]
    fn axes_have_round_marks_that_enclose_the_values() {
        axis(0.0, 437.0, &["0", "100", "200", "300", "400", "500"]);
        axis(0.0, 0.0, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        axis(-3.0, 9.0, &["-5", "0", "5", "10"]);
    }

    #[test]
    fn time_marks_are_round_hours_and_know_days() {
        let hour = 3_600;
        assert_eq!(
            time_marks(23 * hour + 100, 49 * hour, 4),
            [(24 * hour, true), (36 * hour, false), (48 * hour, true)]
        );
    }

    #[test]
    fn a_missing_sample_breaks_the_line() {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n900,4\n1200,5\n", None).unwrap();
        let forecast = crate::forecast::tests_support::flat(&history, 2, 3.0);
        let frame = Frame { width: 400.0, height: 200.0, past: 10, marks: 4 };
        let chart = Chart::new(&history, &forecast, frame);
        assert_eq!(chart.demand.matches('M').count(), 2);
        assert_eq!(chart.demand.matches('L').count(), 2);
        // From the last sample through both leads.
        assert_eq!(chart.mean.matches('L').count(), 2);
        assert!(chart.now > chart.left && chart.now < chart.right);
    }
}
