//! The tags that a CPython on Linux takes, the preferred first.

use super::WheelName;
use std::collections::BTreeMap;

/// Tags in the order of preference.
#[derive(Clone, Debug)]
pub struct Tags {
    ranks: BTreeMap<(String, String, String), usize>,
}

impl Tags {
    /// Tags of CPython `python` (`3.13` or `3.13.5`) on a machine as Python names it (`x86_64`), whose wheels may need a glibc up to `glibc`
    /// (`2_36`). Wheels for musl are never among them.
    ///
    /// # Errors
    /// A version that is not of Python 3, or a glibc that is not of two numbers.
    pub fn cpython(python: &str, machine: &str, glibc: &str) -> Result<Self, String> {
        let mut numbers = python.split('.').map(str::parse::<u32>);
        let (Some(Ok(3)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(format!("`{python}` is not a version of Python 3"));
        };
        let platforms = platforms(machine, glibc)?;
        let any = ["any".to_owned()];
        let mut all: Vec<(String, &str, &[String])> = Vec::new();
        let own = format!("cp3{minor}");
        all.push((own.clone(), &own, &platforms));
        for older in (2..=minor).rev() {
            all.push((format!("cp3{older}"), "abi3", &platforms));
            if older == minor {
                all.push((own.clone(), "none", &platforms));
            }
        }
        for (platforms, binary) in [(&platforms[..], true), (&any[..], false)] {
            if !binary {
                all.push((own.clone(), "none", platforms));
            }
            for older in (0..=minor).rev() {
                all.push((format!("py3{older}"), "none", platforms));
                if older == minor {
                    all.push(("py3".to_owned(), "none", platforms));
                }
            }
        }
        let mut ranks = BTreeMap::new();
        for (python, abi, platforms) in all {
            for platform in platforms {
                let rank = ranks.len();
                ranks.entry((python.clone(), abi.to_owned(), platform.clone())).or_insert(rank);
            }
        }
        Ok(Self { ranks })
    }

    /// Place of a wheel's best tag, 0 for the preferred one; `None` where no tag fits.
    pub fn rank(&self, wheel: &WheelName) -> Option<usize> {
        let triples = wheel.python.iter().flat_map(|python| wheel.abi.iter().map(move |abi| (python, abi)));
        let all = triples.flat_map(|(python, abi)| wheel.platform.iter().map(move |platform| (python, abi, platform)));
        all.filter_map(|(python, abi, platform)| self.ranks.get(&(python.clone(), abi.clone(), platform.clone())))
            .min()
            .copied()
    }
}

/// Platform tags up to a glibc, the newest first; `linux_…`, which promises nothing, last.
fn platforms(machine: &str, glibc: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{glibc}` is not a version of glibc, like `2_36`");
    let (major, minor) = glibc.split_once('_').ok_or_else(wrong)?;
    let (major, minor): (u32, u32) = (major.parse().map_err(|_| wrong())?, minor.parse().map_err(|_| wrong())?);
    if major != 2 || minor > 999 {
        return Err(wrong());
    }
    // The oldest glibc that manylinux has for a machine (PEP 513, 599).
    let oldest = if matches!(machine, "x86_64" | "i686") { 5 } else { 17 };
    let mut found = Vec::new();
    for minor in (oldest..=minor).rev() {
        found.push(format!("manylinux_2_{minor}_{machine}"));
        let legacy = match minor {
            5 => "manylinux1",
            12 => "manylinux2010",
            17 => "manylinux2014",
            _ => continue,
        };
        found.push(format!("{legacy}_{machine}"));
    }
    found.push(format!("linux_{machine}"));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names whose tags are in the order of preference; those behind `never` are not taken.
    #[track_caller]
    fn check(machine: &str, glibc: &str, order: &[&str], never: &[&str]) {
        let tags = Tags::cpython("3.13.5", machine, glibc).unwrap();
        let rank = |tag: &&str| tags.rank(&format!("a-1-{tag}.whl").parse().unwrap());
        let ranks: Vec<Option<usize>> = order.iter().map(rank).collect();
        assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{ranks:?}");
        assert_eq!(ranks.iter().collect::<std::collections::BTreeSet<_>>().len(), order.len());
        for tag in never {
            assert_eq!(rank(tag), None, "{tag}");
        }
    }

    #[test]
    fn the_order_of_preference() {
        check(
            "x86_64",
            "2_36",
            &[
                "cp313-cp313-manylinux_2_36_x86_64",
                "cp313-cp313-manylinux_2_17_x86_64",
                "cp313-cp313-manylinux2014_x86_64",
                "cp313-cp313-manylinux2010_x86_64",
                "cp313-cp313-manylinux1_x86_64",
                "cp313-cp313-linux_x86_64",
                "cp313-abi3-manylinux_2_28_x86_64",
                "cp313-none-manylinux_2_28_x86_64",
                "cp312-abi3-manylinux_2_28_x86_64",
                "cp32-abi3-manylinux_2_28_x86_64",
                "py313-none-manylinux_2_28_x86_64",
                "py3-none-manylinux_2_28_x86_64",
                "py312-none-linux_x86_64",
                "cp313-none-any",
                "py313-none-any",
                "py2.py3-none-any",
                "py30-none-any",
            ],
            &[
                "cp313-cp313-manylinux_2_37_x86_64",
                "cp313-cp313-musllinux_1_2_x86_64",
                "cp313-cp313t-manylinux_2_17_x86_64",
                "cp313-cp313-manylinux_2_17_aarch64",
                "cp312-cp312-manylinux_2_17_x86_64",
                "cp314-abi3-manylinux_2_17_x86_64",
                "cp313-cp313-any",
                "cp312-none-any",
                "py2-none-any",
                "cp313-cp313-macosx_11_0_arm64",
            ],
        );
    }

    #[test]
    fn arm_begins_at_manylinux_2014() {
        check(
            "aarch64",
            "2_28",
            &["cp313-cp313-manylinux_2_28_aarch64", "cp313-cp313-manylinux2014_aarch64"],
            &["cp313-cp313-manylinux2010_aarch64", "cp313-cp313-manylinux_2_31_aarch64"],
        );
    }

    #[test]
    fn the_best_of_several_tags_counts() {
        check(
            "x86_64",
            "2_36",
            &[
                "cp313-cp313-manylinux_2_17_x86_64.manylinux_2_28_x86_64",
                "cp312.cp313-cp312.cp313-manylinux_2_17_x86_64.musllinux_1_1_x86_64",
            ],
            &[],
        );
    }

    #[test]
    fn odd_versions_are_refused() {
        for (python, glibc) in
            [("2.7", "2_36"), ("3", "2_36"), ("3.x", "2_36"), ("3.13", "2.36"), ("3.13", "2_4294967295")]
        {
            assert!(Tags::cpython(python, "x86_64", glibc).is_err(), "{python} {glibc}");
        }
    }
}
