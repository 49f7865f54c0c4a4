//! Demand histories: CSV text to samples on an even grid.
//!
//! A missing sample is a gap and stays one: an empty value, `NaN`, or a missing row. It is never a zero.
//! Everything else that is not a clean even history is refused at its line and column, all problems together. Pure:
//! takes bytes, touches no file.

use crate::span::Span;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt;

/// The header that a history begins with.
pub const HEADER: &str = "timestamp,value";

// A year of 1-minute samples. Two far-off timestamps would otherwise ask for a grid of any size.
const MAX_SAMPLES: i64 = 527_040;
const MAX_PROBLEMS: usize = 5;
// Seconds reach this in the year 5138; milliseconds did in 1973.
const MILLISECONDS: i64 = 100_000_000_000;

/// Demand over time, one sample per step; begins and ends with a sample that has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The time of the first sample.
    pub start: Timestamp,
    /// Distance of two samples.
    pub step: Span,
    /// The samples, `None` where one is missing.
    pub samples: Vec<Option<f64>>,
}

impl History {
    /// Reads a history. `file` is its name in errors; without a `step` the most frequent distance is the step.
    pub fn parse(file: &str, bytes: &[u8], step: Option<Span>) -> Result<History, Invalid> {
        let mut problems = Problems { file, found: Vec::new(), more: 0 };
        let rows = rows(bytes, &mut problems);
        // Order and spacing of rows that could not all be read would be wrong alarms.
        problems.none()?;
        let step = spacing(&rows, step, &mut problems);
        problems.none()?;
        let history = step.and_then(|step| grid(&rows, step, &mut problems));
        problems.none()?;
        history.ok_or_else(|| Invalid(vec![format!("{file}: cannot be read")]))
    }

    /// The time of a sample, or of a step after the last one.
    pub fn time(&self, index: usize) -> Timestamp {
        let seconds = self.start.as_second() + index as i64 * i64::from(self.step.seconds());
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }

    /// The time of the last sample.
    pub fn end(&self) -> Timestamp {
        self.time(self.samples.len() - 1)
    }

    /// The newest `count` samples, from the first with a value on; all of them when there are no more.
    pub fn newest(&self, count: usize) -> History {
        let cut = self.samples.len().saturating_sub(count);
        let gap = self.samples[cut..].iter().take_while(|sample| sample.is_none()).count();
        History { start: self.time(cut + gap), step: self.step, samples: self.samples[cut + gap..].to_vec() }
    }

    /// Returns the number of missing samples.
    pub fn missing(&self) -> usize {
        self.samples.iter().filter(|sample| sample.is_none()).count()
    }
}

/// Errors of a text that is not a history: one line per problem, each with `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Vec<String>);

impl Invalid {
    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Invalid {}

struct Problems<'a> {
    file: &'a str,
    found: Vec<String>,
    more: usize,
}

impl Problems<'_> {
    fn add(&mut self, line: usize, column: usize, problem: impl fmt::Display) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(format!("{}:{line}:{column}: {problem}", self.file));
        } else {
            self.more += 1;
        }
    }

    fn none(&mut self) -> Result<(), Invalid> {
        if self.found.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.found.push(format!("{}: and {} more", self.file, self.more));
        }
        Err(Invalid(std::mem::take(&mut self.found)))
    }
}

struct CsvRow {
    line: usize,
    second: i64,
    value: Option<f64>,
}

/// A field with the column where it begins, without blanks and quotes around it.
fn field(text: &str, column: usize) -> (&str, usize) {
    let start = text.trim_start();
    let column = column + text.chars().count() - start.chars().count();
    let inner = start.trim_end();
    match inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(unquoted) => (unquoted, column + 1),
        None => (inner, column),
    }
}

fn rows(bytes: &[u8], problems: &mut Problems<'_>) -> Vec<CsvRow> {
    // Spreadsheets put a byte order mark first.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rows = Vec::new();
    let mut header = false;
    let mut last_line = 1;
    for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let text = match std::str::from_utf8(raw) {
            Ok(text) => text.strip_suffix('\r').unwrap_or(text),
            Err(cause) => {
                let column = String::from_utf8_lossy(&raw[..cause.valid_up_to()]).chars().count() + 1;
                problems.add(line, column, "not UTF-8 text");
                continue;
            }
        };
        if text.trim().is_empty() {
            continue;
        }
        last_line = line;
        let (first, second) = match text.split_once(',') {
            Some((first, second)) => (first, Some(second)),
            None => (text, None),
        };
        let (time_text, time_column) = field(first, 1);
        if !header {
            header = true;
            let value = second.map(|second| field(second, 1).0);
            if !time_text.eq_ignore_ascii_case("timestamp")
                || !value.is_some_and(|name| name.eq_ignore_ascii_case("value"))
            {
                problems.add(line, 1, format_args!("the header is `{}`, not `{HEADER}`", shown(text)));
                // A file of another kind would repeat itself on every line.
                return rows;
            }
            continue;
        }
        let Some(second) = second else {
            problems.add(line, text.chars().count() + 1, "the value is missing: `timestamp,value` has a comma");
            continue;
        };
        let value_column = first.chars().count() + 2;
        if let Some((value, _)) = second.split_once(',') {
            problems.add(line, value_column + value.chars().count(), "a third field after `timestamp,value`");
            continue;
        }
        let (value_text, value_column) = field(second, value_column);
        let time = time(time_text);
        let value = value(value_text);
        if let Err(problem) = &time {
            problems.add(line, time_column, problem);
        }
        if let Err(problem) = &value {
            problems.add(line, value_column, problem);
        }
        if let (Ok(second), Ok(value)) = (time, value) {
            rows.push(CsvRow { line, second, value });
        }
    }
    if !header {
        problems.add(1, 1, format_args!("the file is empty: it begins with `{HEADER}`"));
    } else if rows.is_empty() && problems.found.is_empty() {
        problems.add(last_line, 1, "no sample after the header");
    }
    rows
}

/// RFC 3339 or Unix seconds, as whole seconds.
fn time(text: &str) -> Result<i64, String> {
    if let Some((whole, fraction)) = number_parts(text) {
        let second: i64 = whole.parse().map_err(|_| format!("timestamp `{}` is out of range", shown(text)))?;
        if second.abs() >= MILLISECONDS {
            return Err(format!(
                "timestamp `{}` is out of range: are these milliseconds? seconds are read",
                shown(text)
            ));
        }
        if fraction.bytes().any(|digit| digit != b'0') {
            return Err(format!("timestamp `{}` is not a whole second", shown(text)));
        }
        return Ok(second);
    }
    match text.parse::<Timestamp>() {
        Ok(time) if time.subsec_nanosecond() == 0 => Ok(time.as_second()),
        Ok(_) => Err(format!("timestamp `{}` is not a whole second", shown(text))),
        Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => {
            Err(format!("timestamp `{}` has no offset from UTC: add `Z` or `+00:00`", shown(text)))
        }
        Err(_) => Err(format!("timestamp `{}` is neither RFC 3339 nor Unix seconds", shown(text))),
    }
}

/// Whole and fractional digits, when the text is a decimal number.
fn number_parts(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (all(digits) && all(fraction)).then_some((whole, fraction))
}

/// A number, or `None` where the sample is missing.
fn value(text: &str) -> Result<Option<f64>, String> {
    if text.is_empty() || text.eq_ignore_ascii_case("nan") || text.eq_ignore_ascii_case("null") {
        return Ok(None);
    }
    match text.parse::<f64>() {
        // The worker adds squares up.
        Ok(value) if value.is_finite() && value.abs() < 1e100 => Ok(Some(value)),
        Ok(_) => Err(format!("value `{}` is not a finite number of sensible size", shown(text))),
        Err(_) => Err(format!("value `{}` is not a number", shown(text))),
    }
}

/// Text from a file, short enough for an error and without control characters.
fn shown(text: &str) -> String {
    const LENGTH: usize = 40;
    let short: String = text.chars().take(LENGTH).flat_map(char::escape_debug).collect();
    if text.chars().count() > LENGTH { format!("{short}…") } else { short }
}

/// Checks the order of the rows, and finds the step when none is given.
fn spacing(rows: &[CsvRow], step: Option<Span>, problems: &mut Problems<'_>) -> Option<Span> {
    let mut distances: BTreeMap<i64, usize> = BTreeMap::new();
    for pair in rows.windows(2) {
        let [before, after] = pair else { continue };
        match after.second - before.second {
            0 => problems.add(after.line, 1, format_args!("the timestamp of line {} again", before.line)),
            distance if distance < 0 => problems.add(
                after.line,
                1,
                format_args!("earlier than line {}: samples are in order of time", before.line),
            ),
            distance => *distances.entry(distance).or_default() += 1,
        }
    }
    let closest = distances.keys().next().copied();
    match (step, closest) {
        (Some(step), Some(closest)) if closest > i64::from(step.seconds()) => {
            let closest = u32::try_from(closest).ok().and_then(Span::from_seconds);
            let apart = closest.map_or_else(|| "longer".to_owned(), |span| format!("{span} or more"));
            problems.add(rows[0].line, 1, format_args!("the samples are {apart} apart, the step is {step}"));
            None
        }
        (Some(step), _) => Some(step),
        (None, Some(_)) => {
            // The smallest of the most frequent: a coarser grid would lose samples.
            let (distance, _) = distances.iter().max_by_key(|(distance, count)| (**count, -**distance))?;
            let step = u32::try_from(*distance).ok().and_then(Span::from_seconds);
            if step.is_none() {
                problems.add(rows[0].line, 1, "the samples are too far apart");
            }
            step
        }
        (None, None) => {
            if problems.found.is_empty() {
                let line = rows.last().map_or(1, |row| row.line);
                problems.add(line, 1, "one sample has no distance to another: give the step with `--step`");
            }
            None
        }
    }
}

/// Puts the rows on the grid that begins at the first sample with a value.
fn grid(rows: &[CsvRow], step: Span, problems: &mut Problems<'_>) -> Option<History> {
    let Some(first) = rows.iter().find(|row| row.value.is_some()) else {
        problems.add(rows[0].line, 1, "no sample has a value");
        return None;
    };
    let last = rows.iter().rfind(|row| row.value.is_some()).unwrap_or(first);
    let start = first.second;
    let each = i64::from(step.seconds());
    let count = (last.second - start) / each + 1;
    if count > MAX_SAMPLES {
        problems.add(
            last.line,
            1,
            format_args!(
                "{count} steps of {step} after line {}, more than the {MAX_SAMPLES} that are read",
                first.line
            ),
        );
        return None;
    }
    let mut samples = vec![None; count as usize];
    for row in rows.iter().filter(|row| row.second >= start && row.second <= last.second) {
        let off = (row.second - start) % each;
        if off != 0 {
            let off = off.min(each - off);
            problems.add(
                row.line,
                1,
                format_args!("{off}s off the {step} grid of line {}: resample, or give another `--step`", first.line),
            );
            continue;
        }
        samples[((row.second - start) / each) as usize] = row.value;
    }
    Some(History { start: Timestamp::from_second(start).ok()?, step, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<History, Invalid> {
        History::parse("load.csv", text.as_bytes(), None)
    }

    #[track_caller]
    fn check(text: &str, samples: &[Option<f64>]) {
        let history = parse(text).unwrap();
        assert_eq!(history.samples, samples);
        assert_eq!(history.step, Span::from_seconds(300).unwrap());
    }

    #[track_caller]
    fn refuse(text: &str, problems: &[&str]) {
        assert_eq!(parse(text).unwrap_err().problems(), problems);
    }

    #[test]
    fn rfc_3339_and_unix_seconds_are_the_same_times() {
        let named = parse("timestamp,value\n2026-03-02T00:00:00Z,1\n2026-03-02T01:05:00+01:00,2\n").unwrap();
        let counted = parse("timestamp,value\n1772409600,1\n1772409900.000,2\n").unwrap();
        assert_eq!(named, counted);
        assert_eq!(named.end().to_string(), "2026-03-02T00:05:00Z");
        assert_eq!(named.time(2).to_string(), "2026-03-02T00:10:00Z");
    }

    #[test]
    fn missing_is_a_gap_and_never_zero() {
        let expected = [Some(1.0), None, None, None, None, Some(0.0)];
        check("timestamp,value\n0,1\n300,\n600,NaN\n900,null\n1500,0\n", &expected);
    }

    #[test]
    fn gaps_at_the_ends_are_cut_off() {
        let history = parse("timestamp,value\n0,\n300,1\n600,2\n900,\n1200,nan\n").unwrap();
        assert_eq!((history.start.as_second(), history.samples), (300, vec![Some(1.0), Some(2.0)]));
    }

    #[test]
    fn the_newest_samples_begin_with_a_value() {
        let history = parse("timestamp,value\n0,1\n300,2\n600,\n900,4\n1200,5\n").unwrap();
        let newest = history.newest(3);
        assert_eq!((newest.start.as_second(), newest.samples), (900, vec![Some(4.0), Some(5.0)]));
        assert_eq!(history.newest(9), history);
    }

    #[test]
    fn spreadsheets_are_read() {
        check("\u{feff}Timestamp, Value\r\n0,1\r\n\"300\",\"2.5\"\r\n\r\n", &[Some(1.0), Some(2.5)]);
    }

    #[test]
    fn problems_name_line_and_column() {
        refuse("", &["load.csv:1:1: the file is empty: it begins with `timestamp,value`"]);
        refuse("timestamp,value\n", &["load.csv:1:1: no sample after the header"]);
        refuse("0,1\n300,2\n", &["load.csv:1:1: the header is `0,1`, not `timestamp,value`"]);
        refuse("timestamp,value\n0,1\n300, many\n", &["load.csv:3:6: value `many` is not a number"]);
        refuse("timestamp,value\n0,inf\n", &["load.csv:2:3: value `inf` is not a finite number of sensible size"]);
        refuse("timestamp,value\n0,1e200\n", &["load.csv:2:3: value `1e200` is not a finite number of sensible size"]);
        refuse("timestamp,value\n0\n", &["load.csv:2:2: the value is missing: `timestamp,value` has a comma"]);
        refuse("timestamp,value\n0,1,5\n", &["load.csv:2:4: a third field after `timestamp,value`"]);
        refuse("timestamp,value\n0,\n300,\n", &["load.csv:2:1: no sample has a value"]);
        refuse(
            "timestamp,value\n0,1\n",
            &["load.csv:2:1: one sample has no distance to another: give the step with `--step`"],
        );
    }

    #[test]
    fn times_that_are_none_say_why() {
        refuse(
            "timestamp,value\nyesterday,1\n2026-03-02 00:00:00,1\n1772409600000,1\n1.5,1\n",
            &[
                "load.csv:2:1: timestamp `yesterday` is neither RFC 3339 nor Unix seconds",
                "load.csv:3:1: timestamp `2026-03-02 00:00:00` has no offset from UTC: add `Z` or `+00:00`",
                "load.csv:4:1: timestamp `1772409600000` is out of range: are these milliseconds? seconds are read",
                "load.csv:5:1: timestamp `1.5` is not a whole second",
            ],
        );
    }

    #[test]
    fn order_is_checked() {
        refuse(
            "timestamp,value\n0,1\n300,2\n300,2\n0,3\n",
            &[
                "load.csv:4:1: the timestamp of line 3 again",
                "load.csv:5:1: earlier than line 4: samples are in order of time",
            ],
        );
    }

    #[test]
    fn samples_off_the_grid_are_refused() {
        refuse(
            "timestamp,value\n0,1\n300,2\n600,3\n917,4\n",
            &["load.csv:5:1: 17s off the 5m grid of line 2: resample, or give another `--step`"],
        );
    }

    #[test]
    fn a_step_that_is_not_the_files_is_refused() {
        let text = b"timestamp,value\n0,1\n300,2\n600,3\n";
        let minute = History::parse("load.csv", text, Span::from_seconds(60)).unwrap_err();
        assert_eq!(minute.to_string(), "load.csv:2:1: the samples are 5m or more apart, the step is 1m");
        let ten = History::parse("load.csv", text, Span::from_seconds(600)).unwrap_err();
        assert_eq!(
            ten.problems()[0],
            "load.csv:3:1: 300s off the 10m grid of line 2: resample, or give another `--step`"
        );
    }

    #[test]
    fn a_step_finds_missing_rows() {
        let history = History::parse("load.csv", b"timestamp,value\n0,1\n600,3\n900,4\n", Span::from_seconds(300));
        assert_eq!(history.unwrap().samples, [Some(1.0), None, Some(3.0), Some(4.0)]);
    }

    #[test]
    fn a_grid_of_any_size_is_not_built() {
        let error = parse("timestamp,value\n0,1\n1,2\n2,2\n90000000000,3\n").unwrap_err();
        assert!(error.to_string().contains("more than the 527040 that are read"), "{error}");
    }

    #[test]
    fn many_problems_are_counted() {
        let text = format!("timestamp,value\n{}", "x,y\n".repeat(10));
        let error = parse(&text).unwrap_err();
        assert_eq!(error.problems().len(), 6);
        assert_eq!(error.problems()[5], "load.csv: and 15 more");
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let error = History::parse("load.csv", b"timestamp,value\n0,\xff\n", None).unwrap_err();
        assert_eq!(error.to_string(), "load.csv:2:3: not UTF-8 text");
    }
}
