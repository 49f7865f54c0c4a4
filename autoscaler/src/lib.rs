//! A predictive autoscaler: the parts that its binary and its tests are made of.
//!
//! - `forecast` reads histories and forecasts them, in Rust or by a Python worker that it keeps alive.
//! - `floor` decides the floor of a workload, and simulates a cluster that follows it. Pure.
//! - `cluster` is the operator: it reads resources and Prometheus, asks `floor`, and writes through `cluster::act` alone.
//! - `show` has pages, charts, tables, metrics and probes, and the stored state behind them.
//! - `cli` is the command line, `failure` an expected failure with its exit code.

pub mod cli;
pub mod cluster;
pub mod failure;
pub mod floor;
pub mod forecast;
pub mod show;
