//! Numbers with units: demand, capacity of one pod, replicas, seconds.
//!
//! Types, so that a percentage never meets cores and a demand never meets a number of pods. The one way from demand to
//! replicas is `Capacity::replicas_for`, which refuses another unit. Pure.

use autoscaler_forecast::span::Span;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Unit of a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Plain numbers: sessions, jobs in a queue.
    Count,
    /// Processor cores.
    Cores,
    /// Bytes of memory.
    Bytes,
    /// Events per second.
    PerSecond,
    /// Shares of something else: never a total, and so never a capacity.
    Percent,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Count => "plain numbers",
            Unit::Cores => "cores",
            Unit::Bytes => "bytes",
            Unit::PerSecond => "events per second",
            Unit::Percent => "percent",
        })
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Unit, String> {
        let (_, unit) = suffix(text).ok_or_else(|| format!("`{text}` is not a unit: {SUFFIXES}"))?;
        Ok(unit)
    }
}

const SUFFIXES: &str = "none, `m` or `cores`, `Ki`, `Mi`, `Gi` or `B`, `/s`, `k/s`, `%`";

/// Returns the factor and the unit of a suffix.
fn suffix(text: &str) -> Option<(f64, Unit)> {
    Some(match text {
        "" | "count" => (1.0, Unit::Count),
        "cores" | "core" => (1.0, Unit::Cores),
        // As Kubernetes writes a thousandth of a core.
        "m" => (1e-3, Unit::Cores),
        "B" => (1.0, Unit::Bytes),
        "Ki" => (1024.0, Unit::Bytes),
        "Mi" => (1_048_576.0, Unit::Bytes),
        "Gi" => (1_073_741_824.0, Unit::Bytes),
        "/s" => (1.0, Unit::PerSecond),
        "k/s" => (1e3, Unit::PerSecond),
        "%" => (1.0, Unit::Percent),
        _ => return None,
    })
}

/// The total demand on a workload: finite, not below zero. Of all its pods together, never a mean per pod: that one is
/// what an autoscaler keeps level, so its past says nothing about its future.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Demand {
    value: f64,
    unit: Unit,
}

impl Demand {
    /// A demand; none where the number is missing (NaN), endless or below zero. A missing one is never zero.
    pub fn new(value: f64, unit: Unit) -> Option<Demand> {
        (value.is_finite() && value >= 0.0).then_some(Demand { value, unit })
    }

    /// Returns the number without its unit.
    pub fn value(self) -> f64 {
        self.value
    }

    pub fn unit(self) -> Unit {
        self.unit
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = decimals(self.value);
        let unit = match self.unit {
            Unit::Count => "",
            Unit::Cores => " cores",
            Unit::Bytes => " bytes",
            Unit::PerSecond => "/s",
            Unit::Percent => "%",
        };
        write!(f, "{:.places$}{unit}", self.value)
    }
}

/// The demand that one pod serves: more than zero, and not a percentage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Capacity(Demand);

impl Capacity {
    /// The capacity of a pod that serves `demand`; none where that is nothing, or a share.
    pub fn new(demand: Demand) -> Option<Capacity> {
        (demand.value > 0.0 && demand.unit != Unit::Percent).then_some(Capacity(demand))
    }

    /// Returns the demand that one pod serves.
    pub fn of_one(self) -> Demand {
        self.0
    }

    pub fn unit(self) -> Unit {
        self.0.unit
    }

    /// This capacity, `share` times as large; itself where that would be none.
    pub fn scaled(self, share: f64) -> Capacity {
        let value = self.0.value * share;
        if value.is_finite() && value > 0.0 { Capacity(Demand { value, ..self.0 }) } else { self }
    }

    /// The fewest replicas that serve a demand; none for a demand of another unit.
    pub fn replicas_for(self, demand: Demand) -> Option<Replicas> {
        if demand.unit != self.0.unit {
            return None;
        }
        let pods = demand.value / self.0.value;
        // 0.3 / 0.1 is 2.9999999999999996 and 0.6 / 0.2 is 2.9999999999999996, but 1.1 / 0.1 is 11.000000000000002.
        let whole = (pods * (1.0 - 1e-9)).ceil();
        // Beyond what a u32 holds, `as` gives its largest.
        Some(Replicas(whole as u32))
    }
}

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Capacity, String> {
        let wrong = || format!("`{text}` is not an amount such as `120/s`, `500m` or `40`");
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number = Some(&text[..end]).filter(|number| plain_number(number)).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (each, unit) = suffix(text[end..].trim_start()).ok_or_else(wrong)?;
        if unit == Unit::Percent {
            return Err(format!(
                "`{text}` is a share, and demand is not counted in shares: name what one pod serves in the query's own unit"
            ));
        }
        Demand::new(number * each, unit).and_then(Capacity::new).ok_or_else(wrong)
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns true if a text is digits, with at most one point between two of them.
pub fn plain_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(text),
    }
}

/// A number of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replicas(pub u32);

impl Replicas {
    /// The sum, at most what a u32 holds.
    pub fn plus(self, more: Replicas) -> Replicas {
        Replicas(self.0.saturating_add(more.0))
    }

    /// Returns the difference, at least zero.
    pub fn less(self, fewer: Replicas) -> Replicas {
        Replicas(self.0.saturating_sub(fewer.0))
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Replicas, String> {
        text.parse().map(Replicas).map_err(|_| format!("`{text}` is not a number of pods"))
    }
}

/// A length of time in whole seconds, which may be none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl Seconds {
    /// The sum, at most what a u64 holds.
    pub fn plus(self, more: Seconds) -> Seconds {
        Seconds(self.0.saturating_add(more.0))
    }
}

impl From<Span> for Seconds {
    fn from(span: Span) -> Seconds {
        Seconds(span.seconds().into())
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        if text == "0" || text == "0s" { Ok(Seconds(0)) } else { text.parse().map(|span: Span| span.into()) }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0).ok().and_then(Span::from_seconds) {
            Some(span) => span.fmt(f),
            None => write!(f, "{}s", self.0),
        }
    }
}

/// Enough decimals for about three digits of numbers up to `largest`.
pub fn decimals(largest: f64) -> usize {
    if largest >= 1000.0 {
        0
    } else if largest >= 10.0 || largest <= 0.0 {
        1
    } else if largest >= 1.0 {
        2
    } else {
        // Numbers like 0.00012; beyond nine decimals nobody reads on.
        (2.0 - largest.log10().floor()).clamp(3.0, 9.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn pods(capacity: &str, demand: f64, expected: u32) {
        let capacity: Capacity = capacity.parse().unwrap();
        let demand = Demand::new(demand, capacity.unit()).unwrap();
        assert_eq!(capacity.replicas_for(demand), Some(Replicas(expected)));
    }

    #[test]
    fn a_part_of_a_pod_is_a_pod() {
        pods("100/s", 0.0, 0);
        pods("100/s", 0.1, 1);
        pods("100/s", 100.0, 1);
        pods("100/s", 100.1, 2);
        pods("500m", 2.2, 5);
        pods("2 Gi", 3e9, 2);
    }

    #[test]
    fn rounding_of_floats_adds_no_pod() {
        pods("0.1", 1.1, 11);
        pods("0.1", 0.3, 3);
        pods("0.7", 4.9, 7);
    }

    #[test]
    fn a_demand_beyond_all_pods_is_the_most_pods() {
        pods("0.001", 1e99, u32::MAX);
    }

    #[test]
    fn percent_compared_with_cores_is_refused() {
        let refused = "70%".parse::<Capacity>().unwrap_err();
        assert!(refused.starts_with("`70%` is a share, and demand is not counted in shares"), "{refused}");
        let half_a_core: Capacity = "500m".parse().unwrap();
        let utilisation = Demand::new(70.0, Unit::Percent).unwrap();
        // Taken as numbers this would be 140 pods.
        assert_eq!(half_a_core.replicas_for(utilisation), None);
    }

    #[test]
    fn missing_is_not_a_demand() {
        for value in [f64::NAN, f64::INFINITY, -0.1] {
            assert_eq!(Demand::new(value, Unit::Count), None, "{value}");
        }
    }

    #[test]
    fn an_invalid_capacity_is_refused() {
        for text in ["", "0", "-5", "0/s", "5 parsecs", "many", "NaN", "1.2.3", "/s"] {
            let refused = text.parse::<Capacity>().unwrap_err();
            assert!(refused.contains("is not an amount such as"), "{refused}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_are_read() {
        let shown = |text: &str| text.parse::<Capacity>().unwrap().to_string();
        assert_eq!(shown("120/s"), "120.0/s");
        assert_eq!(shown("500m"), "0.500 cores");
        assert_eq!(Seconds(90).to_string(), "1m30s");
        assert_eq!("0".parse(), Ok(Seconds(0)));
        assert_eq!(Seconds(0).to_string(), "0s");
    }

    #[track_caller]
    fn check_decimals(largest: f64, expected: usize) {
        assert_eq!(decimals(largest), expected, "{largest}");
    }

    #[test]
    fn decimals_follow_the_size() {
        check_decimals(0.0, 1);
        check_decimals(12_345.6, 0);
        check_decimals(432.1, 1);
        check_decimals(3.2, 2);
        check_decimals(0.5, 3);
        check_decimals(0.000_12, 6);
        check_decimals(1e-20, 9);
    }
}
