//! Candidates for the line that a floor follows: plain rules over the samples so far, and the worker's models.
//!
//! Every rule sees only the samples before its origin. A missing sample is taken from the period before, never as zero. Pure.

use crate::forecast::protocol::Question;

/// A rule over the samples so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The same time one season ago.
    DayAgo,
    /// The same time one week ago.
    WeekAgo,
    /// The higher of both.
    DayOrWeekAgo,
    /// The mean of the last five seasons at the same time.
    Profile,
    /// That mean, scaled by how the last quarter of an hour compares with it.
    ScaledProfile,
    /// The highest sample of the last hour.
    RecentPeak,
    /// The mean of the last two hours.
    RecentMean,
    /// The higher of the mean of the last two hours and of the last five seasons.
    RecentOrProfile,
}

/// All rules, in the order in which they are preferred where they are equally good.
pub const RULES: [Rule; 8] = [
    Rule::DayAgo,
    Rule::WeekAgo,
    Rule::DayOrWeekAgo,
    Rule::Profile,
    Rule::ScaledProfile,
    Rule::RecentPeak,
    Rule::RecentMean,
    Rule::RecentOrProfile,
];

const PROFILE_SEASONS: usize = 5;

impl Rule {
    /// Its name, as on pages and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Rule::DayAgo => "day-ago",
            Rule::WeekAgo => "week-ago",
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
    /// The rule in words.
    pub fn words(self) -> &'static str {
        match self {
            Rule::DayAgo => "day ago",
            Rule::WeekAgo => "week ago",
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
    samples: &'a [Option<f64>],
    season: usize,
    week: Option<usize>,
    hour: usize,
}

impl<'a> Past<'a> {
    /// The samples of a question. The week counts where the grid has one and it is longer than a season.
    pub fn new(question: &'a Question) -> Past<'a> {
        const WEEK: u32 = 604_800;
        let week = WEEK.is_multiple_of(question.step_seconds).then_some(WEEK / question.step_seconds);
        Past {
            samples: &question.samples,
            season: question.season as usize,
            week: week.filter(|week| *week > question.season).map(|week| week as usize),
            hour: (3_600 / question.step_seconds).max(1) as usize,
        }
    }

    /// The line of a rule from `origin` on; none where the history is too short for it.
    pub fn line(&self, rule: Rule, origin: usize, horizon: usize) -> Option<Vec<f64>> {
        let line = |at: &dyn Fn(usize) -> Option<f64>| (0..horizon).map(at).collect::<Option<Vec<f64>>>();
        match rule {
            Rule::DayAgo => line(&|lead| self.ago(origin, lead, self.season)),
            Rule::WeekAgo => {
                let week = self.week?;
                line(&|lead| self.ago(origin, lead, week))
            }
            Rule::DayOrWeekAgo => {
                let week = self.week?;
                line(&|lead| Some(self.ago(origin, lead, self.season)?.max(self.ago(origin, lead, week)?)))
            }
            Rule::Profile => line(&|lead| self.profile(origin, lead as i64)),
            Rule::ScaledProfile => {
                let scale = self.scale(origin)?;
                line(&|lead| Some(self.profile(origin, lead as i64)? * scale))
            }
            Rule::RecentPeak => {
                let highest = self.last(origin, self.hour).fold(f64::NAN, f64::max);
                (!highest.is_nan()).then(|| vec![highest; horizon])
            }
            Rule::RecentOrProfile => {
                let recent = self.line(Rule::RecentMean, origin, 1)?[0];
                line(&|lead| Some(self.profile(origin, lead as i64)?.max(recent)))
            }
            Rule::RecentMean => {
                let (sum, count) =
                    self.last(origin, 2 * self.hour).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
                (count > 0).then(|| vec![sum / f64::from(count); horizon])
            }
        }
    }

    /// The same time of the last period before `origin` that has a sample then.
    fn ago(&self, origin: usize, lead: usize, period: usize) -> Option<f64> {
        let mut at = (origin + lead).checked_sub((lead / period + 1) * period)?;
        loop {
            if let Some(value) = self.samples.get(at).copied().flatten() {
                return Some(value);
            }
            at = at.checked_sub(period)?;
        }
    }

    /// The mean of up to five seasons at `lead` samples after `origin`.
    fn profile(&self, origin: usize, lead: i64) -> Option<f64> {
        let at = origin as i64 + lead;
        let season = self.season as i64;
        let back = (lead.max(0) / season + 1) * season;
        let values = (0..PROFILE_SEASONS as i64).filter_map(|index| {
            let place = usize::try_from(at - back - index * season).ok()?;
            self.samples.get(place).copied().flatten()
        });
        let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// How the last quarter of an hour compares with the profile.
    fn scale(&self, origin: usize) -> Option<f64> {
        let (mut now, mut usual) = (0.0, 0.0);
        for back in 1..=(self.hour / 4).max(1) {
            let Some(value) = origin.checked_sub(back).and_then(|at| self.samples[at]) else { continue };
            now += value;
            usual += self.profile(origin, -(back as i64))?;
        }
        (usual > 0.0).then(|| (now / usual).clamp(0.5, 2.0))
    }

    fn last(&self, origin: usize, count: usize) -> impl Iterator<Item = f64> {
        self.samples[origin.saturating_sub(count)..origin].iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(samples: Vec<Option<f64>>) -> Question {
        Question {
            samples,
            step_seconds: 3_600,
            season: 24,
            horizon: 3,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        }
    }

    #[test]
    fn rules_repeat_days_and_weeks() {
        let days = question((0..24 * 9).map(|hour| Some(f64::from(hour))).collect());
        let past = Past::new(&days);
        let line = |rule| past.line(rule, 24 * 8, 2).unwrap();
        assert_eq!(line(Rule::DayAgo), [168.0, 169.0]);
        assert_eq!(line(Rule::WeekAgo), [24.0, 25.0]);
        assert_eq!(line(Rule::DayOrWeekAgo), [168.0, 169.0]);
        assert_eq!(line(Rule::Profile), [120.0, 121.0]);
        assert_eq!(line(Rule::RecentPeak), [191.0, 191.0]);
        assert_eq!(line(Rule::RecentMean), [190.5, 190.5]);
        assert_eq!(past.line(Rule::WeekAgo, 24 * 6, 2), None);
    }

    #[test]
    fn nothing_after_the_origin_is_seen() {
        let samples: Vec<Option<f64>> = (0..24 * 9).map(|hour| (hour % 7 != 0).then(|| f64::from(hour))).collect();
        let cut = question(samples[..24 * 8].to_vec());
        let whole = question(samples);
        for rule in RULES {
            assert_eq!(Past::new(&cut).line(rule, 24 * 8, 3), Past::new(&whole).line(rule, 24 * 8, 3), "{rule:?}");
        }
    }

    #[test]
    fn a_level_that_rose_scales_the_profile() {
        let samples = (0..24 * 8).map(|hour| Some(if hour < 24 * 7 { 100.0 } else { 140.0 }));
        let question = question(samples.collect());
        let past = Past::new(&question);
        // At this hour one of five days is at 140 already; the hour before was at 140 where five days were at 100.
        let line = past.line(Rule::ScaledProfile, 24 * 8, 1).unwrap();
        assert!((line[0] - 1.4 * 108.0).abs() < 1e-9, "{line:?}");
    }
}
