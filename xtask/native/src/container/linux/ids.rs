//! Additional ids of users and groups.

/// Additional user or group ids of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

/// Ranges of a user in `/etc/subuid` and `/etc/subgid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ranges {
    pub users: Range,
    pub groups: Range,
}
