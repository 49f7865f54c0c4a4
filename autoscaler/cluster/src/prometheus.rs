//! Asks Prometheus for demand: one range query, one series, on the grid that was asked for.
//!
//! Bounded in everything: requests at a time, seconds, bytes, samples. Whatever comes back that is not an even series of
//! demand is a `Trouble` in words; nothing is guessed, and what is missing is a gap and never a zero. Keeps nothing.

mod address;
mod answer;
mod client;

pub use address::Address;
pub use answer::Samples;
use autoscaler_floor::decide::Missing;
use autoscaler_forecast::span::Span;
use client::{Client, RequestLimits};
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Prometheus refuses more samples than 11,000 in one answer.
const LARGEST_QUERY: usize = 10_000;
/// `[1767225600.123,"12345.678901234567"],` and room for spaces.
const BYTES_A_SAMPLE: usize = 96;
const BYTES_AROUND: usize = 64 << 10;
/// A host that never answers costs this much of a request's time.
const LONGEST_CONNECTION: Duration = Duration::from_secs(5);

/// Address of Prometheus, and limits of the requests.
#[derive(Clone, Debug)]
pub struct PrometheusSettings {
    /// Its address, with the path before `/api/v1` where there is one.
    pub url: Address,
    /// A file with a token that goes along as a bearer, instead of credentials in the address; read at every request, for tokens are renewed.
    pub token_file: Option<PathBuf>,
    /// Number of concurrent requests.
    pub at_a_time: usize,
    /// Time limit of a request.
    pub within: Duration,
}

#[derive(Debug)]
pub struct Prometheus {
    settings: PrometheusSettings,
    client: Client,
    permits: Semaphore,
}

/// Reason that there are no samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers, or not in time.
    Unreachable(String),
    /// It says no: a query that does not parse, a limit, a missing right.
    Refused(String),
    /// The answer is not in the protocol of Prometheus.
    Garbled(String),
    /// More bytes than this number of samples can be.
    TooLarge { bytes: usize },
    /// The query's answer is not one series.
    Series(usize),
    /// The samples are not as far apart as asked.
    Spacing {
        /// Distance of the samples.
        samples: Span,
        /// Distance in the policy.
        policy: Span,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(cause) => write!(f, "cannot reach Prometheus: {cause}"),
            Trouble::Refused(cause) => write!(f, "Prometheus refuses the query: {cause}"),
            Trouble::Garbled(cause) => write!(f, "invalid answer from Prometheus: {cause}"),
            Trouble::TooLarge { bytes } => {
                write!(f, "the answer of Prometheus is larger than {bytes} bytes: the query must return one series")
            }
            Trouble::Series(0) => write!(f, "the query returns no series"),
            Trouble::Series(count) => {
                write!(f, "the query returns {count} series instead of one: put `sum()` around it")
            }
            Trouble::Spacing { samples, policy } => {
                write!(f, "the samples are {samples} apart, expected {policy}")
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

    /// Returns the reason for the decision.
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
        let limits = RequestLimits { connection: settings.within.min(LONGEST_CONNECTION), request: settings.within };
        let client = Client::new(&settings.url.range_query(&[])?, &Matcher::from_env(), limits)?;
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

    /// Returns an error if Prometheus does not answer: asks for the number one as a query.
    pub async fn reachable(&self) -> Result<(), Trouble> {
        let now = Timestamp::now().as_second();
        let step = Span::from_seconds(60).unwrap_or_else(|| unreachable!("a minute is a span"));
        self.ask("vector(1)", Grid { from: now, to: now, step }).await.map(|_| ())
    }

    async fn ask(&self, query: &str, part: Grid) -> Result<Vec<u8>, Trouble> {
        // Never closed: an error here cannot be.
        let _permit = self.permits.acquire().await;
        let parameters = [
            ("query", query),
            ("start", &part.from.to_string()),
            ("end", &part.to.to_string()),
            ("step", &part.step.seconds().to_string()),
            ("timeout", &format!("{}s", self.settings.within.as_secs().max(1))),
        ];
        let uri = self.settings.url.range_query(&parameters).map_err(Trouble::Refused)?;
        let most = BYTES_AROUND + part.len() * BYTES_A_SAMPLE;
        let answer = self.client.get(uri, self.authorization()?, most).await.map_err(Trouble::Unreachable)?;
        let (status, body) = (answer.status, answer.body.ok_or(Trouble::TooLarge { bytes: most })?);
        if status.is_success() {
            return Ok(body);
        }
        let cause = answer::refusal(&body).unwrap_or_else(|| format!("it answers {status}"));
        // Only these are about the query; the others come and go, and a proxy says them while its Prometheus starts.
        let about_us = matches!(status.as_u16(), 400 | 401 | 403 | 404 | 405 | 413 | 414 | 422);
        Err(if about_us { Trouble::Refused(cause) } else { Trouble::Unreachable(cause) })
    }

    /// The token, else the credentials in the address.
    fn authorization(&self) -> Result<Option<HeaderValue>, Trouble> {
        let Some(path) = &self.settings.token_file else {
            return Ok(self.settings.url.credentials().cloned());
        };
        let failed = |verb: &str, cause: &dyn fmt::Display| {
            Trouble::Unreachable(format!("cannot {verb} the token file `{}`: {cause}", path.display()))
        };
        let token = std::fs::read_to_string(path).map_err(|cause| failed("read", &cause))?;
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|cause| failed("send", &cause))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(token_file: Option<PathBuf>) -> Result<Option<HeaderValue>, Trouble> {
        let url = "http://user:pass@127.0.0.1:9".parse().unwrap();
        let settings = PrometheusSettings { url, token_file, at_a_time: 1, within: Duration::from_secs(1) };
        Prometheus::new(settings).unwrap().authorization()
    }

    #[test]
    fn a_token_is_sent_instead_of_credentials_in_the_address() {
        assert_eq!(authorization(None).unwrap().unwrap(), "Basic dXNlcjpwYXNz");
        let file = std::env::temp_dir().join(format!("autoscaler-token-{}", std::process::id()));
        std::fs::write(&file, " t0ken\n").unwrap();
        let token = authorization(Some(file.clone())).unwrap().unwrap();
        assert!(token == "Bearer t0ken" && token.is_sensitive(), "{token:?}");
        std::fs::write(&file, "two\nlines").unwrap();
        let error = authorization(Some(file.clone())).unwrap_err().to_string();
        assert!(error.contains("cannot send the token file") && !error.contains("two"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = authorization(Some(file)).unwrap_err().to_string();
        assert!(error.contains("cannot read the token file"), "{error}");
    }
}
