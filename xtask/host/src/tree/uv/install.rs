//! Fetches uv for a machine that has none.
//!
//! Writes under `target/tools` of the root only; pip downloads, from the index in its settings.

use super::{INSTALLER_LOCK, TOOLS, Uv};
use crate::process::{self, Command};
use std::path::Path;
use xtask_model::fault::{Exit, Fault};
use xtask_model::spec::requirements::secret;

/// Puts uv under `target/tools` of the root, from the index that pip uses: in the version of `dockerfiles/installer.lock`
/// where there is one, checked by hash.
///
/// # Errors
/// No `python3`, no `venv` and no `pip` (missing); pip's own words when it cannot install.
pub fn install(root: &Path) -> Result<Uv, Fault> {
    let python = process::find(
        "python3",
        "uv",
        "install Python 3 with venv and pip: `apt-get install python3-venv python3-pip`",
    )?;
    let home = root.join(TOOLS).join("uv");
    let venv = Command::new(&python).args(["-m", "venv"]).arg(&home).read(Exit::Missing);
    let pip = match &venv {
        Ok(_) => Command::new(home.join("bin/python3")).args(["-m", "pip", "install"]),
        // Debian's python3 comes without ensurepip; a pip may be installed all the same.
        Err(_) => Command::new(&python).args(["-m", "pip", "install", "--upgrade", "--target"]).arg(&home),
    };
    installed(root, &pip, |fault| {
        let fault = venv.err().map_or(fault.clone(), |venv| without_pip(&fault, &venv));
        fault.hint("install uv by hand: `python3 -m pip install uv`, then again `cargo xtask quickstart`")
    })
}

fn installed(root: &Path, pip: &Command, help: impl FnOnce(Fault) -> Fault) -> Result<Uv, Fault> {
    let tools = root.join(TOOLS);
    let call = pip.clone().args(["--quiet", "--disable-pip-version-check", "--no-input"]).args(wanted(root));
    call.current_dir(root).read(Exit::Network).map_err(|fault| {
        let causes = fault.causes.iter().map(|cause| secret::redacted(cause)).collect();
        help(Fault { causes, ..fault }).needed_by("uv")
    })?;
    link(&tools.join("uv"), &tools)?;
    Uv::at(tools.join("bin/uv"))
}

fn wanted(root: &Path) -> Vec<String> {
    if root.join(INSTALLER_LOCK).is_file() {
        return ["--require-hashes", "-r", INSTALLER_LOCK].map(str::to_owned).into();
    }
    vec!["uv".to_owned()]
}

/// Neither venv nor pip: report both, as a missing tool if there is no pip at all.
pub(super) fn without_pip(pip: &Fault, venv: &Fault) -> Fault {
    let missing = pip.causes.iter().any(|cause| cause.contains("No module named pip"));
    let exit = if missing { Exit::Missing } else { pip.exit };
    let fault = Fault::new(exit, "cannot install `uv`: python3 has neither a working venv nor pip for it");
    let fault = venv.causes.iter().chain(&pip.causes).fold(fault, Fault::cause);
    fault.hint("install them: `apt-get install python3-venv python3-pip`")
}

fn link(home: &Path, tools: &Path) -> Result<(), Fault> {
    let bin = tools.join("bin");
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", bin.display())).cause(error);
    let program = home.join("bin/uv");
    if !program.exists() {
        return Err(Fault::build(format!("`{}` is missing after its installation", program.display())));
    }
    std::fs::create_dir_all(&bin).map_err(cannot)?;
    let new = bin.join(".uv.new");
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink("../uv/bin/uv", &new).map_err(cannot)?;
    std::fs::rename(&new, bin.join("uv")).map_err(cannot)
}
