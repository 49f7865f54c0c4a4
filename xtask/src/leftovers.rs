//! Files and mounts that killed commands have left on this machine, and their removal.
//!
//! Everything that is made in a folder of its own is swept here, before the next command that makes such folders starts: an
//! installation that was killed must not cost its room until the same installation is needed again.

use xtask_host::registry::layout::Layout;
use xtask_host::scratch;
use xtask_host::tree::facts::Tree;
use xtask_native::container::subprocess::Isolation;
use xtask_native::container::unpacked;
use xtask_native::recipes::{python, system};
use xtask_native::root;

/// Removes it. Nothing of a live process is touched; what cannot be removed stays for the next time.
pub fn sweep(tree: &Tree) {
    let target = tree.root.join("target");
    scratch::sweep_temporary();
    scratch::sweep(&target, &[scratch::SHARED], scratch::remove);
    scratch::sweep(&target.join("native/work"), &[python::SCRATCH, system::SCRATCH], scratch::remove);
    root::sweep(&target, Isolation::find);
    Layout::sweep(&tree.images().join("root"));
    unpacked::sweep(tree);
}
