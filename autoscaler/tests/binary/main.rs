//! The binary from outside: exit codes, stdout, stderr, sockets. One program, so that it links once.

mod backtest;
mod browser;
mod doctor;
mod forecast;
mod manifests;
mod pages;
mod prometheus;
mod published;
mod serve;
mod simulate;
mod support;
