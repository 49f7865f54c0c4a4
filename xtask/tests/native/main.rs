//! The native engine, end to end: the real program on a repository made for each test, before a registry of the test's own
//! whose blobs it can lose and whose answers a proxy can spoil.
//!
//! A scenario is a test, and its name says what has to hold. Nothing here is a stand-in, but for `mmdebstrap` in `roots`.

#![allow(clippy::disallowed_methods, reason = "the program under test is run as a person's shell would run it")]

#[path = "../support/busybox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod busybox;
#[path = "../support/debian_root.rs"]
mod debian_root;
#[path = "../support/fault_proxy.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod fault_proxy;
#[path = "../support/fixture.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod fixture;
#[path = "../support/real_engine.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_engine;
#[path = "../support/real_registry.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_registry;

mod built_wheels;
mod dependencies;
mod engines;
mod faults;
mod flow;
mod hostile;
mod kills;
mod lost;
mod outputs;
mod plans;
mod podman;
mod rebasing;
mod reproduce;
mod reproducible;
mod roots;
mod several;
mod supply;
mod tags;
mod watching;
mod world;
