//! buildah's command lines, from the same [`Build`] as docker's. Images, caches and temporary files are in one folder
//! of the bench; buildah keeps its record of blob locations in its usual place.

use super::subject::Start;
use crate::workspace::Workspace;
use std::ffi::OsString;
use std::path::Path;
use xtask_host::docker::Build;
use xtask_host::process::{self, Command};
use xtask_model::fault::Fault;
use xtask_model::image::policy::RelPath;

pub(super) const FOLDER: &str = "buildah";

pub(super) fn command(workspace: &Workspace) -> Result<Command, Fault> {
    let program = process::find("buildah", "the comparison with buildah", "install it: `apt-get install buildah`")?;
    let folder = workspace.private_folder(FOLDER);
    let temporary = folder.join("tmp");
    std::fs::create_dir_all(&temporary)
        .map_err(|error| Fault::build(format!("cannot write `{}`", temporary.display())).cause(error))?;
    let call = workspace.isolated(Command::new(program)).env("TMPDIR", &temporary);
    let place = |flag: &str, name: &str| joined(flag, &folder.join(name));
    Ok(call.arg(place("--root=", "root")).arg(place("--runroot=", "run")).arg("--storage-driver=overlay"))
}

/// Arguments of its build. Intermediate layers are kept only if a later build can use them.
pub(super) fn build(build: &Build, ignore: &RelPath, start: Start) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["build", "--isolation=chroot", "--tls-verify=false", "--format=oci", "--pull=false"]
        .map(OsString::from)
        .to_vec();
    args.push(format!("--layers={}", start == Start::Warm).into());
    args.push(joined("--file=", &build.context.join(&build.dockerfile)));
    args.push(joined("--ignorefile=", &build.context.join(ignore)));
    for (name, value) in &build.args {
        args.extend(["--build-arg".into(), format!("{name}={value}").into()]);
    }
    for name in &build.inherited_args {
        args.extend(["--build-arg".into(), name.into()]);
    }
    for (id, path) in &build.secrets {
        args.push(joined(&format!("--secret=id={id},src="), path));
    }
    args.extend(build.names.iter().map(|name| format!("--tag={name}").into()));
    args.push(build.context.clone().into());
    args
}

pub(super) fn push(build: &Build) -> Vec<OsString> {
    let mut args = vec!["push".into(), "--tls-verify=false".into()];
    args.push(format!("--compression-format={}", build.compression.as_str()).into());
    args.extend(build.names.iter().map(OsString::from));
    args
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut text = OsString::from(flag);
    text.push(path);
    text
}
