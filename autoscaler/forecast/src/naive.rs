//! The seasonal naive in Rust: what forecasts while there is no worker.
//!
//! Answers the worker's question in the worker's terms: the same time of the last season, or week where that was better,
//! that has a sample; a band of past errors by conformal rank; and skill over flat lines by the same thresholds. Pure; a
//! missing sample is skipped, never zero.

use crate::protocol::{Answer, Missing, Question, Refusal, Rolled, Rolling, Score};

// As many as the worker's backtest has, and for the same reasons.
const MIN_ORIGINS: usize = 24;
const MAX_ORIGINS: usize = 160;
const MIN_SKILL_FLAT: f64 = 0.05;
const MAX_MISSING: f64 = 0.2;
const JUDGEMENTS: usize = 100;

const SEASONAL: &str = "seasonal-naive";
const WEEKLY: &str = "weekly-naive";
const WEEK_SECONDS: u32 = 604_800;

/// Forecasts as the worker would with `seasonal-naive` as the model.
pub fn answer(question: &Question) -> Result<Answer, Refusal> {
    let past = Past::new(question);
    let has = past.samples.len();
    let judged = Judgement::new(&past, has, question)?;
    let mean = past.repeated(has, question.horizon as usize, judged.period)?;
    let (lower, upper) = judged.lines(&mean);
    let mut notes = Vec::new();
    if !judged.skilled {
        notes.push(
            "no model beats the plain references on this history: do not scale on this forecast alone".to_owned(),
        );
    }
    Ok(Answer {
        model: judged.name.to_owned(),
        members: vec![judged.name.to_owned()],
        skilled: judged.skilled,
        skill: Some(judged.skill),
        skill_flat: Some(judged.skill_flat),
        backtests: judged.backtests,
        band: if judged.proportional { "proportional" } else { "additive" }.to_owned(),
        samples: has,
        interpolated: 0,
        borrowed: 0,
        mean,
        lower,
        upper,
        scores: judged.scores,
        missing: judged.missing,
        notes,
        lines: Default::default(),
        peaks: Default::default(),
        fit: None,
        seconds: 0.0,
    })
}

/// Forecasts from many origins, each from its past alone, as the worker's `rolling` would. The judgement is made again a
/// hundred times in a run; an origin that cannot be forecast from is left out.
pub fn roll(rolling: &Rolling) -> Result<Rolled, Refusal> {
    let question = &rolling.question;
    let past = Past::new(question);
    let (first, last) = (rolling.first as usize, past.samples.len());
    let pace = (last.saturating_sub(first) / JUDGEMENTS).max(1);
    let mut rolled = Rolled {
        origins: Vec::new(),
        mean: Vec::new(),
        upper: Vec::new(),
        skilled: Vec::new(),
        members: Vec::new(),
        peaks: Default::default(),
        missing: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
    };
    let mut judged: Option<(usize, Judgement)> = None;
    let mut refused = None;
    for origin in (first..=last).step_by(rolling.every.max(1) as usize) {
        if judged.as_ref().is_none_or(|(at, _)| origin - at >= pace) {
            match Judgement::new(&past, origin, question) {
                Ok(judgement) => judged = Some((origin, judgement)),
                Err(refusal) => refused = Some(refusal),
            }
        }
        let Some((_, judgement)) = &judged else { continue };
        let Ok(mean) = past.repeated(origin, question.horizon as usize, judgement.period) else { continue };
        rolled.origins.push(origin as u32);
        rolled.upper.push(judgement.lines(&mean).1);
        rolled.mean.push(mean);
        rolled.skilled.push(judgement.skilled);
        rolled.members.push(vec![judgement.name.to_owned()]);
    }
    match refused {
        Some(refusal) if rolled.origins.is_empty() => Err(refusal),
        _ => Ok(rolled),
    }
}

/// Result of the naive's backtest: the period, the width of its band, and its skill.
struct Judgement {
    name: &'static str,
    period: usize,
    skill: f64,
    missing: Vec<Missing>,
    below: Vec<f64>,
    above: Vec<f64>,
    proportional: bool,
    skilled: bool,
    skill_flat: f64,
    backtests: u32,
    scores: Vec<Score>,
    /// Lower limit of all lines.
    floor: f64,
}

impl Judgement {
    /// Judges by the samples before `has` alone.
    fn new(past: &Past<'_>, has: usize, question: &Question) -> Result<Judgement, Refusal> {
        let (season, horizon) = (past.season, question.horizon as usize);
        let needs = season + season.max(horizon + MIN_ORIGINS);
        if has < needs {
            return Err(refusal(
                "not-enough-history",
                format!("a forecast needs {needs} samples, has {has}"),
                "give a longer history, or a shorter horizon",
            ));
        }
        let missing = has - past.sums[has].1;
        if missing as f64 > MAX_MISSING * has as f64 {
            return Err(gaps(format!("{missing} of {has} samples are missing, more than 20%")));
        }
        let mut periods = vec![(SEASONAL, season)];
        let mut too_short = Vec::new();
        if let Some(week) = week(question) {
            let needs = week + season.max(horizon + MIN_ORIGINS);
            if has < needs {
                too_short.push(Missing { model: WEEKLY.to_owned(), needs, has });
            } else {
                periods.push((WEEKLY, week));
            }
        }
        // All at the same origins, or the hours of the day would decide.
        let first = periods.iter().map(|(_, period)| *period).max().unwrap_or(season);
        let origins = spread(first, has - horizon);
        let nothing = || gaps("no sample was observed where the backtest looks".to_owned());
        let last = Tested::new(past, &origins, horizon, |origin, _| past.last(origin));
        let level = Tested::new(past, &origins, horizon, |origin, _| past.level(origin));
        let (mae_last, mae_level) = last.mae().zip(level.mae()).ok_or_else(nothing)?;
        let (flat, mae_flat) = if mae_last <= mae_level { (&last, mae_last) } else { (&level, mae_level) };
        let mut naives = Vec::new();
        for (name, period) in periods {
            let tested = Tested::new(past, &origins, horizon, |origin, lead| past.ago(origin, lead, period));
            let mae = tested.mae().ok_or_else(nothing)?;
            let sure = tested.beats(flat, &origins, horizon);
            naives.push((name, period, tested, mae, sure));
        }
        let seasonal = naives.first().map_or(0.0, |(_, _, _, mae, _)| *mae);
        let score = |model: &str, mae: f64, sure: bool| Score {
            model: model.to_owned(),
            mae,
            skill: Some(gone(mae, seasonal)),
            skill_flat: Some(gone(mae, mae_flat)),
            sure,
        };
        let mut scores: Vec<Score> = naives.iter().map(|(name, _, _, mae, sure)| score(name, *mae, *sure)).collect();
        scores.extend([score("last-value", mae_last, false), score("flat-mean", mae_level, false)]);
        // The first of equals: a season needs less of the past to hold.
        let best = naives.into_iter().min_by(|a, b| a.3.total_cmp(&b.3)).ok_or_else(nothing)?;
        let (name, period, naive, mae, sure) = best;
        let (below, above, proportional) = naive.band(horizon, question.quantile).ok_or_else(nothing)?;
        let skill_flat = gone(mae, mae_flat);
        let lowest = past.samples[..has].iter().flatten().copied().fold(f64::INFINITY, f64::min);
        Ok(Judgement {
            name,
            period,
            skill: gone(mae, seasonal),
            missing: too_short,
            below,
            above,
            proportional,
            skilled: sure && skill_flat >= MIN_SKILL_FLAT,
            skill_flat,
            backtests: origins.len() as u32,
            scores,
            // Demand that never was negative will not become so.
            floor: if lowest >= 0.0 { 0.0 } else { f64::NEG_INFINITY },
        })
    }

    /// The lower and the upper line around a forecast.
    fn lines(&self, mean: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let line = |offsets: &[f64]| -> Vec<f64> {
            let shifted = mean.iter().zip(offsets);
            shifted.map(|(mean, by)| (mean + if self.proportional { by * mean } else { *by }).max(self.floor)).collect()
        };
        // Past errors can all lie on one side of zero.
        let lower = line(&self.below).iter().zip(mean).map(|(lower, mean)| lower.min(*mean)).collect();
        let upper = line(&self.above).iter().zip(mean).map(|(upper, mean)| upper.max(*mean)).collect();
        (lower, upper)
    }
}

/// A week in samples, where the grid has one and the season is a part of it.
fn week(question: &Question) -> Option<usize> {
    let week = WEEK_SECONDS.is_multiple_of(question.step_seconds).then_some(WEEK_SECONDS / question.step_seconds)?;
    (week > question.season && week % question.season == 0).then_some(week as usize)
}

/// The part of the reference's error that is gone.
fn gone(error: f64, reference: f64) -> f64 {
    // A reference without error leaves nothing to improve.
    if reference <= 1e-12 { 0.0 } else { 1.0 - error / reference }
}

fn gaps(message: String) -> Refusal {
    refusal("too-many-gaps", message, "give a history with fewer gaps")
}

fn refusal(code: &str, message: String, hint: &str) -> Refusal {
    Refusal { id: None, code: code.to_owned(), message, hint: Some(hint.to_owned()) }
}

/// Up to `MAX_ORIGINS` whole numbers from `first` to `last`, evenly spread.
fn spread(first: usize, last: usize) -> Vec<usize> {
    let count = (last - first + 1).min(MAX_ORIGINS);
    let gap = (last - first) as f64 / (count - 1).max(1) as f64;
    let mut at: Vec<usize> = (0..count).map(|index| first + (index as f64 * gap).round() as usize).collect();
    at.dedup();
    at
}

/// Samples, and sums of them that are asked for repeatedly.
struct Past<'a> {
    samples: &'a [Option<f64>],
    season: usize,
    /// Sum and number of the samples before each index.
    sums: Vec<(f64, usize)>,
}

impl<'a> Past<'a> {
    fn new(question: &'a Question) -> Past<'a> {
        let mut sums = vec![(0.0, 0)];
        for sample in &question.samples {
            let (sum, count) = sums[sums.len() - 1];
            sums.push(sample.map_or((sum, count), |value| (sum + value, count + 1)));
        }
        Past { samples: &question.samples, season: question.season as usize, sums }
    }

    /// The same time of the last period before `origin` that has a sample then.
    fn ago(&self, origin: usize, lead: usize, period: usize) -> Option<f64> {
        let back = (lead / period + 1) * period;
        let mut at = (origin + lead).checked_sub(back)?;
        loop {
            if let Some(value) = self.samples.get(at).copied().flatten() {
                return Some(value);
            }
            at = at.checked_sub(period)?;
        }
    }

    /// Returns the line without a band.
    fn repeated(&self, origin: usize, horizon: usize, period: usize) -> Result<Vec<f64>, Refusal> {
        let values: Vec<f64> = (0..horizon).map_while(|lead| self.ago(origin, lead, period)).collect();
        if values.len() < horizon {
            return Err(gaps("no season has a sample at a time of the forecast".to_owned()));
        }
        Ok(values)
    }

    fn last(&self, origin: usize) -> Option<f64> {
        self.samples[..origin].iter().rev().flatten().next().copied()
    }

    /// The mean of two seasons before `origin`.
    fn level(&self, origin: usize) -> Option<f64> {
        let ((before, first), (sum, count)) = (self.sums[origin.saturating_sub(2 * self.season)], self.sums[origin]);
        (count > first).then(|| (sum - before) / (count - first) as f64)
    }
}

/// Forecasts from past origins: what was said, and how far off it was; none where either is missing.
struct Tested {
    rows: Vec<Vec<Option<(f64, f64)>>>,
}

impl Tested {
    fn new(past: &Past<'_>, origins: &[usize], horizon: usize, said: impl Fn(usize, usize) -> Option<f64>) -> Tested {
        let compare = |origin: usize, lead: usize| {
            let forecast = said(origin, lead)?;
            let actual = past.samples[origin + lead]?;
            Some((forecast, actual - forecast))
        };
        Tested { rows: origins.iter().map(|at| (0..horizon).map(|lead| compare(*at, lead)).collect()).collect() }
    }

    fn seen(&self) -> impl Iterator<Item = (f64, f64)> {
        self.rows.iter().flatten().flatten().copied()
    }

    fn mae(&self) -> Option<f64> {
        let (sum, count) = self.seen().fold((0.0, 0), |(sum, count), (_, error)| (sum + error.abs(), count + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Returns true if the gain over another is at least twice its standard error, counting only origins whose horizons fit
    /// next to each other.
    fn beats(&self, other: &Tested, origins: &[usize], horizon: usize) -> bool {
        let size = |row: &[Option<(f64, f64)>]| {
            let errors: Vec<f64> = row.iter().flatten().map(|(_, error)| error.abs()).collect();
            (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
        };
        let pairs = self.rows.iter().zip(&other.rows);
        let gains: Vec<f64> = pairs.filter_map(|(ours, theirs)| Some(size(theirs)? - size(ours)?)).collect();
        let reach = origins.last().zip(origins.first()).map_or(0, |(last, first)| last - first);
        let independent = gains.len().min(reach / horizon + 1);
        if independent < 2 {
            return false;
        }
        let mean = gains.iter().sum::<f64>() / gains.len() as f64;
        let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
        let deviation = (squares / (gains.len() - 1) as f64).sqrt();
        mean > 2.0 * deviation / (independent as f64).sqrt()
    }

    /// Per lead time the error below and above which the quantile's share lies, and whether they are shares of the
    /// forecast. Each lead time pools the errors of its neighbours.
    fn band(&self, horizon: usize, quantile: f64) -> Option<(Vec<f64>, Vec<f64>, bool)> {
        let proportional = self.grows_with_level();
        let (mut below, mut above) = (Vec::new(), Vec::new());
        for lead in 0..horizon {
            let near = lead.saturating_sub(1)..(lead + 2).min(horizon);
            let pairs = self.rows.iter().flat_map(|row| &row[near.clone()]).flatten();
            let mut pool: Vec<f64> =
                pairs.map(|(said, error)| if proportional { error / said } else { *error }).collect();
            pool.sort_by(f64::total_cmp);
            let rank = (((pool.len() + 1) as f64 * quantile).ceil() as usize).min(pool.len());
            above.push(*pool.get(rank.checked_sub(1)?)?);
            below.push(*pool.get(pool.len() - rank)?);
        }
        Some((below, above, proportional))
    }

    /// Returns true if busy hours have the larger errors: one width for all would then fail at the peak.
    fn grows_with_level(&self) -> bool {
        let (levels, sizes): (Vec<f64>, Vec<f64>) = self.seen().map(|(said, error)| (said, error.abs())).unzip();
        let lowest = levels.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Shares of a level near zero mean nothing.
        if levels.len() < MIN_ORIGINS || highest <= 0.0 || lowest <= 0.05 * highest {
            return false;
        }
        let (levels, sizes) = (ranks(&levels), ranks(&sizes));
        let middle = (levels.len() - 1) as f64 / 2.0;
        let (mut both, mut each) = (0.0, 0.0);
        for (level, size) in levels.iter().zip(&sizes) {
            both += (level - middle) * (size - middle);
            each += (level - middle).powi(2);
        }
        both / each > 0.2
    }
}

/// Each value's place in the order of size.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for (rank, index) in order.into_iter().enumerate() {
        ranks[index] = rank as f64;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{self, Load};
    use crate::span::Span;

    fn question(samples: Vec<Option<f64>>, season: u32, horizon: u32) -> Question {
        Question {
            samples,
            step_seconds: 1800,
            season,
            horizon,
            quantile: 0.9,
            model: "auto".to_owned(),
            lead: None,
            replay: None,
        }
    }

    fn made(load: Load, seed: u64, days: u32) -> Vec<Option<f64>> {
        load::generate(load, seed, days, Span::from_seconds(1800).unwrap()).samples
    }

    #[test]
    fn the_last_season_is_repeated() {
        let samples: Vec<Option<f64>> = (0..70).map(|at| Some(f64::from(at))).collect();
        let found = answer(&question(samples, 4, 6)).unwrap();
        assert_eq!(found.mean, [66.0, 67.0, 68.0, 69.0, 66.0, 67.0]);
    }

    #[test]
    fn a_missing_sample_is_that_of_the_season_before() {
        let mut samples: Vec<Option<f64>> = (0..72).map(|at| Some(f64::from(100 + at))).collect();
        samples[69] = None;
        let found = answer(&question(samples, 4, 4)).unwrap();
        assert_eq!(found.mean, [168.0, 165.0, 170.0, 171.0]);
        assert!(found.lower.iter().all(|lower| *lower > 90.0), "{:?}", found.lower);
    }

    #[test]
    fn a_perfect_repetition_is_skilled_and_has_no_band() {
        let samples: Vec<Option<f64>> = (0..480).map(|at| Some(f64::from(at % 48))).collect();
        let found = answer(&question(samples, 48, 4)).unwrap();
        assert!(found.skilled);
        assert_eq!((&found.lower, &found.upper), (&found.mean, &found.mean));
    }

    #[test]
    fn quiet_weekends_are_those_of_a_week_ago() {
        let weekly = answer(&question(made(Load::Weekly, 4, 20), 48, 6)).unwrap();
        assert_eq!((weekly.model.as_str(), weekly.skilled), ("weekly-naive", true));
        assert!(weekly.skill.unwrap() > 0.3, "{:?}", weekly.scores);
        let short = answer(&question(made(Load::Weekly, 4, 7), 48, 6)).unwrap();
        assert_eq!(short.model, "seasonal-naive");
        assert_eq!(short.missing, [Missing { model: "weekly-naive".to_owned(), needs: 384, has: 337 }]);
    }

    #[test]
    fn noise_and_a_constant_are_not_skilled() {
        for seed in 0..8 {
            assert!(!answer(&question(made(Load::Noise, seed, 12), 48, 4)).unwrap().skilled, "{seed}");
        }
        assert!(!answer(&question(vec![Some(5.0); 480], 48, 4)).unwrap().skilled);
    }

    #[test]
    fn nine_of_ten_samples_lie_below_the_upper_line() {
        let (mut below, mut all) = (0, 0);
        for seed in 0..60 {
            let samples = made(Load::Daily, seed, 14);
            let cut = samples.len() - 30;
            let found = answer(&question(samples[..cut].to_vec(), 48, 6)).unwrap();
            assert!(found.skilled, "{seed}");
            for (actual, upper) in samples[cut..].iter().zip(&found.upper) {
                all += 1;
                below += u32::from(actual.unwrap() <= *upper);
            }
        }
        let share = f64::from(below) / f64::from(all);
        assert!((0.85..=0.95).contains(&share), "{share}");
    }

    #[test]
    fn rolling_forecasts_are_those_made_at_their_origins() {
        let mut samples = made(Load::Daily, 9, 8);
        samples[300] = None;
        let whole = question(samples.clone(), 48, 6);
        let rolled = roll(&Rolling { question: whole, first: 200, every: 37 }).unwrap();
        assert_eq!(rolled.origins, [200, 237, 274, 311, 348, 385]);
        for (index, origin) in rolled.origins.iter().enumerate() {
            let there = answer(&question(samples[..*origin as usize].to_vec(), 48, 6)).unwrap();
            assert_eq!(rolled.mean[index], there.mean);
            assert_eq!(rolled.upper[index], there.upper);
            assert_eq!(rolled.skilled[index], there.skilled);
        }
        let early = roll(&Rolling { question: question(samples[..90].to_vec(), 48, 6), first: 20, every: 10 });
        assert_eq!(early.unwrap_err().message, "a forecast needs 96 samples, has 90");
    }

    #[test]
    fn too_little_and_too_holey_histories_are_refused() {
        let short = answer(&question(vec![Some(1.0); 95], 48, 4)).unwrap_err();
        assert_eq!(
            (short.code.as_str(), short.message.as_str()),
            ("not-enough-history", "a forecast needs 96 samples, has 95")
        );
        let mut holey = vec![Some(1.0); 100];
        holey[10..40].fill(None);
        assert_eq!(answer(&question(holey, 48, 4)).unwrap_err().code, "too-many-gaps");
        let mut never: Vec<Option<f64>> = vec![Some(1.0); 192];
        for day in 0..4 {
            never[day * 48 + 2] = None;
        }
        assert_eq!(answer(&question(never, 48, 4)).unwrap_err().code, "too-many-gaps");
    }
}
