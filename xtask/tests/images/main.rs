//! Building images, end to end: the real program, a real engine, a real registry, a repository made for each test.
//!
//! A scenario is a test, and its name says what has to hold. Nothing here is a stand-in; what breaks is broken for real, or by
//! a proxy before the real registry.

#![allow(clippy::disallowed_methods, reason = "the program under test is run as a person's shell would run it")]

#[path = "../support/busybox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod busybox;
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

mod agreement;
mod inputs;
mod interruption;
mod jobs;
mod latest;
mod local;
mod old_faults;
mod publishing;
mod rebuilding;
mod running;
mod secrets;
mod several;
mod steps;
mod trouble;
mod usage;
