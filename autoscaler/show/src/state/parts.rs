//! Samples as a database keeps them: parts of a fixed number of steps, eight bytes each.
//!
//! A row per sample would be 4 million rows for a thousand workloads over two weeks; a part is one. Pure.

use autoscaler_forecast::history::History;
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Number of samples in a part.
const LENGTH: i64 = 256;
const BYTES: usize = LENGTH as usize * 8;

// 2 MiB of samples: a hole of years between two of them must not be memory without a limit.
const MOST_PARTS: i64 = 1_024;

/// Times of the samples of a series: every `step` seconds, `phase` seconds after a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) step: i64,
    pub(super) phase: i64,
}

/// A part's samples; NaN where one is missing.
#[derive(Clone, Debug)]
pub(super) struct Part(Vec<f64>);

impl Default for Part {
    fn default() -> Part {
        Part(vec![f64::NAN; LENGTH as usize])
    }
}

impl Grid {
    pub(super) fn of(history: &History) -> Grid {
        let step = i64::from(history.step.seconds());
        Grid { step, phase: history.start.as_second().rem_euclid(step) }
    }

    /// The part of a sample, and its place in there.
    fn place(self, second: i64) -> (i64, usize) {
        let index = (second - self.phase).div_euclid(self.step);
        (index.div_euclid(LENGTH), index.rem_euclid(LENGTH) as usize)
    }

    /// The parts that this number of samples fills, rounded up.
    pub(super) fn parts_of(samples: u32) -> i64 {
        i64::from(samples).saturating_add(LENGTH - 1) / LENGTH
    }

    /// The parts that a length of time fills, rounded up.
    pub(super) fn parts(self, span: Span) -> i64 {
        (i64::from(span.seconds()) - 1) / (self.step * LENGTH) + 1
    }

    fn time(self, part: i64, place: usize) -> i64 {
        (part * LENGTH + place as i64) * self.step + self.phase
    }

    /// Lays a history over the parts that are known. A missing sample does not remove a stored one.
    pub(super) fn lay(self, history: &History, mut known: impl FnMut(i64) -> Option<Part>) -> BTreeMap<i64, Part> {
        let mut parts: BTreeMap<i64, Part> = BTreeMap::new();
        for (index, sample) in history.samples.iter().enumerate() {
            let Some(value) = sample.filter(|value| value.is_finite()) else { continue };
            let (part, place) = self.place(history.time(index).as_second());
            parts.entry(part).or_insert_with(|| known(part).unwrap_or_default()).0[place] = value;
        }
        parts
    }

    /// The history in parts, from its first sample to its last; none where no sample has a value. What is too long ago
    /// next to the newest is left out.
    pub(super) fn history(self, parts: &BTreeMap<i64, Part>) -> Option<History> {
        let step = Span::from_seconds(u32::try_from(self.step).ok()?)?;
        let newest = *parts.last_key_value()?.0;
        let values = || {
            parts.range(newest - MOST_PARTS + 1..).flat_map(move |(part, samples)| {
                let known = samples.0.iter().enumerate().filter(|(_, value)| value.is_finite());
                known.map(move |(place, value)| (self.time(*part, place), *value))
            })
        };
        let (first, last) = (values().next()?.0, values().last()?.0);
        let count = usize::try_from((last - first) / self.step + 1).ok()?;
        let mut samples = vec![None; count];
        for (second, value) in values() {
            samples[((second - first) / self.step) as usize] = Some(value);
        }
        Some(History { start: Timestamp::from_second(first).ok()?, step, samples })
    }
}

impl Part {
    pub(super) fn read(bytes: &[u8]) -> Option<Part> {
        let exact = bytes.len() == BYTES;
        let value = |eight: &[u8]| f64::from_le_bytes(eight.try_into().unwrap_or([0xff; 8]));
        exact.then(|| Part(bytes.chunks_exact(8).map(value).collect()))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(start: i64, step: u32, samples: Vec<Option<f64>>) -> History {
        History { start: Timestamp::from_second(start).unwrap(), step: Span::from_seconds(step).unwrap(), samples }
    }

    proptest! {
        #[test]
        fn what_is_laid_in_is_what_comes_out(
            start in -1_000_000_i64..2_000_000_000,
            step in 1_u32..7_200,
            samples in proptest::collection::vec(proptest::option::weighted(0.9, -1e9_f64..1e9), 1..900),
        ) {
            let history = history(start, step, samples);
            let grid = Grid::of(&history);
            let parts = grid.lay(&history, |_| None);
            let stored: BTreeMap<i64, Part> =
                parts.iter().map(|(part, samples)| (*part, Part::read(&samples.bytes()).unwrap())).collect();
            // Missing samples at the ends do not belong to a history.
            let (first, last) = (history.samples.iter().position(Option::is_some), history.samples.iter().rposition(Option::is_some));
            match (first, last) {
                (Some(first), Some(last)) => {
                    let found = grid.history(&stored).unwrap();
                    prop_assert_eq!(found.start, history.time(first));
                    prop_assert_eq!(&found.samples, &history.samples[first..=last]);
                }
                _ => prop_assert!(grid.history(&stored).is_none()),
            }
        }
    }

    #[test]
    fn a_sample_that_is_missing_now_takes_none_away() {
        let before = history(0, 60, vec![Some(1.0), Some(2.0), Some(3.0)]);
        let grid = Grid::of(&before);
        let known = grid.lay(&before, |_| None);
        let now = history(60, 60, vec![None, Some(9.0), Some(4.0)]);
        let parts = grid.lay(&now, |part| known.get(&part).cloned());
        assert_eq!(grid.history(&parts).unwrap().samples, [Some(1.0), Some(2.0), Some(9.0), Some(4.0)]);
    }

    #[test]
    fn a_part_of_another_size_is_none() {
        assert!(Part::read(&[0; 8]).is_none());
        assert!(Part::read(&[0; BYTES + 8]).is_none());
    }

    #[test]
    fn a_hole_of_years_is_not_filled() {
        let grid = Grid { step: 1, phase: 0 };
        let mut parts = grid.lay(&history(0, 1, vec![Some(1.0)]), |_| None);
        parts.extend(grid.lay(&history(2_000_000_000, 1, vec![Some(2.0), Some(3.0)]), |_| None));
        assert_eq!(grid.history(&parts).unwrap().samples, [Some(2.0), Some(3.0)]);
    }
}
