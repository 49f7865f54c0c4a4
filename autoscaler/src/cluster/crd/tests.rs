//! The rules of the resource, by the cluster's own language and by our reading of it: both say the same.

use kube::core::cel::validate_cel_schema;
use serde_json::{Value, json};

use super::*;

fn spec() -> Value {
    json!({
        "hpaRef": {"name": "web"}, "query": "sum(rate(http_requests_total[2m]))", "perPodCapacity": "120/s",
        "step": "5m", "season": "24h", "leadTime": "15m", "quantile": 0.9, "mode": "Enforce", "maxFloor": 40,
        "maxStepUp": 4, "scaleDownDelay": "10m", "staleAfter": "30m", "takeOwnership": false,
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = spec();
    spec[field] = value;
    spec
}

fn read(spec: Value) -> Result<ScalerSettings, Vec<String>> {
    serde_json::from_value::<PredictiveScalerSpec>(spec).unwrap().settings()
}

#[track_caller]
fn refused(field: &str, value: impl Into<Value>, rule: &str, problem: &str) {
    let spec = with(field, value.into());
    let broken = validate_cel_schema::<PredictiveScalerSpec>(&spec, None).unwrap_err().to_string();
    assert!(broken.contains(rule), "{broken}");
    let problems = read(spec).unwrap_err();
    assert!(problems.iter().any(|found| found.contains(problem)), "{problems:?}");
}

#[test]
fn a_whole_spec_is_understood() {
    assert!(validate_cel_schema::<PredictiveScalerSpec>(&spec(), None).is_ok());
    let wanted = read(spec()).unwrap();
    assert_eq!((wanted.season.to_string(), wanted.policy.lead_time.to_string()), ("1d".to_owned(), "15m".to_owned()));
    assert_eq!((wanted.unit, wanted.policy.mode), (Unit::PerSecond, decide::Mode::Enforce));
}

#[test]
fn only_what_nobody_can_guess_has_to_be_said() {
    let short = json!({"hpaRef": {"name": "web"}, "query": "q", "perPodCapacity": "40", "maxFloor": 9});
    let spec: PredictiveScalerSpec = serde_json::from_value(short).unwrap();
    assert_eq!((spec.mode, spec.quantile, spec.take_ownership), (Mode::Recommend, None, false));
    let defaults = serde_json::to_value(&spec).unwrap();
    assert!(validate_cel_schema::<PredictiveScalerSpec>(&defaults, None).is_ok());
    assert!(spec.settings().is_ok());
}

#[test]
fn the_cluster_refuses_what_we_could_not_follow() {
    refused("leadTime", "1m", "leadTime is shorter than step", "is shorter than the step");
    refused("season", "7m", "season is not a multiple of step", "is not 2 to");
    refused("season", "5m", "season is shorter than two steps", "is not 2 to");
    refused("season", "1000h", "season is longer than 10080 steps", "is not 2 to");
    refused("staleAfter", "1m", "staleAfter is shorter than step", "is shorter than the step");
    refused("leadTime", "400h", "leadTime is longer than 4000 steps", "is more than 4000 steps");
    refused("quantile", 0.5, "quantile is not between 0.5 and 1", "is not between 0.5 and 1");
    refused("quantile", 1.0, "quantile is not between 0.5 and 1", "is not between 0.5 and 1");
    refused("perPodCapacity", "many", "not an amount such as", "is not an amount");
    refused("perPodCapacity", "0/s", "serves nothing", "is not an amount");
}

#[test]
fn percent_compared_with_cores_is_refused_by_the_cluster() {
    refused("perPodCapacity", "70%", "a percentage is not a capacity", "is a share");
}

#[test]
fn the_autoscaler_cannot_be_exchanged() {
    let other = with("hpaRef", json!({"name": "shop"}));
    let broken = validate_cel_schema::<PredictiveScalerSpec>(&other, Some(&spec())).unwrap_err().to_string();
    assert!(broken.contains("hpaRef cannot be changed"), "{broken}");
    assert!(validate_cel_schema::<PredictiveScalerSpec>(&with("maxFloor", json!(9)), Some(&spec())).is_ok());
}

#[test]
fn every_problem_is_said_at_once() {
    let mut spec = with("step", json!("soon"));
    spec["perPodCapacity"] = json!("70%");
    spec["quantile"] = json!(2);
    let problems = read(spec).unwrap_err();
    assert!(problems.len() >= 3, "{problems:?}");
    assert!(problems[0].starts_with("spec.step: `soon` is not a length of time"), "{problems:?}");
}

#[test]
fn the_definition_is_whole() {
    let crd = PredictiveScaler::crd();
    assert_eq!(crd.metadata.name.as_deref(), Some("predictivescalers.autoscaler.acme.dev"));
    let version = &crd.spec.versions[0];
    assert_eq!((version.name.as_str(), version.served, version.storage), ("v1alpha1", true, true));
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
    let properties = &schema["openAPIV3Schema"]["properties"];
    assert_eq!(properties["spec"]["properties"]["mode"]["default"], "Recommend");
    assert_eq!(properties["spec"]["required"], json!(["hpaRef", "maxFloor", "perPodCapacity", "query"]));
    assert_eq!(properties["status"]["properties"]["conditions"]["x-kubernetes-list-type"], "map");
    assert_eq!(properties["spec"]["x-kubernetes-validations"].as_array().unwrap().len(), 7);
    let yaml = definition();
    assert!(yaml.contains("x-kubernetes-validations"), "{yaml}");
}

#[test]
fn two_for_one_autoscaler_are_in_order_of_age() {
    let make = |name: &str, second: i64| {
        let mut scaler = PredictiveScaler::new(name, serde_json::from_value(spec()).unwrap());
        scaler.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(second).unwrap()));
        scaler
    };
    let (old, young, twin) = (make("b", 1), make("a", 2), make("c", 1));
    assert!(old.precedes(&young) && !young.precedes(&old));
    assert!(old.precedes(&twin) && !twin.precedes(&old));
}

/// Whether the cluster admits a spec: its schema's patterns, lengths and ranges, and the rules.
fn admitted(spec: &Value) -> bool {
    let crd = serde_json::to_value(PredictiveScaler::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let fits = |(name, value): (&String, &Value)| {
        let rules = &schema[name];
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            let pattern = rules["pattern"].as_str();
            return rules["minLength"].as_u64().is_none_or(|least| length >= least)
                && rules["maxLength"].as_u64().is_none_or(|most| length <= most)
                && pattern.is_none_or(|pattern| matches(pattern, text));
        }
        let Some(number) = value.as_f64() else { return true };
        rules["minimum"].as_f64().is_none_or(|least| number >= least)
            && rules["maximum"].as_f64().is_none_or(|most| number <= most)
    };
    spec.as_object().unwrap().iter().all(fits) && validate_cel_schema::<PredictiveScalerSpec>(spec, None).is_ok()
}

/// Whether a text matches a pattern of the schema; there are two.
fn matches(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| text.len() - text.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    match pattern {
        "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$" => {
            let rest = ['h', 'm', 's'].iter().fold(text, |rest, unit| {
                let count = digits(rest);
                rest[count..].strip_prefix(*unit).filter(|_| count > 0).unwrap_or(rest)
            });
            rest.is_empty()
        }
        "^[0-9]{1,3}([.][0-9]+)?%$" => {
            let whole = digits(text);
            let rest = &text[whole..];
            let part = rest.strip_prefix('.').map(|part| (digits(part), part));
            let after = match part {
                Some((count, part)) if count > 0 => &part[count..],
                Some(_) => return false,
                None => rest,
            };
            (1..=3).contains(&whole) && after == "%"
        }
        other => panic!("the test does not know the pattern {other}"),
    }
}

#[test]
fn what_the_cluster_admits_and_what_the_operator_accepts_are_the_same() {
    let durations = [
        "",
        "0s",
        "0m",
        "1s",
        "9s",
        "10s",
        "60s",
        "1m",
        "90s",
        "5m",
        "1h",
        "1h30m",
        "1h0m5s",
        "24h",
        "24h1s",
        "25h",
        "86400s",
        "168h",
        "8760h",
        "8760h1s",
        "99999999h",
        "9999999999999h",
        "1d",
        "1w",
        "7d",
        "1m1h",
        "1h1h",
        "5",
        "h",
        "-5m",
        "1.5h",
        "1ms",
        " 5m",
        "5m ",
        "5M",
        "0h5m",
    ];
    let mut compared = 0;
    let mut compare = |field: &str, value: Value| {
        let spec = with(field, value.clone());
        let accepted =
            serde_json::from_value::<PredictiveScalerSpec>(spec.clone()).is_ok_and(|spec| spec.settings().is_ok());
        assert_eq!(admitted(&spec), accepted, "{field}: {value}");
        compared += 1;
    };
    for field in ["step", "season", "leadTime", "scaleDownDelay", "staleAfter"] {
        durations.iter().for_each(|value| compare(field, json!(value)));
    }
    for value in [
        "0/s", "0.0", "1", "120/s", "500m", "2Gi", "2 Gi", "1k/s", "70%", "1core", "2cores", "many", "", "-1", "1.",
        ".5", "1e3",
    ] {
        compare("perPodCapacity", json!(value));
    }
    for value in [0.0, 0.5, 0.51, 0.9, 0.999, 1.0, 2.0, -1.0] {
        compare("quantile", json!(value));
    }
    for value in [0_u32, 1, 40, 100_000, 100_001] {
        compare("maxFloor", json!(value));
        compare("maxStepUp", json!(value));
    }
    for value in ["10%", "7.5%", "0%", "0.0%", "999%", "1000%", "10", "%", "ten%", "1.%", "-1%", ""] {
        let mut spec = with("budget", json!(value));
        spec.as_object_mut().unwrap().remove("quantile");
        let accepted = serde_json::from_value::<PredictiveScalerSpec>(spec.clone()).unwrap().settings().is_ok();
        assert_eq!(admitted(&spec), accepted, "budget: {value}");
    }
    assert!(compared > 200, "{compared}");
    let both = with("budget", json!("10%"));
    assert!(!admitted(&both) && read(both).is_err());
}
