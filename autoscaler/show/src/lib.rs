//! Output for people and monitoring: pages, charts, tables, metrics, probes, and the stored state behind them.

pub mod chart;
pub mod curve;
pub mod healthcheck;
pub mod levels;
pub mod metrics;
pub mod page;
pub mod plot;
pub mod print;
pub mod readiness;
pub mod server;
pub mod state;
/// A made-up forecast for the tests of what is shown.
#[cfg(test)]
pub(crate) mod tests_support {
    use autoscaler_forecast::history::History;
    use autoscaler_forecast::protocol::{Answer, Missing, Score};
    use autoscaler_forecast::{Forecast, ForecastOptions, Model};

    /// The same value at every step, with a band of one around it.
    pub(crate) fn flat(history: &History, steps: usize, value: f64) -> Forecast {
        let answer = Answer {
            model: "mean".to_owned(),
            members: vec!["harmonic".to_owned(), "holt-winters".to_owned()],
            skilled: true,
            skill: Some(0.25),
            skill_flat: Some(0.5),
            backtests: 160,
            band: "additive".to_owned(),
            samples: history.samples.len(),
            interpolated: 1,
            borrowed: 0,
            mean: vec![value; steps],
            lower: vec![value - 1.0; steps],
            upper: vec![value + 1.0; steps],
            scores: vec![Score {
                model: "harmonic".to_owned(),
                mae: 2.0,
                skill: Some(0.2),
                skill_flat: None,
                sure: true,
            }],
            missing: vec![Missing { model: "weekly-naive".to_owned(), needs: 2304, has: 4 }],
            notes: vec!["a note".to_owned()],
            lines: Default::default(),
            peaks: Default::default(),
            fit: None,
            seconds: 0.1,
        };
        let options = ForecastOptions {
            horizon: history.step,
            season: history.step,
            quantile: "0.9".parse().unwrap(),
            model: Model::Auto,
        };
        Forecast::new(history, &options, answer)
    }
}
