//! Reference texts of the recipes, and the check that a stage has the same meaning.
//!
//! Pure. Comments, line breaks, blanks, the order of mounts and argument defaults may differ. Any other difference is
//! an error, because the recipe does not implement it.

use std::collections::BTreeMap;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Base, Recipe};
use xtask_model::spec::dockerfile::{Command, Dockerfile, Instruction, Kind, Stage, StageBase, Transfer};
use xtask_model::spec::lock::sources;
use xtask_model::spec::reference::Platform;

/// One stage for each recipe.
const STAGES: &str = include_str!("Dockerfile.stages");

/// Rejects a stage that its recipe does not implement.
///
/// # Errors
/// The first instruction that differs, with its line; a stage that is not built directly on the root.
pub(super) fn check(
    dockerfile: &Dockerfile,
    stage: &str,
    recipe: Recipe,
    (args, platform): (&BTreeMap<String, String>, &Platform),
    base: &Base,
) -> Result<(), Fault> {
    let checked = Checked { dockerfile, recipe };
    let text = of_policy(base);
    let reference = Dockerfile::parse("Dockerfile.stages", &text).expect("the reference is a valid Dockerfile");
    let expected = reference.stages().iter().find(|stage| stage.name.as_deref() == Some(recipe.name()));
    let expected = &expected.expect("every recipe has its stage").instructions;
    let targeted = dockerfile.clone().with_target(stage).map_err(|fault| {
        fault.needed_by(format!("`[base.stages]` in `images.toml`, which assigns the recipe `{}` to it", recipe.name()))
    })?;
    let stage_bases = targeted.stage_bases(args, platform)?;
    let found = targeted.target();
    checked.is_built_on_the_root(found, &stage_bases, (args, platform), (expected, base))?;
    checked.same(found, expected)
}

fn of_policy(base: &Base) -> String {
    let lock = base.installed_lock();
    let (installer, lock, dockerfile) = (base.installer.as_str(), lock.as_str(), base.dockerfile.as_str());
    let last = |path: &'_ str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let scripts = dockerfile.rfind('/').map_or("", |at| &dockerfile[..=at]);
    STAGES
        .replace("@installer@", installer)
        .replace("@installer-name@", &last(installer))
        .replace("@lock@", lock)
        .replace("@lock-name@", &last(lock))
        .replace("@scripts@", scripts)
}

struct Checked<'a> {
    dockerfile: &'a Dockerfile,
    recipe: Recipe,
}

impl Checked<'_> {
    fn refuse(&self, line: usize, what: &str, why: String) -> Fault {
        let place = format!("{}:{line}", self.dockerfile.path());
        let name = self.recipe.name();
        Fault::usage(format!("{place}: the recipe `{name}` does not implement {what}"))
            .cause(why)
            .hint("build this base with docker: `--engine docker`")
            .hint(format!("or write the stage exactly as the recipe `{name}` has it, and move additions to another stage or to the requirements"))
    }

    /// A recipe uses the root's files, so no other stage may be in between but the one with Debian packages, which exists for all
    /// others where the policy has it.
    fn is_built_on_the_root(
        &self,
        found: &Stage,
        stage_bases: &[StageBase],
        (args, platform): (&BTreeMap<String, String>, &Platform),
        (expected, base): (&[Instruction], &Base),
    ) -> Result<(), Fault> {
        let known = arguments(expected);
        let system = base.stages.iter().find(|(_, recipe)| **recipe == Recipe::SystemPackages).map(|(name, _)| name);
        let mut missing = system.filter(|_| self.recipe != Recipe::SystemPackages);
        let mut at = found.index;
        loop {
            let stage = &self.dockerfile.stages()[at];
            let stage_base = stage_bases
                .iter()
                .find(|stage_base| stage_base.stage == at)
                .expect("every stage below has a stage_base");
            let other = stage_base.platform.as_deref().filter(|text| !text.is_empty());
            if other.is_some_and(|text| text.parse().ok().as_ref() != Some(platform)) {
                let why = format!("it is built for `{}`, but the image is for `{platform}`", other.unwrap_or_default());
                return Err(self.refuse(stage.line, "this `FROM`", why));
            }
            let Some(on) = stage_base.on else {
                let root = args.get("ROOT_IMAGE");
                if let Some(name) = missing.filter(|_| root == Some(&stage_base.base)) {
                    let why = format!("it is not built on the stage `{name}`, whose packages the image has");
                    return Err(self.refuse(stage.line, "this `FROM`", why));
                }
                if root == Some(&stage_base.base) {
                    return Ok(());
                }
                let why =
                    format!("it is built on `{}`, but the recipe reads the files of `ROOT_IMAGE`", stage_base.base);
                return Err(self.refuse(stage.line, "this `FROM`", why));
            };
            let below = &self.dockerfile.stages()[on];
            let free = |kind: &Kind| matches!(kind, Kind::Arg(pairs) if pairs.iter().all(|(name, _)| known.contains(&name.as_str())));
            if missing.is_some() && below.name.as_ref() == missing {
                missing = None;
            } else if let Some(extra) = below.instructions.iter().find(|instruction| !free(&instruction.kind)) {
                let name = found.name.as_deref().unwrap_or_default();
                let why =
                    format!("the stage `{name}` is built on it, but the recipe reads only the files of `ROOT_IMAGE`");
                return Err(self.refuse(extra.line, &format!("this `{}`", extra.kind.keyword()), why));
            }
            at = on;
        }
    }

    fn same(&self, found: &Stage, expected: &[Instruction]) -> Result<(), Fault> {
        let (mut ours, mut theirs): (Vec<_>, Vec<_>) =
            (found.instructions.iter().map(meant).collect(), expected.iter().map(meant).collect());
        if self.dockerfile.takes_context(sources::CONTEXT, sources::PLACE) {
            ours.iter_mut().for_each(without_wheels);
        }
        theirs.iter_mut().for_each(without_wheels);
        let first = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        let first = first.unwrap_or(ours.len().min(theirs.len()));
        let (ours, theirs) = (ours.split_off(first), theirs.split_off(first));
        let line = found.instructions.get(first).map_or(found.line, |instruction| instruction.line);
        let says = |kind: &Kind| format!("this `{}`", kind.keyword());
        let superfluous = |extra: &Kind| {
            Err(self.refuse(line, &says(extra), format!("the recipe has no such `{}`", extra.keyword())))
        };
        match (ours.as_slice(), theirs.as_slice()) {
            ([], []) => Ok(()),
            ([], [missing, ..]) => {
                let why = format!("a `{}` of the recipe is missing from the stage", missing.keyword());
                Err(self.refuse(line, "this stage", why))
            }
            ([extra, rest @ ..], theirs) if rest.first() == theirs.first() => superfluous(extra),
            ([extra, ..], []) => superfluous(extra),
            ([ours, ..], [missing, rest @ ..]) if Some(ours) == rest.first() => {
                let why = format!("a `{}` of the recipe is missing before it", missing.keyword());
                Err(self.refuse(line, &says(ours), why))
            }
            ([ours, ..], [theirs, ..]) => Err(self.refuse(line, &says(ours), difference(ours, theirs))),
        }
    }
}

fn arguments(instructions: &[Instruction]) -> Vec<&str> {
    let mut found = Vec::new();
    for instruction in instructions {
        if let Kind::Arg(pairs) = &instruction.kind {
            found.extend(pairs.iter().map(|(name, _)| name.as_str()));
        }
    }
    found
}

fn meant(instruction: &Instruction) -> Kind {
    let mut kind = instruction.kind.clone();
    match &mut kind {
        Kind::Arg(pairs) => pairs.iter_mut().for_each(|(_, value)| *value = None),
        Kind::Run(run) => {
            if let Command::Shell(text) = &mut run.command {
                *text = words(text).join(" ");
            }
            for mount in &mut run.mounts {
                mount.others.sort();
            }
            run.mounts.sort_by_key(|mount| format!("{mount:?}"));
        }
        Kind::Copy(transfer) | Kind::Add(transfer) => spelled(transfer),
        _ => {}
    }
    kind
}

/// Removes the mount of built wheels, which docker gets and the recipe has anyway.
fn without_wheels(kind: &mut Kind) {
    if let Kind::Run(run) = kind {
        run.mounts.retain(|mount| !mount.is_context(sources::CONTEXT, sources::PLACE));
    }
}

fn spelled(transfer: &mut Transfer) {
    let plain = |path: &str| path.trim_start_matches("./").trim_start_matches('/').to_owned();
    transfer.sources.iter_mut().for_each(|source| *source = plain(source));
    if transfer.destination == "." {
        transfer.destination.push('/');
    }
}

/// Splits at blanks outside quotes; keeps the quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                continue;
            }
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn difference(ours: &Kind, theirs: &Kind) -> String {
    let shell = |kind: &Kind| match kind {
        Kind::Run(run) => match &run.command {
            Command::Shell(text) => Some(words(text)),
            Command::Exec(_) => None,
        },
        _ => None,
    };
    if let (Some(ours), Some(theirs)) = (shell(ours), shell(theirs))
        && ours != theirs
    {
        let at = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        let at = at.unwrap_or(ours.len().min(theirs.len()));
        let show = |words: &[String]| words.get(at).map_or("nothing more".to_owned(), |word| format!("`{word}`"));
        return format!("it has {} where the recipe has {}", show(&ours), show(&theirs));
    }
    match (ours, theirs) {
        (Kind::Copy(ours), Kind::Copy(theirs)) if ours.sources != theirs.sources => {
            format!("it copies `{}`, the recipe `{}`", ours.sources.join(" "), theirs.sources.join(" "))
        }
        (ours, theirs) if ours.keyword() != theirs.keyword() => format!("the recipe has `{}` here", theirs.keyword()),
        (Kind::Arg(ours), Kind::Arg(theirs)) => {
            let names = |pairs: &[(String, Option<String>)]| {
                pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
            };
            format!("it declares `{}`, the recipe `{}`", names(ours), names(theirs))
        }
        _ => "its flags or its arguments differ from the recipe's".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::image::policy::{Policy, parse};

    const DOCKERFILE: &str = include_str!("../../../../dockerfiles/Dockerfile.base");

    fn policy() -> Policy {
        parse(include_str!("../../../../images.toml"), &|_| true).unwrap()
    }

    fn checked(text: &str, args: &[(&str, &str)]) -> Result<(), Fault> {
        let policy = policy();
        let dockerfile = Dockerfile::parse("Dockerfile.base", text)?;
        let mut all = BTreeMap::from([("ROOT_IMAGE".to_owned(), "root.invalid/any".to_owned())]);
        all.extend(args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        policy
            .base
            .stages
            .iter()
            .try_for_each(|(stage, recipe)| check(&dockerfile, stage, *recipe, (&all, &Platform::host()), &policy.base))
    }

    /// The one that edits the Dockerfile's stage edits `Dockerfile.stages` too, and the recipe.
    #[test]
    fn this_repositorys_stages_match_the_recipes() {
        checked(DOCKERFILE, &[]).unwrap_or_else(|fault| panic!("{fault}"));
    }

    #[track_caller]
    fn replaced(from: &str, to: &str) -> Result<(), Fault> {
        assert!(DOCKERFILE.contains(from), "{from}");
        checked(&DOCKERFILE.replacen(from, to, 1), &[])
    }

    #[test]
    fn differences_without_meaning_are_allowed() {
        for (from, to) in [
            ("WORKDIR /build\n", "# another comment\n\nworkdir /build\n"),
            ("python3 -m venv /opt/installer && \\\n", "python3  -m venv \\\n# within\n  /opt/installer &&  \\\n"),
            (
                "--mount=type=secret,id=ca --mount=type=secret,id=index-url",
                "--mount=type=secret,id=index-url --mount=id=ca,type=secret",
            ),
            ("COPY dockerfiles/installer.lock ./", "COPY ./dockerfiles/installer.lock ."),
            ("ARG MANYLINUX=2_36", "ARG MANYLINUX=2_28"),
            (" --mount=type=bind,from=built-wheels,target=/opt/wheels", ""),
            ("ARG USER_ID=10001", "ARG USER_ID=7"),
            ("FROM installer${BUILD_PACKAGES:+-with-compilers} AS packages", "FROM root AS packages"),
        ] {
            assert!(replaced(from, to).is_ok(), "{to}: {}", replaced(from, to).unwrap_err());
        }
    }

    #[test]
    fn wheels_of_the_dockerfile_itself_are_not_those_of_the_recipe() {
        let filled = replaced("AS built-wheels\n", "AS built-wheels\nCOPY own.whl /\n").unwrap_err();
        assert!(filled.what.contains("does not implement this `RUN`"), "{filled}");
        let elsewhere = replaced("target=/opt/wheels", "target=/opt/other").unwrap_err();
        assert!(elsewhere.what.contains("does not implement this `RUN`"), "{elsewhere}");
    }

    /// Each would be built by docker, and not by a recipe that looks at the stage's name.
    #[test]
    fn a_stage_with_another_meaning_is_rejected_with_its_line() {
        let line = |text: &str| DOCKERFILE.lines().position(|line| line.contains(text)).unwrap() + 1;
        let user = line("RUN echo \"${USER_NAME}");
        for (from, to, at, cause) in [
            (
                "COPY requirements-enhanced.lock ./",
                "RUN /opt/installer/bin/uv pip install gunicorn\nCOPY requirements-enhanced.lock ./",
                line("COPY requirements-enhanced.lock"),
                "the recipe has no such `RUN`",
            ),
            (
                "-r requirements-enhanced.lock",
                "-r requirements-enhanced.lock -r more.txt",
                line("# The environment by hand") + 2,
                "it has `-r` where the recipe has `&&`",
            ),
            (
                "COPY requirements-enhanced.lock ./",
                "COPY requirements-enhanced.lock more.txt ./",
                line("COPY requirements-enhanced.lock"),
                "it copies `requirements-enhanced.lock more.txt`, the recipe `requirements-enhanced.lock`",
            ),
            (
                "mkdir -p \"${USER_HOME}\" /app",
                "mkdir -p \"${USER_HOME}\" /app && chmod 1777 /app",
                user,
                "it has `&&` where the recipe has nothing more",
            ),
            (
                "mkdir -p \"${USER_HOME}\" /app",
                "mkdir -p \"${USER_HOME}\" /app /data",
                user,
                "it has `/data` where the recipe has nothing more",
            ),
            (
                "ARG MANYLINUX=2_36",
                "ARG MANYLINUX=2_36\nARG UV_INDEX=https://example.com",
                line("ARG MANYLINUX") + 1,
                "the recipe has no such `ARG`",
            ),
            (
                "WORKDIR /build\n",
                "WORKDIR /build\nENV PIP_NO_BINARY=:all:\n",
                line("WORKDIR /build") + 1,
                "the recipe has no such `ENV`",
            ),
            ("WORKDIR /build\n", "", line("WORKDIR /build"), "a `WORKDIR` of the recipe is missing before it"),
            (
                "FROM root AS installer\n",
                "FROM root AS installer\nRUN apt-get install -y libfoo\n",
                line("AS installer") + 1,
                "the stage `packages` is built on it, but the recipe reads only the files of `ROOT_IMAGE`",
            ),
            (
                "FROM root AS user",
                "FROM docker.io/library/debian:13 AS user",
                line("AS user"),
                "it is built on `docker.io/library/debian:13`, but the recipe reads the files of `ROOT_IMAGE`",
            ),
            (
                "FROM root AS user",
                "FROM --platform=linux/s390x root AS user",
                line("AS user"),
                &format!("it is built for `linux/s390x`, but the image is for `{}`", Platform::host()),
            ),
        ] {
            let Err(fault) = replaced(from, to) else { panic!("`{to}` was taken") };
            let what = format!("Dockerfile.base:{at}: the recipe `");
            assert!(fault.what.starts_with(&what), "{to}: {} is not at {at}", fault.what);
            assert_eq!(fault.causes, [cause], "{to}");
            assert!(fault.hints.iter().any(|hint| hint.contains("--engine docker")), "{to}");
        }
    }

    #[test]
    fn a_missing_stage_error_names_the_policy() {
        let text = DOCKERFILE.replace(" AS user", " AS person").replace("--from=user", "--from=person");
        let fault = checked(&text, &[]).unwrap_err();
        assert_eq!(fault.what, "`Dockerfile.base` has no stage `user`");
        assert!(fault.needed_by.unwrap().contains("[base.stages]"));
    }

    /// The stages of this repository on one with Debian packages.
    fn on_packages(text: &str) -> Result<(), Fault> {
        let stages = "[base.stages]\nsystem = \"system-packages\"\n";
        let policy = include_str!("../../../../images.toml").replace("[base.stages]\n", stages);
        let policy = policy.replacen(stages, &format!("[base.args]\nSYSTEM_PACKAGES = \"libpq5\"\n\n{stages}"), 1);
        let policy = parse(&policy, &|_| true)?;
        let dockerfile = Dockerfile::parse("Dockerfile.base", text)?;
        let args = BTreeMap::from([("ROOT_IMAGE".to_owned(), "root.invalid/any".to_owned())]);
        super::super::check(&dockerfile, &args, &Platform::host(), &policy.base)
    }

    #[test]
    fn all_stages_are_built_on_the_one_with_debian_packages() {
        let (_, system) = STAGES.split_once("FROM scratch AS system-packages\n").unwrap();
        let system = system.split("\nFROM ").next().unwrap();
        let root = "FROM ${ROOT_IMAGE} AS root\n";
        let with = |text: &str| DOCKERFILE.replacen(root, text, 1);
        let good = with(&format!("FROM ${{ROOT_IMAGE}} AS system\n{system}\nFROM system AS root\n"));
        on_packages(&good).unwrap_or_else(|fault| panic!("{fault}"));
        let fault = on_packages(&good.replace("FROM root AS user", "FROM ${ROOT_IMAGE} AS user")).unwrap_err();
        assert_eq!(fault.causes, ["it is not built on the stage `system`, whose packages the image has"]);
        let more = good.replace("FROM system AS root\n", "FROM system AS root\nRUN true\n");
        assert!(on_packages(&more).unwrap_err().what.contains("this `RUN`"));
        let other = good.replace("${SYSTEM_PACKAGES} && \\\n    rm", "${SYSTEM_PACKAGES} nginx && \\\n    rm");
        assert_ne!(other, good);
        assert!(on_packages(&other).unwrap_err().causes[0].contains("nginx"));
        assert!(on_packages(DOCKERFILE).unwrap_err().causes[0].contains("not built on the stage `system`"));
    }

    #[test]
    fn compilers_make_it_another_stage() {
        let fault = checked(DOCKERFILE, &[("BUILD_PACKAGES", "gcc")]).unwrap_err();
        assert!(fault.what.contains("this `RUN`"), "{fault}");
    }
}
