//! The floor under a workload: how it is decided, in which units, and what it does in a simulated cluster. Pure.

pub mod decide;
pub mod hpa;
pub mod minimum;
pub mod simulate;
pub mod units;
