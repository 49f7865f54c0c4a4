//! A predictive autoscaler: the parts that its binary and its tests are made of.
//!
//! `history`, `forecast`, `backtest`, `protocol`, `chart`, `levels`, `plot`, `print` and `span` are pure, and so is all that decides:
//! `decide`, `minimum`, `naive`, `units`, and `simulate` with its `hpa` and made-up `load`. `worker` runs one Python process,
//! `supervisor` keeps one alive. `crd` is the resource of the cluster, `prometheus` and `demand` know its workloads' demand,
//! `controller` decides for them, `act` alone writes, `lease` says who may, and `operator` runs it all. `state` remembers what can be
//! lost; `server`, `page`, `metrics` and `readiness` show what comes out; `doctor` says what is missing; `cli` puts it all
//! together.

pub mod act;
pub mod backtest;
pub mod chart;
pub mod cli;
pub mod controller;
pub mod crd;
pub mod decide;
pub mod demand;
pub mod doctor;
pub mod failure;
pub mod forecast;
pub mod healthcheck;
pub mod history;
pub mod home;
pub mod hpa;
pub mod lease;
pub mod levels;
pub mod load;
pub mod metrics;
pub mod minimum;
pub mod naive;
pub mod operator;
pub mod page;
pub mod plot;
pub mod print;
pub mod prometheus;
pub mod protocol;
pub mod readiness;
pub mod server;
pub mod simulate;
pub mod source;
pub mod span;
pub mod state;
pub mod supervisor;
pub mod tls;
pub mod units;
pub mod worker;
