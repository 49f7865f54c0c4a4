//! The operator against an API server and a Prometheus on loopback. Each scenario is a test's name.

mod cluster;
mod faults;
mod floors;
mod harness;
mod lead;
mod ownership;
mod pages;
mod prometheus;
mod story;
#[path = "../binary/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the other commands")]
mod support;
mod thousand;
