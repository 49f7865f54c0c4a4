//! The upper line of a forecast as a decision reads it: demand by time, with gaps, and its own age.

use crate::decide::reason::Missing;
use crate::units::{Demand, Seconds, Unit};
use autoscaler_forecast::Forecast;
use autoscaler_forecast::span::Span;
use jiff::Timestamp;

// The newest sample may be one scrape and one forecast old.
const FRESH_STEPS: u32 = 2;

/// Expected demand, at a quantile.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    newest: Timestamp,
    step: Span,
    unit: Unit,
    upper: Vec<Option<Demand>>,
    recent: Option<Demand>,
    skilled: bool,
}

impl Outlook {
    /// The steps to forecast for a lead time: enough for a decision that comes as late as an outlook stays fresh.
    pub fn horizon(lead_time: Span, step: Span) -> u32 {
        lead_time.seconds().div_ceil(step.seconds()) + FRESH_STEPS
    }

    /// An outlook made of samples up to `newest`. The first value of `upper` belongs to the step after it; one that is
    /// not a valid demand (NaN, infinite, below zero) is a gap.
    pub fn new(newest: Timestamp, step: Span, unit: Unit, upper: &[f64], skilled: bool) -> Outlook {
        let upper = upper.iter().map(|value| Demand::new(*value, unit)).collect();
        Outlook { newest, step, unit, upper, recent: None, skilled }
    }

    /// The outlook of a forecast of total demand in `unit`.
    pub fn of(forecast: &Forecast, unit: Unit) -> Outlook {
        let upper: Vec<f64> = forecast.points.iter().map(|point| point.upper).collect();
        Outlook::new(forecast.history.to, forecast.history.step, unit, &upper, forecast.skilled)
    }

    /// Adds the highest demand seen lately: over as long as the autoscaler takes to follow it down.
    pub fn with_recent(mut self, recent: f64) -> Outlook {
        self.recent = Demand::new(recent, self.unit);
        self
    }

    /// Returns the distance of two values.
    pub fn step(&self) -> Span {
        self.step
    }

    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns the highest recent demand.
    pub fn recent(&self) -> Option<Demand> {
        self.recent
    }

    /// Returns true if the models are better than plain references on this history.
    pub fn skilled(&self) -> bool {
        self.skilled
    }

    /// The highest demand from `now` until `lead_time` later, and when it comes.
    ///
    /// Every step of that time is required: the maximum of a part could be too low.
    pub fn peak(&self, now: Timestamp, lead_time: Span) -> Result<(Demand, Timestamp), Missing> {
        let step = i64::from(self.step.seconds());
        let age = now.as_second() - self.newest.as_second();
        if age < -step {
            return Err(Missing::FromTheFuture { by: Seconds(age.unsigned_abs()) });
        }
        if age > step * i64::from(FRESH_STEPS) {
            return Err(Missing::Stale { age: Seconds(age.unsigned_abs()) });
        }
        let end = age + i64::from(lead_time.seconds());
        // The step that `now` is in counts too; the last one ends at or after the lead time.
        let first = (age.div_euclid(step) - 1).max(0) as usize;
        let last = ((end + step - 1).div_euclid(step) - 1).max(first as i64) as usize;
        let wanted = last - first + 1;
        let steps: Vec<(usize, Demand)> =
            (first..=last).filter_map(|index| Some((index, self.upper.get(index).copied().flatten()?))).collect();
        if steps.len() < wanted {
            return Err(Missing::Incomplete { has: steps.len(), needs: wanted });
        }
        let highest = steps.into_iter().max_by(|(_, a), (_, b)| a.value().total_cmp(&b.value()));
        let (index, demand) = highest.ok_or(Missing::Incomplete { has: 0, needs: wanted })?;
        let at = self.newest.as_second() + (index as i64 + 1) * step;
        Ok((demand, Timestamp::from_second(at).unwrap_or(Timestamp::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::from_seconds(60).unwrap();

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn outlook(upper: &[f64]) -> Outlook {
        Outlook::new(at(600), MINUTE, Unit::Count, upper, true)
    }

    #[track_caller]
    fn check(now: i64, lead: u32, expected: Result<(f64, i64), Missing>) {
        let found = outlook(&[1.0, 5.0, 3.0, 9.0, 2.0]).peak(at(now), Span::from_seconds(lead).unwrap());
        assert_eq!(found.map(|(demand, at)| (demand.value(), at.as_second())), expected);
    }

    #[test]
    fn the_peak_is_of_the_steps_until_the_lead_time() {
        check(600, 60, Ok((1.0, 660)));
        check(600, 120, Ok((5.0, 720)));
        check(600, 180, Ok((5.0, 720)));
        // A lead time that ends within a step takes the step whole.
        check(600, 181, Ok((9.0, 840)));
        check(630, 180, Ok((9.0, 840)));
        // The first step is over by now, and the second is not.
        check(720, 60, Ok((5.0, 720)));
    }

    #[test]
    fn a_part_of_the_time_does_not_count_as_a_peak() {
        check(600, 360, Err(Missing::Incomplete { has: 5, needs: 6 }));
        let gap = outlook(&[1.0, f64::NAN, 3.0]).peak(at(600), Span::from_seconds(180).unwrap());
        assert_eq!(gap, Err(Missing::Incomplete { has: 2, needs: 3 }));
    }

    #[test]
    fn old_samples_and_samples_from_the_future_give_no_outlook() {
        check(720, 60, Ok((5.0, 720)));
        check(721, 60, Err(Missing::Stale { age: Seconds(121) }));
        check(540, 60, Ok((1.0, 660)));
        check(539, 60, Err(Missing::FromTheFuture { by: Seconds(61) }));
    }

    #[test]
    fn the_horizon_reaches_the_lead_time_as_long_as_an_outlook_is_fresh() {
        let lead = Span::from_seconds(150).unwrap();
        let horizon = Outlook::horizon(lead, MINUTE) as usize;
        for now in 540..=720 {
            assert!(outlook(&vec![1.0; horizon]).peak(at(now), lead).is_ok(), "{now}");
        }
    }
}
