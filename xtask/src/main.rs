//! `cargo xtask`.

use std::process::ExitCode;

/// One heap for all threads: what one of them frees, another one uses.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    xtask::cli::main()
}
