//! Messages on the worker's stdio: one JSON object per line, as the worker's own `protocol` module reads it.
//!
//! Only types; no process, no clock.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Raised with every change that an old reader would misread. The worker has to say the same.
pub const VERSION: u32 = 1;

/// Request to the worker.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Request<'a> {
    Forecast {
        /// Number that the answer repeats.
        id: u64,
        /// Time limit in milliseconds; the worker gives up by itself between two models.
        deadline_ms: u64,
        #[serde(flatten)]
        question: &'a Question,
        /// Fit of an earlier answer.
        #[serde(flatten)]
        renewal: Option<&'a Renewal>,
    },
    /// Asks how good forecasts would have been.
    Backtest {
        /// Number that the answer repeats.
        id: u64,
        /// Time limit in milliseconds.
        deadline_ms: u64,
        #[serde(flatten)]
        backtest: &'a Backtest,
    },
    /// Asks for the forecasts that would have been made.
    Rolling {
        /// Number that the answer repeats.
        id: u64,
        /// Time limit in milliseconds.
        deadline_ms: u64,
        #[serde(flatten)]
        rolling: &'a Rolling,
    },
    /// Asks for a sign of life.
    Ping {
        /// Number that the answer repeats.
        id: u64,
    },
}

/// A forecast that is wanted. Lengths are in samples.
#[derive(Clone, Debug, Serialize)]
pub struct Question {
    /// The history; null where a sample is missing, never first or last.
    pub samples: Vec<Option<f64>>,
    /// Distance of two samples, in seconds.
    pub step_seconds: u32,
    /// Length of a season, in samples.
    pub season: u32,
    /// Number of samples to forecast.
    pub horizon: u32,
    /// The share of samples that stay below the upper line.
    pub quantile: f64,
    /// Name of the model, or `auto`.
    pub model: String,
    /// The lead time: with it each model's own lines are answered too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead: Option<u32>,
    /// Number of the last origins for which the answer has each model's highest value until the lead time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<u32>,
}

/// Fit of an earlier answer, to be updated instead of fitted again. If it does not fit, everything is done again.
#[derive(Clone, Debug, Serialize)]
pub struct Renewal {
    /// Field `fit` of the answer.
    pub fit: Box<RawValue>,
    /// Number of samples since then.
    pub since: u32,
}

/// A backtest that is wanted. Lengths are in samples.
#[derive(Clone, Debug, Serialize)]
pub struct Backtest {
    /// The history; null where a sample is missing, never first or last.
    pub samples: Vec<Option<f64>>,
    /// Distance of two samples, in seconds.
    pub step_seconds: u32,
    /// Length of a season, in samples.
    pub season: u32,
    /// Lead times, in samples.
    pub leads: Vec<u32>,
    /// The share of samples that should stay below the upper line.
    pub quantile: f64,
}

/// Forecasts that are wanted from many origins, each from its past alone.
#[derive(Clone, Debug, Serialize)]
pub struct Rolling {
    /// Question at each origin; the samples continue after it.
    #[serde(flatten)]
    pub question: Question,
    /// The first origin, as the number of samples before it.
    pub first: u32,
    /// The distance of two origins, in samples.
    pub every: u32,
}

/// Message of the worker.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Message {
    Hello(Hello),
    /// The answer to a forecast request.
    Forecast(Box<Identified<Answer>>),
    /// The answer to a backtest request.
    Backtest(Box<Identified<Report>>),
    /// The answer to a rolling request.
    Rolling(Box<Identified<Rolled>>),
    Pong {
        /// Number of the ping.
        id: u64,
    },
    /// The answer to a request that was refused.
    Error(Refusal),
}

/// Identity of the worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Hello {
    /// Version of its protocol.
    pub protocol: u32,
    /// Version of its Python.
    pub python: String,
    /// The versions of the packages it computes with.
    pub packages: BTreeMap<String, String>,
}

/// An answer with the id of its request.
#[derive(Debug, Deserialize)]
pub struct Identified<T> {
    /// Number of the request.
    pub id: u64,
    #[serde(flatten)]
    pub answer: T,
}

/// Scores of forecasts over the second half of a history.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Report {
    /// Number of samples used.
    pub samples: usize,
    /// Number of samples that only trained the models.
    pub taught: usize,
    /// Number of missing samples, each filled from its past.
    pub borrowed: usize,
    pub leads: Vec<LeadReport>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Time that the worker took, in seconds.
    pub seconds: f64,
}

/// A backtest at one lead time.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct LeadReport {
    /// Lead time, in samples.
    pub lead: u32,
    /// Number of forecasts compared with a sample.
    pub origins: usize,
    /// Share of them at which the forecast was better than plain references.
    pub skilled: f64,
    /// True if it was better at the last of them.
    pub skilled_now: bool,
    /// Row `forecast`, then a row for every model.
    pub rows: Vec<Row>,
}

/// A model at one lead time.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Row {
    /// The model, or `forecast` for what would have been used.
    pub model: String,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean absolute error divided by that of a seasonal naive over the first half; none if that is zero.
    pub mase: Option<f64>,
    /// The share of the seasonal naive's error, at the same origins, that is gone.
    pub skill: Option<f64>,
    /// The pinball loss of the upper line.
    pub pinball: f64,
    /// The share of samples that were not above the upper line.
    pub coverage: f64,
    /// The share of origins at which it was part of the forecast.
    pub used: f64,
}

/// Forecasts by origin.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Rolled {
    /// The origins at which there was enough to forecast from.
    pub origins: Vec<u32>,
    /// Per origin, by lead time: the expected value.
    pub mean: Vec<Vec<f64>>,
    /// Per origin, by lead time: the upper line.
    pub upper: Vec<Vec<f64>>,
    /// Per origin: whether the forecast was better than plain references.
    pub skilled: Vec<bool>,
    /// Per origin: the models in the forecast.
    pub members: Vec<Vec<String>>,
    /// Per model and origin: the highest value of its own line until the lead time, where the question names one.
    #[serde(default)]
    pub peaks: BTreeMap<String, Vec<f64>>,
    /// The models that the history before the first origin is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Time that the worker took, in seconds.
    pub seconds: f64,
}

/// A forecast as the worker knows it: by lead time, without a clock.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// The model used, `mean` for the mean of several.
    pub model: String,
    /// Models in the forecast.
    pub members: Vec<String>,
    /// True if the forecast is better than plain references on this history.
    pub skilled: bool,
    /// The share of the seasonal naive's error that is gone; none when that needs more history.
    pub skill: Option<f64>,
    /// The share of the better flat line's error that is gone.
    pub skill_flat: Option<f64>,
    /// Number of past forecasts compared with the samples that followed.
    pub backtests: u32,
    /// `additive`, or `proportional` when busy hours have larger errors.
    pub band: String,
    /// Number of samples used.
    pub samples: usize,
    /// Number of missing samples filled by a straight line.
    pub interpolated: usize,
    /// Number of missing samples taken from other seasons.
    pub borrowed: usize,
    /// By lead time: the expected value.
    pub mean: Vec<f64>,
    /// By lead time: the lower line.
    pub lower: Vec<f64>,
    /// By lead time: the upper line.
    pub upper: Vec<f64>,
    /// Scores of the models.
    pub scores: Vec<Score>,
    /// The models that this history is too short for.
    pub missing: Vec<Missing>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// Each model's own line, where the question names a lead time.
    #[serde(default)]
    pub lines: BTreeMap<String, Vec<f64>>,
    /// Each model's highest value until the lead time, for the last origins that were asked for, the end included.
    #[serde(default)]
    pub peaks: BTreeMap<String, Vec<f64>>,
    /// Fit with which this forecast is updated when more samples have arrived; none if it was updated itself.
    #[serde(default)]
    pub fit: Option<Value>,
    /// Time that the worker took, in seconds.
    pub seconds: f64,
}

/// Backtest of one model.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Score {
    pub model: String,
    /// Mean absolute error.
    pub mae: f64,
    /// The share of the seasonal naive's error that is gone.
    pub skill: Option<f64>,
    /// The share of the better flat line's error that is gone.
    pub skill_flat: Option<f64>,
    /// True if it beats both by more than the luck of that number of backtests.
    pub sure: bool,
}

/// A model that needs more history.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Missing {
    pub model: String,
    /// Number of samples that it needs.
    pub needs: usize,
    /// Number of samples in the history.
    pub has: usize,
}

/// A request that the worker did not do.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Refusal {
    /// The request's id; none when it showed none.
    pub id: Option<u64>,
    /// Kind of refusal: `bad-request`, `bad-fit`, `not-enough-history`, `too-many-gaps`, `model-failed`, `deadline`, `bug`.
    pub code: String,
    pub message: String,
    /// Next step for the user.
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_worker_reads() {
        let question = Question {
            samples: vec![Some(1.0), None, Some(2.5)],
            step_seconds: 300,
            season: 288,
            horizon: 12,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        };
        let request = Request::Forecast { id: 7, deadline_ms: 500, question: &question, renewal: None };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"type":"forecast","id":7,"deadline_ms":500,"samples":[1.0,null,2.5],"step_seconds":300,"season":288,"horizon":12,"quantile":0.9,"model":"auto"}"#
        );
    }

    #[test]
    fn a_renewal_goes_along_as_it_came() {
        let question = Question {
            samples: vec![Some(1.0)],
            step_seconds: 300,
            season: 288,
            horizon: 12,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        };
        let renewal = Renewal { fit: RawValue::from_string(r#"{"a": [1.50]}"#.to_owned()).unwrap(), since: 3 };
        let request = Request::Forecast { id: 7, deadline_ms: 500, question: &question, renewal: Some(&renewal) };
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.ends_with(r#""model":"auto","fit":{"a": [1.50]},"since":3}"#), "{line}");
    }

    #[test]
    fn a_rolling_request_is_a_question_with_origins() {
        let question = Question {
            samples: vec![Some(1.0), Some(2.0)],
            step_seconds: 60,
            season: 2,
            horizon: 1,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        };
        let rolling = Rolling { question, first: 1, every: 1 };
        let request = Request::Rolling { id: 1, deadline_ms: 5, rolling: &rolling };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"type":"rolling","id":1,"deadline_ms":5,"samples":[1.0,2.0],"step_seconds":60,"season":2,"horizon":1,"quantile":0.9,"model":"auto","first":1,"every":1}"#
        );
    }

    #[test]
    fn a_hello_from_the_future_is_still_a_hello() {
        let line = r#"{"type":"hello","protocol":9,"python":"3.15.0","packages":{},"more":[1]}"#;
        let Message::Hello(hello) = serde_json::from_str(line).unwrap() else { panic!("not a hello") };
        assert_eq!(hello.protocol, 9);
    }
}
