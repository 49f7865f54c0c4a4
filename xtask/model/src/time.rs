//! Moments and days, written as RFC 3339 in UTC: so do labels, the ledger and reports.

use crate::spec::reference::text_type;
use humantime::{format_rfc3339, parse_rfc3339};
use std::fmt;
use std::ops::Sub;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// A moment since 1970, before the year 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(SystemTime);

/// A day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Its number since 1970-01-01.
    number: u64,
}

const DAY: u64 = 86_400;
/// 9999-12-31T23:59:59, the last second with four digits for its year.
const LAST: u64 = 253_402_300_799;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Timestamp {
    /// A moment of the system's clock; 1970 for earlier ones.
    pub fn at(time: SystemTime) -> Timestamp {
        Timestamp(time.max(SystemTime::UNIX_EPOCH))
    }

    /// Seconds since 1970; none outside the years that can be written.
    pub fn from_second(second: i64) -> Option<Timestamp> {
        let second = u64::try_from(second).ok().filter(|second| *second <= LAST)?;
        Some(Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(second)))
    }

    /// Seconds since 1970, rounded down.
    pub fn as_second(self) -> i64 {
        self.seconds() as i64
    }

    /// An HTTP date, as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
    pub fn from_http(text: &str) -> Option<Timestamp> {
        httpdate::parse_http_date(text).ok().map(Timestamp)
    }

    /// Time since `earlier`; zero if it is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        self.0.duration_since(earlier.0).unwrap_or_default()
    }

    pub fn date(self) -> Date {
        Date { number: self.seconds() / DAY }
    }

    /// To the minute, for a person: `2026-01-02 03:04`.
    pub fn minute(self) -> String {
        let text = self.to_string();
        format!("{} {}", &text[..10], &text[11..16])
    }

    fn seconds(self) -> u64 {
        self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

impl Date {
    pub fn to(self, last: Date) -> impl Iterator<Item = Date> {
        (self.number..=last.number).map(|number| Date { number })
    }

    /// Without its year, for an axis: `Jan 2`.
    pub fn short(self) -> String {
        let text = self.to_string();
        let month = text[5..7].parse().ok().and_then(|month: usize| MONTHS.get(month - 1));
        format!("{} {}", month.expect("a month of the year"), text[8..].trim_start_matches('0'))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(self.number * DAY);
        f.write_str(&format_rfc3339(midnight).to_string()[..10])
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, time: Duration) -> Timestamp {
        let earlier = self.0.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH);
        Timestamp(earlier.max(SystemTime::UNIX_EPOCH))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_rfc3339(self.0).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Timestamp, humantime::TimestampError> {
        parse_rfc3339(text).map(Timestamp)
    }
}

text_type!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fractions_are_kept_and_other_text_is_refused() {
        let read = |text: &str| text.parse::<Timestamp>().map(|time| time.to_string()).ok();
        assert_eq!(read("2026-01-02T03:04:05Z").as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(read("2026-01-02T03:04:05.25Z").as_deref(), Some("2026-01-02T03:04:05.250000000Z"));
        for wrong in ["2026-01-02", "2026-02-30T00:00:00Z", "yesterday", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn days_and_minutes_are_as_people_write_them() {
        let time: Timestamp = "2026-02-27T23:59:59Z".parse().unwrap();
        assert_eq!(time.minute(), "2026-02-27 23:59");
        let days = time.date().to("2026-03-02T00:00:00Z".parse::<Timestamp>().unwrap().date());
        let days: Vec<String> = days.map(|day| format!("{day} {}", day.short())).collect();
        assert_eq!(days, ["2026-02-27 Feb 27", "2026-02-28 Feb 28", "2026-03-01 Mar 1", "2026-03-02 Mar 2"]);
    }

    #[test]
    fn nothing_is_before_the_first_moment_or_after_the_last() {
        let first = Timestamp::from_second(0).unwrap();
        assert_eq!(Timestamp::at(SystemTime::now()) - Duration::MAX, first);
        assert_eq!(first.since(Timestamp::at(SystemTime::now())), Duration::ZERO);
        assert_eq!(Timestamp::from_second(LAST as i64).unwrap().to_string(), "9999-12-31T23:59:59Z");
        assert_eq!([-1, LAST as i64 + 1].map(Timestamp::from_second), [None, None]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(second in 0..=LAST as i64) {
            let time = Timestamp::from_second(second).unwrap();
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            prop_assert_eq!(time.as_second(), second);
            prop_assert_eq!(time.date().to_string(), &time.to_string()[..10]);
        }
    }
}
