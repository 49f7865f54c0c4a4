//! `tidy`: checks the repository's rules and prints all violations, each with its repair.

use crate::flags::Global;
use crate::tidy::{self, Files};
use std::path::Path;
use xtask_host::terminal;
use xtask_host::tree::binary;
use xtask_host::tree::facts::{self};
use xtask_model::fault::{Exit, Fault};

/// Runs all rules; changes nothing. `may_differ` is true for a path whose file may differ from one that was checked before: where no
/// source or manifest is one, cargo has nothing to find.
pub fn run(global: &Global, may_differ: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let tree = global.tree()?;
    let files = Files::read(&tree.root)?;
    let by_cargo = needs_cargo(&files, may_differ);
    let mut found: Vec<String> = std::thread::scope(|scope| {
        let by_cargo = scope.spawn(|| if by_cargo { workspace(&tree.root) } else { Vec::new() });
        let own: Vec<String> = tidy::check(&files).iter().map(ToString::to_string).collect();
        [own, by_cargo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))].concat()
    });
    if let Err(fault) = facts::lock(&tree) {
        let hint = fault.hints.first().map(|hint| format!("; {hint}")).unwrap_or_default();
        let causes: String = fault.causes.iter().map(|cause| format!(": {cause}")).collect();
        found.push(format!("{}{causes}{hint}", fault.what));
    }
    found.iter().for_each(|violation| terminal::step("untidy", violation));
    if found.is_empty() {
        terminal::step("tidy", &format!("{} files", files.len()));
        return Ok(());
    }
    let fault = Fault::drift(format!("{} violations of the repository's rules", found.len()));
    Err(fault.hint("each line above ends with its repair; then run `cargo xtask tidy` again").into())
}

/// True if a file on which formatting or the check of `Cargo.lock` depends may differ.
fn needs_cargo(files: &Files, may_differ: &dyn Fn(&str) -> bool) -> bool {
    let is_cargos = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.ends_with(".rs") || name.ends_with(".toml") || ["Cargo.lock", "rust-toolchain"].contains(&name)
    };
    files.paths().any(|path| is_cargos(path) && may_differ(path))
}

/// Problems that cargo finds in the workspace, if there is one. Works without the network: any machine that has compiled this has the files
/// that cargo needs.
fn workspace(root: &Path) -> Vec<String> {
    if !root.join("Cargo.toml").is_file() {
        return Vec::new();
    }
    let format = cargo(root, &["fmt", "--all", "--check"], "not formatted: `cargo fmt --all`");
    let update = ["update", "--workspace", "--locked", "--offline", "--quiet"];
    let update = cargo(root, &update, "`Cargo.lock` is out of date: `cargo update --workspace`");
    format.into_iter().chain(update).collect()
}

/// Failure of a cargo command, with the lines that it printed.
fn cargo(root: &Path, args: &[&str], what: &str) -> Option<String> {
    let fault = binary::cargo(root).args(args).read(Exit::Drift).err()?;
    let said = fault.causes.join("\n");
    let shown: Vec<&str> = said.lines().take(12).collect();
    Some(format!("{what}\n{}", shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_checks_what_may_differ_alone() {
        let paths = ["a/templates/a.html", "a/src/a.rs", "a/Cargo.toml", "Cargo.lock", "README.md"];
        let files = Files::made_up(&paths.map(|path| (path, "")));
        let needs = |differs: &[&str]| needs_cargo(&files, &|path| differs.contains(&path));
        assert!(!needs(&[]) && !needs(&["a/templates/a.html", "README.md"]));
        for path in ["a/src/a.rs", "a/Cargo.toml", "Cargo.lock"] {
            assert!(needs(&["README.md", path]), "{path}");
        }
    }
}
