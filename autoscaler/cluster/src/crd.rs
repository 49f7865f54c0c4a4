//! The resource `PredictiveScaler`: its spec and its status.
//!
//! Types and rules only; the cluster checks the rules by CEL before anything is stored. A stored spec that is invalid nevertheless is
//! read once, by `wanted`, which reports all problems at once. Pure.

#![allow(unreachable_pub, reason = "the derive repeats each type in a module of its own")]
#![allow(clippy::duplicated_attributes, reason = "two columns may be of one type")]

pub mod profile;
mod schema;
pub mod status;

use autoscaler_floor::choose::{Budget, Goal};
use autoscaler_floor::decide;
use autoscaler_floor::units::{Capacity, Replicas, Seconds, Unit};
use autoscaler_forecast::Quantile;
use autoscaler_forecast::calendar::{self, Calendar, SpecialDays, Weekday};
use autoscaler_forecast::span::Span;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// API group of our resources.
pub const GROUP: &str = "autoscaler.acme.dev";
/// The annotation of a `PredictiveScaler` that pauses it: any value but `false`.
pub const PAUSED: &str = "autoscaler.acme.dev/paused";
/// The finalizer that restores the original minimum before a `PredictiveScaler` is deleted.
pub const FINALIZER: &str = "autoscaler.acme.dev/restore-minimum";

/// The longest season in samples: a week of minutes.
pub const LONGEST_SEASON: u32 = 10_080;

/// A predictive floor under a HorizontalPodAutoscaler: its minimum rises before demand does, and comes down after it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "autoscaler.acme.dev",
    version = "v1alpha1",
    kind = "PredictiveScaler",
    plural = "predictivescalers",
    singular = "predictivescaler",
    shortname = "pscaler",
    namespaced,
    doc = "A predictive floor under a HorizontalPodAutoscaler: its minimum rises before demand does.",
    status = "PredictiveScalerStatus",
    derive = "PartialEq",
    printcolumn(name = "HPA", json_path = ".spec.hpaRef.name", type_ = "string"),
    printcolumn(name = "Mode", json_path = ".spec.mode", type_ = "string"),
    printcolumn(name = "Original", json_path = ".status.original", type_ = "integer"),
    printcolumn(name = "Floor", json_path = ".status.floor", type_ = "integer"),
    printcolumn(name = "Recommended", json_path = ".status.recommended", type_ = "integer"),
    printcolumn(name = "Ready", json_path = ".status.conditions[?(@.type==\"Ready\")].status", type_ = "string"),
    printcolumn(
        name = "Skilled",
        json_path = ".status.conditions[?(@.type==\"ForecastSkilled\")].status",
        type_ = "string"
    ),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date")
)]
#[x_kube(
    validation = Rule::new("duration(self.leadTime) >= duration(self.step)")
        .message("leadTime is shorter than step"),
    validation = Rule::new("duration(self.season).getSeconds() % duration(self.step).getSeconds() == 0")
        .message("season is not a multiple of step"),
    validation = Rule::new("duration(self.season).getSeconds() >= 2 * duration(self.step).getSeconds()")
        .message("season is shorter than two steps"),
    validation = Rule::new("duration(self.season).getSeconds() <= 10080 * duration(self.step).getSeconds()")
        .message("season is longer than 10080 steps: choose a longer step"),
    validation = Rule::new("duration(self.leadTime).getSeconds() <= 4000 * duration(self.step).getSeconds()")
        .message("leadTime is longer than 4000 steps: choose a longer step"),
    validation = Rule::new("!(has(self.budget) && has(self.quantile))")
        .message("budget and quantile are both set: choose one of them"),
    validation = Rule::new("duration(self.staleAfter) >= duration(self.step)")
        .message("staleAfter is shorter than step"),
)]
pub struct PredictiveScalerSpec {
    /// The HorizontalPodAutoscaler whose minimum is raised, in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("hpaRef cannot be changed: delete this one and create another"))]
    pub hpa_ref: HpaRef,

    /// PromQL for the total demand on the workload, one series: all pods together, never a mean per pod, which is what
    /// the HorizontalPodAutoscaler itself keeps level.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,

    /// The demand that one pod serves, in the query's unit: `120/s`, `500m` (cores), `2Gi`, `40`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("!self.endsWith('%')")
            .message("a percentage is not a capacity: name what one pod serves in the query's own unit"),
        validation = Rule::new("self.matches('^[0-9]+([.][0-9]+)? ?(m|cores?|B|Ki|Mi|Gi|/s|k/s|%)?$')")
            .message("not an amount such as `120/s`, `500m`, `2Gi` or `40`"),
        validation = Rule::new("self.matches('[1-9]')").message("a pod that serves nothing is never enough"),
    )]
    pub per_pod_capacity: String,

    /// Unit of the query, if it differs from the unit of perPodCapacity: with two units nothing is forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<QueryUnit>,

    /// The distance of two samples and of two decisions.
    #[serde(default = "PredictiveScalerSpec::default_step")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("step is not between 1s and 24h"))]
    pub step: String,

    /// The time zone of the people whose demand it is, as in `Europe/Berlin`: days begin at its midnight, and what repeats
    /// does so by its clock, over clock changes too. The default is UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: Option<String>,

    /// Days that are unlike the others, such as holidays: later forecasts and choices are not made from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub special_days: Vec<SpecialDay>,

    /// Time after which demand repeats; a week is detected too if the season is a day.
    #[serde(default = "PredictiveScalerSpec::default_season")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != ''").message("season is empty"))]
    pub season: String,

    /// Lead time before the demand: about the time until a new pod is ready, and one step more.
    #[serde(default = "PredictiveScalerSpec::default_lead_time")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != ''").message("leadTime is empty"))]
    pub lead_time: String,

    /// The extra pod-seconds that the floor may cost, against the HorizontalPodAutoscaler alone; `10%` if neither this nor
    /// quantile is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^[0-9]{1,3}([.][0-9]+)?%$"))]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("budget is zero: use mode Recommend instead"))]
    pub budget: Option<String>,

    /// The share of demand that is to be below the line that the floor follows, whatever that costs; instead of budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self > 0.5 && self < 1.0").message("quantile is not between 0.5 and 1"))]
    pub quantile: Option<f64>,

    /// Enforce writes the floor; Recommend only reports it.
    #[serde(default)]
    pub mode: Mode,

    /// The floor's limit, in addition to the HorizontalPodAutoscaler's own maximum.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_floor: u32,

    /// The most pods by which the floor rises within a step.
    #[serde(default = "PredictiveScalerSpec::default_max_step_up")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_step_up: u32,

    /// Time of lower demand after which the floor comes down.
    #[serde(default = "PredictiveScalerSpec::default_scale_down_delay")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != ''").message("scaleDownDelay is empty"),
        validation = Rule::new("self == '' || duration(self) <= duration('8760h')")
            .message("scaleDownDelay is longer than 8760h"))]
    pub scale_down_delay: String,

    /// Time for which a floor is held without fresh metrics before it steps back to the original.
    #[serde(default = "PredictiveScalerSpec::default_stale_after")]
    #[schemars(length(max = 16), regex(pattern = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != ''").message("staleAfter is empty"),
        validation = Rule::new("self == '' || duration(self) <= duration('8760h')")
            .message("staleAfter is longer than 8760h"))]
    pub stale_after: String,

    /// Class of the operator that handles this resource; if it is not set, an operator without a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub operator_class: Option<String>,

    /// True takes `spec.minReplicas` from a field manager that owns it. Without this an owned field is a conflict, and nothing
    /// is written.
    #[serde(default)]
    pub take_ownership: bool,
}

impl PredictiveScalerSpec {
    fn default_step() -> String {
        "5m".to_owned()
    }

    fn default_season() -> String {
        "24h".to_owned()
    }

    fn default_lead_time() -> String {
        "15m".to_owned()
    }

    fn default_max_step_up() -> u32 {
        10
    }

    fn default_scale_down_delay() -> String {
        "10m".to_owned()
    }

    fn default_stale_after() -> String {
        "30m".to_owned()
    }
}

/// One or more special days in the time zone.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialDay {
    /// The first day, as in `2026-12-25`.
    #[schemars(length(min = 10, max = 10), extend("format" = "date"))]
    pub date: String,
    /// Number of days.
    #[serde(default = "SpecialDay::one")]
    #[schemars(range(min = 1, max = 31))]
    pub days: u32,
    /// The weekday whose demand is expected on these days; the default is their own weekday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<Weekday>,
}

impl SpecialDay {
    fn one() -> u32 {
        1
    }
}

/// A HorizontalPodAutoscaler.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpaRef {
    /// Name of the HorizontalPodAutoscaler.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Mode of a scaler: report the floor, or write it.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Say what the floor should be, and change nothing.
    #[default]
    Recommend,
    /// Raise the floor, and release it.
    Enforce,
}

/// Unit of a query.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryUnit {
    /// Plain numbers: sessions, jobs in a queue.
    Count,
    /// Processor cores.
    Cores,
    /// Bytes of memory.
    Bytes,
    /// Events per second.
    PerSecond,
    /// Shares of something else: never a total.
    Percent,
}

impl From<QueryUnit> for Unit {
    fn from(unit: QueryUnit) -> Unit {
        match unit {
            QueryUnit::Count => Unit::Count,
            QueryUnit::Cores => Unit::Cores,
            QueryUnit::Bytes => Unit::Bytes,
            QueryUnit::PerSecond => Unit::PerSecond,
            QueryUnit::Percent => Unit::Percent,
        }
    }
}

/// Status of a `PredictiveScaler`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PredictiveScalerStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Time of the last write of this status. It is not written at every decision: only when something else in it changed, or
    /// when it is old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    pub updated: Option<Timestamped>,
    /// The minimum that the owner of the HorizontalPodAutoscaler wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<u32>,
    /// The minimum of the HorizontalPodAutoscaler; with `mode: Recommend` what it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u32>,
    /// Namespace and lease of the installation that writes this status: another one leaves this scaler alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Floor that the forecast alone asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended: Option<u32>,
    /// The last forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<LastForecast>,
    /// Reason that there is no forecast, and what is missing for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Reasons for the floor, in the order in which they were applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// `Ready`, `ForecastSkilled`, `MetricsFresh` and `Conflict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(with = "Vec<schema::Condition>")]
    pub conditions: Vec<Condition>,
}

/// A time as RFC 3339.
pub type Timestamped = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A forecast in short.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastForecast {
    /// The newest sample that it was made from.
    #[schemars(with = "schema::Time")]
    pub newest_sample: Timestamped,
    /// The model, `mean` for the mean of several.
    pub model: String,
    /// True if the forecast is better than plain references on this history.
    pub skilled: bool,
    /// The share of the seasonal naive's error that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skill: Option<f64>,
    /// Number of samples that it was made from.
    pub samples: u32,
    /// The highest demand until the lead time, at the quantile, in the query's unit.
    pub peak: String,
    /// Time of the peak.
    #[schemars(with = "schema::Time")]
    pub peak_at: Timestamped,
    /// True if the seasonal naive of the operator replaced the worker.
    pub fallback: bool,
}

/// Validated settings of a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalerSettings {
    /// Policy for `decide`.
    pub policy: decide::Policy,
    pub hpa: String,
    pub query: String,
    pub unit: Unit,
    /// Time after which demand repeats.
    pub season: Span,
    /// The calendar by which it does.
    pub calendar: Calendar,
    /// The share of demand below the upper line of a forecast.
    pub quantile: Quantile,
    /// Target that decides the height of the floor.
    pub goal: Goal,
    /// True if an owned field is taken.
    pub take_ownership: bool,
}

/// Maximum number of entries in `specialDays`.
const MOST_SPECIAL_DAYS: usize = 100;

/// The longest `scaleDownDelay` and `staleAfter`, in seconds: a year.
const LONGEST_DELAY: u32 = 8_760 * 3_600;

/// The seconds of a length of time as the cluster's own rules read it: hours, minutes and seconds in this order, each at most
/// once. None for anything else, such as days, which the API server does not know.
fn seconds(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    let (mut rest, mut total) = (text, 0_u32);
    for (unit, each) in [('h', 3_600), ('m', 60), ('s', 1)] {
        let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        let Some(after) = rest[digits..].strip_prefix(unit).filter(|_| digits > 0) else { continue };
        let number: u32 = rest[..digits].parse().ok()?;
        total = number.checked_mul(each).and_then(|more| total.checked_add(more))?;
        rest = after;
    }
    rest.is_empty().then_some(total)
}

impl From<Mode> for decide::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Recommend => Self::Recommend,
            Mode::Enforce => Self::Enforce,
        }
    }
}

impl PredictiveScalerSpec {
    /// Reads the spec, or reports all its problems. The cluster checks its own rules first: this is for specs that were stored
    /// before these rules, or past them.
    pub fn settings(&self) -> Result<ScalerSettings, Vec<String>> {
        let mut problems = Vec::new();
        let mut note = |field: &str, problem: String| problems.push(format!("spec.{field}: {problem}"));
        let second = Span::from_seconds(1).unwrap_or_else(|| unreachable!("one second is a span"));
        let mut span = |field: &str, text: &str| -> Span {
            let read = seconds(text).and_then(Span::from_seconds);
            read.unwrap_or_else(|| {
                note(field, format!("`{text}` is not a length of time such as `5m` or `1h30m`"));
                second
            })
        };
        let step = span("step", &self.step);
        let season = span("season", &self.season);
        let lead_time = span("leadTime", &self.lead_time);
        let stale_after = span("staleAfter", &self.stale_after);
        let scale_down_delay = seconds(&self.scale_down_delay).unwrap_or_else(|| {
            note(
                "scaleDownDelay",
                format!("`{}` is not a length of time such as `10m` or `0s`", self.scale_down_delay),
            );
            0
        });
        for (field, long) in [("scaleDownDelay", scale_down_delay), ("staleAfter", stale_after.seconds())] {
            if long > LONGEST_DELAY {
                note(field, "is more than 8760h".to_owned());
            }
        }
        if !(1..=86_400).contains(&step.seconds()) {
            note("step", format!("`{step}` is not between 1s and 24h"));
        }
        for (field, pods) in [("maxFloor", self.max_floor), ("maxStepUp", self.max_step_up)] {
            if !(1..=100_000).contains(&pods) {
                note(field, format!("`{pods}` is not between 1 and 100000"));
            }
        }
        let capacity = self.per_pod_capacity.parse::<Capacity>().map_err(|problem| note("perPodCapacity", problem));
        let quantile = self.quantile.map(|share| share.to_string().parse::<Quantile>()).transpose();
        let quantile = quantile.map_err(|problem| note("quantile", problem));
        let budget = self.budget.as_deref().map(str::parse::<Budget>).transpose();
        let budget = budget.map_err(|problem| note("budget", problem));
        let zone = self.time_zone.as_deref().map_or(Ok(jiff::tz::TimeZone::UTC), calendar::zone);
        let zone = zone.map_err(|problem| note("timeZone", problem));
        if self.special_days.len() > MOST_SPECIAL_DAYS {
            note("specialDays", format!("has more than {MOST_SPECIAL_DAYS} entries"));
        }
        let special = self.special_days.iter().enumerate().filter_map(|(index, day)| {
            let read = SpecialDays::new(&day.date, day.days, day.like);
            read.map_err(|problem| note(&format!("specialDays[{index}]"), problem)).ok()
        });
        let special: Vec<SpecialDays> = special.collect();
        if self.quantile.is_some() && self.budget.is_some() {
            note("budget", "cannot be set together with quantile: choose one of them".to_owned());
        }
        if self.per_pod_capacity.trim() != self.per_pod_capacity {
            note("perPodCapacity", "begins or ends with a blank".to_owned());
        }
        if self.query.trim().is_empty() {
            note("query", "is empty".to_owned());
        }
        if !season.steps(step).is_some_and(|steps| (2..=LONGEST_SEASON).contains(&steps)) {
            note("season", format!("`{season}` is not 2 to {LONGEST_SEASON} steps of {step}"));
        }
        if lead_time < step {
            note("leadTime", format!("`{lead_time}` is shorter than the step of {step}"));
        }
        if lead_time.seconds() / step.seconds() > 4_000 {
            note("leadTime", format!("`{lead_time}` is more than 4000 steps of {step}"));
        }
        if stale_after < step {
            note("staleAfter", format!("`{stale_after}` is shorter than the step of {step}"));
        }
        let (Ok(capacity), Ok(quantile), Ok(budget), Ok(zone), true) =
            (capacity, quantile, budget, zone, problems.is_empty())
        else {
            return Err(problems);
        };
        Ok(ScalerSettings {
            policy: decide::Policy {
                mode: self.mode.into(),
                capacity,
                step,
                lead_time,
                max_floor: Replicas(self.max_floor),
                max_step_up: Replicas(self.max_step_up),
                scale_down_delay: Seconds(scale_down_delay.into()),
                stale_after: stale_after.into(),
            },
            hpa: self.hpa_ref.name.clone(),
            query: self.query.clone(),
            unit: self.unit.map_or(capacity.unit(), Unit::from),
            season,
            calendar: Calendar::new(zone, &special),
            quantile: quantile.unwrap_or_default(),
            goal: match quantile {
                Some(quantile) => Goal::Quantile(quantile),
                None => Goal::Budget(budget.unwrap_or(Budget::DEFAULT)),
            },
            take_ownership: self.take_ownership,
        })
    }
}

impl PredictiveScaler {
    /// Returns true if a person asked for a pause.
    pub fn paused(&self) -> bool {
        self.annotations().get(PAUSED).is_some_and(|value| value != "false")
    }

    /// Returns true if the scaler is being deleted.
    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Returns true if the scaler has the finalizer.
    pub fn guarded(&self) -> bool {
        self.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Returns namespace and name.
    pub fn place(&self) -> (String, String) {
        (self.namespace().unwrap_or_default(), self.name_any())
    }

    /// Returns true if this scaler takes precedence over another one for the same HorizontalPodAutoscaler: the older first,
    /// then by name.
    pub fn precedes(&self, other: &PredictiveScaler) -> bool {
        let age = |scaler: &PredictiveScaler| scaler.creation_timestamp().map_or(Timestamp::MAX, |time| time.0);
        (age(self), self.name_any()) < (age(other), other.name_any())
    }
}

/// The definition as YAML, for `kubectl apply`.
pub fn definition() -> String {
    // Types of our own, printed: nothing in it can fail to be YAML.
    serde_saphyr::to_string(&PredictiveScaler::crd()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
