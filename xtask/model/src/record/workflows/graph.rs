//! The work of CI as one value: jobs, their order, the conditions and the steps of each. `github` and `gitlab` write it down.
//!
//! Pure. No text of a service is here: a step says what it does, a condition what it asks.

use super::{PolicyLocation, RootDigests, slashed};
use crate::image::policy::plugin::{KEYLESS, SIGN};
use crate::image::policy::{Action, Binary, Dependencies, Engine, Laptop, Policy, Provider};
use crate::spec::lock::formats::Format;
use std::collections::BTreeSet;

pub const CARGO_DENY: &str = "0.20.2";

/// Everything that CI does for a policy.
pub(super) struct Graph {
    /// The jobs of a push, a request to merge, a schedule and a run by hand, each after those that it needs.
    pub ci: Vec<Job>,
    /// The jobs of a version's git tag, each after those that it needs. One where the service gives every job the same rights.
    pub version: Vec<Job>,
    /// The job that upgrades locks, where the policy has a schedule for it.
    pub locks: Option<Job>,
}

pub(super) struct Job {
    pub name: &'static str,
    /// Reason for the job, as the file's comment gives it; may be empty.
    pub comment: &'static str,
    pub needs: Vec<&'static str>,
    pub when: Vec<When>,
    /// True if it also runs after a job that had nothing to do.
    pub after_skipped: bool,
    pub machines: Runners,
    pub rights: &'static [(&'static str, &'static str)],
    /// True if a step signs with the job's own identity.
    pub identity: bool,
    /// Outputs of the plan for later jobs, in addition to `publish`.
    pub outputs: Vec<&'static str>,
    /// True if a step asks at which commit the branch is by now: it decides whether a tag moves after a force push.
    pub asks_branch: bool,
    pub steps: Vec<JobStep>,
}

pub(super) enum Runners {
    Any,
    /// One of each platform's kind.
    Platforms,
    /// One for each processor of a laptop's system.
    Laptops(Laptop),
}

pub(super) struct JobStep {
    pub name: String,
    pub when: Vec<When>,
    pub does: Does,
}

pub(super) enum Does {
    /// Brings the sources with all of history: whether a commit follows another decides what `latest` names, and what changed since the
    /// last push.
    CheckOut,
    Restore(Cache),
    /// Saves what was compiled, where a run for the default branch found no cache of this key.
    Save(Cache),
    /// Only the times of the sources, which a checkout sets to now, would have cargo compile a cached xtask again. The cache's id.
    TrustTimes(&'static str),
    /// Sets the output `publish`: no run with a stranger's changes may publish, and none of a fork.
    AskMay,
    LogIn,
    Plan,
    /// Prepares docker for builds, or for tests, of which only some need it. Images are known by their manifests' digests only where
    /// containerd keeps them.
    PrepareDocker(DockerFor),
    StartCluster,
    Refuse(&'static str),
    Run(String, Vec<Setting>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DockerFor {
    Builds,
    Tests,
}

/// A variable of a step.
#[derive(Clone, Copy)]
pub(super) enum Setting {
    /// Variable and output of the plan.
    Output(&'static str, &'static str),
    RequireTools,
    Kubeconfig,
    /// The token that proposes changed locks.
    UpdateToken,
    /// A secret of the repository by its name.
    Secret(&'static str),
}

#[derive(Clone)]
pub(super) enum When {
    Is(&'static str, &'static str),
    IsNot(&'static str, &'static str),
    Contains(&'static str, &'static str),
    Scheduled,
    NotScheduled,
    DefaultBranch,
    /// It is the policy's own repository, not a fork.
    OwnRepository,
    Exists(&'static str),
    /// The cache of this id was not found.
    Missed(&'static str),
    Any(Vec<When>),
    /// An earlier job succeeded: it was neither skipped nor ended early.
    Succeeded(&'static str),
}

/// A cache of folders. A run for the default branch alone saves it: no job that publishes restores what a pull request wrote.
#[derive(Clone)]
pub(super) struct Cache {
    /// The id, and the begin of the key.
    pub id: &'static str,
    pub what: &'static str,
    /// Files whose contents are in the key; those of `sources` after the others.
    pub locked: Vec<String>,
    pub sources: Vec<String>,
    /// A version in place of files.
    pub version: Option<&'static str>,
    /// True if an older cache of the same locked files is restored where there is none of this key.
    pub older: bool,
    /// Folders; `~` is the home folder.
    pub paths: Vec<String>,
}

impl Cache {
    /// Steps that cargo needs to find `xtask` compiled. With an exact hit, its sources are those of the cached binary. The scripts of
    /// Dockerfiles are among them, because `init` writes them.
    pub(super) fn xtask(id: &'static str, place: &PolicyLocation) -> Self {
        let at = slashed(&place.workspace);
        let named = |names: &[&str]| names.iter().map(|name| format!("{at}{name}")).collect();
        let paths =
            vec!["~/.cargo/registry/index".into(), "~/.cargo/registry/cache".into(), format!("{at}target/debug")];
        Self {
            id,
            what: "xtask",
            locked: named(&["Cargo.lock", "rust-toolchain.toml"]),
            sources: named(&["Cargo.toml", ".cargo/config.toml", "xtask/**", "dockerfiles/*.py"]),
            version: None,
            older: true,
            paths,
        }
    }

    /// The crates of the apps' programs: compiled once for a lock, whatever is edited. Only where they are not in the registry.
    fn program(policies: &[&Policy], place: &PolicyLocation) -> Option<Self> {
        let binaries = policies.iter().filter_map(|policy| policy.app.binary.as_ref());
        let binaries = binaries.filter(|binary| binary.dependencies == Dependencies::Off);
        let profiles: BTreeSet<&str> = binaries.map(Binary::folder).collect();
        if profiles.is_empty() {
            return None;
        }
        let at = slashed(&place.workspace);
        let of = |profile: &str| [format!("{at}target/{profile}"), format!("{at}target/*/{profile}")];
        let paths = profiles.into_iter().flat_map(of).collect();
        let xtask = Self::xtask("program", place);
        Some(Self { what: "the program's crates", sources: Vec::new(), older: false, paths, ..xtask })
    }

    fn deny() -> Self {
        Self {
            id: "deny",
            what: "cargo-deny",
            locked: Vec::new(),
            sources: Vec::new(),
            version: Some(CARGO_DENY),
            older: false,
            paths: vec!["~/.cargo/bin/cargo-deny".to_owned()],
        }
    }

    /// The sources of all crates, for a machine on which nothing compiled fits.
    fn crates(place: &PolicyLocation) -> Self {
        Self {
            id: "crates",
            what: "the crates' sources",
            locked: vec![format!("{}Cargo.lock", slashed(&place.workspace))],
            sources: Vec::new(),
            version: None,
            older: false,
            paths: vec!["~/.cargo/registry/index".to_owned(), "~/.cargo/registry/cache".to_owned()],
        }
    }
}

const PUBLISHES: When = When::Is("publish", "true");
const DOES_NOT_PUBLISH: When = When::IsNot("publish", "true");
const BASE: When = When::Is("decision", "base+fast");
const FAST: When = When::Contains("decision", "fast");
const FULL: When = When::Is("decision", "full");
/// A run tests or names what it builds itself, or leaves it to later jobs.
const SMALL: When = When::IsNot("tests", "all");
const ALL_TESTS: When = When::Is("tests", "all");
/// The tests that the plan named.
const TESTS: &str = "cargo xtask ci --only \"$TESTS\"";

const READS: &[(&str, &str)] = &[("contents", "read")];
const PULLS: &[(&str, &str)] = &[("contents", "read"), ("packages", "read")];
const PUSHES: &[(&str, &str)] = &[("contents", "read"), ("packages", "write")];
const PROPOSES: &[(&str, &str)] = &[("contents", "write"), ("pull-requests", "write")];

/// The work after which images get the commit's tags: one from scratch gets none, and a rebase moves tags itself.
fn named() -> Vec<When> {
    vec![When::IsNot("decision", "full"), When::IsNot("decision", "rebase")]
}

fn step(name: impl Into<String>, when: Vec<When>, does: Does) -> JobStep {
    JobStep { name: name.into(), when, does }
}

fn run(name: &str, when: Vec<When>, command: impl Into<String>) -> JobStep {
    step(name, when, Does::Run(command.into(), Vec::new()))
}

fn prepare_docker(when: Vec<When>) -> JobStep {
    step("Keep images in containerd's store", when, Does::PrepareDocker(DockerFor::Builds))
}

fn check_out() -> JobStep {
    step("Check out", Vec::new(), Does::CheckOut)
}

fn restore(cache: &Cache, when: Vec<When>) -> JobStep {
    step(format!("Restore {}", cache.what), when, Does::Restore(cache.clone()))
}

fn save(cache: &Cache) -> JobStep {
    step(format!("Save {}", cache.what), Vec::new(), Does::Save(cache.clone()))
}

fn log_in(when: Vec<When>) -> JobStep {
    step("Log in to the registry", when, Does::LogIn)
}

fn plan() -> JobStep {
    step("Plan", Vec::new(), Does::Plan)
}

/// The sources, and xtask from a cache.
fn begin(cache: &Cache) -> Vec<JobStep> {
    let trust = step("Trust the times of cached sources", Vec::new(), Does::TrustTimes(cache.id));
    vec![check_out(), restore(cache, Vec::new()), trust]
}

/// Conditions one after the other.
fn all<const N: usize>(parts: [&[When]; N]) -> Vec<When> {
    parts.concat()
}

/// The work for a policy, which is given for each of its apps.
pub(super) fn graph(policies: &[&Policy], place: &PolicyLocation, root: RootDigests) -> Graph {
    let policy = policies[0];
    let writer = GraphWriter { policy, policies, place, root };
    let mut ci = vec![writer.images()];
    if writer.several() {
        ci.extend([writer.base(), writer.app()]);
    }
    ci.push(writer.test());
    ci.extend(policy.ci.laptops.iter().map(|laptop| writer.laptop(*laptop)));
    let earlier: Vec<&'static str> = ci.iter().map(|job| job.name).collect();
    ci.extend(policy.ci.shadow.map(|_| writer.shadow()));
    ci.push(writer.release(earlier));
    let mut graph = Graph { ci, version: writer.version(), locks: policy.ci.updates.as_ref().map(|_| writer.locks()) };
    sign(policy, graph.ci.iter_mut().chain(&mut graph.version));
    graph
}

/// Gives the steps that publish what they need to sign: the key as a secret of the repository, or the job's identity. No other step
/// gets it.
fn sign<'j>(policy: &Policy, jobs: impl Iterator<Item = &'j mut Job>) {
    let settings = policy.steps.iter().find_map(|step| match &step.action {
        Action::Uses(plugin, settings) if plugin.name == SIGN.name => Some(settings),
        Action::Uses(..) | Action::Package(..) | Action::Run(_) => None,
    });
    let Some(settings) = settings else { return };
    for job in jobs {
        let secret = match settings.text("cosign") {
            Some(KEYLESS) => {
                job.identity = job.rights.contains(&("packages", "write"));
                continue;
            }
            Some(_) => "COSIGN_PASSWORD",
            None => "XTASK_SIGNING_KEY",
        };
        for step in &mut job.steps {
            if let Does::Run(command, settings) = &mut step.does
                && publishes(command)
            {
                settings.push(Setting::Secret(secret));
            }
        }
    }
}

/// True if a command makes something that is signed.
fn publishes(command: &str) -> bool {
    let builds = command.starts_with("cargo xtask build") && command.contains(" --push");
    builds && !command.contains("--reuse-only") || command.starts_with("cargo xtask rebase")
}

/// The name of the job of a laptop's system.
fn laptop_job(laptop: Laptop) -> &'static str {
    match laptop {
        Laptop::MacOs => "macos",
    }
}

#[derive(Clone, Copy)]
struct GraphWriter<'p> {
    /// Policy that all apps have in common.
    policy: &'p Policy,
    /// The policy of each app.
    policies: &'p [&'p Policy],
    place: &'p PolicyLocation,
    root: RootDigests,
}

impl GraphWriter<'_> {
    /// True if jobs on other machines exist: a platform's compilers run on a machine of its kind.
    fn several(self) -> bool {
        self.policy.project.platforms.len() > 1
    }

    /// The condition under which the first job builds by itself.
    fn here(self) -> Vec<When> {
        if self.several() { vec![When::Is("machines", "one")] } else { Vec::new() }
    }

    fn native(self) -> bool {
        self.policy.ci.engine == Engine::Native
    }

    fn locked(self) -> &'static str {
        self.root.flag()
    }

    fn flag(self) -> &'static str {
        if self.native() { "--engine native" } else { "--engine docker" }
    }

    fn job(name: &'static str, rights: &'static [(&'static str, &'static str)], steps: Vec<JobStep>) -> Job {
        Job {
            name,
            comment: "",
            needs: vec!["images"],
            when: Vec::new(),
            after_skipped: false,
            machines: Runners::Any,
            rights,
            identity: false,
            outputs: Vec::new(),
            asks_branch: false,
            steps,
        }
    }

    /// Plans, and does everything that needs no other machine and no long tests.
    fn images(self) -> Job {
        let (policy, flag, locked, here) = (self.policy, self.flag(), self.locked(), self.here());
        let cache = Cache::xtask("xtask", self.place);
        let program = Cache::program(self.policies, self.place);
        let mut steps = begin(&cache);
        steps.push(step("Decide whether this event may publish", Vec::new(), Does::AskMay));
        steps.extend([log_in(vec![PUBLISHES]), plan(), save(&cache)]);
        let compiles = [When::Is("compiles", "true")];
        steps.extend(program.as_ref().map(|cache| restore(cache, all([&here, &compiles]))));
        if !self.native() {
            steps.push(prepare_docker(all([&here, &[When::Is("should-build", "true")]])));
        }
        let build = |name: &str, when: &[When], command: &str| run(name, all([&here, when]), command);
        steps.extend([
            build(
                "Build the base",
                &[PUBLISHES, BASE, When::NotScheduled],
                &format!("cargo xtask build-base {flag} --push{locked} --no-latest"),
            ),
            build(
                "Rebuild the base for security updates",
                &[PUBLISHES, BASE, When::Scheduled],
                &format!("cargo xtask build-base {flag} --push{locked} --force --no-latest"),
            ),
            build(
                "Build the app on its base",
                &[PUBLISHES, FAST, When::NotScheduled],
                &format!("cargo xtask build-fast {flag} --push{locked} --untested"),
            ),
            build(
                "Rebuild the app on the new base",
                &[PUBLISHES, FAST, When::Scheduled],
                &format!("cargo xtask build-fast {flag} --push{locked} --force --untested"),
            ),
            run(
                "Put published images on the root's security updates",
                vec![PUBLISHES, When::Is("decision", "rebase")],
                "cargo xtask rebase",
            ),
            build(
                "Build the base and the app without publishing them",
                &[DOES_NOT_PUBLISH, FAST],
                &format!("cargo xtask build {flag}"),
            ),
        ]);
        steps.extend(self.scratch(&here));
        steps.extend(program.as_ref().map(save));
        let tests = Does::Run(TESTS.to_owned(), vec![Setting::Output("TESTS", "tests")]);
        steps.push(step("Test a small change", vec![SMALL, When::IsNot("tests", "none")], tests));
        let built = When::Any(vec![When::Is("should-build", "true"), When::DefaultBranch]);
        steps.extend(self.name(&all([&here, &[SMALL, built, PUBLISHES]]), true));
        let outputs = ["decision", "should-build", "use-fast-build", "requirements-changed", "base-reference"];
        let outputs = outputs.into_iter().chain(["base-present", "tests", "long-tests", "machines"]);
        Job {
            comment: "Plans, and does all that needs no other machine and no long tests: builds, checks a small change, puts the tags.",
            needs: Vec::new(),
            outputs: outputs.chain(policy.ci.shadow.map(|_| "shadow")).collect(),
            asks_branch: true,
            ..Self::job("images", PUSHES, steps)
        }
    }

    /// The image from scratch, which only docker builds.
    fn scratch(self, here: &[When]) -> Vec<JobStep> {
        let (full, locked) = (all([here, &[FULL]]), self.locked());
        let docker = self.native().then(|| prepare_docker(full.clone()));
        let build = |name: &str, when: When, command: String| run(name, all([&full, &[when]]), command);
        docker
            .into_iter()
            .chain([
                build("Build the app from scratch", PUBLISHES, format!("cargo xtask build-enhanced --push{locked}")),
                build(
                    "Build the app from scratch without publishing it",
                    DOES_NOT_PUBLISH,
                    "cargo xtask build-enhanced".to_owned(),
                ),
            ])
            .collect()
    }

    /// Puts the tags that claim a commit, on digests that were built and tested before, and compares the time of fast builds. `asks` is
    /// false where the job has the condition of the first.
    fn name(self, when: &[When], asks: bool) -> Vec<JobStep> {
        let (flag, locked) = (self.flag(), self.locked());
        let of_name = if asks { all([when, &named()]) } else { Vec::new() };
        let name = run("Tag what was tested", of_name, format!("cargo xtask build {flag} --push{locked} --reuse-only"));
        let gate = self.policy.ci.gate_factor.map(|factor| {
            run(
                "Compare the time of fast builds",
                all([when, &[When::Is("decision", "fast"), When::DefaultBranch]]),
                format!("cargo xtask stats --from-registry --gate-factor {factor}"),
            )
        });
        [name].into_iter().chain(gate).collect()
    }

    /// A job for each platform, on a machine of its kind.
    fn elsewhere(self, name: &'static str, when: Vec<When>, steps: Vec<JobStep>) -> Job {
        let cache = Cache::xtask("xtask", self.place);
        let mut all_steps = begin(&cache);
        all_steps.push(log_in(vec![PUBLISHES]));
        all_steps.extend(steps);
        all_steps.push(save(&cache));
        Job {
            when: all([&[When::Is("machines", "several")], &when]),
            after_skipped: true,
            machines: Runners::Platforms,
            asks_branch: true,
            ..Self::job(name, PUSHES, all_steps)
        }
    }

    fn base(self) -> Job {
        let (flag, locked) = (self.flag(), self.locked());
        let mut steps: Vec<JobStep> = (!self.native()).then(|| prepare_docker(Vec::new())).into_iter().collect();
        steps.extend([
            run(
                "Build the base",
                vec![When::NotScheduled],
                format!("cargo xtask build-base {flag} --push{locked} --no-latest --platform \"$PLATFORM\""),
            ),
            run(
                "Rebuild the base for security updates",
                vec![When::Scheduled],
                format!("cargo xtask build-base {flag} --push{locked} --force --no-latest --platform \"$PLATFORM\""),
            ),
        ]);
        self.elsewhere("base", vec![PUBLISHES, BASE], steps)
    }

    fn app(self) -> Job {
        let (flag, locked) = (self.flag(), self.locked());
        let program = Cache::program(self.policies, self.place);
        let mut steps: Vec<JobStep> = program.as_ref().map(|cache| restore(cache, Vec::new())).into_iter().collect();
        steps.push(prepare_docker(if self.native() { vec![FULL] } else { Vec::new() }));
        steps.extend([
            run(
                "Build the app on its base",
                vec![PUBLISHES, FAST, When::NotScheduled],
                format!("cargo xtask build-fast {flag} --push{locked} --untested --platform \"$PLATFORM\""),
            ),
            run(
                "Rebuild the app on the new base",
                vec![PUBLISHES, FAST, When::Scheduled],
                format!("cargo xtask build-fast {flag} --push{locked} --force --untested --platform \"$PLATFORM\""),
            ),
            run(
                "Build the base and the app without publishing them",
                vec![DOES_NOT_PUBLISH, FAST],
                format!("cargo xtask build {flag} --platform \"$PLATFORM\""),
            ),
            run(
                "Build the app from scratch",
                vec![PUBLISHES, FULL],
                format!("cargo xtask build-enhanced --push{locked} --platform \"$PLATFORM\""),
            ),
            run(
                "Build the app from scratch without publishing it",
                vec![DOES_NOT_PUBLISH, FULL],
                "cargo xtask build-enhanced --platform \"$PLATFORM\"",
            ),
        ]);
        steps.extend(program.as_ref().map(save));
        let job = self.elsewhere("app", vec![When::Is("should-build", "true")], steps);
        Job { needs: vec!["images", "base"], ..job }
    }

    /// Every test, or those of one set, where the plan found no small one.
    fn test(self) -> Job {
        let cache = Cache::xtask("tests", self.place);
        let (deny, exists) = (Cache::deny(), When::Exists("deny.toml"));
        let mut steps = begin(&cache);
        steps.push(restore(&deny, vec![exists.clone()]));
        steps.push(Self::install_deny(vec![exists, When::Missed(deny.id)]));
        steps.push(save(&deny));
        steps.extend(self.all_tests(&[]));
        steps.push(save(&cache));
        Job {
            comment: "Every test, or the long ones of the `[[ci.tests]]` that covers the change.",
            when: vec![ALL_TESTS],
            ..Self::job("test", READS, steps)
        }
    }

    /// Compiles and tests xtask on the runners of a system other than Linux, one for each of its processors.
    fn laptop(self, laptop: Laptop) -> Job {
        let cache = Cache::crates(self.place);
        let steps = vec![
            check_out(),
            restore(&cache, Vec::new()),
            run("Compile and test what needs no Linux", Vec::new(), "cargo xtask test --quick"),
            save(&cache),
        ];
        let job = Self::job(laptop_job(laptop), READS, steps);
        Job { when: vec![ALL_TESTS], machines: Runners::Laptops(laptop), ..job }
    }

    /// cargo-deny, compiled once for its version; only where `deny.toml` says what it is to check.
    fn install_deny(when: Vec<When>) -> JobStep {
        run("Install cargo-deny", when, format!("cargo install --locked --version {CARGO_DENY} cargo-deny"))
    }

    /// The steps that run the long tests; `when` is the condition of each.
    fn all_tests(self, when: &[When]) -> Vec<JobStep> {
        let cluster = self.policy.ci.cluster;
        let docker = Does::PrepareDocker(DockerFor::Tests);
        let mut steps = vec![step("Keep images in containerd's store", when.to_vec(), docker)];
        let mut settings = vec![Setting::RequireTools, Setting::Output("TESTS", "long-tests")];
        if cluster {
            steps.push(step("Start a cluster", when.to_vec(), Does::StartCluster));
            settings.push(Setting::Kubeconfig);
        }
        steps.push(step("Run the tests", when.to_vec(), Does::Run(TESTS.to_owned(), settings)));
        steps
    }

    /// Builds the sampled share of what is reused again, with no right to publish anything.
    fn shadow(self) -> Job {
        let mut steps = begin(&Cache::xtask("xtask", self.place));
        steps.push(log_in(Vec::new()));
        steps.extend((!self.native()).then(|| prepare_docker(Vec::new())));
        steps.push(run("Build what is reused again, and compare", Vec::new(), "cargo xtask reproduce --shadow"));
        Job {
            comment: "Builds a sample of what this run reuses again, from nothing: the digests have to be the same. It publishes nothing.",
            when: vec![PUBLISHES, When::IsNot("shadow", "")],
            ..Self::job("shadow", PULLS, steps)
        }
    }

    /// The job of the tests has passed, where it has work. One that ends at its time limit has neither succeeded nor failed.
    fn tested(self) -> When {
        let passed = When::Succeeded("test");
        if self.several() { When::Any(vec![SMALL, passed]) } else { passed }
    }

    /// Names digests, once every job that built or tested them has succeeded.
    fn release(self, needs: Vec<&'static str>) -> Job {
        let mut steps = begin(&Cache::xtask("xtask", self.place));
        steps.push(log_in(Vec::new()));
        steps.extend(self.name(&[], false));
        let later =
            if self.several() { When::Any(vec![ALL_TESTS, When::Is("machines", "several")]) } else { ALL_TESTS };
        Job {
            comment: "Puts the tags on the digests that were built and tested. It builds nothing, and fails where a digest is missing.",
            needs,
            when: all([&[PUBLISHES], &named(), &[later, self.tested()]]),
            after_skipped: true,
            asks_branch: true,
            ..Self::job("release", PUSHES, steps)
        }
    }

    /// The regular upgrade of the locks, as one request. Of its rights, writing contents is for the branch of that request.
    fn locks(self) -> Job {
        // Another tool's lock is upgraded by that tool.
        let upgrades = self.policies.iter().any(|policy| policy.base.format() == Format::Pip);
        let upgrade = if upgrades { " --upgrade" } else { "" };
        let mut steps = begin(&Cache::xtask("xtask", self.place));
        let command = format!("cargo xtask lock{upgrade} --pull-request");
        let does = Does::Run(command, vec![Setting::UpdateToken]);
        steps.push(step("Upgrade the locks and open a pull request", Vec::new(), does));
        Job {
            comment: "Upgrades the locks and opens one pull request, or renews the one that is open.",
            needs: Vec::new(),
            ..Self::job("locks", PROPOSES, steps)
        }
    }

    /// The run of a version's git tag. It restores no cache: what publishes is compiled from the tag's sources alone. A commit that CI
    /// has not tested is built and tested first, or refused where that takes several machines.
    fn version(self) -> Vec<Job> {
        let jobs = self.policy.ci.provider == Provider::GitHub && !self.several();
        let (flag, locked) = (self.flag(), self.locked());
        let tag = |when: &[When]| {
            let when = all([when, &[When::IsNot("decision", "full")]]);
            run("Tag what was tested", when, format!("cargo xtask build {flag} --push{locked} --reuse-only"))
        };
        let mut steps = vec![check_out(), log_in(Vec::new()), plan()];
        if self.several() {
            steps.push(step("Refuse a commit that CI has not tested", vec![ALL_TESTS], Does::Refuse(UNTESTED)));
        } else {
            if !self.native() {
                steps.push(prepare_docker(vec![ALL_TESTS, When::Is("should-build", "true")]));
            }
            steps.push(run(
                "Build what CI has not built",
                vec![ALL_TESTS, When::IsNot("decision", "full")],
                format!("cargo xtask build {flag} --push{locked} --untested"),
            ));
            if !jobs {
                steps.extend(self.version_tests(&[ALL_TESTS]));
            }
        }
        steps.push(tag(if jobs { &[SMALL] } else { &[] }));
        let first = Job {
            comment: "Puts the version on the digest that CI tested for this commit. It restores no cache: what publishes is compiled from the tag.",
            needs: Vec::new(),
            when: vec![When::OwnRepository],
            outputs: if jobs { vec!["decision", "tests", "long-tests"] } else { Vec::new() },
            asks_branch: true,
            ..Self::job(if jobs { "images" } else { "release" }, PUSHES, steps)
        };
        if !jobs {
            return vec![first];
        }
        let tests = [check_out()].into_iter().chain(self.version_tests(&[])).collect();
        let test = Job {
            comment: "Every test of a commit that CI has not tested. What they run cannot write to the registry.",
            when: vec![ALL_TESTS],
            ..Self::job("test", READS, tests)
        };
        let release = Job {
            comment: "Puts the version on the digest that the tests were for. It builds nothing.",
            needs: vec!["images", "test"],
            when: vec![When::IsNot("decision", "full")],
            asks_branch: true,
            ..Self::job("release", PUSHES, vec![check_out(), log_in(Vec::new()), tag(&[])])
        };
        vec![first, test, release]
    }

    /// The long tests of a version's run, which restores no cache; `when` is the condition of each step.
    fn version_tests(self, when: &[When]) -> Vec<JobStep> {
        let deny = Self::install_deny(all([when, &[When::Exists("deny.toml")]]));
        [deny].into_iter().chain(self.all_tests(when)).collect()
    }
}

const UNTESTED: &str = "CI has not tested this commit. Push it to a branch, wait for its run, then run this job again.";
