//! Tests that need much of a machine: root rights, namespaces, an engine, minutes. Layers, roots, containers and whole images are compared
//! with other programs that make or read the same.

#![allow(clippy::disallowed_methods, reason = "programs are run as a person's shell would run them")]

#[path = "../support/busybox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod busybox;
#[path = "../support/debian_root.rs"]
mod debian_root;
#[path = "../support/example.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod example;
#[path = "../support/python_root.rs"]
mod python_root;
#[path = "../support/real_engine.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_engine;
#[path = "../support/real_registry.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_registry;
#[path = "../support/sources.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod sources;

mod adoption;
mod container;
mod engine;
mod layers;
mod native_packages;
mod oracle;
mod ordinary;
mod root;
