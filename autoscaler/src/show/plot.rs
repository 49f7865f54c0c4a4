//! The geometry of a simulation's chart: pods that were needed, that were ready, and where they were missing.
//!
//! Pure numbers; colours, fonts and words are the template's.

use serde::Serialize;

use crate::show::chart::{Axis, BOTTOM, Frame, LEFT, Mark, RIGHT, TOP, clock, push, round, time_marks};
use crate::floor::simulate::Step;
use crate::forecast::span::Span;

/// A chart, ready for a template.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
    /// Where the plot is.
    pub left: f64,
    /// Where the plot ends.
    pub right: f64,
    /// The upper edge of the plot.
    pub top: f64,
    /// The lower edge of the plot.
    pub bottom: f64,
    /// The area of the pods that were needed; broken where nothing is known.
    pub needed: String,
    /// The path of the ready pods of the autoscaler alone.
    pub alone: String,
    /// The path of the ready pods with the floor.
    pub with_floor: String,
    /// The path of the floor.
    pub floor: String,
    /// Where the autoscaler alone was short of pods: begin and width.
    pub short_alone: Vec<(f64, f64)>,
    /// Where it was with the floor.
    pub short_with_floor: Vec<(f64, f64)>,
    /// Marks on the time axis.
    pub times: Vec<Mark>,
    /// Marks on the value axis.
    pub values: Vec<Mark>,
}

impl Plot {
    /// Draws steps; none when there are none.
    pub fn new(steps: &[Step], step: Span, frame: Frame) -> Option<Plot> {
        let (right, bottom) = (frame.width - RIGHT, frame.height - BOTTOM);
        let x = |index: f64| LEFT + index / steps.len() as f64 * (right - LEFT);
        let pods = |step: &Step| [step.alone.0, step.with_floor.0, step.floor.0].into_iter().max().unwrap_or(0);
        let most = steps.iter().map(|step| step.needed.unwrap_or(0.0).max(pods(step).into())).fold(1.0, f64::max);
        let axis = Axis::new(0.0, most);
        let y = |value: f64| bottom - (value - axis.low) / (axis.high - axis.low) * (bottom - TOP);

        let stairs = |of: fn(&Step) -> u32| {
            let mut path = String::new();
            let mut before = None;
            for (index, step) in steps.iter().enumerate() {
                let value = of(step);
                // A level that stays needs no corner.
                if before != Some(value) {
                    if let Some(before) = before {
                        push(&mut path, 'L', x(index as f64), y(f64::from(before)));
                    }
                    push(&mut path, if before.is_none() { 'M' } else { 'L' }, x(index as f64), y(f64::from(value)));
                }
                before = Some(value);
            }
            push(&mut path, 'L', right, y(f64::from(before.unwrap_or(0))));
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
            push(&mut needed, 'M', x(*first as f64), bottom);
            for (index, step) in known {
                let level = y(step.needed.unwrap_or(0.0));
                push(&mut needed, 'L', x(*index as f64), level);
                push(&mut needed, 'L', x(*index as f64 + 1.0), level);
            }
            push(&mut needed, 'L', x(*last as f64 + 1.0), bottom);
            needed.push('Z');
        }
        // Narrower than a pixel it would not be seen.
        let least = 1.5;
        let short = |of: fn(&Step) -> u64| {
            let mut found: Vec<(f64, f64)> = Vec::new();
            let mut until = None;
            for (index, _) in steps.iter().enumerate().filter(|(_, step)| of(step) > 0) {
                let (begin, end) = (x(index as f64), x(index as f64 + 1.0));
                match found.last_mut().filter(|_| until == Some(index)) {
                    Some((from, width)) => *width = round((end - *from).max(least)),
                    None => found.push((round(begin), round((end - begin).max(least)))),
                }
                until = Some(index + 1);
            }
            found
        };
        let (from, each) = (steps.first()?.time.as_second(), i64::from(step.seconds()));
        let to = from + each * steps.len() as i64;
        let times = time_marks(from, to, frame.marks)
            .into_iter()
            .map(|(second, day)| Mark {
                at: round(x((second - from) as f64 / each as f64)),
                text: clock(second, if day { "%b %-d" } else { "%H:%M" }),
                day,
            })
            // Half a label would hang over the edge.
            .filter(|mark| mark.at > LEFT + 12.0 && mark.at < right - 12.0)
            .collect();
        let values = axis.marks().map(|(value, text)| Mark { at: round(y(value)), text, day: false }).collect();
        Some(Plot {
            width: frame.width,
            height: frame.height,
            left: LEFT,
            right,
            top: TOP,
            bottom,
            needed,
            alone: stairs(|step| step.alone.0),
            with_floor: stairs(|step| step.with_floor.0),
            floor: stairs(|step| step.floor.0),
            short_alone: short(|step| step.short.0),
            short_with_floor: short(|step| step.short.1),
            times,
            values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::print::simulation::tests::simulation;

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
    fn nothing_is_no_plot() {
        assert!(Plot::new(&[], "5m".parse().unwrap(), FRAME).is_none());
    }
}
