//! Commands on a repository that is made for each test: what they read, what they write, what they refuse.

#![allow(clippy::disallowed_methods, reason = "programs are run as a person's shell would run them")]

#[path = "../support/busybox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod busybox;
#[path = "../support/debian_root.rs"]
mod debian_root;
#[path = "../support/example.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod example;
#[path = "../support/expression.rs"]
mod expression;
#[path = "../support/history.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod history;
#[path = "../support/real_engine.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_engine;
#[path = "../support/runner.rs"]
mod runner;

mod edits;
mod init;
mod inputs;
mod lock;
mod plan;
mod scripts;
mod stats;
mod workflows;
