//! The floor under a workload: how it is decided, in which units, and what it does in a simulated cluster. Pure.

pub mod choose;
pub mod compare;
pub mod decide;
pub mod hpa;
pub mod minimum;
mod pods;
mod replay;
pub mod rules;
pub mod simulate;
pub mod units;
