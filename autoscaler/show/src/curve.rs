//! The geometry of the trade-off between shortage and cost: a dot per rule.
//!
//! Pure numbers; colours, fonts and words are the template's.

use crate::chart::{Axes, Frame, round};
use autoscaler_forecast::choice::{Choice, RulePoint};
use serde::Serialize;

/// A chart with its points, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Its axes: extra pod-seconds and what is left of the shortage, in percent.
    #[serde(flatten)]
    pub axes: Axes,
    pub dots: Vec<Dot>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dot {
    pub x: f64,
    pub y: f64,
    /// Vertical position of the name.
    pub label: f64,
    /// True if the name is to the left of the dot.
    pub left: bool,
    /// Name of the rule.
    pub name: String,
    /// Share of the shortage that is left.
    pub short: String,
    /// Extra pod-seconds.
    pub cost: String,
    /// True if the floor is made of this rule.
    pub chosen: bool,
}

impl Curve {
    /// Draws points; none where there are fewer than two, or nothing was ever short.
    pub fn new(points: &[RulePoint], frame: Frame) -> Option<Curve> {
        let most = |of: fn(&RulePoint) -> f64| points.iter().map(of).fold(0.0, f64::max);
        let (cost, short) = (most(|point| point.cost), most(|point| point.short));
        if points.len() < 2 || short <= 0.0 {
            return None;
        }
        let axes = Axes::of_costs(frame, 100.0 * cost.max(0.01), 100.0 * short.max(1.0));
        let mut dots: Vec<Dot> = points
            .iter()
            .map(|point| {
                let x = round(axes.x((point.cost.max(0.0) * 100_000.0) as i64));
                let y = round(axes.y(100.0 * point.short));
                Dot {
                    x,
                    y,
                    label: y + 4.0,
                    left: x > (axes.left + axes.right) / 2.0,
                    name: point.name.clone(),
                    short: format!("{:.0}%", 100.0 * point.short),
                    cost: format!("{:+.1}%", 100.0 * point.cost),
                    chosen: point.name == Choice::CHOSEN,
                }
            })
            .collect();
        spread(&mut dots);
        Some(Curve { axes, dots })
    }
}

/// Moves names upwards that would lie over each other.
fn spread(dots: &mut [Dot]) {
    let mut order: Vec<usize> = (0..dots.len()).collect();
    order.sort_by(|a, b| dots[*b].y.total_cmp(&dots[*a].y));
    let mut placed: Vec<(f64, f64)> = Vec::new();
    for index in order {
        let dot = &mut dots[index];
        while placed.iter().any(|(x, y)| (x - dot.x).abs() < 150.0 && (y - dot.label).abs() < 14.0) {
            dot.label -= 14.0;
        }
        placed.push((dot.x, dot.label));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, short: f64, cost: f64) -> RulePoint {
        RulePoint { name: name.to_owned(), short, cost }
    }

    #[test]
    fn costs_go_right_and_shortage_goes_up() {
        let points = [point("HPA alone", 1.0, 0.0), point("chosen", 0.0, 0.02), point("day ago", 0.0, 0.025)];
        let frame = Frame { width: 456.0, height: 240.0, past: 0, marks: 4 };
        let curve = Curve::new(&points, frame).unwrap();
        let [alone, chosen, day_ago] = curve.dots.as_slice() else { panic!("{:?}", curve.dots) };
        assert!(alone.x < chosen.x && chosen.x < day_ago.x && alone.y < chosen.y, "{curve:?}");
        assert_eq!((chosen.chosen, chosen.short.as_str(), chosen.cost.as_str()), (true, "0%", "+2.0%"));
        assert!((chosen.label - day_ago.label).abs() >= 12.0, "{curve:?}");
        assert!(Curve::new(&points[..1], frame).is_none());
    }
}
