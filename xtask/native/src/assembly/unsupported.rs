//! What the native engine does not do, known from a Dockerfile's text before anything is built.
//!
//! Pure. One place for both: a build asks it of every instruction that it carries out, `doctor` of the whole target.

use super::interpreted;
use super::copy::mode::Mode;
use super::copy::owner::Owner;
use super::stages::with_alternatives;
use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::spec::dockerfile::{Dockerfile, Instruction, Kind, Transfer, remote};
use xtask_model::spec::reference::Platform;

/// A Dockerfile that may be built natively.
pub(crate) struct Candidate<'a> {
    /// The Dockerfile, its target the stage to build.
    pub(crate) dockerfile: &'a Dockerfile,
    /// Build arguments.
    pub(crate) args: &'a BTreeMap<String, String>,
    /// What it is built for.
    pub(crate) platform: &'a Platform,
    /// The image that it is built on, as its arguments name it.
    pub(crate) image: &'a str,
    /// Whether a recipe makes the stage of a name.
    pub(crate) realised: &'a dyn Fn(&str) -> bool,
}

/// The first instruction that the native engine would refuse, by stage and line.
///
/// # Errors
/// That instruction, with its line and the ways out.
pub(crate) fn check(subject: &Candidate<'_>) -> Result<(), Fault> {
    let Candidate { dockerfile, args, platform, image, realised } = subject;
    let footings = dockerfile.footings(args, platform)?;
    let interpreted = interpreted(dockerfile, &footings, realised)?;
    let mut images = footings.iter().filter(|footing| footing.on.is_none() && footing.base != "scratch");
    if let Some(other) = images.find(|footing| interpreted.contains(&footing.stage) && footing.base != *image) {
        let line = dockerfile.stages()[other.stage].line;
        return Err(wrong_base(&other.base, image).needed_by(format!("`{}:{line}`", dockerfile.path())));
    }
    let expanded = dockerfile.expand(args, platform)?;
    for stage in expanded.stages.iter().filter(|stage| interpreted.contains(&stage.index)) {
        stage.instructions.iter().try_for_each(|instruction| check_instruction(dockerfile, stage.index, instruction))?;
    }
    Ok(())
}

/// A `FROM` of an image that the engine does not have.
pub(crate) fn wrong_base(named: &str, image: &str) -> Fault {
    Fault::usage(format!("`FROM {named}` names another image than the one that is built upon"))
        .cause(format!("this build uses `{image}`"))
        .hint("write `FROM ${BASE_IMAGE}`, in a base `FROM ${ROOT_IMAGE}`; or build with docker: `--engine docker`")
}

/// Refuses an instruction of a stage.
pub(super) fn check_instruction(file: &Dockerfile, stage: usize, instruction: &Instruction) -> Result<(), Fault> {
    let line = instruction.line;
    match &instruction.kind {
        Kind::Run(_) => Err(with_alternatives(wrong(file, line, "the native engine runs nothing, and this is a `RUN`"))),
        Kind::Add(transfer) => check_add(file, line, transfer).and_then(|()| check_transfer(file, line, transfer)),
        Kind::Copy(transfer) => {
            if let Some(source) = transfer.sources.iter().find(|source| remote(source)) {
                return Err(wrong(file, line, format!("`COPY` cannot fetch `{source}`"))
                    .hint("`ADD` can, with `--engine docker`"));
            }
            if let Some(from) = transfer.from.as_ref().filter(|from| file.find_stage(from, stage).is_none()) {
                let what = format!("`{from}` is no stage, and the native engine copies from no image");
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
        return refuse(format!("the native engine fetches nothing, and this is `ADD {source}`"));
    }
    if transfer.unpack == Some(true) {
        return refuse("the native engine unpacks nothing, and this is `ADD --unpack`".to_owned());
    }
    if transfer.checksum.is_some() {
        return Err(wrong(file, line, "`--checksum` is for what is fetched"));
    }
    Ok(())
}

/// What `COPY` and `ADD` share.
fn check_transfer(file: &Dockerfile, line: usize, transfer: &Transfer) -> Result<(), Fault> {
    let owner = transfer.chown().map(Owner::parse).transpose();
    let owner = owner.map_err(|why| wrong(file, line, why).hint("write a number of at most 2147483647, or a name"))?;
    if transfer.is_linked() && owner.is_some_and(|owner| owner.if_numbers().is_none()) {
        return Err(unresolvable_owner(file, line, transfer));
    }
    let mode = transfer.chmod().map(Mode::parse).transpose();
    mode.map_err(|why| wrong(file, line, why).hint("write it as `755`, or as `u=rwx,go=rx`"))?;
    if transfer.from.is_some() && !transfer.heredocs.is_empty() {
        return Err(wrong(file, line, "a here-document comes from no other stage").hint("use two `COPY`"));
    }
    match transfer.heredocs.iter().find(|heredoc| heredoc.name.contains('/')) {
        Some(heredoc) => Err(wrong(file, line, format!("here-document `{}` cannot be a file's name", heredoc.name))),
        None => Ok(()),
    }
}

/// An owner's name where nothing answers it.
pub(super) fn unresolvable_owner(file: &Dockerfile, line: usize, transfer: &Transfer) -> Fault {
    let what = format!("`--chown={}` has no image to look the name up in", transfer.chown().unwrap_or_default());
    wrong(file, line, what).hint("write the number, or leave `--link` out")
}
