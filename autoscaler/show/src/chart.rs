//! The geometry of the page's chart: demand and forecast to SVG paths and axis marks.
//!
//! Pure numbers; colours, fonts and words are the template's.

use autoscaler_forecast::Forecast;
use autoscaler_forecast::history::History;
use jiff::Timestamp;
use serde::Serialize;

/// Size of a chart, in SVG units, and the part of the past that it shows.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub width: f64,
    pub height: f64,
    /// Maximum number of samples of history.
    pub past: usize,
    /// Approximate number of marks on the time axis.
    pub marks: usize,
}

const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 26.0;

/// Time and values of a chart in SVG units, with their marks. The template's macro `axes` draws them.
#[derive(Clone, Debug, Serialize)]
pub struct Axes {
    pub width: f64,
    pub height: f64,
    /// Left edge of the plot.
    pub left: f64,
    /// Right edge of the plot.
    pub right: f64,
    /// Upper edge of the plot.
    pub top: f64,
    /// Lower edge of the plot.
    pub bottom: f64,
    /// Marks on the time axis.
    pub times: Vec<Mark>,
    /// Marks on the value axis.
    pub values: Vec<Mark>,
    /// The time at the left edge, in Unix seconds.
    pub from: i64,
    /// The time at the right edge, in Unix seconds.
    pub to: i64,
    #[serde(skip)]
    low: f64,
    #[serde(skip)]
    high: f64,
}

impl Axes {
    /// Axes for the times from `from` to `to` and the values from `least` to `most`, with round marks.
    pub(crate) fn new(frame: Frame, (from, to): (i64, i64), (least, most): (f64, f64)) -> Axes {
        let scale = Axis::new(least, most);
        let mut axes = Axes {
            width: frame.width,
            height: frame.height,
            left: LEFT,
            right: frame.width - RIGHT,
            top: TOP,
            bottom: frame.height - BOTTOM,
            times: Vec::new(),
            values: Vec::new(),
            from,
            to,
            low: scale.low,
            high: scale.high,
        };
        let marks = time_marks(from, to, frame.marks).into_iter().map(|(second, day)| Mark {
            at: round(axes.x(second)),
            text: clock(second, if day { "%b %-d" } else { "%H:%M" }),
            day,
        });
        // Half a label would hang over the edge.
        axes.times = marks.filter(|mark| mark.at > LEFT + 12.0 && mark.at < axes.right - 12.0).collect();
        let marks = scale.marks().map(|(value, text)| Mark { at: round(axes.y(value)), text, day: false });
        axes.values = marks.collect();
        axes
    }

    /// Axes for extra cost, from none to `most_cost` percent, and shortage, from none to `most_short` percent.
    pub(crate) fn of_costs(frame: Frame, most_cost: f64, most_short: f64) -> Axes {
        let scale = Axis::new(0.0, most_cost);
        let mut axes = Axes::new(Frame { marks: 1, ..frame }, (0, (scale.high * 1_000.0) as i64), (0.0, most_short));
        let marks = scale.marks().map(|(value, text)| Mark {
            at: round(axes.x((value * 1_000.0) as i64)),
            text: format!("+{text}%"),
            day: false,
        });
        axes.times = marks.collect();
        axes
    }

    /// Horizontal position of a time.
    pub(crate) fn x(&self, second: i64) -> f64 {
        self.left + (second - self.from) as f64 / (self.to - self.from).max(1) as f64 * (self.right - self.left)
    }

    /// Vertical position of a value.
    pub(crate) fn y(&self, value: f64) -> f64 {
        self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)
    }
}

/// A chart, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Chart {
    #[serde(flatten)]
    pub axes: Axes,
    /// The path of the demand; broken where samples are missing.
    pub demand: String,
    /// The path of the expected value.
    pub mean: String,
    /// Outline of the band.
    pub band: String,
    /// The path of the demands that floors were made of.
    pub asked: String,
    /// Position of the newest sample.
    pub now: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Position, in SVG units.
    pub at: f64,
    /// Label.
    pub text: String,
    /// True if a day begins here.
    pub day: bool,
}

impl Chart {
    /// Draws the end of a history, its forecast where there is one, and what was `asked` for: times and demands that
    /// floors were made of.
    pub fn new(history: &History, forecast: Option<&Forecast>, asked: &[(i64, f64)], frame: Frame) -> Chart {
        let points = forecast.map_or(&[][..], |forecast| &forecast.points);
        let first = history.samples.len().saturating_sub(frame.past);
        let from = history.time(first).as_second();
        let newest = history.end().as_second();
        let to = points.last().map_or(newest, |point| point.time.as_second().max(newest));
        let shown = &history.samples[first..];
        let asked: Vec<(i64, f64)> = asked
            .iter()
            .copied()
            .filter(|(second, value)| *second >= from && *second <= to && value.is_finite())
            .collect();
        let values = || {
            let band = points.iter().flat_map(|point| [point.lower, point.upper]);
            let known = shown.iter().flatten().copied().chain(asked.iter().map(|(_, value)| *value));
            known.chain(band).filter(|value| value.is_finite())
        };
        // Demand is read against zero.
        let floor = values().fold(0.0, f64::min);
        let ceiling = values().fold(f64::NEG_INFINITY, f64::max).max(floor);
        let axes = Axes::new(frame, (from, to), (floor, ceiling));
        let (x, y) = (|second| axes.x(second), |value| axes.y(value));

        let mut demand = String::new();
        let mut pen_down = false;
        for (index, value) in thinned(shown, frame.width as usize) {
            match value {
                Some(value) => {
                    push(
                        &mut demand,
                        if pen_down { 'L' } else { 'M' },
                        x(history.time(first + index).as_second()),
                        y(value),
                    );
                    pen_down = true;
                }
                None => pen_down = false,
            }
        }
        let mut mean = String::new();
        let begin = points.first().map(|point| point.time.as_second() - i64::from(history.step.seconds()));
        // From the sample that it begins at the eye follows on.
        let known = begin.filter(|begin| *begin >= from).and_then(|begin| {
            let index = (begin - history.start.as_second()) / i64::from(history.step.seconds());
            Some((begin, (*history.samples.get(usize::try_from(index).ok()?)?)?))
        });
        if let Some((begin, value)) = known {
            push(&mut mean, 'M', x(begin), y(value));
        }
        let mut band = String::new();
        let visible = || points.iter().filter(|point| point.time.as_second() >= from);
        for point in visible() {
            let at = x(point.time.as_second());
            join(&mut mean, at, y(point.mean));
            join(&mut band, at, y(point.upper));
        }
        for point in visible().rev() {
            push(&mut band, 'L', x(point.time.as_second()), y(point.lower));
        }
        if !band.is_empty() {
            band.push('Z');
        }
        let mut line = String::new();
        for (second, value) in &asked {
            join(&mut line, x(*second), y(*value));
        }
        let now = round(x(newest));
        Chart { axes, demand, mean, band, asked: line, now }
    }
}

/// Samples for this number of columns: all of them, or the least and the most of each column where there are far more.
fn thinned(samples: &[Option<f64>], columns: usize) -> Vec<(usize, Option<f64>)> {
    let each = samples.len() / columns.max(1);
    if each < 4 {
        return samples.iter().copied().enumerate().collect();
    }
    let mut kept = Vec::new();
    for (column, chunk) in samples.chunks(each).enumerate() {
        let known = || chunk.iter().enumerate().filter_map(|(index, value)| Some((column * each + index, (*value)?)));
        let least = known().min_by(|a, b| a.1.total_cmp(&b.1));
        let most = known().max_by(|a, b| a.1.total_cmp(&b.1));
        match (least, most) {
            (Some(least), Some(most)) => {
                let (one, other) = if least.0 <= most.0 { (least, most) } else { (most, least) };
                kept.extend([(one.0, Some(one.1)), (other.0, Some(other.1))]);
            }
            _ => kept.push((column * each, None)),
        }
    }
    kept
}

fn clock(second: i64, format: &str) -> String {
    Timestamp::from_second(second).map(|time| time.strftime(format).to_string()).unwrap_or_default()
}

pub(crate) fn push(path: &mut String, verb: char, x: f64, y: f64) {
    path.push_str(&format!("{verb}{} {}", round(x), round(y)));
}

/// The next point of a line without a break.
fn join(path: &mut String, x: f64, y: f64) {
    push(path, if path.is_empty() { 'M' } else { 'L' }, x, y);
}

/// Tenths: finer than any screen draws, and half as long.
pub(crate) fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Whole steps of 1, 2 or 5 that enclose all values.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn new(floor: f64, ceiling: f64) -> Axis {
        let range = if ceiling > floor { ceiling - floor } else { 1.0 };
        let rough = range / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|nice| nice * power).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        Axis { low: (floor / step).floor() * step, high: ((floor + range) / step).ceil() * step, step }
    }

    fn marks(&self) -> impl Iterator<Item = (f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        // A label of ten digits would hang over the left edge.
        const NAMES: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"), (0.0, "")];
        let largest = self.high.abs().max(self.low.abs());
        let name = NAMES.into_iter().find(|(from, _)| largest >= *from).map_or("", |(_, name)| name);
        let unit = match name {
            "T" => 1e12,
            "G" => 1e9,
            "M" => 1e6,
            "k" => 1e3,
            _ => 1.0,
        };
        let places = (-(self.step / unit).log10().floor()).clamp(0.0, 9.0) as usize;
        (0..=count).map(move |index| {
            let value = self.low + index as f64 * self.step;
            let text = match value / unit {
                far if far.abs() >= 1e5 => format!("{value:.0e}"),
                0.0 => format!("{:.places$}", 0.0),
                near => format!("{near:.places$}{name}"),
            };
            (value, text)
        })
    }
}

/// Round hours (or days) between two times, about `marks` of them, and whether a day begins there.
fn time_marks(from: i64, to: i64, marks: usize) -> Vec<(i64, bool)> {
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
        axis(0.0, 2e4, &["0", "5k", "10k", "15k", "20k"]);
        axis(0.0, 7.4e9, &["0", "2G", "4G", "6G", "8G"]);
        axis(0.0, 9e98, &["0", "2e98", "4e98", "6e98", "8e98", "1e99"]);
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
        let forecast = crate::tests_support::flat(&history, 2, 3.0);
        let frame = Frame { width: 400.0, height: 200.0, past: 10, marks: 4 };
        let chart = Chart::new(&history, Some(&forecast), &[], frame);
        assert_eq!(chart.demand.matches('M').count(), 2);
        assert_eq!(chart.demand.matches('L').count(), 2);
        // From the last sample through both leads.
        assert_eq!(chart.mean.matches('L').count(), 2);
        assert!(chart.now > chart.axes.left && chart.now < chart.axes.right);
    }

    #[test]
    fn a_forecast_keeps_its_times_when_newer_samples_have_come() {
        let bytes = b"timestamp,value\n0,1\n300,2\n600,3\n900,4\n1200,5\n";
        let newer = History::parse("a.csv", bytes, None).unwrap();
        let older = History { samples: newer.samples[..3].to_vec(), ..newer.clone() };
        let forecast = crate::tests_support::flat(&older, 4, 3.0);
        let frame = Frame { width: 456.0, height: 200.0, past: 10, marks: 4 };
        let chart = Chart::new(&newer, Some(&forecast), &[(300, 2.5), (600, 3.5), (99_999, 1e9)], frame);
        // Six steps across 400 units: the forecast begins at the third sample, the newest is the fifth.
        assert!(chart.mean.starts_with("M179.3 ") && chart.mean.ends_with("L446 78"), "{}", chart.mean);
        assert_eq!((chart.now, chart.axes.from, chart.axes.to), (312.7, 0, 1_800));
        assert_eq!(chart.asked.matches(['M', 'L']).count(), 2);
    }

    #[test]
    fn a_million_samples_are_drawn_by_their_columns() {
        let mut samples: Vec<Option<f64>> = (0..1_000_000).map(|index| Some(f64::from(index % 1_000))).collect();
        samples[500_000..600_000].fill(None);
        samples[250_000] = Some(7_000.0);
        let history = History { start: Timestamp::UNIX_EPOCH, step: "1s".parse().unwrap(), samples };
        let chart = Chart::new(&history, None, &[], Frame { width: 1040.0, height: 320.0, past: usize::MAX, marks: 9 });
        assert!(chart.demand.len() < 60_000, "{}", chart.demand.len());
        // The one high sample is still there, at the height that is its own.
        assert_eq!(chart.axes.values.last().unwrap().text, "8000");
        assert_eq!(chart.demand.matches('M').count(), 2);
        assert!(chart.band.is_empty() && chart.mean.is_empty());
    }
}
