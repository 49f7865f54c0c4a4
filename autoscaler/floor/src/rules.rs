//! Candidates for the line that a floor follows: plain rules over the samples so far, and the worker's models.
//!
//! Every rule sees only the samples before its origin. A missing sample is taken from the period before, never as zero. Periods
//! are those of a calendar: on a day that is like another one, every candidate repeats the last such day. Pure.

use autoscaler_forecast::calendar::Reading;
use autoscaler_forecast::protocol::Question;

/// A rule over the samples so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The same time one season ago.
    DayAgo,
    /// The same time one week ago.
    WeekAgo,
    /// The same time one week ago; where that missed the demand a season ago, at least the demand of then.
    RepairedWeekAgo,
    /// The higher of both.
    DayOrWeekAgo,
    /// The mean of the last five seasons at the same time; where that missed the demand a season ago, at least the demand of
    /// then.
    Profile,
    /// That mean, scaled by the ratio of the last quarter of an hour to it.
    ScaledProfile,
    /// The highest sample of the last hour.
    RecentPeak,
    /// The mean of the last two hours.
    RecentMean,
    /// The higher of the mean of the last two hours and of the last five seasons.
    RecentOrProfile,
}

/// All rules, in the order in which they are preferred where they are equally good.
pub const RULES: [Rule; 9] = [
    Rule::DayAgo,
    Rule::WeekAgo,
    Rule::RepairedWeekAgo,
    Rule::DayOrWeekAgo,
    Rule::Profile,
    Rule::ScaledProfile,
    Rule::RecentPeak,
    Rule::RecentMean,
    Rule::RecentOrProfile,
];

const PROFILE_SEASONS: usize = 5;
/// Demand this much higher than the line was missed by it.
const MISSED: f64 = 1.25;

impl Rule {
    /// Its name, as on pages and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Rule::DayAgo => "day-ago",
            Rule::WeekAgo => "week-ago",
            Rule::RepairedWeekAgo => "repaired-week-ago",
            Rule::DayOrWeekAgo => "day-or-week-ago",
            Rule::Profile => "daily-profile",
            Rule::ScaledProfile => "scaled-profile",
            Rule::RecentPeak => "recent-peak",
            Rule::RecentMean => "recent-mean",
            Rule::RecentOrProfile => "recent-or-profile",
        }
    }
}

impl Rule {
    /// Returns true if a floor may be made of the rule; the others are only compared with.
    pub fn is_candidate(self) -> bool {
        // It repeats a week that a change has ended for a whole week.
        self != Rule::WeekAgo
    }

    /// Returns the rule in words.
    pub fn words(self) -> &'static str {
        match self {
            Rule::DayAgo => "day ago",
            Rule::WeekAgo => "week ago",
            Rule::RepairedWeekAgo => "week ago, repaired by the day before",
            Rule::DayOrWeekAgo => "day or week ago",
            Rule::Profile => "mean of five days",
            Rule::ScaledProfile => "mean of five days at today's level",
            Rule::RecentPeak => "highest of the last hour",
            Rule::RecentMean => "mean of two hours",
            Rule::RecentOrProfile => "mean of two hours or of five days",
        }
    }
}

/// Samples with the lengths that rules need, in samples.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    reading: &'a Reading,
    /// The same by time, special days too.
    recent: &'a [Option<f64>],
    season: usize,
    week: Option<usize>,
    hour: usize,
}

impl<'a> Past<'a> {
    /// A history by its calendar. The week counts where the grid has one and it is longer than a season.
    pub fn new(question: &Question, recent: &'a [Option<f64>], reading: &'a Reading) -> Past<'a> {
        const WEEK: u32 = 604_800;
        let week = WEEK.is_multiple_of(question.step_seconds).then_some(WEEK / question.step_seconds);
        Past {
            reading,
            recent,
            season: question.season as usize,
            week: week.filter(|week| *week > question.season).map(|week| week as usize),
            hour: (3_600 / question.step_seconds).max(1) as usize,
        }
    }

    /// The line of a rule from `origin` on; none where the history is too short for it.
    pub fn line(&self, rule: Rule, origin: usize, horizon: usize) -> Option<Vec<f64>> {
        Some(self.special(origin, self.ordinary(rule, origin, horizon)?))
    }

    /// A line with the last day alike in place of its steps on special days, where there is one.
    pub fn special(&self, origin: usize, mut line: Vec<f64>) -> Vec<f64> {
        for (index, value) in (origin..).zip(&mut line) {
            *value = self.alike(index).unwrap_or(*value);
        }
        line
    }

    /// The highest value of such a line until `lead`, where all that is known of it is its `highest` value.
    pub fn special_peak(&self, origin: usize, lead: usize, highest: f64) -> f64 {
        let alike: Vec<f64> = (origin..origin + lead).filter_map(|index| self.alike(index)).collect();
        let known = alike.iter().copied().fold(f64::NAN, f64::max);
        match alike.len() {
            0 => highest,
            _ if highest.is_nan() => highest,
            all if all == lead => known,
            _ => highest.max(known),
        }
    }

    /// The demand at the same time of the last day that this one is like.
    fn alike(&self, index: usize) -> Option<f64> {
        let mut at = self.reading.place(index).checked_sub(self.reading.like(index)?)?;
        loop {
            if let Some(value) = self.reading.samples.get(at).copied().flatten() {
                return Some(value);
            }
            at = at.checked_sub(self.week?)?;
        }
    }

    fn ordinary(&self, rule: Rule, origin: usize, horizon: usize) -> Option<Vec<f64>> {
        let line = |at: &dyn Fn(usize) -> Option<f64>| (0..horizon).map(at).collect::<Option<Vec<f64>>>();
        match rule {
            Rule::DayAgo => line(&|lead| self.ago(origin, lead, self.season)),
            Rule::WeekAgo => {
                let week = self.week?;
                line(&|lead| self.ago(origin, lead, week))
            }
            Rule::RepairedWeekAgo => {
                self.repaired(origin, horizon, &|origin| self.ordinary(Rule::WeekAgo, origin, horizon))
            }
            Rule::DayOrWeekAgo => {
                let week = self.week?;
                line(&|lead| Some(self.ago(origin, lead, self.season)?.max(self.ago(origin, lead, week)?)))
            }
            Rule::Profile => self.repaired(origin, horizon, &|origin| {
                (0..horizon).map(|lead| self.profile(origin, lead as i64)).collect()
            }),
            Rule::ScaledProfile => {
                let scale = self.scale(origin)?;
                line(&|lead| Some(self.profile(origin, lead as i64)? * scale))
            }
            Rule::RecentPeak => {
                let highest = self.last(origin, self.hour).fold(f64::NAN, f64::max);
                (!highest.is_nan()).then(|| vec![highest; horizon])
            }
            Rule::RecentOrProfile => {
                let recent = self.ordinary(Rule::RecentMean, origin, 1)?[0];
                line(&|lead| Some(self.profile(origin, lead as i64)?.max(recent)))
            }
            Rule::RecentMean => {
                let (sum, count) =
                    self.last(origin, 2 * self.hour).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
                (count > 0).then(|| vec![sum / f64::from(count); horizon])
            }
        }
    }

    /// A line of several periods that follows a change after one: where the demand of a season ago was far above the line of
    /// then, at least that demand is expected again.
    fn repaired(&self, origin: usize, horizon: usize, line: &dyn Fn(usize) -> Option<Vec<f64>>) -> Option<Vec<f64>> {
        let found = line(origin)?;
        let highest = |line: &[f64]| line.iter().copied().fold(f64::NAN, f64::max);
        let (Some(came), Some(said)) =
            (self.ordinary(Rule::DayAgo, origin, horizon), origin.checked_sub(self.season).and_then(line))
        else {
            return Some(found);
        };
        if highest(&came) <= MISSED * highest(&said) {
            return Some(found);
        }
        Some(found.iter().zip(came).map(|(line, came)| line.max(came)).collect())
    }

    /// The same time of the last period before `origin` that has a sample then.
    fn ago(&self, origin: usize, lead: usize, period: usize) -> Option<f64> {
        let place = self.reading.place(origin + lead);
        let ahead = place.saturating_sub(self.reading.origin(origin));
        let mut at = place.checked_sub((ahead / period + 1) * period)?;
        loop {
            if let Some(value) = self.reading.samples.get(at).copied().flatten() {
                return Some(value);
            }
            at = at.checked_sub(period)?;
        }
    }

    /// The mean of up to five seasons at `lead` samples after `origin`.
    fn profile(&self, origin: usize, lead: i64) -> Option<f64> {
        let at = self.reading.place(usize::try_from(origin as i64 + lead).ok()?) as i64;
        let season = self.season as i64;
        let back = ((at - self.reading.origin(origin) as i64).max(0) / season + 1) * season;
        let values = (0..PROFILE_SEASONS as i64).filter_map(|index| {
            let place = usize::try_from(at - back - index * season).ok()?;
            self.reading.samples.get(place).copied().flatten()
        });
        let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Returns the ratio of the last quarter of an hour to the profile.
    fn scale(&self, origin: usize) -> Option<f64> {
        let (mut now, mut usual) = (0.0, 0.0);
        for back in 1..=(self.hour / 4).max(1) {
            let Some(value) = origin.checked_sub(back).and_then(|at| self.recent[at]) else { continue };
            now += value;
            usual += self.profile(origin, -(back as i64))?;
        }
        (usual > 0.0).then(|| (now / usual).clamp(0.5, 2.0))
    }

    fn last(&self, origin: usize, count: usize) -> impl Iterator<Item = f64> {
        self.recent[origin.saturating_sub(count)..origin].iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscaler_forecast::calendar::{Calendar, zone};
    use autoscaler_forecast::history::History;
    use autoscaler_forecast::span::Span;

    /// Hours of days, with the reading of a calendar.
    struct Hours(History, Reading);

    impl Hours {
        fn new(samples: Vec<Option<f64>>, calendar: &Calendar) -> Hours {
            // A Monday.
            let start = "2026-03-02T00:00:00Z".parse().unwrap();
            let history = History { start, step: Span::from_seconds(3_600).unwrap(), samples };
            let reading = calendar.read(&history, 48);
            Hours(history, reading)
        }

        fn past(&self) -> Past<'_> {
            let question = Question {
                samples: Vec::new(),
                step_seconds: 3_600,
                season: 24,
                horizon: 3,
                quantile: 0.9,
                model: "auto".to_owned(),
                lead: None,
                replay: None,
            };
            Past::new(&question, &self.0.samples, &self.1)
        }
    }

    fn hours(samples: Vec<Option<f64>>) -> Hours {
        Hours::new(samples, &Calendar::default())
    }

    #[test]
    fn rules_repeat_days_and_weeks() {
        let days = hours((0..24 * 9).map(|hour| Some(f64::from(hour))).collect());
        let past = days.past();
        let line = |rule| past.line(rule, 24 * 8, 2).unwrap();
        assert_eq!(line(Rule::DayAgo), [168.0, 169.0]);
        assert_eq!(line(Rule::WeekAgo), [24.0, 25.0]);
        assert_eq!(line(Rule::DayOrWeekAgo), [168.0, 169.0]);
        // The mean of five days is 120, and yesterday's 168 was far above the mean of the days before it.
        assert_eq!(line(Rule::Profile), [168.0, 169.0]);
        assert_eq!(line(Rule::RepairedWeekAgo), [168.0, 169.0]);
        assert_eq!(line(Rule::RecentPeak), [191.0, 191.0]);
        assert_eq!(line(Rule::RecentMean), [190.5, 190.5]);
        assert_eq!(past.line(Rule::WeekAgo, 24 * 6, 2), None);
    }

    #[test]
    fn a_change_is_followed_after_one_season() {
        let demand = |hour: usize| if hour % 24 == 8 || hour >= 24 * 15 && hour % 24 == 7 { 500.0 } else { 100.0 };
        let changed = hours((0..24 * 17).map(|hour| Some(demand(hour))).collect());
        let past = changed.past();
        for rule in [Rule::RepairedWeekAgo, Rule::Profile] {
            // On the first day of a peak an hour earlier nobody knows; on the second one everybody does.
            assert_eq!(past.line(rule, 24 * 15 + 7, 1).unwrap(), [100.0], "{rule:?}");
            assert_eq!(past.line(rule, 24 * 16 + 7, 1).unwrap(), [500.0], "{rule:?}");
        }
    }

    #[test]
    fn nothing_after_the_origin_is_seen() {
        let samples: Vec<Option<f64>> = (0..24 * 9).map(|hour| (hour % 7 != 0).then(|| f64::from(hour))).collect();
        let cut = hours(samples[..24 * 8].to_vec());
        let whole = hours(samples);
        for rule in RULES {
            assert_eq!(cut.past().line(rule, 24 * 8, 3), whole.past().line(rule, 24 * 8, 3), "{rule:?}");
        }
    }

    #[test]
    fn a_level_that_rose_scales_the_profile() {
        let samples = (0..24 * 8).map(|hour| Some(if hour < 24 * 7 { 100.0 } else { 140.0 }));
        let raised = hours(samples.collect());
        let past = raised.past();
        // At this hour one of five days is at 140 already; the hour before was at 140 where five days were at 100.
        let line = past.line(Rule::ScaledProfile, 24 * 8, 1).unwrap();
        assert!((line[0] - 1.4 * 108.0).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn a_clock_change_moves_every_seasonal_rule_with_the_clock() {
        // Seven and eight in the morning of Berlin; its clock goes forward on the 29th.
        let berlin = Calendar::new(zone("Europe/Berlin").unwrap(), &[]);
        let demand = |hour: usize| if hour % 24 == if hour < 27 * 24 { 7 } else { 6 } { 500.0 } else { 100.0 };
        let samples: Vec<Option<f64>> = (0..24 * 30).map(|hour| Some(demand(hour))).collect();
        let (by_clock, by_grid) = (Hours::new(samples.clone(), &berlin), hours(samples));
        let origin = 27 * 24 + 6;
        for rule in [Rule::DayAgo, Rule::RepairedWeekAgo, Rule::DayOrWeekAgo, Rule::Profile] {
            assert_eq!(by_clock.past().line(rule, origin, 2).unwrap(), [500.0, 100.0], "{rule:?}");
            assert_eq!(by_grid.past().line(rule, origin, 2).unwrap(), [100.0, 500.0], "{rule:?}");
        }
    }

    #[test]
    fn a_special_day_is_neither_repeated_nor_forecast_like_the_others() {
        // Sundays are quiet, and so is Wednesday the 18th.
        let demand = |hour: usize| if hour / 24 % 7 == 6 || hour / 24 == 16 { 50.0 } else { 400.0 };
        let samples: Vec<Option<f64>> = (0..24 * 24).map(|hour| Some(demand(hour))).collect();
        let calendar = Calendar::new(jiff::tz::TimeZone::UTC, &["2026-03-18=Sunday".parse().unwrap()]);
        let special = Hours::new(samples.clone(), &calendar);
        let ordinary = hours(samples);
        let at = |hours: &Hours, rule, day: usize| hours.past().line(rule, day * 24 + 9, 1).unwrap()[0];
        for rule in [Rule::DayAgo, Rule::RepairedWeekAgo, Rule::Profile] {
            assert_eq!(at(&special, rule, 16), 50.0, "{rule:?} on the day");
            assert_eq!(at(&ordinary, rule, 16), 400.0 - if rule == Rule::Profile { 70.0 } else { 0.0 }, "{rule:?}");
        }
        assert_eq!((at(&special, Rule::DayAgo, 17), at(&ordinary, Rule::DayAgo, 17)), (400.0, 50.0));
        assert_eq!((at(&special, Rule::WeekAgo, 23), at(&ordinary, Rule::WeekAgo, 23)), (400.0, 50.0));
        // A model's highest value is replaced where all steps are of that day, and kept where one is not.
        let past = special.past();
        assert_eq!(past.special_peak(16 * 24 + 5, 3, 400.0), 50.0);
        assert_eq!(past.special_peak(16 * 24 + 22, 3, 400.0), 400.0);
        assert_eq!(past.special_peak(15 * 24 + 5, 3, 400.0), 400.0);
        assert!(past.special_peak(16 * 24 + 5, 3, f64::NAN).is_nan());
    }
}
