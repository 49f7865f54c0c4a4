//! What CI runs: the texts of `.github/workflows`, from the policy.
//!
//! Pure: the policy comes in, files go out. The texts order jobs, give them rights and keep caches; whatever decides about
//! an image or builds one is a `cargo xtask` command, so that a laptop does the same. Nothing that a stranger can choose (a
//! branch, a title) is ever part of a `run:` line.

use crate::fault::Fault;
use crate::image::plugin::{KEYLESS, SIGN};
use crate::image::policy::{self, Action, Ci, Engine, Laptop, Policy};
use crate::spec::lock::formats::Format;
use crate::spec::reference::Platform;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// An action, by the commit that its version names: a tag can be moved, a commit cannot.
struct GithubAction {
    name: &'static str,
    commit: &'static str,
    version: &'static str,
}

const CHECKOUT: GithubAction =
    GithubAction { name: "actions/checkout", commit: "de0fac2e4500dabe0009e67214ff5f5447ce83dd", version: "v6.0.2" };
const CACHE_RESTORE: GithubAction = GithubAction {
    name: "actions/cache/restore",
    commit: "0057852bfaa89a56745cba8c7296529d2fc39830",
    version: "v4.3.0",
};
const CACHE_SAVE: GithubAction =
    GithubAction { name: "actions/cache/save", commit: "0057852bfaa89a56745cba8c7296529d2fc39830", version: "v4.3.0" };

impl GithubAction {
    fn uses(&self) -> String {
        format!("uses: {}@{} # {}", self.name, self.commit, self.version)
    }
}

pub const CARGO_DENY: &str = "0.20.2";

/// The runner of what belongs to no platform: deciding, naming, reporting.
const RUNNER: &str = "ubuntu-24.04";

/// True if the event may publish. GitHub gives the token of a fork's pull request, and of Dependabot's, no right to write.
const PUBLISHES: &str = "github.event_name != 'pull_request' || \
     (github.event.pull_request.head.repo.full_name == github.repository && github.actor != 'dependabot[bot]')";

const WEEKLY: &str = "github.event_name == 'schedule'";
const NOT_WEEKLY: &str = "github.event_name != 'schedule'";

/// The answer of [`PUBLISHES`], in the job that asked.
/// The work after which images get the commit's tags: one from scratch gets none, and a rebase moves tags itself.
const NAMED: &str = "steps.plan.outputs.decision != 'full' && steps.plan.outputs.decision != 'rebase'";
const MAY: &str = "steps.may.outputs.publish == 'true'";
const MAY_NOT: &str = "steps.may.outputs.publish != 'true'";

/// Where the policy is in the repository. GitHub reads the workflows of the repository's top alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyLocation {
    /// The policy's folder from the top, `services/app`; empty at the top.
    folder: String,
    /// The folder of its Cargo workspace, which is the same or one above.
    workspace: String,
}

impl PolicyLocation {
    /// A policy in `folder`, whose Cargo workspace is in `workspace`; both from the top of the repository.
    ///
    /// # Errors
    /// A name that could mean something else in YAML or in GitHub's expressions.
    pub fn new(folder: &str, workspace: &str) -> Result<Self, Fault> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        match [folder, workspace].iter().find(|path| !path.chars().all(plain) || path.starts_with('-')) {
            None => Ok(Self { folder: folder.to_owned(), workspace: workspace.to_owned() }),
            Some(path) => {
                Err(Fault::usage(format!("cannot write workflows for the folder `{}`", path.escape_default()))
                    .cause("its name has characters other than letters, digits, `.`, `_` and `-`")
                    .hint("rename the folder, or put the policy at the top of the repository"))
            }
        }
    }

    /// Begin of the names of this policy's files and groups: another policy in the same repository has another one.
    fn prefix(&self) -> String {
        if self.folder.is_empty() { String::new() } else { format!("{}-", self.folder.replace('/', "-")) }
    }

    fn policy(&self) -> String {
        format!("{}{}", slashed(&self.folder), policy::FILE)
    }
}

fn slashed(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

/// Workflows of a policy, which is given for each of its apps: its jobs build all that are affected. A platform without a known runner is
/// a fault.
///
/// # Panics
/// Without a policy.
pub fn generate(policies: &[&Policy], place: &PolicyLocation) -> Result<Vec<File>, Fault> {
    let policy = policies[0];
    let matrix = matrix(policy)?;
    let writer = Writer { policy, policies, place, matrix: &matrix };
    let mut files = vec![
        File { path: path("ci", place), text: signing(policy, writer.ci()) },
        File { path: path("release", place), text: signing(policy, writer.tagged()) },
    ];
    let updates = policy.ci.updates.as_ref();
    files.extend(updates.map(|when| File { path: path(UPDATE, place), text: writer.update(when) }));
    Ok(files)
}

/// Gives the steps that publish what they need to sign: the key as a secret of the repository, or the job's identity. No other step
/// gets it.
fn signing(policy: &Policy, text: String) -> String {
    let settings = policy.steps.iter().find_map(|step| match &step.action {
        Action::Uses(plugin, settings) if plugin.name == SIGN.name => Some(settings),
        Action::Uses(..) | Action::Package(..) | Action::Run(_) => None,
    });
    let Some(settings) = settings else { return text };
    let secret = match settings.text("cosign") {
        Some(KEYLESS) => {
            return text.replace("      packages: write\n", "      packages: write\n      id-token: write\n");
        }
        Some(_) => "COSIGN_PASSWORD",
        None => "XTASK_SIGNING_KEY",
    };
    let publishes = |line: &str| {
        let builds = line.starts_with("        run: cargo xtask build") && line.contains(" --push");
        builds && !line.contains("--reuse-only") || line.starts_with("        run: cargo xtask rebase")
    };
    let with_secret = |line: &str| match publishes(line) {
        true => format!("        env:\n          {secret}: ${{{{ secrets.{secret} }}}}\n{line}\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(with_secret).collect()
}

fn path(name: &str, place: &PolicyLocation) -> String {
    format!(".github/workflows/{}{name}.yml", place.prefix())
}

/// Files that earlier versions or another policy generated, each with the reason why it goes.
pub fn obsolete(policy: &Policy, place: &PolicyLocation) -> Vec<(String, &'static str)> {
    let mut files = vec![(path("images", place), "`ci.yml` does its work")];
    if policy.ci.updates.is_none() {
        files.push((path(UPDATE, place), "`[ci] updates` is not set"));
    }
    files
}

/// Name of the workflow that upgrades locks.
const UPDATE: &str = "update";

/// True if a file that is there was written for the policy at this place, and may be replaced.
pub fn is_ours(found: &str, place: &PolicyLocation) -> bool {
    found.starts_with(&format!("{HEADER} from `{}`", place.policy()))
}

/// The fault of a file that someone else wrote under the name of a generated one.
pub fn foreign_file(wanted: &File, found: &str) -> Fault {
    Fault::usage(format!(
        "`{}` was not written by `cargo xtask workflows` for this policy and is not replaced",
        wanted.path
    ))
    .cause(format!("it differs (`-` exists, `+` would be written):\n{}", lines_between(found, &wanted.text)))
    .hint(format!("keep it under another name: `mv {} .github/workflows/other.yml`; then run this again", wanted.path))
}

/// The lines in which two texts differ, without what both begin and end with.
fn lines_between(found: &str, wanted: &str) -> String {
    const SHOWN: usize = 8;
    let (old, new): (Vec<&str>, Vec<&str>) = (found.lines().collect(), wanted.lines().collect());
    let front = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(old, new)| old == new).count();
    let mut shown = Vec::new();
    for (sign, lines) in [('-', &old[front..old.len() - back]), ('+', &new[front..new.len() - back])] {
        let plain = |line: &&str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        shown.extend(lines.iter().take(SHOWN).map(|line| format!("{sign}{}", plain(line))));
        if lines.len() > SHOWN {
            shown.push(format!("{sign} … {} more lines", lines.len() - SHOWN));
        }
    }
    shown.join("\n")
}

/// Where a file that is there differs from what it should be: the first line that does, as `path:line: why`.
pub fn difference(wanted: &File, found: &str) -> Option<String> {
    if wanted.text == found {
        return None;
    }
    let (mut wanted_lines, mut found_lines) = (wanted.text.lines(), found.lines());
    for line in 1.. {
        match (wanted_lines.next(), found_lines.next()) {
            (Some(w), Some(f)) if w == f => {}
            (None, None) => break,
            (Some(w), Some(f)) => {
                return Some(format!("{}:{line}: `{}` should be `{}`", wanted.path, f.trim(), w.trim()));
            }
            (Some(w), None) => return Some(format!("{}:{line}: `{}` is missing", wanted.path, w.trim())),
            (None, Some(f)) => return Some(format!("{}:{line}: `{}` should be removed", wanted.path, f.trim())),
        }
    }
    Some(format!("`{}` differs in how its lines end", wanted.path))
}

/// The label of a platform's runner: native, so that nothing is emulated.
fn runner<'p>(ci: &'p Ci, platform: &Platform) -> Result<&'p str, Fault> {
    if let Some(label) = ci.runners.get(platform) {
        return Ok(label);
    }
    match platform.to_string().as_str() {
        "linux/amd64" => Ok(RUNNER),
        "linux/arm64" => Ok("ubuntu-24.04-arm"),
        _ => Err(Fault::usage(format!("no runner is known for `{platform}`"))
            .needed_by("`.github/workflows/ci.yml`")
            .hint(format!("name one in `images.toml`: `[ci] runners = {{ \"{platform}\" = \"LABEL\" }}`"))),
    }
}

/// The legs of a job that is run for each platform.
fn matrix(policy: &Policy) -> Result<String, Fault> {
    let mut legs = String::from(
        "    strategy:\n      # One platform's failure is no reason to throw away another's work.\n      fail-fast: false\n      matrix:\n        include:\n",
    );
    for platform in &policy.project.platforms {
        legs += &format!("          - platform: {platform}\n            runner: {}\n", runner(&policy.ci, platform)?);
    }
    Ok(legs)
}

/// A text as YAML quotes it, which is how JSON does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A branch as a filter takes it, in which `+` repeats and a leading `!` excludes.
fn branch_filter(branch: &str) -> String {
    let escaped = branch.replace('+', "\\+");
    quoted(&if escaped.starts_with('!') { format!("\\{escaped}") } else { escaped })
}

const HEADER: &str = "# Written by `cargo xtask workflows`";

fn header(name: &str, place: &PolicyLocation) -> String {
    let folder = if place.folder.is_empty() { String::new() } else { format!(" ({})", place.folder) };
    format!("{HEADER} from `{}`; do not edit.\nname: {name}{folder}\n", place.policy())
}

/// Work on a branch ends older work on it. On the default branch and for tags every run is a group of its own: what
/// publishes under shared names is left to end.
fn concurrency(name: &str, policy: &Policy, place: &PolicyLocation) -> String {
    let prefix = place.prefix();
    let branch = &policy.project.default_branch;
    format!(
        "\
# Newer work on a branch ends older work; what publishes for the default branch or a tag is left to finish.
concurrency:
  group: {prefix}{name}-${{{{ github.ref }}}}-${{{{ (github.ref == 'refs/heads/{branch}' || startsWith(github.ref, 'refs/tags/')) && github.run_id || 'newest' }}}}
  cancel-in-progress: true
"
    )
}

fn defaults(place: &PolicyLocation) -> String {
    match place.folder.is_empty() {
        true => DEFAULTS.to_owned(),
        false => format!("{DEFAULTS}    working-directory: {}\n", place.folder),
    }
}

const DEFAULTS: &str = "\
permissions: {}

env:
  # A runner compiles xtask once: notes for the next time cost seconds.
  CARGO_INCREMENTAL: '0'

defaults:
  run:
    shell: bash
";

/// All of history: whether a commit follows another decides what `latest` names, and what changed since the last push.
fn checkout() -> String {
    format!(
        "      - name: Check out
        {}
        with:
          fetch-depth: 0
          persist-credentials: false
",
        CHECKOUT.uses()
    )
}

/// A cache of folders. A run for the default branch alone saves it: no job that publishes restores what a pull request wrote.
struct Cache {
    /// The step's id, and the begin of the key.
    id: &'static str,
    what: &'static str,
    /// The key after the operating system and the processor.
    key: String,
    /// True if an older cache of the same dependencies is restored where there is none of this key.
    older: bool,
    paths: Vec<String>,
}

impl Cache {
    /// What cargo needs to find `xtask` compiled; with an exact hit, its sources are those of the cached binary.
    fn xtask(id: &'static str, place: &PolicyLocation) -> Self {
        let at = slashed(&place.workspace);
        let locked = format!("${{{{ hashFiles('{at}Cargo.lock', '{at}rust-toolchain.toml') }}}}");
        let sources = format!("${{{{ hashFiles('{at}Cargo.toml', '{at}.cargo/config.toml', '{at}xtask/**') }}}}");
        let paths =
            vec!["~/.cargo/registry/index".into(), "~/.cargo/registry/cache".into(), format!("{at}target/debug")];
        Self { id, what: "xtask", key: format!("{locked}-{sources}"), older: true, paths }
    }

    /// The crates of the apps' programs: compiled once for a lock, whatever is edited.
    fn program(policies: &[&Policy], place: &PolicyLocation) -> Option<Self> {
        let binaries = policies.iter().filter_map(|policy| policy.app.binary.as_ref());
        let profile = |profile: &str| if profile == "dev" { "debug".to_owned() } else { profile.to_owned() };
        let profiles: BTreeSet<String> = binaries.map(|binary| profile(&binary.profile)).collect();
        if profiles.is_empty() {
            return None;
        }
        let at = slashed(&place.workspace);
        let key = format!("${{{{ hashFiles('{at}Cargo.lock', '{at}rust-toolchain.toml') }}}}");
        let of = |profile: String| [format!("{at}target/{profile}"), format!("{at}target/*/{profile}")];
        let paths = profiles.into_iter().flat_map(of).collect();
        Some(Self { id: "program", what: "the program's crates", key, older: false, paths })
    }

    fn fields(&self) -> String {
        let paths: String = self.paths.iter().map(|path| format!("            {path}\n")).collect();
        format!("          path: |\n{paths}")
    }

    fn restore(&self, when: Option<&str>) -> String {
        let (id, key, fields) = (self.id, &self.key, self.fields());
        let when = when.map(|when| format!("        if: {when}\n")).unwrap_or_default();
        let prefix = format!("{id}-${{{{ runner.os }}}}-${{{{ runner.arch }}}}");
        let locked = key.split("}}-").next().unwrap_or(key);
        let older = if self.older {
            format!("          restore-keys: |\n            {prefix}-{locked}}}}}-\n")
        } else {
            String::new()
        };
        format!(
            "      - name: Restore {}
        id: {id}
{when}        {}
        with:
{fields}          key: {prefix}-{key}
{older}",
            self.what,
            CACHE_RESTORE.uses()
        )
    }

    /// Saves what was compiled, where a run for the default branch found no cache of this key.
    fn save(&self, policy: &Policy) -> String {
        let (id, branch, fields) = (self.id, &policy.project.default_branch, self.fields());
        format!(
            "      - name: Save {}
        if: github.ref == 'refs/heads/{branch}' && steps.{id}.outputs.cache-primary-key && steps.{id}.outputs.cache-hit != 'true'
        {}
        with:
{fields}          key: ${{{{ steps.{id}.outputs.cache-primary-key }}}}
",
            self.what,
            CACHE_SAVE.uses()
        )
    }
}

/// Only the times of the sources, which a checkout sets to now, would have cargo compile a cached xtask again.
fn trust_times(id: &str, place: &PolicyLocation) -> String {
    let folder = if place.workspace.is_empty() { "." } else { &place.workspace };
    let elsewhere = place.workspace != place.folder;
    let folder = if elsewhere { format!("        working-directory: {folder}\n") } else { String::new() };
    format!(
        "      - name: Trust the times of cached sources
        if: steps.{id}.outputs.cache-hit == 'true'
{folder}        run: git ls-files -z -- Cargo.toml Cargo.lock rust-toolchain.toml .cargo xtask | xargs -0 --no-run-if-empty touch --no-create --date=@0
"
    )
}

/// For asking at which commit the branch is by now: it decides whether a tag moves after a force push.
const GIT_TOKEN: &str = "      XTASK_GIT_TOKEN: ${{ github.token }}\n";

/// Images are known by their manifests' digests only where containerd keeps them.
fn engine(when: Option<&str>) -> String {
    let when = when.map(|when| format!("        if: {when}\n")).unwrap_or_default();
    format!("      - name: Keep images in containerd's store\n{when}{ENGINE}")
}

const ENGINE: &str = "        run: |
          case \"$(docker info --format '{{json .DriverStatus}}')\" in *io.containerd.snapshotter*) exit 0 ;; esac
          sudo touch /etc/docker/daemon.json
          sudo cat /etc/docker/daemon.json | jq -n '(try input catch {}) | .features.\"containerd-snapshotter\" = true' > \"$RUNNER_TEMP/daemon.json\"
          sudo cp \"$RUNNER_TEMP/daemon.json\" /etc/docker/daemon.json
          sudo systemctl restart docker
";

/// A Kubernetes cluster in the runner's Docker.
const CLUSTER: &str = "      - name: Start a cluster
        run: cargo xtask cluster up --kubeconfig \"$RUNNER_TEMP/kubeconfig\"
";

const KUBECONFIG: &str = "          KUBECONFIG: ${{ runner.temp }}/kubeconfig
";

/// cargo-deny, compiled once for its version; only where `deny.toml` says what it is to check.
fn deny(policy: &Policy) -> String {
    let cache = Cache {
        id: "deny",
        what: "cargo-deny",
        key: CARGO_DENY.to_owned(),
        older: false,
        paths: vec!["~/.cargo/bin/cargo-deny".to_owned()],
    };
    let exists = "hashFiles('deny.toml') != ''";
    let (restore, save) = (cache.restore(Some(exists)), cache.save(policy));
    format!(
        "{restore}      - name: Install cargo-deny
        if: {exists} && steps.deny.outputs.cache-hit != 'true'
        run: cargo install --locked --version {CARGO_DENY} cargo-deny
{save}"
    )
}

/// GitHub's registry takes the job's own token; any other one has secrets of the repository.
fn login(policy: &Policy, when: Option<&str>) -> String {
    let registry = policy.project.registry.repository("x").registry().to_owned();
    let (user, password) = if registry == "ghcr.io" {
        ("${{ github.actor }}", "${{ secrets.GITHUB_TOKEN }}")
    } else {
        ("${{ secrets.REGISTRY_USERNAME }}", "${{ secrets.REGISTRY_PASSWORD }}")
    };
    let when = when.map(|when| format!("        if: {when}\n")).unwrap_or_default();
    format!(
        "      - name: Log in to the registry
{when}        env:
          REGISTRY: {}
          REGISTRY_USERNAME: {user}
          REGISTRY_PASSWORD: {password}
        run: printf '%s' \"$REGISTRY_PASSWORD\" | docker login --username \"$REGISTRY_USERNAME\" --password-stdin \"$REGISTRY\"
",
        quoted(&registry)
    )
}

#[derive(Clone, Copy)]
struct Writer<'p> {
    /// What all apps have in common.
    policy: &'p Policy,
    /// The policy of each app.
    policies: &'p [&'p Policy],
    place: &'p PolicyLocation,
    /// The legs of a job that runs for each platform.
    matrix: &'p str,
}

/// True if a run tests or names what it builds itself, or leaves it to later jobs.
const SMALL: &str = "steps.plan.outputs.tests != 'all'";

impl Writer<'_> {
    /// True if jobs on other machines exist: a platform's compilers run on a machine of its kind.
    fn several(&self) -> bool {
        self.policy.project.platforms.len() > 1
    }

    /// The condition under which the first job builds by itself, as the begin of a longer one.
    fn here(&self) -> &'static str {
        if self.several() { "steps.plan.outputs.machines == 'one' && " } else { "" }
    }

    fn flag(&self) -> &'static str {
        match self.policy.ci.engine {
            Engine::Native => "--engine native",
            Engine::Docker | Engine::Auto => "--engine docker",
        }
    }

    fn begin(&self, cache: &Cache) -> String {
        format!("{}{}{}", checkout(), cache.restore(None), trust_times(cache.id, self.place))
    }

    /// Docker's store, where docker builds; `when` is the begin of a condition.
    fn engine(&self, when: &str) -> String {
        match self.policy.ci.engine {
            Engine::Native => String::new(),
            Engine::Docker | Engine::Auto => engine(Some(&format!("{when}steps.plan.outputs.should-build == 'true'"))),
        }
    }

    fn ci(&self) -> String {
        let (policy, place) = (self.policy, self.place);
        let branch = branch_filter(&policy.project.default_branch);
        let (head, defaults, concurrency) = (header("ci", place), defaults(place), concurrency("ci", policy, place));
        let schedule = quoted(&policy.ci.schedule);
        let elsewhere = if self.several() { vec![self.base(), self.app()] } else { Vec::new() };
        let laptops: Vec<String> = policy.ci.laptops.iter().map(|laptop| self.laptop(*laptop)).collect();
        let shadow = policy.ci.shadow.map(|_| self.shadow()).into_iter().collect();
        let end = vec![self.release(), self.required()];
        let jobs = [vec![self.images()], elsewhere, vec![self.test()], laptops, shadow, end];
        let jobs = jobs.concat();
        format!(
            "{head}
on:
  push:
    branches: [{branch}]
  pull_request:
  merge_group:
  schedule:
    - cron: {schedule}
  workflow_dispatch:

{defaults}
{concurrency}
jobs:
{}",
            jobs.join("\n")
        )
    }

    /// Plans, and does everything that needs no other machine and no long tests.
    fn images(&self) -> String {
        let (policy, minutes) = (self.policy, self.policy.ci.timeout_minutes);
        let cache = Cache::xtask("xtask", self.place);
        let (begin, save, login) = (self.begin(&cache), cache.save(policy), login(policy, Some(MAY)));
        let outputs: String = ["decision", "should-build", "use-fast-build", "requirements-changed", "base-reference"]
            .iter()
            .chain(&["base-present", "tests", "machines"])
            .chain(policy.ci.shadow.map(|_| &"shadow"))
            .map(|name| format!("      {name}: ${{{{ steps.plan.outputs.{name} }}}}\n"))
            .collect();
        let (here, flag) = (self.here(), self.flag());
        let engine = self.engine(here);
        let program = Cache::program(self.policies, self.place);
        let compiles = format!("{here}steps.plan.outputs.compiles == 'true'");
        let restored = program.as_ref().map(|cache| cache.restore(Some(&compiles))).unwrap_or_default();
        let saved = program.as_ref().map(|cache| cache.save(policy)).unwrap_or_default();
        let scratch = self.scratch(here);
        let branch = &policy.project.default_branch;
        let named = format!("(steps.plan.outputs.should-build == 'true' || github.ref == 'refs/heads/{branch}')");
        let name = self.name(&format!("{here}{SMALL} && {named} && "));
        format!(
            "  # Plans, and does all that needs no other machine and no long tests: builds, checks a small change, puts the tags.
  images:
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    outputs:
      publish: ${{{{ steps.may.outputs.publish }}}}
{outputs}    env:
{GIT_TOKEN}    steps:
{begin}      - name: Decide whether this event may publish
        id: may
        env:
          PUBLISH: ${{{{ {PUBLISHES} }}}}
        run: echo \"publish=$PUBLISH\" >> \"$GITHUB_OUTPUT\"
{login}      - name: Plan
        id: plan
        run: cargo xtask plan --locked --format github
{save}{restored}{engine}      - name: Build the base
        if: {here}{MAY} && steps.plan.outputs.decision == 'base+fast' && {NOT_WEEKLY}
        run: cargo xtask build-base {flag} --push --locked --no-latest
      - name: Rebuild the base for security updates
        if: {here}{MAY} && steps.plan.outputs.decision == 'base+fast' && {WEEKLY}
        run: cargo xtask build-base {flag} --push --locked --force --no-latest
      - name: Build the app on its base
        if: {here}{MAY} && contains(steps.plan.outputs.decision, 'fast') && {NOT_WEEKLY}
        run: cargo xtask build-fast {flag} --push --locked --untested
      - name: Rebuild the app on the new base
        if: {here}{MAY} && contains(steps.plan.outputs.decision, 'fast') && {WEEKLY}
        run: cargo xtask build-fast {flag} --push --locked --force --untested
      - name: Put published images on the root's security updates
        if: {MAY} && steps.plan.outputs.decision == 'rebase'
        run: cargo xtask rebase
      - name: Build the base and the app without publishing them
        if: {here}{MAY_NOT} && contains(steps.plan.outputs.decision, 'fast')
        run: cargo xtask build {flag}
{scratch}{saved}      - name: Test a small change
        if: {SMALL} && steps.plan.outputs.tests != 'none'
        env:
          TESTS: ${{{{ steps.plan.outputs.tests }}}}
        run: cargo xtask ci --only \"$TESTS\"
{name}"
        )
    }

    /// The image from scratch, which only docker builds.
    fn scratch(&self, here: &str) -> String {
        let full = format!("{here}steps.plan.outputs.decision == 'full'");
        let docker = match self.policy.ci.engine {
            Engine::Native => engine(Some(&full)),
            Engine::Docker | Engine::Auto => String::new(),
        };
        format!(
            "{docker}      - name: Build the app from scratch
        if: {full} && {MAY}
        run: cargo xtask build-enhanced --push --locked
      - name: Build the app from scratch without publishing it
        if: {full} && {MAY_NOT}
        run: cargo xtask build-enhanced
"
        )
    }

    /// Puts the tags that claim a commit, on digests that were built and tested before, and compares the time of fast builds.
    fn name(&self, when: &str) -> String {
        let (branch, flag) = (&self.policy.project.default_branch, self.flag());
        let gate = self.policy.ci.gate_factor.map(|factor| {
            format!(
                "      - name: Compare the time of fast builds
        if: {when}{MAY} && steps.plan.outputs.decision == 'fast' && github.ref == 'refs/heads/{branch}'
        run: cargo xtask stats --from-registry --gate-factor {factor}
"
            )
        });
        format!(
            "      - name: Tag what was tested
        if: {when}{MAY} && {NAMED}
        run: cargo xtask build {flag} --push --locked --reuse-only
{}",
            gate.unwrap_or_default()
        )
    }

    /// A job for each platform, on a machine of its kind.
    fn elsewhere(&self, name: &str, needs: &str, when: &str, steps: &str) -> String {
        let (minutes, matrix) = (self.policy.ci.timeout_minutes, self.matrix);
        let cache = Cache::xtask("xtask", self.place);
        let (begin, save) = (self.begin(&cache), cache.save(self.policy));
        let login = login(self.policy, Some(&MAY.replace("steps.may", "needs.images")));
        format!(
            "  {name}:
    needs: {needs}
    if: >-
      !cancelled() && !failure() && needs.images.outputs.machines == 'several' &&
      {when}
{matrix}    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
      PLATFORM: ${{{{ matrix.platform }}}}
{GIT_TOKEN}    steps:
{begin}{login}{steps}{save}"
        )
    }

    fn base(&self) -> String {
        let flag = self.flag();
        let engine = if self.policy.ci.engine == Engine::Native { String::new() } else { engine(None) };
        let steps = format!(
            "{engine}      - name: Build the base
        if: {NOT_WEEKLY}
        run: cargo xtask build-base {flag} --push --locked --no-latest --platform \"$PLATFORM\"
      - name: Rebuild the base for security updates
        if: {WEEKLY}
        run: cargo xtask build-base {flag} --push --locked --force --no-latest --platform \"$PLATFORM\"
"
        );
        let when = "needs.images.outputs.publish == 'true' && needs.images.outputs.decision == 'base+fast'";
        self.elsewhere("base", "images", when, &steps)
    }

    fn app(&self) -> String {
        let flag = self.flag();
        let program = Cache::program(self.policies, self.place);
        let restored = program.as_ref().map(|cache| cache.restore(None)).unwrap_or_default();
        let saved = program.as_ref().map(|cache| cache.save(self.policy)).unwrap_or_default();
        let docker = match self.policy.ci.engine {
            Engine::Native => engine(Some("needs.images.outputs.decision == 'full'")),
            Engine::Docker | Engine::Auto => engine(None),
        };
        let fast = "contains(needs.images.outputs.decision, 'fast')";
        let (may, may_not) = ("needs.images.outputs.publish == 'true'", "needs.images.outputs.publish != 'true'");
        let full = "needs.images.outputs.decision == 'full'";
        let steps = format!(
            "{restored}{docker}      - name: Build the app on its base
        if: {may} && {fast} && {NOT_WEEKLY}
        run: cargo xtask build-fast {flag} --push --locked --untested --platform \"$PLATFORM\"
      - name: Rebuild the app on the new base
        if: {may} && {fast} && {WEEKLY}
        run: cargo xtask build-fast {flag} --push --locked --force --untested --platform \"$PLATFORM\"
      - name: Build the base and the app without publishing them
        if: {may_not} && {fast}
        run: cargo xtask build {flag} --platform \"$PLATFORM\"
      - name: Build the app from scratch
        if: {may} && {full}
        run: cargo xtask build-enhanced --push --locked --platform \"$PLATFORM\"
      - name: Build the app from scratch without publishing it
        if: {may_not} && {full}
        run: cargo xtask build-enhanced --platform \"$PLATFORM\"
{saved}"
        );
        self.elsewhere("app", "[images, base]", "needs.images.outputs.should-build == 'true'", &steps)
    }

    /// Every test, where the plan found no smaller set.
    fn test(&self) -> String {
        let minutes = self.policy.ci.timeout_minutes;
        let steps = self.all_tests("");
        format!(
            "  # Every test, where no smaller set covers the change.
  test:
    needs: images
    if: needs.images.outputs.tests == 'all'
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
    steps:
{steps}"
        )
    }

    /// Compiles and tests xtask on the runners of a system other than Linux, one for each of its processors.
    fn laptop(&self, laptop: Laptop) -> String {
        let runners = match laptop {
            Laptop::MacOs => ["macos-15", "macos-15-intel"],
        };
        let name = laptop_job(laptop);
        let (minutes, checkout, at) = (self.policy.ci.timeout_minutes, checkout(), slashed(&self.place.workspace));
        let cache = Cache {
            id: "crates",
            what: "the crates' sources",
            key: format!("${{{{ hashFiles('{at}Cargo.lock') }}}}"),
            older: false,
            paths: vec!["~/.cargo/registry/index".to_owned(), "~/.cargo/registry/cache".to_owned()],
        };
        let (restore, save) = (cache.restore(None), cache.save(self.policy));
        format!(
            "  {name}:
    needs: images
    if: needs.images.outputs.tests == 'all'
    strategy:
      fail-fast: false
      matrix:
        runner: [{}]
    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
    steps:
{checkout}{restore}      - name: Compile and test what needs no Linux
        run: cargo xtask test --quick
{save}",
            runners.join(", ")
        )
    }

    /// The names of all jobs that build or test, as `needs` lists them.
    fn earlier(&self) -> String {
        let elsewhere: &[&str] = if self.several() { &["base", "app"] } else { &[] };
        let laptops = self.policy.ci.laptops.iter().map(|laptop| laptop_job(*laptop));
        let names: Vec<&str> = ["images"].iter().chain(elsewhere).copied().chain(["test"]).chain(laptops).collect();
        names.join(", ")
    }

    /// The steps that run every test; `when` is the condition of each step that this job may leave out.
    fn all_tests(&self, when: &str) -> String {
        let policy = self.policy;
        let cache = Cache::xtask("tests", self.place);
        let (cluster, kubeconfig) = if policy.ci.cluster { (CLUSTER, KUBECONFIG) } else { Default::default() };
        let begin = if when.is_empty() { self.begin(&cache) } else { String::new() };
        let save = if when.is_empty() { cache.save(policy) } else { String::new() };
        let (deny, engine) =
            (if when.is_empty() { deny(policy) } else { String::new() }, engine((!when.is_empty()).then_some(when)));
        let condition = if when.is_empty() { String::new() } else { format!("        if: {when}\n") };
        let cluster = cluster.replacen("\n", &format!("\n{condition}"), usize::from(!cluster.is_empty()));
        let installed = if when.is_empty() {
            String::new()
        } else {
            format!(
                "      - name: Install cargo-deny
        if: {when} && hashFiles('deny.toml') != ''
        run: cargo install --locked --version {CARGO_DENY} cargo-deny
"
            )
        };
        format!(
            "{begin}{deny}{installed}{engine}{cluster}      - name: Run every test
{condition}        env:
          # A missing tool is a failure here, not a test that is left out.
          XTASK_REQUIRE_REAL: '1'
{kubeconfig}        run: cargo xtask ci
{save}"
        )
    }

    /// Builds the sampled share of what is reused again, with no right to publish anything.
    fn shadow(&self) -> String {
        let minutes = self.policy.ci.timeout_minutes;
        let cache = Cache::xtask("xtask", self.place);
        let (begin, login) = (self.begin(&cache), login(self.policy, None));
        let docker = match self.policy.ci.engine {
            Engine::Native => String::new(),
            Engine::Docker | Engine::Auto => engine(None),
        };
        format!(
            "  # Builds a sample of what this run reuses again, from nothing: the digests have to be the same. It publishes nothing.
  shadow:
    needs: images
    if: needs.images.outputs.publish == 'true' && needs.images.outputs.shadow != ''
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: read
    steps:
{begin}{login}{docker}      - name: Build what is reused again, and compare
        run: cargo xtask reproduce --shadow
"
        )
    }

    /// Names digests, once every job that built or tested them has succeeded.
    fn release(&self) -> String {
        let (policy, minutes) = (self.policy, self.policy.ci.timeout_minutes);
        let cache = Cache::xtask("xtask", self.place);
        let (begin, login) = (self.begin(&cache), login(policy, None));
        let several = if self.several() {
            "(needs.images.outputs.tests == 'all' || needs.images.outputs.machines == 'several')"
        } else {
            "needs.images.outputs.tests == 'all'"
        };
        let needs = self.earlier();
        let named = NAMED.replace("steps.plan", "needs.images");
        // Its conditions are the job's.
        let name = self.name("").replace(&format!("        if: {MAY} && {NAMED}\n"), "");
        let name = name.replace(&format!("{MAY} && "), "").replace("steps.plan", "needs.images");
        format!(
            "  # Puts the tags on the digests that were built and tested. It builds nothing, and fails where a digest is missing.
  release:
    needs: [{needs}]
    if: >-
      !cancelled() && !failure() && needs.images.outputs.publish == 'true' &&
      {named} && {several}
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
{GIT_TOKEN}    steps:
{begin}{login}{name}"
        )
    }

    fn required(&self) -> String {
        // It checks nothing out: the folder of the other jobs does not exist.
        let folder = if self.place.folder.is_empty() { "" } else { "        working-directory: .\n" };
        let shadow = if self.policy.ci.shadow.is_some() { ", shadow" } else { "" };
        let needs = format!("{}{shadow}", self.earlier());
        format!(
            "  # The one check that branch protection asks for: it always reports, also when nothing had to be built.
  required:
    needs: [{needs}, release]
    if: always()
    runs-on: {RUNNER}
    timeout-minutes: 5
    permissions: {{}}
    steps:
      - name: Check that no job failed
        if: contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled')
{folder}        run: exit 1
"
        )
    }

    /// The regular upgrade of the locks, as one pull request. Of its rights, writing contents is for the branch of that request.
    fn update(&self, when: &str) -> String {
        let (place, minutes, schedule) = (self.place, self.policy.ci.timeout_minutes, quoted(when));
        let (head, defaults) = (header(UPDATE, place), defaults(place));
        let (begin, prefix) = (self.begin(&Cache::xtask("xtask", place)), place.prefix());
        // Another tool's lock is upgraded by that tool.
        let upgrades = self.policies.iter().any(|policy| policy.base.format() == Format::Pip);
        let upgrade = if upgrades { " --upgrade" } else { "" };
        format!(
            "{head}
on:
  schedule:
    - cron: {schedule}
  workflow_dispatch:

{defaults}
concurrency:
  group: {prefix}{UPDATE}
  cancel-in-progress: false

jobs:
  # Upgrades the locks and opens one pull request, or renews the one that is open.
  locks:
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: write
      pull-requests: write
    steps:
{begin}      - name: Upgrade the locks and open a pull request
        env:
          # GitHub starts no workflow for a pull request of its own token: with a token of an app or a person, CI runs on it.
          GH_TOKEN: ${{{{ secrets.XTASK_UPDATE_TOKEN || github.token }}}}
        run: cargo xtask lock{upgrade} --pull-request
"
        )
    }

    /// The run of a version's git tag. It restores no cache: what publishes is compiled from the tag's sources alone. A commit that CI
    /// has not tested is built and tested first, or refused where that takes several machines.
    fn tagged(&self) -> String {
        let (policy, place, minutes) = (self.policy, self.place, self.policy.ci.timeout_minutes);
        let (head, defaults, concurrency) =
            (header("release", place), defaults(place), concurrency("release", policy, place));
        let (checkout, login, flag) = (checkout(), login(policy, None), self.flag());
        let untested = "steps.plan.outputs.tests == 'all'";
        let untested = if self.several() {
            format!(
                "      - name: Refuse a commit that CI has not tested
        if: {untested}
        run: |
          echo '::error::CI has not tested this commit. Push it to a branch, wait for its run, then run this job again.'
          exit 1
"
            )
        } else {
            let (docker, tests) = (self.engine(&format!("{untested} && ")), self.all_tests(untested));
            format!(
                "{docker}      - name: Build what CI has not built
        if: {untested} && steps.plan.outputs.decision != 'full'
        run: cargo xtask build {flag} --push --locked --untested
{tests}"
            )
        };
        format!(
            "{head}
on:
  push:
    tags: ['v*.*.*']

{defaults}
{concurrency}
jobs:
  # Puts the version on the digest that CI tested for this commit. It restores no cache: what publishes is compiled from the tag.
  release:
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
{GIT_TOKEN}    steps:
{checkout}{login}      - name: Plan
        id: plan
        run: cargo xtask plan --locked --format github
{untested}      - name: Tag what was tested
        if: steps.plan.outputs.decision != 'full'
        run: cargo xtask build {flag} --push --locked --reuse-only
"
        )
    }
}

/// The name of the job of a laptop's system.
fn laptop_job(laptop: Laptop) -> &'static str {
    match laptop {
        Laptop::MacOs => "macos",
    }
}

#[cfg(test)]
mod tests;
