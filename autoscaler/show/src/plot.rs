//! The geometry of a simulation's chart: pods that were needed, that were ready, and where they were missing.
//!
//! Pure numbers; colours, fonts and words are the template's.

use crate::chart::{Axes, Frame, push, round};
use autoscaler_floor::simulate::Step;
use autoscaler_forecast::span::Span;
use serde::Serialize;

/// A chart, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    #[serde(flatten)]
    pub axes: Axes,
    /// The area of the pods that were needed; broken where nothing is known.
    pub needed: String,
    /// The path of the ready pods of the autoscaler alone.
    pub alone: String,
    /// The path of the ready pods with the floor.
    pub with_floor: String,
    pub floor: String,
    /// Times at which the autoscaler alone was short of pods: begin and width.
    pub short_alone: Vec<(f64, f64)>,
    /// Times at which it was short of pods with the floor.
    pub short_with_floor: Vec<(f64, f64)>,
}

impl Plot {
    /// Draws steps; none when there are none.
    pub fn new(steps: &[Step], step: Span, frame: Frame) -> Option<Plot> {
        let pods = |step: &Step| [step.alone.0, step.with_floor.0, step.floor.0].into_iter().max().unwrap_or(0);
        let most = steps.iter().map(|step| step.needed.unwrap_or(0.0).max(pods(step).into())).fold(1.0, f64::max);
        let (from, each) = (steps.first()?.time.as_second(), i64::from(step.seconds()));
        let axes = Axes::new(frame, (from, from + each * steps.len() as i64), (0.0, most));
        let (x, y) = (|index: usize| axes.x(from + each * index as i64), |value| axes.y(value));

        let stairs = |of: fn(&Step) -> u32| {
            let mut path = String::new();
            let mut before = None;
            for (index, step) in steps.iter().enumerate() {
                let value = of(step);
                // A level that stays needs no corner.
                if before != Some(value) {
                    if let Some(before) = before {
                        push(&mut path, 'L', x(index), y(f64::from(before)));
                    }
                    push(&mut path, if before.is_none() { 'M' } else { 'L' }, x(index), y(f64::from(value)));
                }
                before = Some(value);
            }
            push(&mut path, 'L', axes.right, y(f64::from(before.unwrap_or(0))));
            path
        };
        let mut needed = String::new();
        for known in
            steps.iter().enumerate().collect::<Vec<_>>().chunk_by(|a, b| a.1.needed.is_some() == b.1.needed.is_some())
        {
            let (Some((first, _)), Some((last, _))) = (known.first(), known.last()) else { continue };
            if known[0].1.needed.is_none() {
                continue;
            }
            push(&mut needed, 'M', x(*first), axes.bottom);
            for (index, step) in known {
                let level = y(step.needed.unwrap_or(0.0));
                push(&mut needed, 'L', x(*index), level);
                push(&mut needed, 'L', x(*index + 1), level);
            }
            push(&mut needed, 'L', x(*last + 1), axes.bottom);
            needed.push('Z');
        }
        // Narrower than a pixel it would not be seen.
        let least = 1.5;
        let short = |of: fn(&Step) -> u64| {
            let mut found: Vec<(f64, f64)> = Vec::new();
            let mut until = None;
            for (index, _) in steps.iter().enumerate().filter(|(_, step)| of(step) > 0) {
                let (begin, end) = (x(index), x(index + 1));
                match found.last_mut().filter(|_| until == Some(index)) {
                    Some((from, width)) => *width = round((end - *from).max(least)),
                    None => found.push((round(begin), round((end - begin).max(least)))),
                }
                until = Some(index + 1);
            }
            found
        };
        let (alone, with_floor) = (stairs(|step| step.alone.0), stairs(|step| step.with_floor.0));
        let floor = stairs(|step| step.floor.0);
        let (short_alone, short_with_floor) = (short(|step| step.short.0), short(|step| step.short.1));
        Some(Plot { axes, needed, alone, with_floor, floor, short_alone, short_with_floor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::simulation::tests::simulation;

    const FRAME: Frame = Frame { width: 456.0, height: 240.0, past: 0, marks: 4 };

    #[test]
    fn pods_are_stairs_and_gaps_are_gaps() {
        let simulation = simulation();
        let plot = Plot::new(&simulation.outcome.steps, simulation.policy.step, FRAME).unwrap();
        // Down to one pod for a step, and up again.
        assert_eq!(plot.alone, "M46 14L346 14L346 164L396 164L396 14L446 14");
        assert_eq!(plot.with_floor.matches('L').count(), 1);
        // One sample is missing: two areas.
        assert_eq!((plot.needed.matches('M').count(), plot.needed.matches('Z').count()), (2, 2));
        assert_eq!((plot.short_alone, plot.short_with_floor), (vec![(346.0, 50.0)], Vec::new()));
    }

    #[test]
    fn nothing_gives_no_plot() {
        assert!(Plot::new(&[], "5m".parse().unwrap(), FRAME).is_none());
    }
}
