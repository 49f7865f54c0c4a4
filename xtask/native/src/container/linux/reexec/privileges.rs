//! Privileges of an image's program: its user and capabilities, with no way to gain more.

use super::Privileges;
use crate::container::Manner;
use crate::container::program::User;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Docker's default capabilities for root.
const OPEN: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Returns true if this process may mount. Root in a container may not.
pub(in crate::container) fn may_mount() -> bool {
    let effective = thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    rustix::process::geteuid().is_root()
        && effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID)
}

fn each() -> impl Iterator<Item = CapabilitySet> {
    // The kernel interface has 64 bits; unknown ones are skipped.
    (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}

/// Keeps the capabilities of a user namespace for the next program; without this only root's are kept.
pub(super) fn keep_through_exec() -> rustix::io::Result<()> {
    let have = thread::capabilities(None)?;
    thread::set_capabilities(None, CapabilitySets { inheritable: have.permitted, ..have })?;
    for capability in each().filter(|capability| have.permitted.contains(*capability)) {
        match thread::configure_capability_in_ambient_set(capability, true) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Becomes the program's user for good. A change of privileges clears the parent-death signal.
pub(super) fn drop(user: &User, rights: Privileges, manner: Manner) -> rustix::io::Result<()> {
    let kept = match manner {
        Manner::Confined => CapabilitySet::empty(),
        Manner::Open | Manner::Offline => OPEN,
    };
    thread::clear_ambient_capability_set()?;
    for capability in each().filter(|capability| !kept.contains(*capability)) {
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    if rights == Privileges::Root {
        // With the main group: files that deny it access must stay denied.
        let groups: Vec<Gid> =
            std::iter::once(user.gid).chain(user.groups.iter().copied()).map(Gid::from_raw).collect();
        thread::set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
    }
    // Root gets the remaining bounding set with the next program; other users get nothing.
    let none = CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    if manner == Manner::Confined {
        thread::set_no_new_privs(true)?;
    }
    Ok(())
}
