//! The rules of the resource, by the cluster's own language and by our reading of it: both say the same.

use super::*;
use kube_cel::{ValidationErrors, Validator};
use serde_json::{Value, json};

/// Checks a spec by the rules in the definition, as the cluster does.
fn checked(spec: &Value, old: Option<&Value>) -> Result<(), ValidationErrors> {
    let definition = serde_json::to_value(PredictiveScaler::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert!(schema["x-kubernetes-validations"].is_array(), "{schema}");
    Validator::new().validate(schema, spec, old)
}

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
    let broken = checked(&spec, None).unwrap_err().to_string();
    assert!(broken.contains(rule), "{broken}");
    let problems = read(spec).unwrap_err();
    assert!(problems.iter().any(|found| found.contains(problem)), "{problems:?}");
}

#[test]
fn a_whole_spec_is_understood() {
    assert!(checked(&spec(), None).is_ok());
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
    assert!(checked(&defaults, None).is_ok());
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
    let broken = checked(&other, Some(&spec())).unwrap_err().to_string();
    assert!(broken.contains("hpaRef cannot be changed"), "{broken}");
    assert!(checked(&with("maxFloor", json!(9)), Some(&spec())).is_ok());
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

/// Returns true if the cluster admits a spec: checks the schema's patterns, lengths, ranges and choices, and the rules.
fn admitted(spec: &Value) -> bool {
    let crd = serde_json::to_value(PredictiveScaler::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    fits(schema, spec) && checked(spec, None).is_ok()
}

fn fits(rules: &Value, value: &Value) -> bool {
    if let Some(fields) = value.as_object() {
        return fields.iter().all(|(name, value)| fits(&rules["properties"][name], value));
    }
    if let Some(entries) = value.as_array() {
        let most = rules["maxItems"].as_u64().is_none_or(|most| entries.len() as u64 <= most);
        return most && entries.iter().all(|entry| fits(&rules["items"], entry));
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        let pattern = rules["pattern"].as_str();
        let choices = rules["enum"].as_array();
        return rules["minLength"].as_u64().is_none_or(|least| length >= least)
            && rules["maxLength"].as_u64().is_none_or(|most| length <= most)
            && choices.is_none_or(|choices| choices.contains(value))
            && (rules["format"] != "date" || is_date(text))
            && pattern.is_none_or(|pattern| matches(pattern, text));
    }
    let Some(number) = value.as_f64() else { return true };
    rules["minimum"].as_f64().is_none_or(|least| number >= least)
        && rules["maximum"].as_f64().is_none_or(|most| number <= most)
}

/// The format `date` of the API server: Go's layout `2006-01-02`.
fn is_date(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u32>().ok())
    };
    let (Some(year), Some(month), Some(day)) = (part(0..4), part(5..7), part(8..10)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (month as usize).checked_sub(1).and_then(|index| longest.get(index));
    text.len() == 10 && &text[4..5] == "-" && &text[7..8] == "-" && days.is_some_and(|days| (1..=*days).contains(&day))
}

/// Returns true if a text matches a pattern of the schema; there are three.
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
        "^[A-Za-z0-9_+/-]+$" => {
            let known = |letter: char| letter.is_ascii_alphanumeric() || "_+/-".contains(letter);
            !text.is_empty() && text.chars().all(known)
        }
        other => panic!("the test does not know the pattern {other}"),
    }
}

const DURATIONS: &[&str] = &[
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

#[test]
fn what_the_cluster_admits_and_what_the_operator_accepts_are_the_same() {
    let mut compared = 0;
    let mut compare = |field: &str, value: Value| {
        let spec = with(field, value.clone());
        let accepted =
            serde_json::from_value::<PredictiveScalerSpec>(spec.clone()).is_ok_and(|spec| spec.settings().is_ok());
        assert_eq!(admitted(&spec), accepted, "{field}: {value}");
        compared += 1;
    };
    for field in ["step", "season", "leadTime", "scaleDownDelay", "staleAfter"] {
        DURATIONS.iter().for_each(|value| compare(field, json!(value)));
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
    for value in
        ["UTC", "Europe/Berlin", "America/New_York", "Etc/GMT+5", "", " UTC", "UTC ", "K\u{f6}ln", "Europe.Berlin"]
    {
        compare("timeZone", json!(value));
    }
    compare("timeZone", json!("a".repeat(65)));
    for value in [
        "2026-12-25",
        "2024-02-29",
        "2026-02-29",
        "2026-02-30",
        "2026-13-01",
        "2026-00-10",
        "2026-1-01",
        "25.12.2026",
        "",
        "2026-12-25T00:00:00Z",
        "+2026-12-2",
        "0000-01-01",
        "2026-12-00",
        "2026/12/25",
    ] {
        compare("specialDays", json!([{"date": value}]));
    }
    for value in [0, 1, 31, 32] {
        compare("specialDays", json!([{"date": "2026-12-25", "days": value}]));
    }
    for value in ["Monday", "Sunday", "sunday", "Holiday", ""] {
        compare("specialDays", json!([{"date": "2026-12-25", "like": value}]));
    }
    for count in [0, 100, 101] {
        compare("specialDays", json!(vec![json!({"date": "2026-12-25"}); count]));
    }
    for value in ["10%", "7.5%", "0%", "0.0%", "999%", "1000%", "10", "%", "ten%", "1.%", "-1%", ""] {
        let mut spec = with("budget", json!(value));
        spec.as_object_mut().unwrap().remove("quantile");
        let accepted = serde_json::from_value::<PredictiveScalerSpec>(spec.clone()).unwrap().settings().is_ok();
        assert_eq!(admitted(&spec), accepted, "budget: {value}");
    }
    assert!(compared > 240, "{compared}");
    let both = with("budget", json!("10%"));
    assert!(!admitted(&both) && read(both).is_err());
}

/// The API server has no list of time zones to compare with: this name is admitted, and the condition says what is wrong.
#[test]
fn a_time_zone_that_nobody_knows_is_named_in_the_problem() {
    let spec = with("timeZone", json!("Mars/Olympus"));
    assert!(admitted(&spec));
    let problem = "spec.timeZone: `Mars/Olympus` is not a time zone such as `Europe/Berlin`";
    assert_eq!(read(spec).unwrap_err(), [problem]);
    let days = with("specialDays", json!([{"date": "2026-12-25"}, {"date": "2026-02-30", "like": "Sunday"}]));
    assert_eq!(read(days).unwrap_err(), ["spec.specialDays[1]: `2026-02-30` is not a date such as `2026-12-25`"]);
}
