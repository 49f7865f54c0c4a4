//! What CI runs: the texts of `.github/workflows`, from the policy.
//!
//! Pure: the policy comes in, files go out. The texts order jobs, give them rights and keep caches; whatever decides about
//! an image or builds one is a `cargo xtask` command, so that a laptop does the same. Nothing that a stranger can choose (a
//! branch, a title) is ever part of a `run:` line.

use crate::fault::Fault;
use crate::image::policy::{self, Ci, Laptop, Policy};
use crate::spec::reference::Platform;

/// A file that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, from the top of the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// An action, by the commit that its version names: a tag can be moved, a commit cannot.
struct Action {
    name: &'static str,
    commit: &'static str,
    version: &'static str,
}

const CHECKOUT: Action =
    Action { name: "actions/checkout", commit: "de0fac2e4500dabe0009e67214ff5f5447ce83dd", version: "v6.0.2" };
const CACHE: Action =
    Action { name: "actions/cache", commit: "0057852bfaa89a56745cba8c7296529d2fc39830", version: "v4.3.0" };

impl Action {
    fn uses(&self) -> String {
        format!("uses: {}@{} # {}", self.name, self.commit, self.version)
    }
}

/// The version of cargo-deny that CI installs.
pub const CARGO_DENY: &str = "0.20.2";

/// The runner of what belongs to no platform: deciding, naming, reporting.
const RUNNER: &str = "ubuntu-24.04";

/// Whether the event may publish. GitHub gives the token of a fork's pull request, and of Dependabot's, no right to write.
const PUBLISHES: &str = "github.event_name != 'pull_request' || \
     (github.event.pull_request.head.repo.full_name == github.repository && github.actor != 'dependabot[bot]')";

/// The weekly run, which builds what exists.
const WEEKLY: &str = "github.event_name == 'schedule'";

/// Where the policy is in the repository. GitHub reads the workflows of the repository's top alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The policy's folder from the top, `services/app`; empty at the top.
    folder: String,
    /// The folder of its Cargo workspace, which is the same or one above.
    workspace: String,
}

impl Place {
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

    /// The policy's path.
    fn policy(&self) -> String {
        format!("{}{}", slashed(&self.folder), policy::FILE)
    }
}

/// A folder as the begin of a path.
fn slashed(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

/// Every workflow that the policy gives, for a policy at the top of its repository.
pub fn generate(policy: &Policy) -> Result<Vec<File>, Fault> {
    generate_at(policy, &Place::default())
}

/// The same for a policy in any folder. A platform for which no runner is known is a fault.
pub fn generate_at(policy: &Policy, place: &Place) -> Result<Vec<File>, Fault> {
    let matrix = matrix(policy)?;
    let path = |name: &str| format!(".github/workflows/{}{name}.yml", place.prefix());
    Ok(vec![
        File { path: path("ci"), text: ci(policy, place) },
        File { path: path("images"), text: images(policy, place, &matrix) },
    ])
}

/// Whether a file that is there was written for the policy at this place, and may be replaced.
pub fn is_ours(found: &str, place: &Place) -> bool {
    found.starts_with(&format!("{HEADER} from `{}`", place.policy()))
}

/// The fault of a file that someone else wrote under the name of a generated one.
pub fn foreign(wanted: &File, found: &str) -> Fault {
    Fault::usage(format!(
        "`{}` was not written by `cargo xtask workflows` for this policy, and is not replaced",
        wanted.path
    ))
    .cause(format!("it differs (`-` is there, `+` would be written):\n{}", lines_between(found, &wanted.text)))
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
            (None, Some(f)) => return Some(format!("{}:{line}: `{}` should not be there", wanted.path, f.trim())),
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
            .needed_by("`.github/workflows/images.yml`")
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

/// Begin of every generated file.
const HEADER: &str = "# Written by `cargo xtask workflows`";

fn header(name: &str, place: &Place) -> String {
    let folder = if place.folder.is_empty() { String::new() } else { format!(" ({})", place.folder) };
    format!("{HEADER} from `{}`; do not edit.\nname: {name}{folder}\n", place.policy())
}

/// Work on a branch ends older work on it. On the default branch and for tags every run is a group of its own: what
/// publishes under shared names is left to end.
fn concurrency(name: &str, policy: &Policy, place: &Place) -> String {
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

fn defaults(place: &Place) -> String {
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

/// Cargo's cache. The key is what xtask is made of: with an exact hit its sources are those of the binary that was kept, and
/// only their times, which a checkout makes new, would have cargo compile it again.
fn cargo(kind: &str, place: &Place) -> String {
    let at = slashed(&place.workspace);
    // Where the steps run is the policy's folder.
    let folder = if at.is_empty() { "." } else { &place.workspace };
    let elsewhere = place.workspace != place.folder;
    let folder = if elsewhere { format!("        working-directory: {folder}\n") } else { String::new() };
    format!(
        "      - name: Cache xtask
        id: cache
        {}
        with:
          path: |
            ~/.cargo/registry/index
            ~/.cargo/registry/cache
            {at}target/debug
          key: {kind}-${{{{ runner.os }}}}-${{{{ runner.arch }}}}-${{{{ hashFiles('{at}Cargo.lock', '{at}rust-toolchain.toml') }}}}-${{{{ hashFiles('{at}Cargo.toml', '{at}.cargo/config.toml', '{at}xtask/**') }}}}
          restore-keys: |
            {kind}-${{{{ runner.os }}}}-${{{{ runner.arch }}}}-${{{{ hashFiles('{at}Cargo.lock', '{at}rust-toolchain.toml') }}}}-
      - name: Trust the times of what was cached
        if: steps.cache.outputs.cache-hit == 'true'
{folder}        run: git ls-files -z -- Cargo.toml Cargo.lock rust-toolchain.toml .cargo xtask | xargs -0 --no-run-if-empty touch --no-create --date=@0
",
        CACHE.uses()
    )
}

/// The crates of the app's program: compiled once for a lock, whatever is edited.
fn program_cache(policy: &Policy, place: &Place) -> String {
    let Some(binary) = &policy.app.binary else { return String::new() };
    let at = slashed(&place.workspace);
    let profile = if binary.profile == "dev" { "debug" } else { &binary.profile };
    format!(
        "      - name: Cache the program's crates
        {}
        with:
          path: |
            {at}target/{profile}
            {at}target/*/{profile}
          key: program-${{{{ runner.os }}}}-${{{{ runner.arch }}}}-${{{{ hashFiles('{at}Cargo.lock', '{at}rust-toolchain.toml') }}}}
",
        CACHE.uses()
    )
}

/// For asking at which commit the branch is by now: it decides whether a tag moves after a force push.
const GIT_TOKEN: &str = "      XTASK_GIT_TOKEN: ${{ github.token }}\n";

/// Images are known by their manifests' digests only where containerd keeps them.
const ENGINE: &str = "      - name: Keep images in containerd's store
        run: |
          case \"$(docker info --format '{{json .DriverStatus}}')\" in *io.containerd.snapshotter*) exit 0 ;; esac
          sudo touch /etc/docker/daemon.json
          sudo cat /etc/docker/daemon.json | jq -n '(try input catch {}) | .features.\"containerd-snapshotter\" = true' > \"$RUNNER_TEMP/daemon.json\"
          sudo cp \"$RUNNER_TEMP/daemon.json\" /etc/docker/daemon.json
          sudo systemctl restart docker
";

/// A Kubernetes cluster in the runner's Docker, by a program that is known by its digest.
const CLUSTER: &str = "      - name: Start a cluster
        run: |
          curl --fail --silent --show-error --location --output \"$RUNNER_TEMP/k3d\" https://github.com/k3d-io/k3d/releases/download/v5.8.3/k3d-linux-amd64
          echo \"dbaa79a76ace7f4ca230a1ff41dc7d8a5036a8ad0309e9c54f9bf3836dbe853e  $RUNNER_TEMP/k3d\" | sha256sum --check
          chmod +x \"$RUNNER_TEMP/k3d\"
          \"$RUNNER_TEMP/k3d\" cluster create tests --no-lb --wait --timeout 5m --kubeconfig-update-default=false
          \"$RUNNER_TEMP/k3d\" kubeconfig get tests > \"$RUNNER_TEMP/kubeconfig\"
";

const KUBECONFIG: &str = "          KUBECONFIG: ${{ runner.temp }}/kubeconfig
";

/// cargo-deny, compiled once for its version; only where `deny.toml` says what it is to check.
fn deny() -> String {
    format!(
        "      - name: Cache cargo-deny
        id: deny
        if: hashFiles('deny.toml') != ''
        {}
        with:
          path: ~/.cargo/bin/cargo-deny
          key: cargo-deny-{CARGO_DENY}-${{{{ runner.os }}}}-${{{{ runner.arch }}}}
      - name: Install cargo-deny
        if: hashFiles('deny.toml') != '' && steps.deny.outputs.cache-hit != 'true'
        run: cargo install --locked --version {CARGO_DENY} cargo-deny
",
        CACHE.uses()
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

fn ci(policy: &Policy, place: &Place) -> String {
    let branch = branch_filter(&policy.project.default_branch);
    let minutes = policy.ci.timeout_minutes;
    let [header, concurrency] = [header("ci", place), concurrency("ci", policy, place)];
    let [checkout, cargo, deny] = [checkout(), cargo("ci", place), deny()];
    let defaults = defaults(place);
    let (cluster, kubeconfig) = if policy.ci.cluster { (CLUSTER, KUBECONFIG) } else { Default::default() };
    let laptops: String = policy.ci.laptops.iter().map(|laptop| laptop_job(*laptop, policy, place)).collect();
    format!(
        "{header}
on:
  push:
    branches: [{branch}]
  pull_request:
  merge_group:
  workflow_dispatch:

{defaults}
{concurrency}
jobs:
  ci:
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
    steps:
{checkout}{cargo}{deny}{ENGINE}{cluster}      - name: Workflows are what the policy gives
        run: cargo xtask workflows --check
      - name: Everything is tested
        env:
          # A tool that is missing is a failure here, not a test that is left out.
          XTASK_REQUIRE_REAL: '1'
{kubeconfig}        run: cargo xtask ci
{laptops}"
    )
}

/// The job that compiles and tests xtask on the runners of a system other than Linux, one for each of its processors.
fn laptop_job(laptop: Laptop, policy: &Policy, place: &Place) -> String {
    let (name, runners) = match laptop {
        Laptop::MacOs => ("macos", ["macos-15", "macos-15-intel"]),
    };
    let (minutes, checkout, at) = (policy.ci.timeout_minutes, checkout(), slashed(&place.workspace));
    format!(
        "  {name}:
    strategy:
      fail-fast: false
      matrix:
        runner: [{}]
    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
    steps:
{checkout}      - name: Cache the crates' sources
        {}
        with:
          path: |
            ~/.cargo/registry/index
            ~/.cargo/registry/cache
          key: crates-${{{{ hashFiles('{at}Cargo.lock') }}}}
      - name: What needs no Linux is compiled and tested
        run: cargo xtask test --quick
",
        runners.join(", "),
        CACHE.uses()
    )
}

fn images(policy: &Policy, place: &Place, matrix: &str) -> String {
    let branch = branch_filter(&policy.project.default_branch);
    let (head, defaults) = (header("images", place), defaults(place));
    let schedule = quoted(&policy.ci.schedule);
    let concurrency = concurrency("images", policy, place);
    let built = [base(policy, place, matrix), app(policy, place, matrix), fork(policy, place, matrix)];
    let jobs = [plan(policy, place)].into_iter().chain(built).chain([release(policy, place)]);
    let jobs = jobs.chain(gate(policy, place)).chain([required(policy, place)]);
    let jobs: Vec<String> = jobs.collect();
    format!(
        "{head}
on:
  push:
    branches: [{branch}]
    tags: ['v*.*.*']
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

fn plan(policy: &Policy, place: &Place) -> String {
    let (checkout, cargo) = (checkout(), cargo("xtask", place));
    let login = login(policy, Some("steps.may.outputs.publish == 'true'"));
    let outputs: String =
        ["decision", "should-build", "use-fast-build", "requirements-changed", "base-reference", "base-present"]
            .iter()
            .map(|name| format!("      {name}: ${{{{ steps.plan.outputs.{name} }}}}\n"))
            .collect();
    format!(
        "  # What the change needs, and whether this event may publish it.
  plan:
    runs-on: {RUNNER}
    timeout-minutes: 20
    permissions:
      contents: read
      packages: read
    outputs:
      publish: ${{{{ steps.may.outputs.publish }}}}
{outputs}    steps:
{checkout}{cargo}      - name: Who may publish
        id: may
        env:
          PUBLISH: ${{{{ {PUBLISHES} }}}}
        run: echo \"publish=$PUBLISH\" >> \"$GITHUB_OUTPUT\"
{login}      - name: Plan
        id: plan
        run: cargo xtask plan --locked --format github
"
    )
}

fn base(policy: &Policy, place: &Place, matrix: &str) -> String {
    let minutes = policy.ci.timeout_minutes;
    let (checkout, cargo, login) = (checkout(), cargo("xtask", place), login(policy, None));
    format!(
        "  # Each platform on a machine of its own kind, on the root that `images.lock` pins and on no other; the index has them all once the last is done.
  base:
    needs: plan
    if: needs.plan.outputs.publish == 'true' && needs.plan.outputs.decision == 'base+fast'
{matrix}    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
      PLATFORM: ${{{{ matrix.platform }}}}
    steps:
{checkout}{cargo}{ENGINE}{login}      - name: Build the base
        if: github.event_name != 'schedule'
        run: cargo xtask build-base --push --locked --no-latest --platform \"$PLATFORM\"
      - name: Build the base anew, for security updates
        if: {WEEKLY}
        run: cargo xtask build-base --push --locked --force --no-latest --platform \"$PLATFORM\"
"
    )
}

fn app(policy: &Policy, place: &Place, matrix: &str) -> String {
    let minutes = policy.ci.timeout_minutes;
    let (checkout, cargo, login, program) =
        (checkout(), cargo("xtask", place), login(policy, None), program_cache(policy, place));
    format!(
        "  # Waits for the base; when the base was there already, that job is skipped and this one runs at once.
  app:
    needs: [plan, base]
    if: >-
      !cancelled() && !failure() && needs.plan.outputs.publish == 'true' &&
      needs.plan.outputs.should-build == 'true'
{matrix}    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
      PLATFORM: ${{{{ matrix.platform }}}}
{GIT_TOKEN}    steps:
{checkout}{cargo}{program}{ENGINE}{login}      - name: Build the app on its base
        if: github.event_name != 'schedule' && needs.plan.outputs.decision != 'full'
        run: cargo xtask build-fast --push --locked --no-latest --platform \"$PLATFORM\"
      - name: Build the app anew, on the new base
        if: {WEEKLY} && needs.plan.outputs.decision != 'full'
        run: cargo xtask build-fast --push --locked --force --no-latest --platform \"$PLATFORM\"
      - name: Build the app from scratch
        if: needs.plan.outputs.decision == 'full'
        run: cargo xtask build-enhanced --push --locked --platform \"$PLATFORM\"
"
    )
}

fn fork(policy: &Policy, place: &Place, matrix: &str) -> String {
    let minutes = policy.ci.timeout_minutes;
    let (checkout, cargo, program) = (checkout(), cargo("xtask", place), program_cache(policy, place));
    format!(
        "  # What may not publish is built all the same: no right to write, no secret, no `--push`.
  fork:
    needs: plan
    if: needs.plan.outputs.publish != 'true' && needs.plan.outputs.should-build == 'true'
{matrix}    runs-on: ${{{{ matrix.runner }}}}
    timeout-minutes: {minutes}
    permissions:
      contents: read
    env:
      PLATFORM: ${{{{ matrix.platform }}}}
    steps:
{checkout}{cargo}{program}{ENGINE}      - name: Build the base and the app
        if: needs.plan.outputs.decision != 'full'
        run: cargo xtask build --platform \"$PLATFORM\"
      - name: Build the app from scratch
        if: needs.plan.outputs.decision == 'full'
        run: cargo xtask build-enhanced --platform \"$PLATFORM\"
"
    )
}

fn release(policy: &Policy, place: &Place) -> String {
    let branch = &policy.project.default_branch;
    let minutes = policy.ci.timeout_minutes;
    let (checkout, cargo, login) = (checkout(), cargo("xtask", place), login(policy, None));
    format!(
        "  # Names the digest that was built and tested, once every platform is in its index: `latest`, and a tag's version. It builds
  # nothing, and fails where that digest is not there.
  release:
    needs: [plan, base, app]
    if: >-
      !cancelled() && !failure() && needs.plan.outputs.publish == 'true' &&
      (startsWith(github.ref, 'refs/tags/') || (github.ref == 'refs/heads/{branch}' &&
      needs.plan.outputs.should-build == 'true' && needs.plan.outputs.decision != 'full'))
    runs-on: {RUNNER}
    timeout-minutes: {minutes}
    permissions:
      contents: read
      packages: write
    env:
{GIT_TOKEN}    steps:
{checkout}{cargo}{ENGINE}{login}      - name: Name what was tested
        run: cargo xtask build --push --locked --reuse-only
"
    )
}

/// Whether fast builds have become slow, from the records that travel with the images.
fn gate(policy: &Policy, place: &Place) -> Option<String> {
    let factor = policy.ci.gate_factor?;
    let branch = &policy.project.default_branch;
    let (checkout, cargo, login) = (checkout(), cargo("xtask", place), login(policy, None));
    Some(format!(
        "  # Tells that fast builds have become slow, after what was built is named: it is slow, and not wrong.
  gate:
    needs: [plan, app, release]
    if: >-
      !cancelled() && !failure() && needs.plan.outputs.publish == 'true' &&
      needs.plan.outputs.decision == 'fast' && github.ref == 'refs/heads/{branch}'
    runs-on: {RUNNER}
    timeout-minutes: 20
    permissions:
      contents: read
      packages: read
    steps:
{checkout}{cargo}{login}      - name: Fast builds stay fast
        run: cargo xtask stats --from-registry --gate-factor {factor}
"
    ))
}

fn required(policy: &Policy, place: &Place) -> String {
    // It checks nothing out: the folder of the other jobs is not there.
    let folder = if place.folder.is_empty() { "" } else { "        working-directory: .\n" };
    let gate = if policy.ci.gate_factor.is_some() { ", gate" } else { "" };
    format!(
        "  # The one check that branch protection asks for: it always reports, also when nothing had to be built.
  required:
    needs: [plan, base, app, fork, release{gate}]
    if: always()
    runs-on: {RUNNER}
    timeout-minutes: 5
    permissions: {{}}
    steps:
      - name: Nothing that ran has failed
        if: contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled')
{folder}        run: exit 1
"
    )
}

#[cfg(test)]
mod tests;
