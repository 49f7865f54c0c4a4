//! Medians, spans and ratios of measured seconds. Pure.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// For an even number, the mean of the middle two.
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

impl Summary {
    pub fn of(seconds: &[f64]) -> Option<Self> {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max, runs: sorted.len() })
    }
}

/// Ratio of medians; `None` if it is undefined.
pub fn ratio(slow: &Summary, quick: &Summary) -> Option<f64> {
    let ratio = slow.median / quick.median;
    (quick.median > 0.0 && ratio.is_finite()).then_some(ratio)
}

/// Summary of each phase over several runs, in order of first appearance. A missing phase counts as zero.
pub fn by_phase(runs: &[Vec<(String, f64)>]) -> Vec<(String, Summary)> {
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in runs.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of_run = |name: &str, run: &Vec<(String, f64)>| run.iter().filter(|(n, _)| n == name).map(|(_, s)| s).sum();
    let seconds = |name: &str| runs.iter().map(|run| of_run(name, run)).collect::<Vec<f64>>();
    names.into_iter().filter_map(|name| Some((name.clone(), Summary::of(&seconds(name))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(seconds: &[f64], median: f64, min: f64, max: f64) {
        let expected = Summary { median, min, max, runs: seconds.len() };
        assert_eq!(Summary::of(seconds), Some(expected));
    }

    #[test]
    fn one_run_is_its_own_median() {
        check(&[2.5], 2.5, 2.5, 2.5);
    }

    #[test]
    fn an_odd_number_has_a_middle() {
        check(&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0);
    }

    #[test]
    fn an_even_number_has_two() {
        check(&[4.0, 1.0, 2.0, 9.0], 3.0, 1.0, 9.0);
    }

    #[test]
    fn without_measurements_there_is_no_median() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_medians() {
        let of = |seconds: &[f64]| Summary::of(seconds).unwrap();
        assert_eq!(ratio(&of(&[6.0, 100.0, 1.0]), &of(&[2.0])), Some(3.0));
        assert_eq!(ratio(&of(&[6.0]), &of(&[0.0])), None);
        assert_eq!(ratio(&of(&[0.0]), &of(&[0.0])), None);
    }

    #[test]
    fn phases_keep_their_order_and_a_missing_one_counts_as_zero() {
        let phase = |name: &str, seconds| (name.to_owned(), seconds);
        let runs = [
            vec![phase("plan", 1.0), phase("build", 4.0)],
            vec![phase("plan", 3.0)],
            vec![phase("plan", 2.0), phase("build", 2.0), phase("build", 1.0)],
        ];
        let medians: Vec<_> = by_phase(&runs).into_iter().map(|(name, summary)| (name, summary.median)).collect();
        assert_eq!(medians, [phase("plan", 2.0), phase("build", 3.0)]);
    }

    proptest! {
        #[test]
        fn a_median_is_within_the_range_and_independent_of_the_order(mut seconds in prop::collection::vec(0.0..1e6, 1..40)) {
            let summary = Summary::of(&seconds).unwrap();
            prop_assert!(summary.min <= summary.median && summary.median <= summary.max);
            let below = seconds.iter().filter(|s| **s < summary.median).count();
            let above = seconds.iter().filter(|s| **s > summary.median).count();
            prop_assert!(below * 2 <= seconds.len() && above * 2 <= seconds.len());
            seconds.reverse();
            prop_assert_eq!(Summary::of(&seconds), Some(summary));
        }
    }
}
