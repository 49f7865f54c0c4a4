//! Prints plans and reports for people, on stderr.

use std::time::Duration;
use xtask_host::terminal;
use xtask_model::image::plan::{Decision, ImagePlan, Place};
use xtask_model::image::policy::{ImageKind, Policy};
use xtask_model::quantity;
use xtask_model::record::report::{ImageReport, Report};

/// Limit of reasons on the terminal.
const REASONS: usize = 20;

/// Phases that took less, in seconds, are left out: they would be shown as 0.00 s.
const SHORTEST: f64 = 0.005;

/// The plan as a person reads it, on stderr: what happens to an image, and why.
pub fn announce(plan: &ImagePlan, policy: &Policy) {
    let (image, reference) = (policy.shown(plan.kind), plan.shown());
    // Where the line has no room for the registry and its folders, the name and the tag say which image it is. Lines of the end have the
    // whole reference.
    let name = reference.rsplit('/').next().unwrap_or_default();
    let step = |verb, what: &dyn Fn(&str) -> String| terminal::step_or(verb, &what(&reference), &what(name));
    match &plan.decision {
        Decision::Reuse { place, .. } => {
            let place = match place {
                Place::Registry => "in the registry",
                Place::Local => "on this machine",
            };
            step("reusing", &|reference| format!("{image} `{reference}`: it is {place}"));
        }
        Decision::Build { platforms, reasons } => {
            let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            let platforms = platforms.join(", ");
            step("planned", &|reference| format!("{image} `{reference}` for {platforms}"));
            for reason in reasons.iter().take(REASONS) {
                terminal::step("because", reason);
            }
            if reasons.len() > REASONS {
                let more = reasons.len() - REASONS;
                terminal::step("because", &format!("{more} more changes: `cargo xtask explain` lists them"));
            }
        }
    }
    plan.notes.iter().for_each(|note| terminal::step("note", note));
}

/// Says that a reference names an image of this machine, whatever registry is in its name.
pub fn local(image: &ImageReport) {
    // A base may be used where it is.
    if image.kind == ImageKind::Base && image.action != "built" {
        return;
    }
    let tag = image.reference.repository.tag(&image.tags[0]);
    terminal::step("local", &format!("`{tag}` is on this machine only: `--push` publishes it"));
}

/// The end of a command on stderr: a line for each image.
pub fn conclude(report: &Report) {
    for image in &report.images {
        let mut line = format!("{} {}", image.shown(), image.action);
        if let Some(size) = image.size {
            line += &format!(", {}", quantity::bytes(size));
        }
        if let Some([all, cached]) = image.steps {
            line += &format!(", {cached} of {all} steps from the cache");
        }
        if let Some(dependencies) = &image.dependencies {
            line += &format!(", dependencies {} ({})", dependencies.action, dependencies.size());
        }
        let phases: Vec<String> = image
            .seconds
            .iter()
            .filter(|(_, seconds)| *seconds >= SHORTEST)
            .map(|(phase, seconds)| format!("{phase} {}", quantity::seconds(Duration::from_secs_f64(*seconds))))
            .collect();
        if !phases.is_empty() {
            line += &format!(" ({})", phases.join(", "));
        }
        terminal::step("image", &line);
        let tags: Vec<String> = image.tags.iter().map(ToString::to_string).collect();
        terminal::step("tags", &tags.join(", "));
        if let Some(why) = &image.latest_stays {
            terminal::step("latest", &format!("stays: {why}"));
        }
    }
    let built = report.images.iter().filter(|image| image.action == "built").count();
    let what = if built == 0 { "nothing to build" } else { "done" };
    terminal::step("finished", &format!("{what} in {}", quantity::seconds(Duration::from_secs_f64(report.seconds))));
}
