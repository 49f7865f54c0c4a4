//! Registries: what is asked of them, and what becomes of their answers. Real ones, and a proxy that breaks them.

#![allow(clippy::disallowed_methods, reason = "programs are run as a person's shell would run them")]

#[path = "../support/fault_proxy.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod fault_proxy;
#[path = "../support/history.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod history;
#[path = "../support/real_registry.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_registry;

mod bases;
mod faults;
mod plans;
mod real;
mod tls;
