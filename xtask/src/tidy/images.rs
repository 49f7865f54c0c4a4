//! Rules about the policy's Dockerfiles: the project's conventions, and ignore files that let in exactly what is copied.
//!
//! Reads no file itself. Files that a build puts under `target` are taken as present.

use super::{Files, Violation};
use std::collections::{BTreeMap, BTreeSet};
use xtask_host::tree::binary;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileInfo, FileKind, Tree, select};
use xtask_model::image::policy::{self, Policy, TRANSLATED};
use xtask_model::spec::dockerfile::{Dockerfile, LintRule, Source};
use xtask_model::spec::ignore::Ignore;
use xtask_model::spec::lock::formats::Format;
use xtask_model::spec::reference::Platform;

/// Every violation in the Dockerfiles that the policy names, and in their ignore files.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let Some(text) = files.text(policy::FILE) else { return Vec::new() };
    let policy = match policy::parse(text, &|path| files.text(path.as_str()).is_some()) {
        Ok(policy) => policy,
        Err(fault) => return vec![reported(policy::FILE, &fault)],
    };
    let mut found = Vec::new();
    let enhanced = policy.app.enhanced.iter().map(|path| (path, true));
    for (path, enhanced) in
        [(&policy.base.dockerfile, false), (&policy.app.dockerfile, false)].into_iter().chain(enhanced)
    {
        let path = path.as_str();
        let Some(text) = files.text(path) else { continue };
        match Dockerfile::parse(path, text) {
            Ok(dockerfile) => {
                found.extend(conventions(path, &dockerfile, enhanced));
                found.extend(
                    context(files, &policy, path, &dockerfile).unwrap_or_else(|fault| vec![reported(path, &fault)]),
                );
            }
            Err(fault) => found.push(reported(path, &fault)),
        }
    }
    found.sort();
    found
}

fn reported(path: &str, fault: &Fault) -> Violation {
    let what = [fault.what.as_str()].into_iter().chain(fault.causes.iter().map(String::as_str)).collect::<Vec<_>>();
    Violation::new(path, 0, what.join(": "), fault.hints.first().map_or("correct it", String::as_str))
}

/// Violations that the linter finds. Only the base and the app are to be built by more than one engine.
fn conventions(path: &str, dockerfile: &Dockerfile, enhanced: bool) -> Vec<Violation> {
    let counts = |rule: LintRule| !(enhanced && rule == LintRule::LastStage);
    let prefix = |line: usize| format!("{path}:{line}: ");
    let findings = dockerfile.lint().into_iter().filter(|finding| counts(finding.rule));
    let told = |finding: xtask_model::spec::dockerfile::Finding| {
        let what = finding.what.strip_prefix(&prefix(finding.line)).unwrap_or(&finding.what).to_owned();
        Violation::new(path, finding.line, what, finding.hint)
    };
    findings.map(told).collect()
}

/// The ignore file of a Dockerfile lets in exactly the files that it copies.
fn context(files: &Files, policy: &Policy, path: &str, dockerfile: &Dockerfile) -> Result<Vec<Violation>, Fault> {
    let ignore_path = format!("{path}.dockerignore");
    let Some(text) = files.text(&ignore_path) else {
        let what = "there is no ignore file for it: every file of the repository is sent to the builder";
        return Ok(vec![Violation::new(path, 0, what, format!("write `{ignore_path}`"))]);
    };
    let tree = tree(files, policy);
    let ignore = Ignore::parse(&ignore_path, text.as_bytes())?;
    let admitted = admitted(&tree, &ignore);
    let mut copied = BTreeSet::new();
    for sources in sources(policy, dockerfile)? {
        copied.extend(select(&tree, &sources, &ignore)?.complete(&sources, &ignore)?);
    }
    let mut found: Vec<Violation> = admitted
        .difference(&copied)
        .map(|extra| {
            let what = format!("`{extra}` is let in, and `{path}` does not copy it");
            Violation::new(&ignore_path, 0, what, "leave it out")
        })
        .collect();
    // From the end: of two lines that let in the same, the later one is too many.
    let mut lines: Vec<&str> = text.lines().collect();
    for number in (0..lines.len()).rev().filter(|number| text.lines().nth(*number).is_some_and(|l| l.starts_with('!')))
    {
        let line = std::mem::take(&mut lines[number]);
        if self::admitted(&tree, &Ignore::parse(&ignore_path, lines.join("\n").as_bytes())?) == admitted {
            found.push(Violation::new(&ignore_path, number + 1, format!("`{line}` lets nothing in"), "remove it"));
        } else {
            lines[number] = line;
        }
    }
    Ok(found)
}

/// Sources that the Dockerfile reads, by hand and as xtask builds it, for each platform.
fn sources(policy: &Policy, dockerfile: &Dockerfile) -> Result<Vec<Vec<Source>>, Fault> {
    let mut all = Vec::new();
    for platform in &policy.project.platforms {
        let images = ["ROOT_IMAGE", "BASE_IMAGE", "RUST_IMAGE"];
        let by_hand: BTreeMap<String, String> =
            images.map(|name| (name.to_owned(), "image.invalid/any".to_owned())).into();
        let mut built = by_hand.clone();
        let binary = policy.app.binary.as_ref();
        built.extend(binary.map(|binary| ("BINARY".to_owned(), binary::staged(platform, binary).to_string())));
        all.push(dockerfile.sources(&by_hand, platform)?);
        all.push(dockerfile.sources(&built, platform)?);
    }
    Ok(all)
}

fn admitted(tree: &Tree, ignore: &Ignore) -> BTreeSet<ContextPath> {
    tree.keys().filter(|path| !ignore.ignores(path.as_bytes())).cloned().collect()
}

/// The repository's files, and the binaries that a build puts under `target`.
fn tree(files: &Files, policy: &Policy) -> Tree {
    let built = |platform: &Platform| Some(binary::staged(platform, policy.app.binary.as_ref()?).to_string());
    let staged = policy.project.platforms.iter().filter_map(built);
    let by_hand = policy.app.binary.as_ref().map(|binary| format!("target/{}/{}", binary.folder(), binary.name));
    let file = |path: String| {
        (ContextPath::new(path), FileInfo { kind: FileKind::File, mode: 0o644, size: 0, link: None, whole: None })
    };
    let translated = (policy.base.format() != Format::Pip).then(|| TRANSLATED.to_owned());
    files.paths().map(str::to_owned).chain(staged).chain(by_hand).chain(translated).map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = include_str!("../../../images.toml");
    const BASE: &str = "ARG ROOT_IMAGE\nFROM ${ROOT_IMAGE} AS packages\nRUN true\nFROM packages\nCOPY one two/ /x/\n";
    const APP: &str = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG BINARY=target/debug/autoscaler\nCOPY ${BINARY} /usr/bin/\nCOPY two /x\n";
    const APP_IGNORE: &str = "*\n!two\n!target/debug/autoscaler\n!target/image/*/*\n";

    /// A repository that holds, with some of its files replaced.
    #[track_caller]
    fn finds(replaced: &[(&str, &str)], expected: &[&str]) {
        let names = ["requirements-enhanced.txt", "requirements-enhanced.lock", "dockerfiles/installer.lock"];
        let mut all: BTreeMap<&str, &str> = names.into_iter().map(|name| (name, "")).collect();
        all.extend([("images.toml", POLICY), ("one", ""), ("two/a", ""), ("three", "")]);
        all.extend([
            ("dockerfiles/Dockerfile.base", BASE),
            ("dockerfiles/Dockerfile.base.dockerignore", "*\n!one\n!two\n"),
        ]);
        all.extend([("dockerfiles/Dockerfile.fast", APP), ("dockerfiles/Dockerfile.fast.dockerignore", APP_IGNORE)]);
        all.extend([
            ("dockerfiles/Dockerfile.enhanced", BASE),
            ("dockerfiles/Dockerfile.enhanced.dockerignore", "*\n!one\n!two\n"),
        ]);
        all.extend(replaced.iter().copied());
        let files: Vec<(&str, &str)> = all.into_iter().collect();
        let found: Vec<String> = check(&Files::made_up(&files)).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn ignore_files_let_in_exactly_what_is_copied() {
        const IGNORE: &str = "dockerfiles/Dockerfile.base.dockerignore";
        finds(&[], &[]);
        finds(
            &[(IGNORE, "*\n!one\n!two\n!three\n")],
            &[
                "dockerfiles/Dockerfile.base.dockerignore: `three` is let in, and `dockerfiles/Dockerfile.base` does not copy it; leave it out",
            ],
        );
        finds(
            &[(IGNORE, "*\n!one\n!two\n!two/a\n!four\n")],
            &[
                "dockerfiles/Dockerfile.base.dockerignore:4: `!two/a` lets nothing in; remove it",
                "dockerfiles/Dockerfile.base.dockerignore:5: `!four` lets nothing in; remove it",
            ],
        );
    }

    #[test]
    fn what_is_copied_is_let_in() {
        finds(
            &[("dockerfiles/Dockerfile.base.dockerignore", "*\n!one\n")],
            &[
                "dockerfiles/Dockerfile.base: dockerfiles/Dockerfile.base:5: `two` is not in the build context: the ignore file \
               leaves it out; take it back with a line `!two`",
            ],
        );
    }

    #[test]
    fn conventions_hold_in_every_dockerfile() {
        let from = |first: &str, last: &str| format!("{first}{BASE}{last}");
        finds(
            &[("dockerfiles/Dockerfile.base", &from("# syntax=docker/dockerfile:1\n", ""))],
            &[
                "dockerfiles/Dockerfile.base:1: `# syntax=docker/dockerfile:1` pulls a frontend before anything is built; remove the line",
            ],
        );
        finds(
            &[("dockerfiles/Dockerfile.base", &from("", "RUN true\n"))],
            &[
                "dockerfiles/Dockerfile.base:6: `RUN` in the last stage: it may only copy and describe; move it to a stage with a \
               name and copy its result",
            ],
        );
        finds(&[("dockerfiles/Dockerfile.enhanced", &from("", "RUN true\n"))], &[]);
    }

    #[test]
    fn an_invalid_policy_is_reported_too() {
        let files = Files::made_up(&[("images.toml", "[project]\n")]);
        assert!(!check(&files).is_empty());
        assert!(check(&Files::made_up(&[("a", "")])).is_empty());
    }
}
