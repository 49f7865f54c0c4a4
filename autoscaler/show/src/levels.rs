//! The geometry of the chart of pods: what ran, the floor, and the owner's minimum, by the decisions about them.
//!
//! Pure numbers; colours, fonts and words are the template's.

use crate::chart::{Axes, Frame, push, round};
use crate::state::Decided;
use autoscaler_forecast::span::Span;
use serde::Serialize;

/// After this number of steps without a decision the line breaks: nobody looked.
const BREAK: i64 = 3;

/// A chart, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Levels {
    #[serde(flatten)]
    pub axes: Axes,
    /// The path of the pods that ran.
    pub replicas: String,
    pub floor: String,
    /// The path of the owner's minimum.
    pub original: String,
    /// Position of the newest decision.
    pub now: f64,
    /// Changes of the minimum: position, height, label.
    pub changes: Vec<(f64, f64, String)>,
}

impl Levels {
    /// Draws decisions, the newest first, over the time from `from` to `to`; none where none is in it.
    pub fn new(decisions: &[Decided], step: Span, from: i64, to: i64, frame: Frame) -> Option<Levels> {
        let mut shown: Vec<&Decided> =
            decisions.iter().filter(|decided| (from..=to).contains(&decided.at.as_second())).collect();
        // A clock that went back has left them out of order.
        shown.sort_by_key(|decided| decided.at);
        let newest = shown.last()?.at.as_second();
        let most = shown.iter().map(|decided| decided.floor.max(decided.replicas.unwrap_or_default())).max()?;
        let axes = Axes::new(frame, (from, to), (0.0, f64::from(most.0).max(4.0)));
        let (x, y) = (|second| axes.x(second), |pods: u32| axes.y(f64::from(pods)));

        let longest = i64::from(step.seconds()) * BREAK;
        let stairs = |of: &dyn Fn(&Decided) -> Option<u32>| {
            let mut path = String::new();
            let mut before: Option<(i64, u32)> = None;
            for decided in &shown {
                let at = decided.at.as_second();
                let Some(level) = of(decided) else {
                    before = None;
                    continue;
                };
                match before {
                    Some((then, held)) if at - then <= longest => {
                        // A level that stays needs no corner.
                        if held != level || at == newest {
                            push(&mut path, 'L', x(at), y(held));
                        }
                        if held != level {
                            push(&mut path, 'L', x(at), y(level));
                        }
                    }
                    Some((then, held)) => {
                        push(&mut path, 'L', x(then), y(held));
                        push(&mut path, 'M', x(at), y(level));
                    }
                    None => push(&mut path, 'M', x(at), y(level)),
                }
                before = Some((at, level));
            }
            path
        };
        let changes = shown.iter().filter_map(|decided| {
            let (from, to) = decided.changed.filter(|_| decided.failed.is_none())?;
            let at = decided.at.strftime("%b %-d, %H:%M");
            Some((round(x(decided.at.as_second())), round(y(to.0)), format!("{from} to {to} at {at}")))
        });
        let changes = changes.collect();
        let replicas = stairs(&|decided| decided.replicas.map(|pods| pods.0));
        let floor = stairs(&|decided| Some(decided.floor.0));
        let original = stairs(&|decided| Some(decided.original.0));
        let now = round(x(newest));
        Some(Levels { axes, replicas, floor, original, now, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscaler_floor::decide::Mode;
    use autoscaler_floor::units::Replicas;
    use jiff::Timestamp;

    const FRAME: Frame = Frame { width: 456.0, height: 240.0, past: 0, marks: 4 };

    fn decided(at: i64, floor: u32, replicas: Option<u32>) -> Decided {
        Decided {
            at: Timestamp::from_second(at).unwrap(),
            mode: Mode::Enforce,
            original: Replicas(2),
            floor: Replicas(floor),
            recommended: None,
            replicas: replicas.map(Replicas),
            demand: None,
            peak: None,
            changed: (floor > 2).then_some((Replicas(2), Replicas(floor))),
            failed: None,
            reasons: Vec::new(),
        }
    }

    #[track_caller]
    fn check(decisions: &[Decided], floor: &str, replicas: &str) {
        let levels = Levels::new(decisions, "5m".parse().unwrap(), 0, 1_200, FRAME).unwrap();
        assert_eq!((levels.floor.as_str(), levels.replicas.as_str()), (floor, replicas));
    }

    #[test]
    fn levels_are_stairs_in_order_of_time() {
        // The newest first, as they are kept.
        let decisions =
            [decided(900, 2, Some(4)), decided(600, 2, Some(4)), decided(300, 4, Some(4)), decided(0, 2, Some(2))];
        check(&decisions, "M46 114L146 114L146 14L246 14L246 114L346 114", "M46 114L146 114L146 14L346 14");
        let levels = Levels::new(&decisions, "5m".parse().unwrap(), 0, 1_200, FRAME).unwrap();
        assert_eq!(levels.changes, [(146.0, 14.0, "2 to 4 at Jan 1, 00:05".to_owned())]);
        assert_eq!(levels.now, 346.0);
    }

    #[test]
    fn where_nobody_looked_the_line_breaks() {
        let decisions = [decided(1_200, 2, None), decided(0, 2, Some(4))];
        check(&decisions, "M46 114L46 114M446 114", "M46 14");
    }

    #[test]
    fn no_decision_gives_no_chart() {
        assert!(Levels::new(&[decided(5_000, 2, None)], "5m".parse().unwrap(), 0, 1_200, FRAME).is_none());
    }
}
