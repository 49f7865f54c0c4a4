//! Builds this repository's container images: facts → plan → execution.

pub mod announce;
pub mod cli;
pub mod commands;
pub mod documents;
pub mod flags;
pub mod leftovers;
pub mod pipeline;
pub mod plugins;
pub mod reference;
pub mod smoke;
pub mod steps;
mod store;
pub mod tidy;

pub use cli::{main, main_with};
