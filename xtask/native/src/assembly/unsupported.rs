//! Instructions that the native engine does not support, found in a Dockerfile's text before a build.
//!
//! Reads nothing. A build checks each instruction with it; `doctor` checks the whole target.

use super::copy::mode::Mode;
use super::copy::owner::Owner;
use super::interpreted;
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::spec::dockerfile::{Dockerfile, Instruction, Kind, Transfer, remote};
use xtask_model::spec::reference::Platform;

pub(crate) struct Candidate<'a> {
    /// The Dockerfile, with its target set to the stage to build.
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) args: &'a BTreeMap<String, String>,
    pub(crate) platform: &'a Platform,
    pub(crate) image: &'a str,
    pub(crate) realised: &'a dyn Fn(&str) -> bool,
}

/// Checks all instructions of the target.
///
/// # Errors
/// The first unsupported instruction, with its line and alternatives.
pub(crate) fn check(subject: &Candidate<'_>) -> Result<(), Fault> {
    let Candidate { dockerfile, args, platform, image, realised } = subject;
    let stage_bases = dockerfile.stage_bases(args, platform)?;
    let (interpreted, below) = interpreted(dockerfile, &stage_bases, realised)?;
    let is_used = |stage: &usize| interpreted.contains(stage) || below.contains(stage);
    let mut images = stage_bases.iter().filter(|stage_base| stage_base.on.is_none() && stage_base.base != "scratch");
    if let Some(other) = images.find(|stage_base| is_used(&stage_base.stage) && stage_base.base != *image) {
        let line = dockerfile.stages()[other.stage].line;
        return Err(wrong_base(&other.base, image).needed_by(format!("`{}:{line}`", dockerfile.path())));
    }
    let expanded = dockerfile.expand(args, platform)?;
    for stage in expanded.stages.iter().filter(|stage| interpreted.contains(&stage.index)) {
        stage
            .instructions
            .iter()
            .try_for_each(|instruction| check_instruction(dockerfile, stage.index, instruction))?;
    }
    Ok(())
}

/// Error for a `FROM` of any image but the base.
pub(crate) fn wrong_base(named: &str, image: &str) -> Fault {
    Fault::usage(format!("`FROM {named}` is not the base image of this build"))
        .cause(format!("the base image is `{image}`"))
        .hint("use `FROM ${BASE_IMAGE}`, in a base `FROM ${ROOT_IMAGE}`; or build with docker: `--engine docker`")
}

pub(super) fn check_instruction(file: &Dockerfile, stage: usize, instruction: &Instruction) -> Result<(), Fault> {
    let line = instruction.line;
    match &instruction.kind {
        Kind::Run(_) => Err(with_alternatives(wrong(file, line, "the native engine does not support `RUN`"))),
        Kind::Add(transfer) => check_add(file, line, transfer).and_then(|()| check_transfer(file, line, transfer)),
        Kind::Copy(transfer) => {
            if let Some(source) = transfer.sources.iter().find(|source| remote(source)) {
                return Err(wrong(file, line, format!("`COPY` cannot download `{source}`"))
                    .hint("use `ADD` with `--engine docker`"));
            }
            if let Some(from) = transfer.from.as_ref().filter(|from| file.find_stage(from, stage).is_none()) {
                let what = format!("`{from}` is not a stage, and the native engine cannot copy from an image");
                return Err(with_alternatives(wrong(file, line, what)));
            }
            check_transfer(file, line, transfer)
        }
        _ => Ok(()),
    }
}

fn wrong(file: &Dockerfile, line: usize, why: impl std::fmt::Display) -> Fault {
    Fault::usage(format!("{}:{line}: {why}", file.path()))
}

fn check_add(file: &Dockerfile, line: usize, transfer: &Transfer) -> Result<(), Fault> {
    let refuse = |what: String| Err(wrong(file, line, what).hint("or build with `--engine docker`"));
    if let Some(source) = transfer.sources.iter().find(|source| remote(source)) {
        return refuse(format!("the native engine does not support `ADD {source}`: it cannot download"));
    }
    if transfer.unpack == Some(true) {
        return refuse("the native engine does not support `ADD --unpack`".to_owned());
    }
    if transfer.checksum.is_some() {
        return Err(wrong(file, line, "`--checksum` is only valid for downloads"));
    }
    Ok(())
}

fn check_transfer(file: &Dockerfile, line: usize, transfer: &Transfer) -> Result<(), Fault> {
    let owner = transfer.chown().map(Owner::parse).transpose();
    let owner = owner.map_err(|why| wrong(file, line, why).hint("use a number up to 2147483647, or a name"))?;
    if transfer.is_linked() && owner.is_some_and(|owner| owner.if_numbers().is_none()) {
        return Err(unresolvable_owner(file, line, transfer));
    }
    let mode = transfer.chmod().map(Mode::parse).transpose();
    mode.map_err(|why| wrong(file, line, why).hint("use octal digits, `755`, or the symbolic form, `u=rwx,go=rx`"))?;
    if transfer.from.is_some() && !transfer.heredocs.is_empty() {
        return Err(
            wrong(file, line, "a here-document cannot be used with `--from`").hint("use two `COPY` instructions")
        );
    }
    match transfer.heredocs.iter().find(|heredoc| heredoc.name.contains('/')) {
        Some(heredoc) => Err(wrong(file, line, format!("here-document `{}` is not a valid file name", heredoc.name))),
        None => Ok(()),
    }
}

/// Error for an owner's name with no image to look it up in.
pub(super) fn unresolvable_owner(file: &Dockerfile, line: usize, transfer: &Transfer) -> Fault {
    let what = format!("`--chown={}` needs an image to look the name up in", transfer.chown().unwrap_or_default());
    wrong(file, line, what).hint("use the number, or remove `--link`")
}

/// Adds hints for what this engine cannot do.
pub(super) fn with_alternatives(fault: Fault) -> Fault {
    fault
        .hint("move it to a named stage, and give that stage a recipe in `[base.stages]` of `images.toml`")
        .hint("or build with `--engine docker`")
}
