//! The Debian root that this repository's own images use where no registry gives one, built once for all tests and for the
//! builds after them.

use std::path::PathBuf;
use xtask_host::registry::layout::Layout;
use xtask_model::spec::reference::Platform;
use xtask_native::root::{self, Recipe, Root};

/// Takes the root of earlier tests or builds it. The layout is the one of `cargo xtask build`.
pub(crate) fn shared() -> (Recipe, PathBuf, Root) {
    xtask_native::container::subprocess::through(env!("CARGO_BIN_EXE_xtask"));
    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"));
    let folder = target.join("images/root");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(target.join("images/root.tests")).unwrap();
    lock.lock().unwrap();
    let mut recipe = Recipe::default();
    // Those of `images.toml`.
    recipe.packages.extend(["apt", "libstdc++6"].map(str::to_owned));
    let (layout, platform) = (Layout::open_or_create(&folder).unwrap(), Platform::host());
    let root = root::find(&recipe, &layout, &platform).unwrap().unwrap_or_else(|| {
        let work = tempfile::tempdir().unwrap();
        let built = root::build(&recipe, work.path(), &layout, &platform);
        built.unwrap_or_else(|fault| panic!("{fault}"))
    });
    (recipe, folder.canonicalize().unwrap(), root)
}
