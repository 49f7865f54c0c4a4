//! Input of the simulation's template.

use crate::chart::Frame;
use crate::curve::Curve;
use crate::plot::Plot;
use crate::print::simulation::{Simulation, grouped};
use serde::Serialize;

pub const TEMPLATE: &str = "simulation.html";

/// A simulation, ready for a template. The page is one file without a server.
#[derive(Debug, Serialize)]
pub struct SimulationPage {
    pub version: &'static str,
    /// Description of the trace.
    pub trace: String,
    /// Start of the simulated time.
    pub from: String,
    /// End of the simulated time.
    pub to: String,
    /// The result in one sentence.
    pub sentence: String,
    /// Costs alone and with the floor, a row each.
    pub costs: Vec<[String; 3]>,
    /// Labels and values of the summary.
    pub summary: Vec<(&'static str, String)>,
    /// Name of the worst day.
    pub worst: String,
    /// The worst day, for wide screens.
    pub day_wide: Option<Plot>,
    /// Plot of the worst day, for phones.
    pub day_narrow: Option<Plot>,
    /// All of it, for wide screens.
    pub all_wide: Option<Plot>,
    /// Plot of the whole period, for phones.
    pub all_narrow: Option<Plot>,
    /// The rules over the same trace: name, seconds short, pod-seconds short, extra pod-seconds.
    pub rules: Vec<[String; 4]>,
    /// Shortage against cost, for wide screens.
    pub curve_wide: Option<Curve>,
    /// Shortage against cost, for phones.
    pub curve_narrow: Option<Curve>,
    /// Rows by day.
    pub days: Vec<Day>,
}

/// Costs of one day.
#[derive(Debug, Serialize)]
pub struct Day {
    pub name: String,
    /// Seconds short of pods, alone.
    pub short_alone: String,
    /// Seconds short of pods, with the floor.
    pub short_with_floor: String,
    /// Pod-hours, alone.
    pub pods_alone: String,
    /// Pod-hours, with the floor.
    pub pods_with_floor: String,
}

impl SimulationPage {
    /// Returns the page of a simulation.
    pub fn new(simulation: &Simulation) -> SimulationPage {
        let step = simulation.policy.step;
        let worst = simulation.worst_day();
        let plot = |steps, width, height, marks| Plot::new(steps, step, Frame { width, height, past: 0, marks });
        let points = simulation.points();
        let curve = |width, height| Curve::new(&points, Frame { width, height, past: 0, marks: 0 });
        let all = &simulation.outcome.steps;
        let days = simulation.days().into_iter().map(|day| {
            let sum = |of: fn(&autoscaler_floor::simulate::Step) -> u64| day.iter().map(of).sum::<u64>();
            let hours = |seconds: u64| format!("{:.1}", seconds as f64 / 3_600.0);
            Day {
                name: day.first().map(|step| step.time.strftime("%a %b %-d").to_string()).unwrap_or_default(),
                short_alone: grouped(sum(|step| step.short.0)),
                short_with_floor: grouped(sum(|step| step.short.1)),
                pods_alone: hours(sum(|step| step.pods.0)),
                pods_with_floor: hours(sum(|step| step.pods.1)),
            }
        });
        SimulationPage {
            version: env!("CARGO_PKG_VERSION"),
            trace: simulation.trace.clone(),
            from: simulation.from.strftime("%Y-%m-%d %H:%M").to_string(),
            to: simulation.to.strftime("%Y-%m-%d %H:%M").to_string(),
            sentence: simulation.sentence(),
            costs: simulation.costs(),
            summary: simulation.summary(),
            worst: worst.first().map(|step| step.time.strftime("%A, %B %-d").to_string()).unwrap_or_default(),
            day_wide: plot(worst, 1040.0, 320.0, 12),
            day_narrow: plot(worst, 358.0, 250.0, 5),
            all_wide: plot(all, 1040.0, 260.0, 8),
            all_narrow: plot(all, 358.0, 220.0, 4),
            rules: simulation.rule_rows(),
            curve_wide: curve(1040.0, 320.0),
            curve_narrow: curve(358.0, 250.0),
            days: days.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::render;
    use crate::print::simulation::tests::simulation;
    use std::path::Path;

    #[test]
    fn our_template_renders_into_one_file() {
        let mut simulation = simulation();
        simulation.trace = "`<b>.csv`".to_owned();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
        let html = render(&folder, TEMPLATE, &SimulationPage::new(&simulation)).unwrap();
        for part in
            ["<svg", "0 s short of pods instead of 90 s", "Tue Jan 6", "prefers-color-scheme: dark", "&lt;b&gt;.csv"]
        {
            assert!(html.contains(part), "{part} is not on the page");
        }
        // No script, nothing from elsewhere.
        assert!(!html.contains("<script") && !html.contains("//") && !html.contains("href=\"/"), "{html}");
    }
}
