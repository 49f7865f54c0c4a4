//! What people and monitoring see: pages, charts, tables, metrics, probes, and the stored state behind them.

pub mod chart;
pub mod curve;
pub mod healthcheck;
pub mod levels;
pub mod metrics;
pub mod page;
pub mod plot;
pub mod print;
pub mod readiness;
pub mod server;
pub mod state;
