//! `doctor`: checks everything that a build needs, with a fix for each problem. Changes nothing.

use crate::flags::{Format, Global};
use crate::{documents, pipeline, steps};
use serde::Serialize;
use xtask_host::docker::{self, Docker};
use xtask_host::process::{self, Command};
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::terminal;
use xtask_host::tree::context::WorkTree;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::git::Git;
use xtask_host::tree::{secrets, uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::plan;
use xtask_model::image::policy::{Engine, FILE, ImageKind};
use xtask_model::spec::dockerfile::{Dockerfile, LintRule};
use xtask_model::spec::lock::closure;
use xtask_model::spec::reference::{Platform, Tag};
use xtask_native::preflight;

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Note,
    Bad,
}

/// A check.
#[derive(Debug, Serialize)]
struct Diagnosis {
    state: State,
    what: String,
    said: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedy: Vec<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

fn good(what: impl Into<String>, said: impl Into<String>) -> Diagnosis {
    Diagnosis { state: State::Good, what: what.into(), said: said.into(), remedy: Vec::new(), exit: None }
}

fn note(what: impl Into<String>, said: impl Into<String>, remedy: impl Into<String>) -> Diagnosis {
    Diagnosis { state: State::Note, what: what.into(), said: said.into(), remedy: vec![remedy.into()], exit: None }
}

fn bad(what: impl Into<String>, fault: Fault) -> Diagnosis {
    let causes: String =
        fault.causes.iter().map(|cause| format!(": {}", cause.lines().next().unwrap_or_default())).collect();
    let said = format!("{}{causes}", fault.what);
    Diagnosis { state: State::Bad, what: what.into(), said, remedy: fault.hints, exit: Some(fault.exit) }
}

/// Runs every check, prints all findings, and fails with the exit code of the first bad one.
pub fn run(global: &Global) -> anyhow::Result<()> {
    // A git that fails is a finding like any other.
    let (trees, git_fault) = match global.trees() {
        Ok(trees) => (trees, None),
        Err(fault) => match global.trees_of(Box::new(WorkTree::new(&facts::find_root(global.root.as_deref())?))) {
            Ok(trees) => (trees, Some(fault)),
            Err(_) => return Err(fault.into()),
        },
    };
    let mut findings = vec![good("policy", format!("`{}` is valid", FILE))];
    for tree in &trees {
        let git = git_fault.clone().map_or_else(|| git(global, tree), |fault| bad("git", fault));
        let mut of_app = dockerfiles(tree);
        of_app.extend([lock(tree), root_image(tree, global), installer(tree), git]);
        of_app.extend(compiler(tree));
        of_app.extend(engines_of_images(tree));
        of_app.extend(engine(tree));
        of_app.extend(registry(tree, global));
        of_app.extend(step_tools(tree));
        // What apps have in common is said once.
        let new = |one: &Diagnosis| {
            !findings.iter().any(|known: &Diagnosis| (&known.what, &known.said) == (&one.what, &one.said))
        };
        let new: Vec<Diagnosis> = of_app.into_iter().filter(new).collect();
        findings.extend(new);
    }
    if global.format == Format::Json {
        documents::DOCTOR.print_list("findings", &findings)?;
    } else {
        for finding in &findings {
            let mark = match finding.state {
                State::Good => "good",
                State::Note => "note",
                State::Bad => "bad",
            };
            terminal::step(mark, &format!("{}: {}", finding.what, finding.said));
            finding.remedy.iter().for_each(|remedy| terminal::step("", &format!("  {remedy}")));
        }
    }
    match findings.iter().find(|finding| finding.state == State::Bad) {
        None => Ok(()),
        Some(first) => {
            let count = findings.iter().filter(|finding| finding.state == State::Bad).count();
            let exit = first.exit.unwrap_or(Exit::Usage);
            Err(Fault::new(exit, format!("{count} of {} checks failed", findings.len())).into())
        }
    }
}

fn dockerfiles(tree: &Tree) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    for kind in [ImageKind::Base, ImageKind::App, ImageKind::Enhanced] {
        let Ok(path) = tree.dockerfile(kind) else { continue };
        let read = std::fs::read_to_string(tree.root.join(&path))
            .map_err(|error| Fault::usage(format!("cannot read `{path}`")).cause(error));
        match read.and_then(|text| Dockerfile::parse(path.as_str(), &text)) {
            Err(fault) => findings.push(bad(path.as_str(), fault)),
            Ok(dockerfile) => {
                // Only the base and the app are to be built by more than one engine.
                let lints = dockerfile.lint();
                let mut clean = true;
                for lint in lints.iter().filter(|lint| kind != ImageKind::Enhanced || lint.rule != LintRule::LastStage)
                {
                    clean = false;
                    findings.push(note(path.as_str(), lint.what.clone(), lint.hint.clone()));
                }
                if clean {
                    findings.push(good(path.as_str(), "is valid and follows the conventions"));
                }
            }
        }
    }
    findings
}

fn lock(tree: &Tree) -> Diagnosis {
    let lock = match facts::lock(tree) {
        Ok(lock) => lock,
        Err(fault) => return bad("lock", fault),
    };
    match facts::wheels::unbuildable(tree, &lock) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => return bad("lock", facts::wheels::no_wheel(&missing)),
        Err(fault) => return bad("lock", fault),
    }
    match facts::unchecked_targets(tree, &lock) {
        Ok(unchecked_targets) if unchecked_targets.is_empty() => {}
        Ok(unchecked_targets) => {
            let said = format!("wheels were not checked on {}", unchecked_targets.join(", "));
            return note("lock", said, "check them: `cargo xtask lock`");
        }
        Err(fault) => return bad("lock", fault),
    }
    let unknown = closure::unrecorded(&lock, &facts::environments(tree));
    if !unknown.is_empty() {
        let said = format!("the requirements of {} packages are not recorded: {}", unknown.len(), unknown.join(", "));
        return note("lock", said, "check and record them: `cargo xtask lock`; builds check them in any case");
    }
    good("lock", format!("{} packages match {}", lock.packages.len(), tree.policy.base.requirements))
}

/// Benefit of pinning the root.
const PIN: &str = "`cargo xtask lock` pins it: every build of a commit is then on the same root, and CI uses `--locked` once \
     `cargo xtask workflows` has written it";

fn root_image(tree: &Tree, global: &Global) -> Diagnosis {
    let image = &tree.policy.root.image;
    match facts::images_lock(tree).map(|lock| lock.root) {
        Err(fault) => return bad("root", fault),
        Ok(Some(pin)) if pin.image == *image => {
            return good("root", format!("`{image}` is pinned for {} platforms", pin.platforms.len()));
        }
        Ok(Some(pin)) => {
            return bad(
                "root",
                Fault::usage(format!("`images.lock` pins `{}`, the policy wants `{image}`", pin.image))
                    .hint("`cargo xtask lock`"),
            );
        }
        Ok(None) if global.offline => return note("root", "not pinned", PIN),
        Ok(None) => {}
    }
    match pipeline::resolve_root(tree, &tree.policy.project.platforms) {
        Ok(_) => note("root", format!("`{image}` is reachable and not pinned"), PIN),
        Err(fault) if tree.policy.root.fallback.is_some() && fault.unreachable => {
            let cause = fault.causes.last().cloned().unwrap_or(fault.what);
            note(
                "root",
                format!("`{image}` is unreachable ({cause})"),
                "builds use a root made of Debian packages, and CI runs without `--locked`, which refuses it, until the root is pinned",
            )
        }
        Err(fault) => bad("root", fault),
    }
}

fn installer(tree: &Tree) -> Diagnosis {
    match uv::find(&tree.root, &[]) {
        Ok(uv) => good("uv", format!("{} at `{}`", uv.version(), uv.program().display())),
        Err(fault) => note(
            "uv",
            format!("{}; only `cargo xtask lock` needs it, and installs it", fault.what),
            fault.hints.join("; "),
        ),
    }
}

fn git(global: &Global, tree: &Tree) -> Diagnosis {
    let compared = match pipeline::compare_with_commit(tree, global.offline) {
        Ok(compared) => compared,
        Err(fault) => return bad("inputs", fault),
    };
    let Some(commit) = &tree.commit else {
        let why = Git::at(&tree.root).absence();
        return note("git", why, "with a commit, images are tagged by it, and `latest` can move");
    };
    let branch = commit.branch.as_deref().unwrap_or("no branch");
    let mut differences: Vec<_> = compared.into_iter().flat_map(|(_, differences)| differences).collect();
    plan::sort(&mut differences);
    if differences.is_empty() {
        return good("git", format!("{} on {branch}; the inputs of the images equal the commit's", commit.short()));
    }
    let listed = plan::listed(&differences);
    note(
        "git",
        format!("{} on {branch}; inputs differ from the commit: {listed}", commit.short()),
        "commit them, or leave them out with the ignore file: until then no tag of the commit and no `latest`",
    )
}

fn compiler(tree: &Tree) -> Option<Diagnosis> {
    let binary = tree.policy.app.binary.as_ref()?;
    let version = Command::new("cargo").arg("--version").current_dir(&tree.root).read(Exit::Missing);
    Some(match version {
        Ok(version) => good("cargo", format!("{version}, for `{}`", binary.name)),
        Err(fault) => bad("cargo", fault.hint("install Rust: https://rustup.rs")),
    })
}

/// Engines that can build each image, with the line of a Dockerfile that the native engine does not support.
fn engines_of_images(tree: &Tree) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    for kind in [ImageKind::Base, ImageKind::App, ImageKind::Enhanced] {
        if kind == ImageKind::Enhanced && tree.policy.app.enhanced.is_none() {
            continue;
        }
        let what = format!("engines of the {} image", tree.policy.shown(kind));
        let native = match tree.policy.project.engine {
            Engine::Native => true,
            Engine::Auto => !Docker::can_build(&tree.root),
            Engine::Docker => false,
        };
        let docker = match kind {
            ImageKind::App => Ok(()),
            ImageKind::Base | ImageKind::Enhanced => {
                facts::secrets(tree, kind).and_then(|wanted| secrets::check_folders(&wanted, &|| facts::indexes(tree)))
            }
        };
        findings.push(match (preflight::check(tree, kind, &tree.policy.project.platforms), docker) {
            // From scratch, programs run while it is built: that is what it is for.
            (_, Ok(())) if kind == ImageKind::Enhanced => good(what, "docker"),
            (Ok(()), Ok(())) => good(what, "docker, native"),
            (_, Err(fault)) if kind == ImageKind::Enhanced => note(what, fault.what, fault.hints.join("; ")),
            (Ok(()), Err(fault)) if native => {
                note(what, format!("native alone: {}", fault.what), fault.hints.join("; "))
            }
            (_, Err(fault)) => bad(what, fault),
            (Err(fault), _) if native => bad(what, fault),
            (Err(fault), _) => {
                let causes: String = fault.causes.iter().map(|cause| format!(": {cause}")).collect();
                note(what, format!("only docker: {}{causes}", fault.what), fault.hints.join("; "))
            }
        });
    }
    findings
}

/// The engine of this machine, and what it lacks.
fn engine(tree: &Tree) -> Vec<Diagnosis> {
    match tree.policy.project.engine {
        Engine::Native => {
            let engine = good("engine", "native, as the policy says: no Docker is needed");
            [engine].into_iter().chain(podman(tree)).collect()
        }
        Engine::Auto if !Docker::can_build(&tree.root) => {
            let enhanced = tree.policy.app.enhanced.is_some();
            let only = if enhanced { "; only `build-enhanced` needs one: `cargo xtask engine up`" } else { "" };
            let engine = good("engine", format!("native: no Docker engine is available, and none is needed{only}"));
            [engine].into_iter().chain(podman(tree)).collect()
        }
        Engine::Auto | Engine::Docker => docker(tree),
    }
}

/// Podman, where it is what keeps and runs images.
fn podman(tree: &Tree) -> Option<Diagnosis> {
    let podman = Docker::find(&tree.root).ok().filter(|docker| docker.podman)?;
    Some(match podman.version() {
        Ok(version) => good("podman", format!("{version}: it keeps and runs what the native engine builds")),
        Err(fault) => bad("podman", fault),
    })
}

fn docker(tree: &Tree) -> Vec<Diagnosis> {
    let docker = match Docker::find(&tree.root) {
        Ok(docker) if docker.podman => return vec![bad("docker", docker::podman_cannot_build())],
        Ok(docker) => docker,
        Err(fault) => return vec![bad("docker", fault)],
    };
    let mut findings = Vec::new();
    let whose = if docker.private { ", the private engine" } else { "" };
    match docker.version() {
        Ok(version) => findings.push(good("docker", format!("engine {version}{whose}"))),
        Err(fault) => return vec![bad("docker", fault)],
    }
    match docker.buildx_version() {
        Ok(version) => findings.push(good("buildx", version)),
        Err(fault) => findings.push(bad("buildx", fault)),
    }
    match docker.has_containerd_store() {
        Ok(true) => findings.push(good("image store", "containerd: images have digests")),
        Ok(false) => findings.push(note(
            "image store",
            "classic: local images have no digest, so a base cannot stay on this machine",
            "switch on `containerd-snapshotter` in the daemon's `features`, or build with `--push`",
        )),
        Err(fault) => findings.push(bad("image store", fault)),
    }
    findings
}

fn registry(tree: &Tree, global: &Global) -> Vec<Diagnosis> {
    let repository = tree.repository(ImageKind::Base);
    if global.offline {
        return vec![note("registry", "not checked", "run this without `--offline`")];
    }
    let client = pipeline::single_try_client(tree);
    if let Err(fault) = client.ping(repository.registry()) {
        // A team without its registry can still build for the local store.
        let fault = fault.hint("`--registry HOST` names another; without `--push` images stay on this machine");
        return vec![Diagnosis { state: State::Note, ..bad("registry", fault) }];
    }
    let mut findings = vec![good("registry", format!("`{}` answers", repository.registry()))];
    findings.extend(pinned_base(tree, &client));
    match latest(tree, &client, ImageKind::Base, "cargo xtask build-base --push") {
        Ok(Some(found)) => findings.push(found),
        Ok(None) => findings.push(note(
            tree.policy.shown(ImageKind::Base),
            "none is published",
            "`cargo xtask build-base --push`",
        )),
        Err(fault) => findings.push(bad(tree.policy.shown(ImageKind::Base), fault)),
    }
    match latest(tree, &client, ImageKind::App, "cargo xtask build --push") {
        Ok(found) => findings.extend(found),
        Err(fault) => findings.push(bad(tree.policy.shown(ImageKind::App), fault)),
    }
    findings
}

/// The image that `latest` names, if the registry still has all of it.
fn latest(tree: &Tree, client: &Client, kind: ImageKind, again: &str) -> Result<Option<Diagnosis>, Fault> {
    let repository = tree.repository(kind);
    let answer = publish::read(client, &repository, Tag::latest())?;
    let Answer::Present(mut found) = answer else { return Ok(None) };
    let listed: Vec<Platform> = found.platforms.keys().cloned().collect();
    xtask_host::registry::publish::completeness::check(&mut found, client, &repository)?;
    let reference = repository.tag(&Tag::latest());
    Ok(Some(match found.lost_reason(&listed) {
        None => {
            let platforms: Vec<String> = listed.iter().map(ToString::to_string).collect();
            good(tree.policy.shown(kind), format!("`{reference}` is {} for {}", found.digest, platforms.join(", ")))
        }
        Some(lost) => {
            let fault = Fault::network(format!("`{reference}` is incomplete")).cause(lost);
            bad(tree.policy.shown(kind), fault.hint(format!("build what is missing: `{again}`")))
        }
    }))
}

/// A pinned base must exist, and is worth a note: builds no longer follow the requirements.
fn pinned_base(tree: &Tree, client: &Client) -> Option<Diagnosis> {
    let digest = facts::images_lock(tree).ok()?.pinned(tree.policy.base.name.as_deref())?;
    let remedy = "let builds follow the requirements again: `cargo xtask base pin --remove`";
    Some(match pipeline::pinned_base(tree, client, digest, &tree.policy.project.platforms) {
        Ok(_) => note("pinned base", format!("builds use `{digest}`, whatever the requirements say"), remedy),
        Err(fault) => bad("pinned base", fault),
    })
}

fn step_tools(tree: &Tree) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    for step in &tree.policy.steps {
        for program in steps::needed(step) {
            let here = tree.root.join(program).is_file();
            let found = if program.contains('/') { here } else { process::found(program).is_some() };
            findings.push(if found {
                good(format!("step {}", step.name), format!("`{program}` is installed"))
            } else {
                bad(
                    format!("step {}", step.name),
                    Fault::missing(format!("`{program}` is missing"))
                        .hint(format!("install `{program}`, or remove the step from `images.toml`")),
                )
            });
        }
    }
    if tree.policy.steps.iter().any(|step| step.uses("smoke")) && tree.policy.smoke.runs.is_empty() {
        findings.push(note("step smoke", "`[smoke]` has no check", "write `[[smoke.run]]` in `images.toml`"));
    }
    findings
}
