//! Loads that are generated from a seed, for trying the autoscaler without a cluster.
//!
//! The same seed gives the same load on every machine. Pure.

use crate::history::History;
use crate::span::Span;
use jiff::Timestamp;

/// A kind of load, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Every day the same: a steep opening at eight, a dip at noon, an evening
    Daily,
    /// Like `daily`, with quiet weekends
    Weekly,
    /// A gentle day with bursts that nothing announces
    Spiky,
    /// A level and white noise: there is nothing to forecast
    Noise,
    /// A flat day between eight and eight, reached within a quarter of an hour
    Plateau,
    /// The working day, two percent higher every day
    Growing,
    /// A low level with jobs that run every hour, and a long one at night
    Cron,
    /// Like the requests of a small load balancer: noisy, with single high samples
    Requests,
    /// Like the mentions of a company: a day's shape, counted, with bursts that fade within hours
    Mentions,
    /// Like the processor load of a group: a day's shape under jobs of ten to sixty minutes
    GroupCpu,
}

/// An unusual day in a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    /// From this day on everything happens an hour earlier
    ClockChange,
    /// A weekend's load on a working day
    Holiday,
    /// Two hours without load, from ten on
    Outage,
    /// Twice the load for two hours, from two in the afternoon on
    Burst,
    /// From this day on 40 % more load
    Level,
}

/// The same load with an event on the day that begins `days` after the first sample.
pub fn with_event(history: &History, event: Event, days: u32) -> History {
    let each = i64::from(history.step.seconds());
    let begin = i64::from(days) * DAY;
    let hours = |second: i64, from: i64, to: i64| (from * 3_600..to * 3_600).contains(&(second - begin));
    let level = history.samples.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let samples = history.samples.iter().enumerate().map(|(index, sample)| {
        let second = index as i64 * each;
        let value = (*sample)?;
        Some(match event {
            _ if second < begin => value,
            Event::ClockChange => {
                let ahead = (index + (3_600 / each) as usize).min(history.samples.len() - 1);
                history.samples[ahead]?
            }
            Event::Holiday if hours(second, 0, 24) => level + (value - level) * 0.3,
            Event::Outage if hours(second, 10, 12) => value * 0.01,
            Event::Burst if hours(second, 14, 16) => value * 2.0,
            Event::Level => value * 1.4,
            Event::Holiday | Event::Outage | Event::Burst => value,
        })
    });
    History { samples: samples.collect(), ..history.clone() }
}

// Monday, 5 January 2026.
const START: i64 = 1_767_571_200;
const DAY: i64 = 86_400;

/// Days of a load, from a Monday at midnight to a midnight, both with a sample.
pub fn generate(load: Load, seed: u64, days: u32, step: Span) -> History {
    let each = i64::from(step.seconds());
    let count = i64::from(days) * DAY / each;
    let mut chance = Chance(seed);
    let (mut lingering, mut burst) = (0.0, 0.0);
    // So that errors linger, and bursts last, for as long whatever the step is.
    let minutes = each as f64 / 60.0;
    let (fading, dying) = (0.985_f64.powf(minutes), 0.93_f64.powf(minutes));
    let mut recorded = Recorded::new(seed, minutes);
    let mut samples = Vec::new();
    for index in 0..=count {
        let second = index * each;
        let hour = (second % DAY) as f64 / 3_600.0;
        let weekend = second / DAY % 7 >= 5;
        lingering = fading * lingering + (1.0 - fading * fading).sqrt() * 0.02 * chance.normal();
        burst *= dying;
        if chance.uniform() < minutes / 900.0 {
            burst += 0.4 + 0.8 * chance.uniform();
        }
        let jitter = 1.0 + lingering + 0.015 * chance.normal();
        let level = match load {
            Load::Daily => (150.0 + 1_050.0 * workday(hour)) * jitter,
            Load::Weekly if weekend => (150.0 + 330.0 * leisure(hour)) * jitter,
            Load::Weekly => (150.0 + 1_050.0 * workday(hour)) * jitter,
            Load::Spiky => 400.0 * (1.0 + 0.5 * leisure(hour) + burst) * jitter,
            Load::Noise => 600.0 + 60.0 * chance.normal(),
            Load::Plateau => (150.0 + 1_050.0 * (rise(hour, 8.0, 0.25) - rise(hour, 20.0, 0.25))) * jitter,
            Load::Growing => (150.0 + 1_050.0 * workday(hour)) * jitter * (1.0 + 0.02 * second as f64 / DAY as f64),
            Load::Cron => cron(hour) * jitter,
            Load::Requests => recorded.requests(hour),
            Load::Mentions => recorded.mentions(hour),
            Load::GroupCpu => recorded.group_cpu(hour) * jitter,
        };
        samples.push(Some(level.max(0.0)));
    }
    History { start: Timestamp::from_second(START).unwrap_or(Timestamp::UNIX_EPOCH), step, samples }
}

/// Ten minutes of every hour three times the level, and at two in the morning forty minutes of six times.
fn cron(hour: f64) -> f64 {
    let minute = hour.fract() * 60.0;
    match hour {
        _ if (2.0..2.7).contains(&hour) => 1_200.0,
        _ if minute < 10.0 => 600.0,
        _ => 200.0,
    }
}

/// Loads that look like recorded ones, from a sequence of chance of their own.
struct Recorded {
    chance: Chance,
    minutes: f64,
    lingering: f64,
    bursts: Vec<(f64, f64)>,
    jobs: Vec<(f64, f64)>,
}

impl Recorded {
    fn new(seed: u64, minutes: f64) -> Recorded {
        let chance = Chance(seed ^ 0x5bd1_e995_9e37_79b9);
        Recorded { chance, minutes, lingering: 0.0, bursts: Vec::new(), jobs: Vec::new() }
    }

    fn linger(&mut self, hour_share: f64) -> f64 {
        let fading = 0.5_f64.powf(self.minutes / 60.0 / hour_share);
        self.lingering = fading * self.lingering + (1.0 - fading * fading).sqrt() * self.chance.normal();
        self.lingering
    }

    /// A skewed factor around 1: squared, so that high values are farther off than low ones.
    fn skewed(&mut self, width: f64) -> f64 {
        let root = (1.0 + width * self.chance.normal()).max(0.15);
        root * root
    }

    fn requests(&mut self, hour: f64) -> f64 {
        let day = 35.0 + 55.0 * hill(hour, 15.0, 6.5);
        let level = day * (1.0 + 0.25 * self.linger(1.0)).max(0.3);
        let single = if self.chance.uniform() < 0.02 { 1.5 + 2.5 * self.chance.uniform() } else { 1.0 };
        level * self.skewed(0.2) * single
    }

    fn mentions(&mut self, hour: f64) -> f64 {
        if self.chance.uniform() < self.minutes / 1_440.0 {
            let size = self.chance.uniform();
            self.bursts.push((0.5 + 3.0 * size * size, 0.3 + 1.2 * self.chance.uniform()));
        }
        let mut burst = 0.0;
        for (size, hours) in &mut self.bursts {
            burst += *size;
            *size *= 0.5_f64.powf(self.minutes / 60.0 / *hours);
        }
        self.bursts.retain(|(size, _)| *size > 0.02);
        let level = 25.0 + 60.0 * hill(hour, 17.0, 6.0);
        level * (1.0 + burst) * (1.0 + 0.12 * self.linger(2.0)).max(0.3) * self.skewed(0.1)
    }

    fn group_cpu(&mut self, hour: f64) -> f64 {
        if self.chance.uniform() < self.minutes / 45.0 {
            let size = 0.3 + 0.9 * self.chance.uniform();
            self.jobs.push((size, 10.0 + 50.0 * self.chance.uniform()));
        }
        let jobs: f64 = self.jobs.iter().map(|(size, _)| size).sum();
        self.jobs.iter_mut().for_each(|(_, left)| *left -= self.minutes);
        self.jobs.retain(|(_, left)| *left > 0.0);
        (30.0 + 25.0 * hill(hour, 14.0, 6.0)) * (1.0 + jobs) * (1.0 + 0.05 * self.linger(1.0))
    }
}

/// A working day's shape, from 0 to about 1.
fn workday(hour: f64) -> f64 {
    let open = rise(hour, 8.0, 0.25) - 0.55 * rise(hour, 17.5, 1.5) - 0.40 * rise(hour, 21.5, 1.5);
    let lunch = 0.22 * hill(hour, 12.5, 0.6);
    open.max(0.0) - lunch
}

/// A day off: one broad hill towards the evening.
fn leisure(hour: f64) -> f64 {
    hill(hour, 17.0, 5.0)
}

/// From 0 to 1 within `width` hours from `start` on, without a corner.
fn rise(hour: f64, start: f64, width: f64) -> f64 {
    let part = ((hour - start) / width).clamp(0.0, 1.0);
    part * part * (3.0 - 2.0 * part)
}

/// A hill around an hour of the day; midnight does not cut it off.
fn hill(hour: f64, top: f64, width: f64) -> f64 {
    let distance = (hour - top).abs();
    let distance = distance.min(24.0 - distance) / width;
    (-distance * distance).exp()
}

/// SplitMix64: a few lines, and long enough for any trace.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, without 1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, deviation 1. A sum of twelve has no logarithm, which not every machine rounds alike.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Span = Span::from_seconds(300).unwrap();

    #[test]
    fn the_same_seed_is_the_same_load() {
        for load in [Load::Daily, Load::Weekly, Load::Spiky, Load::Noise] {
            let one = generate(load, 7, 2, STEP);
            assert_eq!(one, generate(load, 7, 2, STEP));
            assert_ne!(one, generate(load, 8, 2, STEP));
            assert_eq!((one.samples.len(), one.missing()), (577, 0));
        }
    }

    #[test]
    fn chance_is_the_published_sequence() {
        let mut chance = Chance(1_234_567);
        assert_eq!([chance.next(), chance.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn noise_has_the_mean_and_the_deviation_that_it_claims() {
        let values: Vec<f64> = generate(Load::Noise, 3, 30, STEP).samples.into_iter().flatten().collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!((mean - 600.0).abs() < 3.0 && (deviation - 60.0).abs() < 3.0, "{mean} {deviation}");
    }

    #[test]
    fn mornings_are_steep_and_weekends_quiet() {
        let history = generate(Load::Weekly, 1, 7, STEP);
        let at = |day: usize, hour: usize| history.samples[day * 288 + hour * 12].unwrap();
        assert!(at(0, 9) > 4.0 * at(0, 7), "{} {}", at(0, 9), at(0, 7));
        assert!(at(5, 9) < 0.5 * at(4, 9));
    }
}
