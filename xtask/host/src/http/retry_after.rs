//! The header `Retry-After`.

use std::time::Duration;
use xtask_model::time::Timestamp;

/// Reads `Retry-After`, seconds or an HTTP date (RFC 9110 section 10.2.3), as seen at `now`.
pub(crate) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Timestamp::from_http(value)?.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn after(value: &str, seconds: Option<u64>) {
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        after("7", Some(7));
        after(" 0 ", Some(0));
        after("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        after("Sun, 06 Nov 1994 08:48:37 GMT", Some(0));
        after("soon", None);
        after("-3", None);
    }
}
