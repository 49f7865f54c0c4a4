//! The xtask binary that internal calls start.

use std::path::PathBuf;
use std::sync::OnceLock;

/// This binary, even if its file was replaced since it started.
pub(super) const THIS_BINARY: &str = "/proc/self/exe";

/// The xtask binary, if it is not the current one.
static XTASK: OnceLock<PathBuf> = OnceLock::new();

/// Sets the xtask binary. Before that, programs start directly: another binary, such as a test, does not know the
/// internal call.
pub fn through(xtask: impl Into<PathBuf>) {
    // Set once: there is one xtask.
    let _ = XTASK.set(xtask.into());
}

/// The xtask binary for internal calls.
pub(super) fn program() -> PathBuf {
    known().cloned().unwrap_or_else(|| THIS_BINARY.into())
}

pub(super) fn use_this_binary() {
    through(THIS_BINARY);
}

/// The xtask binary, if internal calls are possible.
pub(super) fn known() -> Option<&'static PathBuf> {
    XTASK.get()
}
