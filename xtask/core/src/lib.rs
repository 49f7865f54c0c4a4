//! Facts and plans: what is read, from files, git, a registry or an engine, and what is decided from it. Builds nothing.
//!
//! A crate of its own for the cold machine: it is compiled while the libraries for layers still are.

pub mod bases;
pub mod binary;
pub mod change;
pub mod committed;
pub mod context;
pub mod debian;
pub mod docker;
pub mod dockerfile;
pub mod engine;
pub mod event;
pub mod facts;
pub mod fault;
pub mod flags;
pub mod git;
pub mod ignore;
pub mod key;
pub mod layout;
pub mod ledger;
pub mod lock;
pub mod oci;
pub mod plan;
pub mod policy;
pub mod process;
pub mod publish;
pub mod reference;
pub mod registry;
pub mod report;
pub mod requirements;
pub mod scratch;
pub mod secrets;
pub mod stats;
pub mod tags;
pub mod tidy;
pub mod time;
pub mod toolchain;
pub mod ui;
pub mod workflows;
