//! The binary from outside: exit codes, stdout, stderr, sockets. One program, so that it links once.

mod forecast;
mod serve;
mod support;
