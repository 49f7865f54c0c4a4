//! The environment that a marker asks about, and its answer.
//!
//! Pure. Results equal uv's for the given Python and platform; the build machine does not matter.

use super::{Marker, Operand, Specifier, Version, normalised};
use crate::spec::reference::Platform;
use std::cmp::Ordering;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Environment {
    python: String,
    machine: String,
}

impl Environment {
    /// That of a full version of CPython, `3.13.5`, on a platform.
    pub fn new(python: &str, platform: &Platform) -> Self {
        let variant = platform.variant.as_deref();
        // As the kernel calls them.
        let machine = match (platform.architecture.as_str(), variant) {
            ("amd64", _) => "x86_64",
            ("arm64", _) => "aarch64",
            ("386", _) => "i686",
            ("arm", Some("v6")) => "armv6l",
            ("arm", _) => "armv7l",
            (other, _) => other,
        };
        Self { python: python.to_owned(), machine: machine.to_owned() }
    }

    /// `x86_64`.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// `3.13.5`.
    pub fn python(&self) -> &str {
        &self.python
    }

    /// `3.13`.
    pub fn minor(&self) -> String {
        self.python.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    pub fn holds(&self, marker: &Marker, extra: &str) -> bool {
        match marker {
            Marker::All(parts) => parts.iter().all(|part| self.holds(part, extra)),
            Marker::Any(parts) => parts.iter().any(|part| self.holds(part, extra)),
            Marker::Compare(Operand::Variable(name), operator, Operand::Text(text)) => {
                compare(name, &self.value(name, extra), operator, &as_value(name, text))
            }
            Marker::Compare(Operand::Text(text), operator, Operand::Variable(name)) => {
                reversed(name, &as_value(name, text), operator, &self.value(name, extra))
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
            "platform_machine" => self.machine.clone(),
            "platform_python_implementation" => "CPython".to_owned(),
            "implementation_name" => "cpython".to_owned(),
            "extra" => extra.to_owned(),
            // The kernel that an image will run on is not known, and groups are a project's.
            _ => String::new(),
        }
    }
}

/// A text as a value of this variable is written: names of extras have one spelling.
fn as_value(name: &str, text: &str) -> String {
    if name == "extra" { normalised(text) } else { text.to_owned() }
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
        Environment::new("3.13.5", &"linux/arm64".parse().unwrap())
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
        check("extra == 'SOCKS'", true);
        check("extra == 'other'", false);
        check("extra == 'socks' and python_version < '3'", false);
    }

    #[test]
    fn machines_are_called_as_the_kernel_calls_them() {
        for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm/v7", "armv7l"), ("linux/s390x", "s390x")] {
            assert_eq!(Environment::new("3.13", &platform.parse().unwrap()).machine(), machine);
        }
    }
}
