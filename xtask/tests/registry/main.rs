//! Registries: what is asked of them, and what becomes of their answers. Real ones, and a proxy that breaks them.

#![allow(clippy::disallowed_methods, reason = "programs are run as a person's shell would run them")]

#[path = "../support/fault_proxy.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod fault_proxy;
#[path = "../support/history.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod history;
#[path = "../support/real_registry.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod real_registry;

mod bases;
mod faults;
mod plans;
mod real;
mod tls;
