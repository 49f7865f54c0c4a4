//! Byte code, and the proof that packages can be imported, by a Python that is the image's or like it.
//!
//! Runs programs; what is written stands beside the sources, in new files.

use super::interpreter::Interpreter;
use crate::fault::{Exit, Fault};
use crate::requirements::{self, Marker, normalised};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::environment::Environment;

/// Compiles a site-packages folder by the repository's script, as what stands at `path` in the image.
pub(super) fn compile(interpreter: &Interpreter, script: &Path, site: &Path, path: &str) -> Result<(), Fault> {
    let call = interpreter.command().arg("-S").arg(script).arg(site).arg(path);
    call.read(Exit::Build).map(drop).map_err(|fault| fault.needed_by("the packages' byte code"))
}

/// Imports these distributions by the repository's script; `home` is for what they write about themselves.
pub(super) fn import(interpreter: &Interpreter, script: &Path, names: &[String], home: &Path) -> Result<(), Fault> {
    let call = interpreter.command().args(["-B"]).arg(script).args(names);
    let call = call.env("HOME", home).env("XDG_CACHE_HOME", home).env("TMPDIR", home).current_dir(home);
    call.read(Exit::Build).map(drop).map_err(|fault| {
        fault.needed_by("the check that every package can be imported").hint(
            "a library that a package loads may be missing in the root: `[root.debian] packages`, or another root image",
        )
    })
}

/// The distributions of a site-packages folder that can be imported: those whose requirements are all there.
pub(super) fn complete(site: &Path, environment: &Environment) -> Result<Vec<String>, Fault> {
    let cannot = |error: std::io::Error| Fault::build(format!("cannot read `{}`", site.display())).cause(error);
    let mut needs = BTreeMap::new();
    for entry in fs::read_dir(site).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".dist-info") {
            let text = fs::read(site.join(&name).join("METADATA")).map_err(cannot)?;
            let name = stem.split_once('-').map_or(stem, |(name, _)| name);
            needs.insert(normalised(name), needed(&String::from_utf8_lossy(&text)));
        }
    }
    Ok(closed(&needs, environment))
}

/// What a distribution needs: name, extras and marker of each requirement.
type Needs = Vec<(String, BTreeSet<String>, Option<Marker>)>;

fn needed(metadata: &str) -> Needs {
    let head = metadata.lines().take_while(|line| !line.is_empty());
    let texts = head.filter_map(|line| line.strip_prefix("Requires-Dist:")).map(str::trim);
    texts
        .filter_map(|text| {
            let mut one = Some(format!("{text}\n"));
            // What is no requirement of ours is no reason to fail: a check is left out, nothing else.
            let read = requirements::read(Path::new("METADATA"), &mut |_| Ok(one.take().unwrap_or_default())).ok()?;
            let first = read.requirements().first()?;
            Some((first.name.clone(), first.extras.clone(), first.marker.clone()))
        })
        .collect()
}

/// Those whose requirements are there, and theirs, and so on.
fn closed(needs: &BTreeMap<String, Needs>, environment: &Environment) -> Vec<String> {
    needs.keys().filter(|name| is_closed(name, needs, environment)).cloned().collect()
}

fn is_closed(name: &str, needs: &BTreeMap<String, Needs>, environment: &Environment) -> bool {
    let mut open = vec![(name.to_owned(), String::new())];
    let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
    while let Some((name, extra)) = open.pop() {
        let Some(asked) = needs.get(&name) else { return false };
        if !seen.insert((name, extra.clone())) {
            continue;
        }
        for (needed, extras, marker) in asked {
            if marker.as_ref().is_none_or(|marker| environment.holds(marker, &extra)) {
                open.push((needed.clone(), String::new()));
                open.extend(extras.iter().map(|extra| (needed.clone(), extra.clone())));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(installed: &[(&str, &str)], expected: &[&str]) {
        let environment = Environment::new("3.13.5", &"linux/amd64".parse().unwrap()).unwrap();
        let needs = installed.iter().map(|(name, metadata)| ((*name).to_owned(), needed(metadata))).collect();
        assert_eq!(closed(&needs, &environment), expected);
    }

    #[test]
    fn what_misses_something_is_not_imported() {
        check(&[("six", ""), ("patsy", "Name: patsy\nRequires-Dist: numpy>=1.4\n")], &["six"]);
        check(&[("numpy", ""), ("patsy", "Requires-Dist: numpy >=1.4\n")], &["numpy", "patsy"]);
        check(&[("a", "Requires-Dist: b\n"), ("b", "Requires-Dist: c\n")], &[]);
        check(&[("a", "Requires-Dist: b\n"), ("b", "Requires-Dist: a\n")], &["a", "b"]);
        check(&[("a", "\n\nRequires-Dist: b\n")], &["a"]);
    }

    #[test]
    fn markers_and_extras_count() {
        check(&[("a", "Requires-Dist: b; sys_platform == 'win32'\n")], &["a"]);
        check(&[("a", "Requires-Dist: b; extra == 'x'\n")], &["a"]);
        check(&[("a", "Requires-Dist: b[x]\n"), ("b", "Requires-Dist: c; extra == 'x'\n")], &["b"]);
        check(
            &[("a", "Requires-Dist: b[x]\n"), ("b", "Requires-Dist: c; extra == 'x'\n"), ("c", "")],
            &["a", "b", "c"],
        );
    }
}
