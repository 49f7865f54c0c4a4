//! The calendar that demand follows: the clock of a time zone, and days that are unlike the others.
//!
//! A season is a day of the clock that people live by. On the day of a clock change that clock is an hour ahead of the samples'
//! own grid, and a history that is read by the grid repeats everything an hour too late. Here it is laid on the clock instead:
//! an hour that the clock skips is a gap, and of an hour that it repeats the second one counts. A special day is not learned
//! from: in what is learned it has the demand of the same weekday before. Pure.

use crate::history::History;
use crate::protocol::Answer;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

const DAY: i64 = 86_400;
/// The most days of one entry.
pub const MOST_DAYS: u32 = 31;

/// Day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Serialize, serde::Deserialize)]
pub enum Weekday {
    // Each day needs a doc comment: schemars lists days without one before the others.
    /// First day of the week.
    Monday,
    /// Second day of the week.
    Tuesday,
    /// Third day of the week.
    Wednesday,
    /// Fourth day of the week.
    Thursday,
    /// Fifth day of the week.
    Friday,
    /// Sixth day of the week.
    Saturday,
    /// Last day of the week.
    Sunday,
}

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("Monday", Weekday::Monday),
    ("Tuesday", Weekday::Tuesday),
    ("Wednesday", Weekday::Wednesday),
    ("Thursday", Weekday::Thursday),
    ("Friday", Weekday::Friday),
    ("Saturday", Weekday::Saturday),
    ("Sunday", Weekday::Sunday),
];

/// Days that are unlike the others: a holiday, a sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialDays {
    first: Date,
    days: u32,
    like: Option<Weekday>,
}

impl SpecialDays {
    /// `days` days from a date such as `2026-12-25` on, with the demand of a weekday where one is named.
    pub fn new(date: &str, days: u32, like: Option<Weekday>) -> Result<SpecialDays, String> {
        let digits = date.len() == 10 && date.chars().all(|digit| digit.is_ascii_digit() || digit == '-');
        let first = if digits { Date::strptime("%Y-%m-%d", date).ok() } else { None };
        let first = first.ok_or_else(|| format!("`{date}` is not a date such as `2026-12-25`"))?;
        if !(1..=MOST_DAYS).contains(&days) {
            return Err(format!("`{days}` is not between 1 and {MOST_DAYS} days"));
        }
        Ok(SpecialDays { first, days, like })
    }
}

impl FromStr for SpecialDays {
    type Err = String;

    fn from_str(text: &str) -> Result<SpecialDays, String> {
        let (date, like) = text.split_once('=').map_or((text, None), |(date, like)| (date, Some(like)));
        let weekday = |name: &str| {
            let found = WEEKDAYS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, day)| *day).ok_or_else(|| format!("`{name}` is not a weekday such as `Sunday`"))
        };
        SpecialDays::new(date, 1, like.map(weekday).transpose()?)
    }
}

/// A time zone by its name in the IANA database.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("`{name}` is not a time zone such as `Europe/Berlin`"))
}

/// A time zone and special days; UTC and none by default.
#[derive(Clone, PartialEq)]
pub struct Calendar {
    zone: TimeZone,
    /// By the number of the day since 1970.
    special: BTreeMap<i64, Option<Weekday>>,
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar::new(TimeZone::UTC, &[])
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.zone.iana_name().unwrap_or("UTC"), self.special)
    }
}

impl Calendar {
    /// A calendar; of two entries for one day the later one counts.
    pub fn new(zone: TimeZone, special: &[SpecialDays]) -> Calendar {
        let number = |date: Date| date.to_zoned(TimeZone::UTC).map_or(0, |day| day.timestamp().as_second() / DAY);
        let days = special.iter().flat_map(|entry| {
            let first = number(entry.first);
            (first..first + i64::from(entry.days)).map(|day| (day, entry.like))
        });
        Calendar { zone, special: days.collect() }
    }

    /// The clock's reading at a time in Unix seconds, as seconds since its own 1970.
    fn clock(&self, second: i64) -> i64 {
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        second + i64::from(self.zone.to_offset(time).seconds())
    }

    /// The number of the block of `length` seconds at a time in Unix seconds: days are those of the clock.
    pub fn block(&self, second: i64, length: i64) -> i64 {
        if length == DAY { self.clock(second).div_euclid(DAY) } else { second.div_euclid(length) }
    }

    /// Returns true if a time in Unix seconds is on a special day.
    pub fn is_special(&self, second: i64) -> bool {
        !self.special.is_empty() && self.special.contains_key(&self.clock(second).div_euclid(DAY))
    }

    /// The first time after `after` at which the clock is put forward.
    pub fn put_forward(&self, after: Timestamp) -> Option<Timestamp> {
        let mut before = self.zone.to_offset(after);
        self.zone.following(after).find_map(|change| {
            let forward = change.offset() > before;
            before = change.offset();
            forward.then(|| change.timestamp())
        })
    }

    /// A history by this calendar, and the `horizon` steps after it.
    pub fn read(&self, history: &History, horizon: usize) -> Reading {
        let (count, step) = (history.samples.len(), i64::from(history.step.seconds()));
        let clock: Vec<i64> = (0..count + horizon).map(|index| self.clock(history.time(index).as_second())).collect();
        let base = clock.first().copied().unwrap_or(0);
        // A shift by a part of a step cannot be laid on a grid.
        let fits = clock.iter().all(|second| (second - base) % step == 0);
        let place = |index: usize| if fits { ((clock[index] - base) / step).max(0) as usize } else { index };
        let places: Vec<usize> = (0..clock.len()).map(place).collect();
        let end = places.get(count.saturating_sub(1)).copied().unwrap_or(0);
        let mut samples = vec![None; if count == 0 { 0 } else { end + 1 }];
        for (place, sample) in places.iter().zip(&history.samples).filter(|(place, _)| **place <= end) {
            samples[*place] = sample.or(samples[*place]);
        }
        let mut reading = Reading { samples, places, count, like: Vec::new() };
        if !self.special.is_empty() && DAY % step == 0 {
            self.mark(&mut reading, base, step);
        }
        reading
    }

    /// Replaces the special days that are over, and notes which day those are like that are to come.
    fn mark(&self, reading: &mut Reading, base: i64, step: i64) {
        let (day, week) = ((DAY / step) as usize, (7 * DAY / step) as usize);
        let number = |place: usize| (base + place as i64 * step).div_euclid(DAY);
        let end = reading.samples.len().saturating_sub(1);
        for place in 0..=end {
            let today = number(place) == number(end);
            if today || !self.special.contains_key(&number(place)) || reading.samples[place].is_none() {
                continue;
            }
            // Earlier special days are replaced by now, but a day that another one was copied from is older news.
            let before = |distance: usize| {
                let places = (1..).map_while(|times: usize| place.checked_sub(times * distance));
                let mut ordinary = places.filter(|place| !self.special.contains_key(&number(*place)));
                ordinary.find_map(|place| reading.samples[place])
            };
            if let Some(value) = before(week).or_else(|| before(day)) {
                reading.samples[place] = Some(value);
            }
        }
        let like = |place: &usize| {
            let number = number(*place);
            let like = self.special.get(&number).copied().flatten()?;
            // The first day of 1970 was a Thursday.
            let back = (number + 3 - like as i64 - 1).rem_euclid(7) + 1;
            Some(back as usize * day)
        };
        reading.like = reading.places.iter().map(like).collect();
    }
}

/// A history by the clock of a calendar: what is learned from. Indices of the history, which is by time, have a place in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The samples by the clock, without those of special days; ends with the newest sample.
    pub samples: Vec<Option<f64>>,
    /// The place of each sample, and of the steps after the last one.
    places: Vec<usize>,
    /// Number of samples in the history.
    count: usize,
    /// By index, for a day that is like another one: how many places before it the last such day is.
    like: Vec<Option<usize>>,
}

impl Reading {
    /// Number of samples of the history.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The place of a sample, or of a step after the last one.
    pub fn place(&self, index: usize) -> usize {
        let last = self.places.len().saturating_sub(1);
        self.places.get(index).copied().unwrap_or_else(|| self.places.get(last).map_or(index, |at| at + index - last))
    }

    /// The place after the samples before `origin`.
    pub fn origin(&self, origin: usize) -> usize {
        origin.checked_sub(1).map_or(0, |last| self.place(last) + 1)
    }

    /// For a step on a day that is like another one: the distance in places to the last such day.
    pub fn like(&self, index: usize) -> Option<usize> {
        self.like.get(index).copied().flatten()
    }

    /// Returns the number of places between an earlier index and the last sample.
    pub fn since(&self, index: usize) -> Option<usize> {
        self.samples.len().checked_sub(self.place(index) + 1).filter(|_| index < self.count)
    }

    /// The steps by the clock that a forecast of `horizon` steps of time needs.
    pub fn horizon(&self, horizon: u32) -> u32 {
        let last = (0..horizon as usize).map(|lead| self.lead(lead) + 1).max().unwrap_or(0);
        horizon.max(u32::try_from(last).unwrap_or(u32::MAX))
    }

    fn lead(&self, lead: usize) -> usize {
        self.place(self.count + lead).saturating_sub(self.samples.len())
    }

    /// An answer about steps of the clock as one about `horizon` steps of time.
    pub fn timed(&self, mut answer: Answer, horizon: u32) -> Answer {
        let timed = |line: &mut Vec<f64>| {
            let values = (0..horizon as usize).filter_map(|lead| line.get(self.lead(lead)).copied());
            *line = values.collect();
        };
        [&mut answer.mean, &mut answer.lower, &mut answer.upper].into_iter().for_each(timed);
        answer.lines.values_mut().for_each(timed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    const HOUR: Span = Span::from_seconds(3_600).unwrap();

    /// Hours from a time on, each with its number.
    fn hours(start: &str, count: usize) -> History {
        let samples = (0..count).map(|hour| Some(hour as f64)).collect();
        History { start: start.parse().unwrap(), step: HOUR, samples }
    }

    fn berlin(special: &[&str]) -> Calendar {
        let special: Vec<SpecialDays> = special.iter().map(|day| day.parse().unwrap()).collect();
        Calendar::new(zone("Europe/Berlin").unwrap(), &special)
    }

    #[test]
    fn without_a_calendar_a_history_is_read_as_it_is() {
        let history = hours("2026-03-28T00:00:00Z", 72);
        let reading = Calendar::default().read(&history, 4);
        assert_eq!(reading.samples, history.samples);
        assert!((0..80).all(|index| reading.place(index) == index && reading.like(index).is_none()));
        assert_eq!((reading.origin(0), reading.origin(9), reading.horizon(4), reading.since(71)), (0, 9, 4, Some(0)));
    }

    #[test]
    fn an_hour_that_the_clock_skips_is_a_gap() {
        // At one o'clock UTC of the 29th Berlin's clock goes from two to three.
        let reading = berlin(&[]).read(&hours("2026-03-28T23:00:00Z", 6), 2);
        assert_eq!(reading.samples, [Some(0.0), Some(1.0), None, Some(2.0), Some(3.0), Some(4.0), Some(5.0)]);
        assert_eq!((reading.place(1), reading.place(2), reading.origin(2), reading.origin(3)), (1, 3, 2, 4));
        assert_eq!((reading.since(1), reading.since(5), reading.since(6)), (Some(5), Some(0), None));
    }

    #[test]
    fn of_an_hour_that_the_clock_repeats_the_second_counts() {
        let reading = berlin(&[]).read(&hours("2026-10-24T23:00:00Z", 5), 1);
        // One, two, two again, three, four.
        assert_eq!(reading.samples, [Some(0.0), Some(2.0), Some(3.0), Some(4.0)]);
        assert_eq!((0..6).map(|index| reading.place(index)).collect::<Vec<_>>(), [0, 1, 1, 2, 3, 4]);
        // Halfway through, what is later on the clock is earlier in time.
        let halves = History { step: Span::from_seconds(1_800).unwrap(), ..hours("2026-10-24T23:00:00Z", 5) };
        let reading = berlin(&[]).read(&halves, 1);
        assert_eq!(reading.samples, [Some(0.0), Some(1.0), Some(4.0)]);
        assert_eq!(reading.since(3), None);
    }

    #[test]
    fn a_forecast_over_a_clock_change_is_of_the_times_asked_for() {
        let answer = || Answer {
            mean: vec![1.0, 2.0, 3.0, 4.0],
            lower: vec![0.0; 4],
            upper: vec![9.0; 4],
            ..crate::naive::answer(&crate::protocol::Question {
                samples: vec![Some(1.0); 96],
                step_seconds: 3_600,
                season: 24,
                horizon: 1,
                quantile: 0.9,
                model: "auto".to_owned(),
                lead: None,
                replay: None,
            })
            .unwrap()
        };
        // The newest sample is of one o'clock; the next ones are of three, four and five.
        let reading = berlin(&[]).read(&hours("2026-03-28T20:00:00Z", 5), 3);
        assert_eq!(reading.horizon(3), 4);
        assert_eq!(reading.timed(answer(), 3).mean, [2.0, 3.0, 4.0]);
        let plain = Calendar::default().read(&hours("2026-03-28T20:00:00Z", 5), 3);
        assert_eq!(plain.timed(answer(), 3).mean, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_special_day_is_learned_as_the_same_weekday_before() {
        let history = hours("2026-03-01T00:00:00Z", 24 * 20);
        let calendar = Calendar::new(TimeZone::UTC, &["2026-03-10".parse().unwrap(), "2026-03-17".parse().unwrap()]);
        let reading = calendar.read(&history, 3);
        // Tuesday the 10th is the tenth day, and repeats the third; so does the 17th, for the 10th was special too.
        for hour in 0..24 {
            assert_eq!(reading.samples[9 * 24 + hour], Some((2 * 24 + hour) as f64));
            assert_eq!(reading.samples[16 * 24 + hour], Some((2 * 24 + hour) as f64));
        }
        assert_eq!(reading.samples[10 * 24], history.samples[10 * 24]);
        // While the day lasts, what is known of it counts.
        let running = History { samples: history.samples[..9 * 24 + 5].to_vec(), ..history.clone() };
        assert_eq!(calendar.read(&running, 3).samples, running.samples);
        // In the first week the day before has to do.
        let early = Calendar::new(TimeZone::UTC, &["2026-03-03".parse().unwrap()]).read(&history, 3);
        assert_eq!(early.samples[2 * 24 + 7], Some(24.0 + 7.0));
    }

    #[test]
    fn a_day_like_a_sunday_has_the_last_sunday_as_its_source() {
        let history = hours("2026-03-02T00:00:00Z", 24 * 10);
        for (day, back) in [("2026-03-09", 1), ("2026-03-11", 3), ("2026-03-08", 7)] {
            let special: SpecialDays = format!("{day}=Sunday").parse().unwrap();
            let reading = Calendar::new(TimeZone::UTC, &[special]).read(&history, 24);
            let day: usize = day[8..].parse::<usize>().unwrap() - 2;
            assert_eq!(reading.like(day * 24 + 5), Some(back * 24), "{day}");
            assert_eq!(reading.like((day + 1) * 24), None);
        }
    }

    #[test]
    fn days_and_zones_are_read_as_people_write_them() {
        assert!("2026-12-25=sunday".parse::<SpecialDays>().is_ok());
        for text in ["", "2026-02-30", "2026-1-01", "25.12.2026", "2026-12-25=Feast", "2026-12-25=", "+2026-12-2"] {
            assert!(text.parse::<SpecialDays>().is_err(), "{text}");
        }
        assert!(SpecialDays::new("2026-12-25", 0, None).is_err() && SpecialDays::new("2026-12-25", 32, None).is_err());
        for name in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Etc/GMT+5"] {
            assert!(zone(name).is_ok(), "{name}");
        }
        assert_eq!(zone("Mars/Olympus").unwrap_err(), "`Mars/Olympus` is not a time zone such as `Europe/Berlin`");
    }

    #[test]
    fn days_begin_at_the_midnight_of_the_zone() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        let calendar = berlin(&["2026-07-01"]);
        assert!(calendar.is_special(at("2026-06-30T22:00:00Z")) && !calendar.is_special(at("2026-07-01T22:00:00Z")));
        assert_eq!(calendar.block(at("2026-06-30T22:00:00Z"), DAY), calendar.block(at("2026-07-01T12:00:00Z"), DAY));
        assert_eq!(
            calendar.put_forward("2026-01-05T00:00:00Z".parse().unwrap()).unwrap().to_string(),
            "2026-03-29T01:00:00Z"
        );
        assert_eq!(Calendar::default().put_forward(Timestamp::UNIX_EPOCH), None);
    }
}
