//! Effect of a command of a `RUN` on an image, where it is known.
//!
//! Pure.

use super::Input;

/// The effect of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CommandEffect {
    /// It changes nothing that the new images need: a clean-up, an upgrade of the installer.
    Nothing,
    /// Packages of the operating system.
    System {
        manager: &'static str,
        names: Vec<String>,
    },
    /// Python packages.
    Python(Input),
    /// An environment is created in this folder.
    Environment(String),
    Account(Created),
    Folders(Vec<String>),
    Owner {
        owner: String,
        recursive: bool,
        paths: Vec<String>,
    },
    Mode {
        mode: String,
        recursive: bool,
        paths: Vec<String>,
    },
    /// A package manager that has no counterpart; the reason and the replacement.
    Unknown(&'static str, &'static str),
    Other,
}

/// `useradd` or `adduser`, `groupadd` or `addgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Created {
    User(NewUser),
    Group(NewGroup),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NewUser {
    pub name: String,
    pub id: Option<u32>,
    pub group: Group,
    pub home: Option<String>,
    pub range: IdRange,
}

/// The primary group of a new user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Group {
    /// The program's default, without an option.
    #[default]
    Default,
    /// A group of the user's name, created with it.
    Own,
    /// A number or a name.
    Named(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NewGroup {
    pub name: String,
    pub id: Option<u32>,
    pub range: IdRange,
}

/// Range in which a number is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum IdRange {
    /// From 1000 upwards.
    #[default]
    Ordinary,
    /// From 100 upwards: system accounts of `adduser`.
    SystemUp,
    /// From 999 downwards: system accounts of `useradd`.
    SystemDown,
}
