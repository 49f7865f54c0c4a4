//! The operator in a cluster: reads resources and Prometheus, decides, and writes.

pub mod act;
pub mod controller;
pub mod crd;
pub mod demand;
pub mod doctor;
pub mod lease;
pub mod operator;
pub mod prometheus;
pub mod tls;
