//! A predictive autoscaler: the parts that its binary and its tests are made of.
//!
//! Each part is a crate, so that an edit compiles one of them and those above it, and what computes is optimised and the rest is not:
//!
//! - `forecast` reads histories and forecasts them, in Rust or by a Python worker that it keeps alive.
//! - `floor` decides the floor of a workload, and simulates a cluster that follows it; it is pure.
//! - `show` has pages, charts, tables, metrics and probes, and the stored state behind them.
//! - `cluster` is the operator: it reads resources and Prometheus, asks `floor`, and writes through `cluster::act` alone.
//! - `cli` is the command line.

pub use autoscaler_cli as cli;
pub use autoscaler_cluster as cluster;
pub use autoscaler_floor as floor;
pub use autoscaler_forecast as forecast;
pub use autoscaler_show as show;
