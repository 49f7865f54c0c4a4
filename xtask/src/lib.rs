//! Builds this repository's container images: facts → plan → execution.

pub mod announce;
pub mod build;
pub mod cli;
pub mod commands;
pub mod documents;
pub mod flags;
pub mod leftovers;
pub mod reference;
pub mod smoke;
pub mod steps;
pub mod survey;
pub mod tidy;
