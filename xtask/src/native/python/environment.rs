//! The environment that a marker asks about, and its answer.
//!
//! Pure. The answers are those of uv for a Python and a platform that it is told: nothing of the machine that builds.

use crate::fault::Fault;
use crate::lock::{Lock, LockedPackage};
use crate::reference::Platform;
use crate::requirements::{Marker, Operand, Specifier, Version};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Where packages will be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Environment {
    python: String,
    machine: &'static str,
}

impl Environment {
    /// That of a full version of CPython on Linux; none for an architecture that no wheel is made for.
    pub(super) fn new(python: &str, platform: &Platform) -> Option<Self> {
        let machine = match (platform.os.as_str(), platform.architecture.as_str()) {
            ("linux", "amd64") => "x86_64",
            ("linux", "arm64") => "aarch64",
            _ => return None,
        };
        Some(Self { python: python.to_owned(), machine })
    }

    /// `x86_64`.
    pub(super) fn machine(&self) -> &str {
        self.machine
    }

    /// `3.13`.
    pub(super) fn minor(&self) -> String {
        self.python.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    /// The packages of a lock that belong here, sorted; each name once.
    pub(super) fn packages(&self, lock: &Lock) -> Result<Vec<LockedPackage>, Fault> {
        let mut found: BTreeMap<&str, &LockedPackage> = BTreeMap::new();
        for package in &lock.packages {
            let marker = package.marker.as_deref().map(str::parse::<Marker>).transpose();
            let marker =
                marker.map_err(|why| Fault::usage(format!("cannot read the marker of {}: {why}", package.name)))?;
            if !marker.is_none_or(|marker| self.holds(&marker, "")) {
                continue;
            }
            if let Some(other) = found.insert(&package.name, package) {
                let what = format!("{} is locked twice, as {} and {}", package.name, other.version, package.version);
                let here = format!("both are for Python {} on {}", self.python, self.machine);
                return Err(Fault::usage(what).cause(here).hint("write the lock anew: `cargo xtask lock`"));
            }
        }
        Ok(found.into_values().cloned().collect())
    }

    /// Whether a condition holds, asked for this extra (or none).
    pub(super) fn holds(&self, marker: &Marker, extra: &str) -> bool {
        match marker {
            Marker::All(parts) => parts.iter().all(|part| self.holds(part, extra)),
            Marker::Any(parts) => parts.iter().any(|part| self.holds(part, extra)),
            Marker::Compare(Operand::Variable(name), operator, Operand::Text(text)) => {
                compare(name, &self.value(name, extra), operator, text)
            }
            Marker::Compare(Operand::Text(text), operator, Operand::Variable(name)) => {
                reversed(name, text, operator, &self.value(name, extra))
            }
            Marker::Compare(Operand::Variable(one), operator, Operand::Variable(two)) => {
                compare(one, &self.value(one, extra), operator, &self.value(two, extra))
            }
            // The reader refuses a comparison of two texts.
            Marker::Compare(Operand::Text(_), _, Operand::Text(_)) => false,
        }
    }

    fn value(&self, name: &str, extra: &str) -> String {
        match name {
            "python_version" => self.minor(),
            "python_full_version" | "implementation_version" => self.python.clone(),
            "os_name" => "posix".to_owned(),
            "sys_platform" => "linux".to_owned(),
            "platform_system" => "Linux".to_owned(),
            "platform_machine" => self.machine.to_owned(),
            "platform_python_implementation" => "CPython".to_owned(),
            "implementation_name" => "cpython".to_owned(),
            "extra" => extra.to_owned(),
            // The kernel that an image will run on is not known, and groups are a project's.
            _ => String::new(),
        }
    }
}

fn is_version(name: &str) -> bool {
    matches!(name, "python_version" | "python_full_version" | "implementation_version")
}

/// A variable's value and a text. Only Python's versions compare as versions, as in uv; all else as text.
fn compare(name: &str, value: &str, operator: &str, text: &str) -> bool {
    match operator {
        "in" if is_version(name) => text.split([' ', ',']).any(|one| one == value),
        "not in" if is_version(name) => !compare(name, value, "in", text),
        "in" => text.contains(value),
        "not in" => !text.contains(value),
        _ if is_version(name) => versions(value, operator, text).unwrap_or_else(|| ordered(value, operator, text)),
        _ => ordered(value, operator, text),
    }
}

/// A text and a variable's value: the same with the sides changed.
fn reversed(name: &str, text: &str, operator: &str, value: &str) -> bool {
    match operator {
        "in" => value.contains(text),
        "not in" => !value.contains(text),
        "<" => compare(name, value, ">", text),
        "<=" => compare(name, value, ">=", text),
        ">" => compare(name, value, "<", text),
        ">=" => compare(name, value, "<=", text),
        other => compare(name, value, other, text),
    }
}

fn versions(value: &str, operator: &str, text: &str) -> Option<bool> {
    let operator = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"].into_iter().find(|known| *known == operator)?;
    Some(Specifier::new(operator, text).ok()?.contains(&value.parse::<Version>().ok()?))
}

fn ordered(value: &str, operator: &str, text: &str) -> bool {
    let order = value.cmp(text);
    match operator {
        "==" | "===" | "~=" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        ">=" => order != Ordering::Less,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::new("3.13.5", &"linux/arm64".parse().unwrap()).unwrap()
    }

    #[track_caller]
    fn check(marker: &str, expected: bool) {
        let marker: Marker = marker.parse().unwrap();
        assert_eq!(environment().holds(&marker, "socks"), expected, "{marker}");
    }

    #[test]
    fn versions_compare_as_versions() {
        check("python_version >= '3.9'", true);
        check("python_version < '3.9'", false);
        check("python_full_version >= '3.13.10'", false);
        check("python_full_version == '3.13.*'", true);
        check("'3.9' < python_version", true);
        check("'3.14' <= python_version", false);
        check("python_version in '3.1 3.12'", false);
        check("python_version in '3.12 3.13'", true);
        check("python_version not in '3.12,3.13'", false);
        check("implementation_version ~= '3.13.1'", true);
    }

    #[test]
    fn the_platform_is_the_targets() {
        check("sys_platform == 'linux' and platform_machine == 'aarch64'", true);
        check("sys_platform == 'win32' or platform_machine == 'x86_64'", false);
        check("os_name == 'posix' and platform_system == 'Linux'", true);
        check("platform_python_implementation != 'PyPy'", true);
        check("implementation_name == 'cpython'", true);
        check("'linux' in sys_platform", true);
        check("'win' not in sys_platform", true);
        check("sys_platform in 'linux darwin'", true);
        check("platform_release >= '5'", false);
    }

    #[test]
    fn an_extra_is_asked_for_by_name() {
        check("extra == 'socks'", true);
        check("extra == 'other'", false);
        check("extra == 'socks' and python_version < '3'", false);
    }

    #[test]
    fn an_architecture_without_wheels_is_none() {
        assert_eq!(Environment::new("3.13.5", &"linux/s390x".parse().unwrap()), None);
        assert_eq!(environment().minor(), "3.13");
        assert_eq!(environment().machine(), "aarch64");
    }
}
