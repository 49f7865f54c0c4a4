//! Rules of this project beyond BuildKit's, for `doctor` and `tidy`.
//!
//! Pure. Decides nothing about a build: a finding is only reported.

use super::{Dockerfile, Kind, Transfer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintRule {
    /// No `# syntax=` line: it makes the engine pull a frontend image.
    Syntax,
    /// No `FROM …:latest`, and no `FROM` without tag or digest.
    Latest,
    /// No secret as `ARG` or `ENV`: both are in the image's history.
    Secret,
    /// The last stage only copies and describes, so that both engines can build it.
    LastStage,
    /// No `--link` with `--chmod`, which BuildKit does not link, and none to where a root usually has a link.
    Link,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: LintRule,
    /// 1-based line.
    pub line: usize,
    /// `file:line: ` and a lowercase sentence.
    pub what: String,
    pub hint: String,
}

impl Dockerfile {
    pub fn lint(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut found = |rule, line: usize, what: String, hint: &str| {
            let what = format!("{}:{line}: {what}", self.path());
            findings.push(Finding { rule, line, what, hint: hint.to_owned() });
        };
        if let Some((line, image)) = self.syntax() {
            found(
                LintRule::Syntax,
                line,
                format!("`# syntax={image}` pulls a frontend before anything is built"),
                "remove the line",
            );
        }
        for stage in self.stages() {
            if self.find_stage(&stage.base, stage.index).is_none() && is_latest(&stage.base) {
                let what = format!("`FROM {}` can change from one build to the next", stage.base);
                found(LintRule::Latest, stage.line, what, "name a version, or pin a digest");
            }
        }
        let instructions = self.globals().iter().chain(self.stages().iter().flat_map(|stage| &stage.instructions));
        for instruction in instructions {
            for name in named(&instruction.kind).into_iter().filter(|name| is_secret(name)) {
                let what = format!("`{}` `{name}` remains readable in the image's history", instruction.kind.keyword());
                found(LintRule::Secret, instruction.line, what, "use `RUN --mount=type=secret`");
            }
        }
        for instruction in
            self.target().instructions.iter().filter(|instruction| !copies_or_describes(&instruction.kind))
        {
            let what = format!("`{}` in the last stage: it may only copy and describe", instruction.kind.keyword());
            found(LintRule::LastStage, instruction.line, what, "move it to a stage with a name and copy its result");
        }
        for stage in self.stages() {
            for instruction in &stage.instructions {
                let (Kind::Copy(transfer) | Kind::Add(transfer)) = &instruction.kind else { continue };
                if let Some((what, hint)) = link(instruction.kind.keyword(), transfer) {
                    found(LintRule::Link, instruction.line, what, &hint);
                }
            }
        }
        findings.sort_by_key(|finding| (finding.line, finding.rule));
        findings
    }
}

/// Folders that are links on a root with a merged `/usr`, and what they lead to.
const MERGED: [(&str, &str); 8] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libx32", "usr/libx32"),
    ("var/run", "run"),
    ("var/lock", "run/lock"),
];

/// Probably unintended effect of a linked copy, and the hint.
fn link(keyword: &str, transfer: &Transfer) -> Option<(String, String)> {
    if !transfer.link {
        return None;
    }
    if !transfer.is_linked() {
        let what = format!("`{keyword} --link --chmod` is not linked: BuildKit ignores `--link` if a mode is set");
        return Some((what, "remove `--chmod` and set the file's mode in git, or remove `--link`".to_owned()));
    }
    let to: Vec<&str> = transfer.destination.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let to = to.join("/");
    let through = |(from, _): &&(&str, &str)| to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
    let (from, leads) = MERGED.iter().find(through).filter(|_| transfer.destination.starts_with('/'))?;
    let what = format!(
        "`{keyword} --link` to `/{to}` makes a folder of `/{from}`, which is a link on a root with a merged `/usr`"
    );
    Some((what, format!("write `/{leads}{}`", &to[from.len()..])))
}

fn is_latest(base: &str) -> bool {
    if base == "scratch" || base.contains('$') || base.contains('@') {
        return false;
    }
    let name = base.rsplit('/').next().unwrap_or(base);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn named(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Arg(pairs) => pairs.iter().map(|(name, _)| name.as_str()).collect(),
        Kind::Env(pairs) => pairs.iter().map(|(name, _)| name.as_str()).collect(),
        _ => Vec::new(),
    }
}

fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["APIKEY", "AUTH", "CREDENTIAL", "CREDENTIALS", "KEY", "PASSWD", "PASSWORD", "SECRET", "TOKEN"];
    let upper = name.to_ascii_uppercase();
    let mut parts = upper.split(['_', '-']);
    // A path of a file or a public key is not a secret.
    let harmless = upper.contains("PUBLIC") || upper.ends_with("_FILE") || upper.ends_with("_PATH");
    !harmless && parts.any(|part| WORDS.contains(&part))
}

fn copies_or_describes(kind: &Kind) -> bool {
    !matches!(kind, Kind::Add(_) | Kind::Run(_) | Kind::Shell(_) | Kind::Onbuild(_) | Kind::Maintainer(_))
}
