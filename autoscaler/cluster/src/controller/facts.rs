//! Facts before a decision: the scaler's settings, its autoscaler, its demand. Reads, and writes nothing.

use super::{Failed, Reconcile, pods};
use crate::act::read_minimum;
use crate::crd::{PredictiveScaler, ScalerSettings, status};
use crate::demand::{Expected, Limits, Unavailable};
use autoscaler_floor::decide::{Decision, Missing, Seen};
use autoscaler_floor::minimum::Minimum;
use autoscaler_floor::units::Replicas;
use autoscaler_forecast::span::Span;
use autoscaler_show::state::Decided;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use std::fmt;
use std::time::Duration;

/// Everything that a decision follows from.
pub struct Facts {
    /// Settings from the scaler's spec.
    pub settings: ScalerSettings,
    /// Its autoscaler, as it was read.
    pub hpa: HorizontalPodAutoscaler,
    /// Minimum of that autoscaler.
    pub minimum: Minimum,
    /// True if a person asked for a pause.
    pub paused: bool,
    /// The forecast, or what is missing for one.
    pub expected: Result<Expected, Unavailable>,
}

/// Reason that no decision is possible.
pub enum Blocked {
    /// The spec is invalid.
    Invalid(Vec<String>),
    /// An older scaler has the same autoscaler.
    OlderScaler(String),
    /// The autoscaler does not exist.
    NoAutoscaler(String),
    /// The annotation cannot be read: the original is unknown.
    Unreadable(String),
}

impl Blocked {
    /// Returns the reason as one word.
    pub fn word(&self) -> &'static str {
        match self {
            Blocked::Invalid(_) => "InvalidSpec",
            Blocked::OlderScaler(_) => "AnotherScaler",
            Blocked::NoAutoscaler(_) => "NoAutoscaler",
            Blocked::Unreadable(_) => "UnreadableAnnotation",
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Invalid(problems) => f.write_str(&problems.join("; ")),
            Blocked::OlderScaler(name) => write!(f, "the older scaler `{name}` has the same HorizontalPodAutoscaler"),
            Blocked::NoAutoscaler(name) => write!(f, "HorizontalPodAutoscaler `{name}` not found"),
            Blocked::Unreadable(cause) => write!(f, "{cause}; it is not overwritten"),
        }
    }
}

impl Facts {
    /// Returns the input of `decide`.
    pub fn seen(&self, now: Timestamp) -> Seen<'_> {
        Seen {
            now,
            minimum: &self.minimum,
            max_replicas: self.max_replicas(),
            desired: pods(self.hpa.status.as_ref().map(|status| status.desired_replicas)),
            paused: self.paused,
            outlook: match &self.expected {
                Ok(expected) => Ok(&expected.outlook),
                Err(unavailable) => Err(unavailable.missing.clone()),
            },
        }
    }

    /// Returns `maxReplicas` of the autoscaler.
    pub fn max_replicas(&self) -> Replicas {
        pods(self.hpa.spec.as_ref().map(|spec| spec.max_replicas)).unwrap_or_default()
    }

    /// The owner's minimum and the maximum.
    pub fn limits(&self) -> Limits {
        limits(&self.hpa)
    }

    /// The time until the next reconcile, where the worker could not fit.
    pub fn again_in(&self) -> Option<Duration> {
        match &self.expected {
            Ok(expected) => expected.again_in,
            Err(unavailable) => unavailable.again_in,
        }
    }

    /// Returns the number of running pods.
    pub fn replicas(&self) -> Option<Replicas> {
        pods(self.hpa.status.as_ref().and_then(|status| status.current_replicas))
    }

    /// A decision on these facts, as it is remembered.
    pub fn decided(&self, now: Timestamp, decision: &Decision) -> Decided {
        let demand = self.expected.as_ref().ok().and_then(|expected| expected.demand);
        let decided = Decided::new(now, self.settings.policy.mode, self.minimum.original(), decision);
        Decided { replicas: self.replicas(), demand, ..decided }
    }
}

fn limits(hpa: &HorizontalPodAutoscaler) -> Limits {
    let min = read_minimum(hpa).map_or(Replicas(1), |minimum| minimum.original());
    Limits { min, max: pods(hpa.spec.as_ref().map(|spec| spec.max_replicas)).unwrap_or_default() }
}

/// Reads everything. `expected` is kept between two tries of one decision: only the autoscaler has changed.
pub(super) async fn gather(
    reconcile: &Reconcile<'_>,
    expected: &mut Option<Result<Expected, Unavailable>>,
) -> Result<Result<Facts, Blocked>, Failed> {
    let Reconcile { scaler, context, name, now, track, .. } = reconcile;
    let settings = match scaler.spec.settings() {
        Ok(settings) => settings,
        Err(problems) => return Ok(Err(Blocked::Invalid(problems))),
    };
    if let Some(older) = older_scaler(scaler, &context.scalers) {
        return Ok(Err(Blocked::OlderScaler(older)));
    }
    let paused = scaler.paused();
    if expected.is_none() {
        *expected = Some(if paused {
            let missing = Missing::NoForecast { cause: "paused".to_owned() };
            Err(Unavailable { missing, word: "Paused", fresh: true, again_in: None })
        } else {
            let limits = match track.limits {
                Some(limits) => limits,
                None => match context.hpas(&name.namespace).get_opt(&settings.hpa).await? {
                    Some(hpa) => limits(&hpa),
                    None => return Ok(Err(Blocked::NoAutoscaler(settings.hpa))),
                },
            };
            context.demands.expected(name, &settings, limits, *now).await
        });
    }
    // Last, because it changes most often.
    let Some(hpa) = context.hpas(&name.namespace).get_opt(&settings.hpa).await? else {
        return Ok(Err(Blocked::NoAutoscaler(settings.hpa)));
    };
    let minimum = match read_minimum(&hpa) {
        Ok(minimum) => minimum,
        Err(cause) => return Ok(Err(Blocked::Unreadable(cause.to_string()))),
    };
    let Some(expected) = expected.clone() else { unreachable!("it was set above") };
    Ok(Ok(Facts { settings, hpa, minimum, paused, expected }))
}

/// Another installation that has written this scaler's status lately.
pub(super) fn other_operator(reconcile: &Reconcile<'_>) -> Option<String> {
    let Reconcile { scaler, context, now, .. } = reconcile;
    let status = scaler.status.as_ref()?;
    let other = status.operator.as_ref().filter(|other| **other != context.operator.name)?;
    let step: Option<Span> = scaler.spec.step.parse().ok();
    let fresh = status::REFRESHED_AFTER + 2 * step.map_or(300, |step| i64::from(step.seconds()));
    let age = now.as_second() - status.updated.as_ref()?.0.as_second();
    (age < fresh).then(|| other.clone())
}

/// The older scaler that has the same autoscaler.
pub(super) fn older_scaler(scaler: &PredictiveScaler, scalers: &Store<PredictiveScaler>) -> Option<String> {
    let namespace = scaler.namespace();
    let rivals = scalers.state_filter(|other| {
        other.spec.hpa_ref == scaler.spec.hpa_ref
            && other.namespace() == namespace
            && other.name_any() != scaler.name_any()
            && !other.is_deleted()
            && (scaler.is_deleted() || other.precedes(scaler))
    });
    rivals.first().map(|older_scaler| older_scaler.name_any())
}
