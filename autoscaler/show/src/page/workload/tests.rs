//! The pages of a file and of a scaler by the one template, with names that are markup.

use super::*;
use crate::page::render;
use crate::page::tests_support::ours;
use crate::state::tests::{condition, decided, history, profile};
use crate::state::{Retention, State};
use crate::tests_support::flat;
use autoscaler_floor::decide::Memory;
use autoscaler_floor::units::Replicas;

fn about() -> About {
    About { version: "1.2.3", revision: None, python: None, packages: Vec::new() }
}

fn of_file(name: &str) -> String {
    let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n900,4\n", None).unwrap();
    let page = WorkloadPage::of_file(name, &history, &flat(&history, 30, 3.0), about());
    render(&ours(), TEMPLATE, &page).unwrap()
}

/// Returns the stored workload of an operator after a few decisions.
fn remembered(change: impl FnOnce(&mut crate::state::Profile)) -> (ScalerName, StoredWorkload) {
    let state = State::in_memory(Retention::default());
    let name = ScalerName::new("shop", "web");
    let mut profile = profile("1");
    change(&mut profile);
    state.note(&name, &profile);
    let demand = history(0, &[100.0, 150.0, 200.0, 250.0, 300.0]);
    state.remember_samples(&name, "q", &demand);
    state.remember_forecast(&name, &flat(&demand, 4, 320.0));
    let mut memory: Option<Memory> = None;
    for at in 0..5 {
        let (mut decided, next) = decided(at, (at > 0).then_some(300.0), memory.as_ref());
        decided.replicas = Some(Replicas(4));
        state.remember_decision(&name, &decided, &next);
        memory = Some(next);
    }
    let stored = state.workload(&name, PAST, 100).unwrap();
    (name, stored)
}

fn of_scaler(change: impl FnOnce(&mut crate::state::Profile)) -> String {
    let (name, stored) = remembered(change);
    render(&ours(), TEMPLATE, &WorkloadPage::of_scaler(&name, &stored, about(), Vec::new())).unwrap()
}

#[track_caller]
fn shows(html: &str, parts: &[&str]) {
    let html = html.replace("&#x2f;", "/");
    for part in parts {
        assert!(html.contains(part), "{part} is not in {}", html.split("<body>").last().unwrap_or_default());
    }
    // No script, nothing from elsewhere.
    assert!(!html.contains("<script") && !html.contains("//"), "{html}");
}

#[test]
fn the_page_of_a_file_renders() {
    shows(
        &of_file("load.csv"),
        &[
            "<svg",
            "load.csv",
            "Demand, next 2h30m",
            "weekly-naive",
            "1970-01-01T02:45:00Z",
            "prefers-color-scheme: dark",
        ],
    );
}

#[test]
fn the_page_of_a_scaler_renders() {
    let html = of_scaler(|profile| profile.conditions = vec![condition("Ready", "True", "Decided")]);
    shows(
        &html,
        &[
            "<h1>shop/web</h1>",
            "Deployment/web",
            "300.0/s",
            "2 → 5",
            "<b>Forecast</b> demand of 300.0/s at 1970-01-01T00:15:00Z needs 5 pods",
            "2 more like this",
            "original 2, at most 40",
            "<circle",
            "class=\"asked\"",
            "class=\"raised\"",
            "Ready",
            "since Thu Jan 1, 00:00 UTC",
            "sum(rate(requests[1m]))",
        ],
    );
}

#[test]
fn a_scaler_without_anything_yet_has_a_page() {
    let state = State::in_memory(Retention::default());
    let name = ScalerName::new("shop", "new");
    let mut profile = profile("1");
    profile.missing = Some("needs 576 samples, has 210".to_owned());
    profile.paused = true;
    state.note(&name, &profile);
    let stored = state.workload(&name, PAST, 100).unwrap();
    let html = render(&ours(), TEMPLATE, &WorkloadPage::of_scaler(&name, &stored, about(), Vec::new())).unwrap();
    shows(&html, &["needs 576 samples, has 210", "no samples yet", "no decision yet", "Paused by its annotation"]);
}

#[test]
fn markup_in_names_and_messages_stays_text() {
    let html = of_file("<b>x</b>");
    assert!(html.contains("&lt;b&gt;x") && !html.contains("<b>x"));
    let html = of_scaler(|profile| {
        profile.query = "<i>sum</i>\"'`".to_owned();
        profile.hpa = "<i>hpa</i>".to_owned();
        profile.target = Some("</title><i>".to_owned());
        profile.missing = Some("<i>missing</i>".to_owned());
        profile.conditions = vec![condition("Conflict", "True", "<i>by</i>")];
    });
    assert!(!html.contains("<i>sum") && !html.contains("<i>hpa") && !html.contains("</title><i>"), "{html}");
    assert!(!html.contains("<i>missing") && !html.contains("<i>by"), "{html}");
    shows(&html, &["&lt;i&gt;sum&lt;/i&gt;", "&lt;i&gt;missing", "&lt;i&gt;by&lt;/i&gt;: it is"]);
}

#[test]
fn decisions_that_failed_are_said_to_be_so() {
    let (name, mut stored) = remembered(|_| {});
    stored.decisions[0].failed = Some("the API server answers 409".to_owned());
    stored.decisions[0].changed = Some((Replicas(5), Replicas(6)));
    let page = WorkloadPage::of_scaler(&name, &stored, about(), Vec::new());
    assert_eq!(page.decisions[0].failed.as_deref(), Some("the API server answers 409"));
    // What was not written does not change the chart.
    assert_eq!(page.pods.as_ref().unwrap().wide.changes.len(), 1);
    shows(&render(&ours(), TEMPLATE, &page).unwrap(), &["<b>NotWritten</b> the API server answers 409"]);
}

#[test]
fn amounts_are_short() {
    for (value, unit, shown) in [
        (70.0, Unit::PerSecond, "70.0/s"),
        (3.2e9, Unit::Bytes, "2.98 Gi"),
        (512.0, Unit::Bytes, "512.0 bytes"),
        (1e60, Unit::Bytes, "1.0e60"),
        (2.5e13, Unit::Count, "2.5e13"),
        (-1.0, Unit::Count, "?"),
    ] {
        assert_eq!(amount(value, unit), shown);
    }
}
