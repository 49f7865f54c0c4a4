//! Wheels: their file names (PEP 427), the tags that a Python takes (PEP 425, 600), index pages (PEP 503, 592, 691, 700), and which
//! of several wheels is installed.
//!
//! Pure. The order of preference is uv's, so that both choose the same file; a test asks uv.

pub mod page;
mod tags;

pub use tags::Tags;

use crate::spec::requirements::{Version, normalised};
use std::str::FromStr;

/// The parts of a wheel's file name.
#[derive(Clone, Debug)]
pub struct WheelName {
    /// Normalised by PEP 503.
    pub name: String,
    pub version: Version,
    /// Number and rest of the build tag. Where all else is equal the higher one is installed, and any before none.
    pub build: Option<(u64, String)>,
    pub python: Vec<String>,
    pub abi: Vec<String>,
    pub platform: Vec<String>,
}

impl FromStr for WheelName {
    type Err = String;

    fn from_str(file: &str) -> Result<Self, String> {
        let stem = file.strip_suffix(".whl").ok_or_else(|| format!("`{file}` does not end with `.whl`"))?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, build, tags) = match parts.as_slice() {
            [name, version, tags @ ..] if tags.len() == 3 => (name, version, None, tags),
            [name, version, build, tags @ ..] if tags.len() == 3 => (name, version, Some(build), tags),
            _ => return Err(format!("`{file}` is not `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl`")),
        };
        let version = version.replace('_', "-").parse().map_err(|why| format!("`{file}`: {why}"))?;
        let build = build.map(|build| {
            let digits = build.find(|c: char| !c.is_ascii_digit()).unwrap_or(build.len());
            let number = build[..digits].parse().map_err(|_| format!("`{file}`: a build tag begins with a number"))?;
            Ok::<_, String>((number, build[digits..].to_owned()))
        });
        if name.is_empty() || tags.iter().any(|tag| tag.is_empty()) {
            return Err(format!("`{file}` has an empty part"));
        }
        let set = |tag: &str| tag.split('.').map(str::to_ascii_lowercase).collect();
        Ok(Self {
            name: normalised(name),
            version,
            build: build.transpose()?,
            python: set(tags[0]),
            abi: set(tags[1]),
            platform: set(tags[2]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_names_are_read() {
        let wheel: WheelName =
            "Foo_Bar.baz-1.0RC1+cpu.1-12abc-cp39.cp310-abi3-manylinux_2_17_x86_64.whl".parse().unwrap();
        assert_eq!(wheel.name, "foo-bar-baz");
        assert_eq!(wheel.version.to_string(), "1.0rc1+cpu.1");
        assert_eq!(wheel.build, Some((12, "abc".to_owned())));
        assert_eq!((wheel.python.len(), wheel.abi.as_slice()), (2, &["abi3".to_owned()][..]));
        assert_eq!("a-1-py3-none-any.whl".parse::<WheelName>().unwrap().build, None);
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "a-1.tar.gz",
            "a-1-py3-none.whl",
            "a-1-2-3-py3-none-any.whl",
            "a-x.y-py3-none-any.whl",
            "a-1-b1-py3-none-any.whl",
            "-1-py3-none-any.whl",
            "a-1-py3--any.whl",
            ".whl",
        ] {
            assert!(bad.parse::<WheelName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_refused(name in "\\PC{0,40}", stem in "[a-zA-Z0-9._+-]{0,40}") {
            let _ = name.parse::<WheelName>();
            let _ = format!("{stem}.whl").parse::<WheelName>();
        }
    }
}
