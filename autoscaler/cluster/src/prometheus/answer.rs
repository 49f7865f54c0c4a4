//! Prometheus's answer to a range query, as samples on the grid. Pure.

use super::{Grid, Trouble};
use autoscaler_forecast::history::History;
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use serde::Deserialize;

/// Samples on a grid: none where one is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    first: Timestamp,
    step: Span,
    values: Vec<Option<f64>>,
}

impl Samples {
    pub(super) fn new(first: Timestamp, step: Span) -> Samples {
        Samples { first, step, values: Vec::new() }
    }

    /// The history that begins and ends with a sample that has a value; none where no sample has.
    pub fn history(&self) -> Option<History> {
        let begin = self.values.iter().position(Option::is_some)?;
        let end = self.values.iter().rposition(Option::is_some)?;
        let start = self.first.as_second() + begin as i64 * i64::from(self.step.seconds());
        let start = Timestamp::from_second(start).ok()?;
        Some(History { start, step: self.step, samples: self.values[begin..=end].to_vec() })
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    status: &'a str,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(rename = "resultType")]
    kind: &'a str,
    #[serde(default, borrow)]
    result: Vec<Series<'a>>,
}

#[derive(Deserialize)]
struct Series<'a> {
    #[serde(default, borrow)]
    values: Vec<(f64, &'a str)>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: Option<String>,
}

/// Returns the message of a refusal.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let refused: ErrorAnswer = serde_json::from_slice(body).ok()?;
    refused.error.map(|error| short(&error))
}

/// Reads one answer, and adds its samples.
pub(super) fn read(body: &[u8], grid: Grid, samples: &mut Samples) -> Result<(), Trouble> {
    let text = std::str::from_utf8(body).map_err(|_| Trouble::Garbled("its answer is not UTF-8".to_owned()))?;
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|cause| Trouble::Garbled(short(&cause.to_string())))?;
    if envelope.status != "success" {
        return Err(Trouble::Refused(short(envelope.error.as_deref().unwrap_or("without a reason"))));
    }
    let data = envelope.data.ok_or_else(|| Trouble::Garbled("a success without `data`".to_owned()))?;
    if data.kind != "matrix" {
        return Err(Trouble::Garbled(format!("the result type is `{}` instead of `matrix`", short(data.kind))));
    }
    let [series] = data.result.as_slice() else {
        return match data.result.len() {
            0 => {
                samples.values.extend(std::iter::repeat_n(None, grid.len()));
                Ok(())
            }
            many => Err(Trouble::Series(many)),
        };
    };
    let each = i64::from(grid.step.seconds());
    let mut values = vec![None; grid.len()];
    let mut before: Option<i64> = None;
    for (time, text) in &series.values {
        if time.fract() != 0.0 || !(0.0..1e11).contains(time) {
            return Err(Trouble::Garbled(format!("the time `{time}` of a sample is not a whole second")));
        }
        let second = *time as i64;
        match before.map(|before| second - before) {
            Some(apart) if apart <= 0 => {
                return Err(Trouble::Garbled(format!("the sample at `{second}` does not come after the one before")));
            }
            _ => before = Some(second),
        }
        let off = second - grid.from;
        if off < 0 || second > grid.to {
            return Err(Trouble::Garbled(format!("the sample at `{second}` is outside the requested range")));
        }
        if off % each != 0 {
            return Err(spacing(&series.values, grid.step, second));
        }
        values[(off / each) as usize] = number(text)?;
    }
    let close = series.values.len() > 2 && closest(&series.values) > each && series.values.len() * 2 <= grid.len();
    if close {
        return Err(spacing(&series.values, grid.step, grid.from));
    }
    samples.values.extend(values);
    Ok(())
}

/// The number, none where it says itself that there is none. A text that is not a number is a fault, not a sample.
fn number(text: &str) -> Result<Option<f64>, Trouble> {
    let garbled = || Trouble::Garbled(format!("the value `{}` is not a number", short(text)));
    let value: f64 = text.parse().map_err(|_| garbled())?;
    // NaN is what `0 / 0` gives, an infinity what `1 / 0` does: no demand. Neither is one below zero.
    Ok((value.is_finite() && (0.0..1e100).contains(&value)).then_some(value))
}

fn closest(values: &[(f64, &str)]) -> i64 {
    values.windows(2).map(|pair| (pair[1].0 - pair[0].0) as i64).min().unwrap_or(i64::MAX)
}

fn spacing(values: &[(f64, &str)], policy: Span, at: i64) -> Trouble {
    let closest = u32::try_from(closest(values)).ok().and_then(Span::from_seconds);
    match closest.filter(|closest| *closest != policy) {
        Some(samples) => Trouble::Spacing { samples, policy },
        None => Trouble::Garbled(format!("the sample at `{at}` is not on the grid of {policy}")),
    }
}

fn short(text: &str) -> String {
    const LENGTH: usize = 200;
    let short: String = text.chars().take(LENGTH).flat_map(char::escape_debug).collect();
    if text.chars().count() > LENGTH { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::from_seconds(60).unwrap();

    fn asked(values: &str) -> Result<Vec<Option<f64>>, Trouble> {
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{values}]}}]}}}}"#
        );
        answered(&body)
    }

    fn answered(body: &str) -> Result<Vec<Option<f64>>, Trouble> {
        let mut samples = Samples::new(Timestamp::from_second(600).unwrap(), MINUTE);
        read(body.as_bytes(), Grid { from: 600, to: 900, step: MINUTE }, &mut samples)?;
        Ok(samples.values)
    }

    #[track_caller]
    fn refused(values: &str, expected: &str) {
        assert_eq!(asked(values).unwrap_err().to_string(), expected);
    }

    #[test]
    fn nan_and_gaps_are_missing_and_never_zero() {
        let found = asked(r#"[600,"1.5"],[660,"NaN"],[720,"+Inf"],[840,"-1"],[900,"0"]"#).unwrap();
        assert_eq!(found, [Some(1.5), None, None, None, None, Some(0.0)]);
    }

    #[test]
    fn text_for_a_number_is_a_fault() {
        refused(r#"[600,"many"]"#, "invalid answer from Prometheus: the value `many` is not a number");
        refused(r#"[600,""]"#, "invalid answer from Prometheus: the value `` is not a number");
    }

    #[test]
    fn wrong_spacing_is_said_in_both_lengths() {
        refused(r#"[600,"1"],[630,"1"],[660,"1"]"#, "the samples are 30s apart, expected 1m");
        refused(r#"[600,"1"],[720,"1"],[840,"1"]"#, "the samples are 2m apart, expected 1m");
        refused(
            r#"[630,"1"],[690,"1"]"#,
            "invalid answer from Prometheus: the sample at `630` is not on the grid of 1m",
        );
    }

    #[test]
    fn order_and_range_are_checked() {
        refused(
            r#"[660,"1"],[660,"2"]"#,
            "invalid answer from Prometheus: the sample at `660` does not come after the one before",
        );
        refused(r#"[960,"1"]"#, "invalid answer from Prometheus: the sample at `960` is outside the requested range");
        refused(r#"[600.5,"1"]"#, "invalid answer from Prometheus: the time `600.5` of a sample is not a whole second");
    }

    #[test]
    fn one_series_and_no_other_number_of_them() {
        let matrix =
            |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}]}}}}"#);
        assert_eq!(answered(&matrix("")), Ok(vec![None; 6]));
        let series = r#"{"metric":{},"values":[]}"#;
        assert_eq!(answered(&matrix(&format!("{series},{series}"))), Err(Trouble::Series(2)));
    }

    #[test]
    fn an_invalid_answer_is_reported() {
        for body in [
            "",
            "<html>",
            "{}",
            "[]",
            r#"{"status":"success"}"#,
            r#"{"status":"success","data":{"resultType":"scalar","result":[]}}"#,
        ] {
            let trouble = answered(body).unwrap_err();
            assert!(matches!(trouble, Trouble::Garbled(_)), "{body}: {trouble}");
        }
        let refused = answered(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#).unwrap_err();
        assert_eq!(refused, Trouble::Refused("parse error".to_owned()));
    }

    #[test]
    fn a_history_begins_and_ends_with_a_value() {
        let mut samples = Samples::new(Timestamp::from_second(600).unwrap(), MINUTE);
        samples.values = vec![None, Some(1.0), None, Some(2.0), None];
        let history = samples.history().unwrap();
        assert_eq!((history.start.as_second(), history.samples), (660, vec![Some(1.0), None, Some(2.0)]));
        samples.values = vec![None; 3];
        assert_eq!(samples.history(), None);
    }
}
