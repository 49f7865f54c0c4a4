//! The store of the layers that were made on this machine.

use std::path::{Path, PathBuf};
use xtask_host::index;
use xtask_model::fault::Fault;
use xtask_native::store::Store;

/// Limit of the store of layers, in bytes.
const STORE_LIMIT: u64 = 5_000_000_000;

/// The repository's own store.
const OWN_STORE: &str = "target/native/store";

/// The store of the layers that were made on this machine: the one that `XTASK_STORE` names, else the user's, which all
/// repositories share: a layer is known by what it is made of. The repository's own where there is no home.
pub(crate) fn open(root: &Path) -> Result<Store, Fault> {
    let named = std::env::var_os("XTASK_STORE").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = named.or_else(|| index::user_folder().map(|folder| folder.join("layers")));
    let folder = folder.unwrap_or_else(|| root.join(OWN_STORE));
    if let Ok(absolute) = std::path::absolute(&folder)
        && absolute.starts_with(root)
        && !absolute.starts_with(root.join("target"))
    {
        return Err(Fault::usage(format!("the store of layers is `{}`, inside the repository", folder.display()))
            .cause("a `COPY` could take its layers into an image")
            .hint("name a folder outside, or one below `target`: `XTASK_STORE`"));
    }
    Store::open(&folder, STORE_LIMIT)
}

/// The repository's own store.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn own(root: &Path) -> Result<Store, Fault> {
    Store::open(&root.join(OWN_STORE), STORE_LIMIT)
}
