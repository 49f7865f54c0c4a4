//! `reference`: writes the generated parts of the documents, or reports which are out of date.

use crate::flags::Global;
use crate::reference;
use crate::tidy::Files;
use xtask_host::tree::facts::find_root;
use xtask_host::{file, terminal};
use xtask_model::fault::Fault;

/// Writes them; with `check` changes nothing, and fails if a file is out of date.
pub fn run(global: &Global, check: bool) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    let texts = Files::read(&root)?;
    let generated = reference::files(&|path| texts.text(path));
    if generated.is_empty() {
        let fault = Fault::usage(format!("this repository has no `{}`", reference::PATH));
        return Err(fault.hint("`cargo xtask reference` is for the repository of xtask itself").into());
    }
    let stale = generated.iter().filter(|file| texts.text(file.path) != Some(&file.text));
    if !check {
        for file in &generated {
            let wrote = file::write(&root.join(file.path), &file.text)?;
            terminal::step(if wrote { "wrote" } else { "unchanged" }, &format!("`{}`", file.path));
        }
        return Ok(());
    }
    let causes: Vec<String> = stale.map(|file| format!("`{}` is out of date", file.path)).collect();
    if causes.is_empty() {
        terminal::step("checked", &format!("{} generated files are up to date", generated.len()));
        return Ok(());
    }
    let fault = causes.into_iter().fold(Fault::drift("generated documents are out of date"), Fault::cause);
    Err(fault.hint("update them: `cargo xtask reference`").into())
}
