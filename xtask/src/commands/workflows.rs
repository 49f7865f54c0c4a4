//! `workflows`: writes `.github/workflows` from the policy, or says where it is not what the policy gives.

use crate::facts::Tree;
use crate::fault::Fault;
use crate::flags::Global;
use crate::lock::file;
use crate::{ui, workflows};

/// Writes the workflows; with `check` changes nothing, and fails where a file is missing or differs.
pub fn run(global: &Global, check: bool) -> Result<(), Fault> {
    let tree = Tree::open(global)?;
    let files = workflows::generate(&tree.policy)?;
    if !check {
        for file in &files {
            let wrote = file::write(&tree.root.join(file.path), &file.text)?;
            ui::step(if wrote { "wrote" } else { "unchanged" }, &format!("`{}`", file.path));
        }
        return Ok(());
    }
    let mut drift = Vec::new();
    for file in &files {
        let path = tree.root.join(file.path);
        match std::fs::read_to_string(&path) {
            Ok(text) => drift.extend(workflows::difference(file, &text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                drift.push(format!("`{}` is missing", file.path));
            }
            Err(error) => return Err(Fault::usage(format!("cannot read `{}`", file.path)).cause(error)),
        }
    }
    if drift.is_empty() {
        ui::step("checked", &format!("{} workflows are what the policy gives", files.len()));
        return Ok(());
    }
    let fault = drift.iter().fold(Fault::drift("the workflows are not what the policy gives"), Fault::cause);
    Err(fault.hint("write them: `cargo xtask workflows`"))
}
