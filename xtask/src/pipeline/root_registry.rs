//! The registry of the root: clients for it, and the placeholder of a root that no registry has yet.

use std::time::Duration;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::facts::{RootImage, Tree};
use xtask_model::image::order::unknown_digest;

/// Returns true for the placeholder of a root that has to be built.
pub(super) fn is_unbuilt(root: &RootImage) -> bool {
    root.digests.values().any(|digest| *digest == unknown_digest())
}

/// A client that tries once, with short time limits: for registries that a command can do without.
pub fn single_try_client(tree: &Tree) -> Client {
    let (connect_timeout, deadline) = (Duration::from_secs(3), Duration::from_secs(20));
    Client::new(ClientOptions { tries: 1, connect_timeout, deadline, ..tree.client_options() })
}

/// A client for the root's registry: it does not wait for an unreachable one, and retries failures that may pass.
pub(super) fn root_client(tree: &Tree) -> Client {
    let connect_timeout = Duration::from_secs(3);
    Client::new(ClientOptions { tries: 3, connect_tries: 1, connect_timeout, ..tree.client_options() })
}
