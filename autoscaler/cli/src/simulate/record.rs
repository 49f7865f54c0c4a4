//! A simulation kept in a state file, as an operator would have kept the same decisions: for looking at the pages without
//! a cluster.

use super::SimulateArgs;
use autoscaler_floor::choose::Choice;
use autoscaler_floor::decide::Mode;
use autoscaler_floor::simulate::{Setup, SimulatedDecision};
use autoscaler_forecast::failure::Failure;
use autoscaler_forecast::history::History;
use autoscaler_forecast::protocol::Answer;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::{Forecast, ForecastOptions, Model};
use autoscaler_show::state::{Condition, Decided, Health, Profile, Retention, ScalerName, State};
use clap::ValueEnum;
use std::path::Path;

const NAMESPACE: &str = "simulated";

/// A simulation that is being kept.
#[derive(Debug)]
pub(super) struct Record {
    state: State,
    name: ScalerName,
    /// Description shown in place of a query.
    query: String,
}

impl Record {
    /// A record in a file, in which another simulation of the same name is forgotten.
    pub(super) fn open(file: &Path, args: &SimulateArgs) -> Result<Record, Failure> {
        let state = State::open(file, Retention::default());
        if let Health::InMemory(cause) = state.health() {
            let cannot = Failure::input(format!("cannot keep the simulation in `{}`", file.display()));
            return Err(cannot.cause(cause.unwrap_or_default()).hint("check the path given to `--state`"));
        }
        let load = args.generate.and_then(|load| load.to_possible_value()).map(|value| value.get_name().to_owned());
        let stem = || Some(args.trace.as_ref()?.file_stem()?.to_string_lossy().into_owned());
        let name = args.name.clone().or(load.clone()).or_else(stem).unwrap_or_else(|| "trace".to_owned());
        let query = match (&load, &args.trace) {
            (Some(load), _) => format!("a {load} load generated from seed {}", args.seed),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => String::new(),
        };
        let name = ScalerName::new(NAMESPACE, name);
        state.forget(&name);
        Ok(Record { state, name, query })
    }

    /// Records a decision.
    pub(super) fn decided(&self, step: &SimulatedDecision<'_>) {
        let mut decided = Decided::new(step.now, Mode::Enforce, step.original, step.decision);
        decided.replicas = Some(step.replicas);
        decided.demand = step.demand;
        self.state.remember_decision(&self.name, &decided, &step.decision.memory);
    }

    /// Keeps what is known at the end, or says why nothing could be kept.
    pub(super) fn end(
        self,
        args: &SimulateArgs,
        setup: &Setup<'_>,
        known: usize,
        last: Option<(Answer, Option<Choice>)>,
    ) -> Result<(), Failure> {
        let Setup { trace, workload, policy, .. } = *setup;
        let quantile = args.quantile.unwrap_or_default();
        let history = History { samples: trace.samples[..known].to_vec(), ..trace.clone() };
        let forecast = last.map(|(answer, choice)| {
            let horizon = Span::from_seconds(answer.mean.len() as u32 * trace.step.seconds()).unwrap_or(trace.step);
            let options = ForecastOptions { horizon, season: args.season, quantile, model: Model::Auto };
            Forecast { choice, ..Forecast::new(&history, &options, answer) }
        });
        let condition = |kind: &str, holds: bool, reason: &str, message: String| Condition {
            kind: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
            since: history.end(),
        };
        let skilled = match &forecast {
            Some(forecast) if forecast.skilled => {
                condition("ForecastSkilled", true, "WorthItsCost", autoscaler_show::print::skill(forecast))
            }
            Some(forecast) => {
                condition("ForecastSkilled", false, "NotWorthItsCost", autoscaler_show::print::skill(forecast))
            }
            None => condition("ForecastSkilled", false, "NoForecast", "no forecast".to_owned()),
        };
        self.state.note(
            &self.name,
            &Profile {
                uid: "simulated".to_owned(),
                hpa: self.name.name.clone(),
                target: None,
                query: self.query.clone(),
                unit: policy.capacity.unit(),
                capacity: policy.capacity.to_string(),
                mode: Mode::Enforce,
                paused: false,
                step: trace.step,
                season: args.season,
                lead_time: policy.lead_time,
                quantile,
                max_floor: policy.max_floor,
                max_replicas: Some(workload.max),
                floor_status: None,
                conditions: vec![
                    condition("Ready", true, "Simulated", "these decisions are from a simulation".to_owned()),
                    skilled,
                ],
                missing: None,
            },
        );
        self.state.remember_samples(&self.name, &self.query, &history);
        if let Some(forecast) = &forecast {
            self.state.remember_forecast(&self.name, forecast);
        }
        match self.state.health() {
            Health::Unwritten(cause) => Err(Failure::input("cannot keep the simulation").cause(cause)),
            Health::Kept | Health::InMemory(_) => Ok(()),
        }
    }
}
