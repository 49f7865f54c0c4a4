//! Asks Prometheus for demand: one range query, one series, on the grid that was asked for.
//!
//! Bounded in everything: requests at a time, seconds, bytes, samples. Whatever comes back that is not an even series of
//! demand is a `Trouble` in words; nothing is guessed, and what is missing is a gap and never a zero. Keeps nothing.

mod answer;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use autoscaler_floor::decide::Missing;
use autoscaler_forecast::span::Span;

pub use answer::Samples;

/// Prometheus refuses more samples than 11,000 in one answer.
const LARGEST_QUERY: usize = 10_000;
/// `[1767225600.123,"12345.678901234567"],` and room for spaces.
const BYTES_A_SAMPLE: usize = 96;
const BYTES_AROUND: usize = 64 << 10;

/// Where Prometheus is, and how hard it may be asked.
#[derive(Clone, Debug)]
pub struct PrometheusSettings {
    /// Its address, with the path before `/api/v1` where there is one.
    pub url: reqwest::Url,
    /// A file with a token that goes along as a bearer; read at every request, for tokens are renewed.
    pub token_file: Option<PathBuf>,
    /// How many requests at a time.
    pub at_a_time: usize,
    /// How long one may take.
    pub within: Duration,
}

/// A Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    settings: PrometheusSettings,
    client: reqwest::Client,
    permits: Semaphore,
}

/// Why there are no samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers, or not in time.
    Unreachable(String),
    /// It says no: a query that does not parse, a limit, a missing right.
    Refused(String),
    /// What it says is not its protocol.
    Garbled(String),
    /// More bytes than this number of samples can be.
    TooLarge {
        /// The limit.
        bytes: usize,
    },
    /// The query's answer is not one series.
    Series(usize),
    /// The samples are not as far apart as asked.
    Spacing {
        /// How far they are.
        samples: Span,
        /// How far they should be.
        policy: Span,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(cause) => write!(f, "cannot reach Prometheus: {cause}"),
            Trouble::Refused(cause) => write!(f, "Prometheus refuses the query: {cause}"),
            Trouble::Garbled(cause) => write!(f, "cannot understand Prometheus: {cause}"),
            Trouble::TooLarge { bytes } => {
                write!(f, "the answer of Prometheus is larger than {bytes} bytes: the query has to give one series")
            }
            Trouble::Series(0) => write!(f, "the query gives no series"),
            Trouble::Series(count) => write!(f, "the query gives {count} series instead of one: put `sum()` around it"),
            Trouble::Spacing { samples, policy } => {
                write!(f, "the samples are {samples} apart, asked for were {policy}")
            }
        }
    }
}

impl std::error::Error for Trouble {}

impl Trouble {
    /// One word for a condition's reason.
    pub fn word(&self) -> &'static str {
        match self {
            Trouble::Unreachable(_) => "PrometheusUnreachable",
            Trouble::Refused(_) => "QueryRefused",
            Trouble::Garbled(_) => "AnswerGarbled",
            Trouble::TooLarge { .. } => "AnswerTooLarge",
            Trouble::Series(0) => "NoSeries",
            Trouble::Series(_) => "ManySeries",
            Trouble::Spacing { .. } => "WrongSpacing",
        }
    }

    /// As a decision reads it.
    pub fn missing(&self) -> Missing {
        match self {
            Trouble::Spacing { samples, policy } => Missing::Spacing { samples: *samples, policy: *policy },
            other => Missing::NoForecast { cause: other.to_string() },
        }
    }
}

impl Prometheus {
    /// A client that has asked nothing yet.
    pub fn new(settings: PrometheusSettings) -> Result<Prometheus, String> {
        crate::tls::provide();
        let client = reqwest::Client::builder()
            .timeout(settings.within)
            .connect_timeout(settings.within.min(Duration::from_secs(5)))
            .user_agent(concat!("autoscaler/", env!("CARGO_PKG_VERSION")))
            // A redirect would take the token somewhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|cause| describe(&cause))?;
        let permits = Semaphore::new(settings.at_a_time.max(1));
        Ok(Prometheus { settings, client, permits })
    }

    /// The samples from `first` to `last`, both on the grid of `step` since the epoch.
    pub async fn range(&self, query: &str, first: Timestamp, last: Timestamp, step: Span) -> Result<Samples, Trouble> {
        let each = i64::from(step.seconds());
        let mut samples = Samples::new(first, step);
        let mut from = first.as_second();
        while from <= last.as_second() {
            let to = last.as_second().min(from + (LARGEST_QUERY as i64 - 1) * each);
            let part = Grid { from, to, step };
            let bytes = self.ask(query, part).await?;
            answer::read(&bytes, part, &mut samples)?;
            from = to + each;
        }
        Ok(samples)
    }

    /// Whether it answers at all: the number one, asked as a query.
    pub async fn reachable(&self) -> Result<(), Trouble> {
        let now = Timestamp::now().as_second();
        let step = Span::from_seconds(60).unwrap_or_else(|| unreachable!("a minute is a span"));
        self.ask("vector(1)", Grid { from: now, to: now, step }).await.map(|_| ())
    }

    async fn ask(&self, query: &str, part: Grid) -> Result<Vec<u8>, Trouble> {
        // Never closed: an error here cannot be.
        let _permit = self.permits.acquire().await;
        let mut url = self.settings.url.clone();
        url.set_path(&format!("{}/api/v1/query_range", url.path().trim_end_matches('/')));
        let mut request = self.client.get(url).query(&[
            ("query", query),
            ("start", &part.from.to_string()),
            ("end", &part.to.to_string()),
            ("step", &part.step.seconds().to_string()),
            ("timeout", &format!("{}s", self.settings.within.as_secs().max(1))),
        ]);
        if let Some(path) = &self.settings.token_file {
            let token = std::fs::read_to_string(path).map_err(|cause| {
                Trouble::Unreachable(format!("cannot read the token file `{}`: {cause}", path.display()))
            })?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await.map_err(|cause| Trouble::Unreachable(describe(&cause)))?;
        let status = response.status();
        let most = BYTES_AROUND + part.len() * BYTES_A_SAMPLE;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|cause| Trouble::Unreachable(describe(&cause)))? {
            if body.len() + chunk.len() > most {
                // Dropping the response closes the connection: the rest is never read.
                return Err(Trouble::TooLarge { bytes: most });
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        let cause = answer::refusal(&body).unwrap_or_else(|| format!("it answers {status}"));
        // Only these are about the query; the others come and go, and a proxy says them while its Prometheus starts.
        let about_us = matches!(status.as_u16(), 400 | 401 | 403 | 404 | 405 | 413 | 414 | 422);
        Err(if about_us { Trouble::Refused(cause) } else { Trouble::Unreachable(cause) })
    }
}

/// The error with its causes, and without the address: a query can be long.
fn describe(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "it does not answer in time".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.source().is_none() {
            text.push_str(&format!(": {inner}"));
        }
        cause = inner.source();
    }
    text
}

/// The times of a query, both ends with it.
#[derive(Clone, Copy, Debug)]
struct Grid {
    from: i64,
    to: i64,
    step: Span,
}

impl Grid {
    fn len(self) -> usize {
        usize::try_from((self.to - self.from) / i64::from(self.step.seconds()) + 1).unwrap_or(0)
    }
}
