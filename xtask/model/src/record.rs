//! Records: reports, the ledger, its statistics, and the generated workflows.

pub mod census;
pub mod ledger;
pub mod report;
pub mod stats;
pub mod workflows;
