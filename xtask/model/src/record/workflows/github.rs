//! The graph of jobs as GitHub's workflows.

use super::graph::{Cache, Does, Graph, Job, JobStep, Runners, Setting, When};
use super::{File, HEADER, PolicyLocation, RootDigests, quoted};
use crate::fault::Fault;
use crate::image::policy::{Ci, Laptop, Policy};
use crate::spec::reference::Platform;
use std::fmt::Write as _;

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

/// The runner of what belongs to no platform: deciding, naming, reporting.
const RUNNER: &str = "ubuntu-24.04";

/// True if the event is of no stranger. GitHub gives the token of a fork's pull request, and of Dependabot's, no right to write.
const OF_ITS_OWN: &str = "(github.event_name != 'pull_request' || \
     (github.event.pull_request.head.repo.full_name == github.repository && github.actor != 'dependabot[bot]'))";

/// Name of the workflow that upgrades locks.
pub(super) const UPDATE: &str = "update";

/// Workflows of a policy. A platform without a known runner is a fault.
pub(super) fn files(
    policy: &Policy,
    place: &PolicyLocation,
    root: RootDigests,
    graph: &Graph,
) -> Result<Vec<File>, Fault> {
    let writer = GithubWriter { policy, place, root, matrix: matrix(policy)? };
    let mut files = vec![
        File { path: path("ci", place), text: writer.ci(graph) },
        File { path: path("release", place), text: writer.version(graph) },
    ];
    if let (Some(when), Some(job)) = (&policy.ci.updates, &graph.locks) {
        files.push(File { path: path(UPDATE, place), text: writer.update(when, job) });
    }
    Ok(files)
}

pub(super) fn path(name: &str, place: &PolicyLocation) -> String {
    format!(".github/workflows/{}{name}.yml", place.prefix())
}

/// The label of a platform's runner: native, so that nothing is emulated.
fn runner<'p>(ci: &'p Ci, platform: &Platform) -> Result<&'p str, Fault> {
    if let Some(label) = ci.runners.get(platform) {
        return Ok(label);
    }
    match platform.to_string().as_str() {
        "linux/amd64" => Ok(RUNNER),
        "linux/arm64" => Ok("ubuntu-24.04-arm"),
        _ => Err(super::no_runner(platform, "`.github/workflows/ci.yml`")),
    }
}

/// The legs of a job that is run for each platform.
fn matrix(policy: &Policy) -> Result<String, Fault> {
    let mut legs = String::from(
        "    strategy:\n      # One platform's failure is no reason to throw away another's work.\n      fail-fast: false\n      matrix:\n        include:\n",
    );
    for platform in &policy.project.platforms {
        let _ =
            write!(legs, "          - platform: {platform}\n            runner: {}\n", runner(&policy.ci, platform)?);
    }
    Ok(legs)
}

/// A branch as a filter takes it, in which `+` repeats and a leading `!` excludes.
fn branch_filter(branch: &str) -> String {
    let escaped = branch.replace('+', "\\+");
    quoted(&if escaped.starts_with('!') { format!("\\{escaped}") } else { escaped })
}

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

const DOCKER_STORE: &str = "        run: |
          case \"$(docker info --format '{{json .DriverStatus}}')\" in *io.containerd.snapshotter*) exit 0 ;; esac
          sudo touch /etc/docker/daemon.json
          sudo cat /etc/docker/daemon.json | jq -n '(try input catch {}) | .features.\"containerd-snapshotter\" = true' > \"$RUNNER_TEMP/daemon.json\"
          sudo cp \"$RUNNER_TEMP/daemon.json\" /etc/docker/daemon.json
          sudo systemctl restart docker
";

impl Cache {
    fn with_paths(&self) -> String {
        let paths: String = self.paths.iter().map(|path| format!("            {path}\n")).collect();
        format!("        with:\n          path: |\n{paths}")
    }

    fn restored(&self) -> String {
        let hash = |files: &[String]| {
            let files: Vec<String> = files.iter().map(|file| format!("'{file}'")).collect();
            format!("${{{{ hashFiles({}) }}}}", files.join(", "))
        };
        let prefix = format!("{}-${{{{ runner.os }}}}-${{{{ runner.arch }}}}", self.id);
        let locked = self.version.map_or_else(|| hash(&self.locked), str::to_owned);
        let sources = if self.sources.is_empty() { String::new() } else { format!("-{}", hash(&self.sources)) };
        let older = if self.older {
            format!("          restore-keys: |\n            {prefix}-{locked}-\n")
        } else {
            String::new()
        };
        format!(
            "        {}\n{}          key: {prefix}-{locked}{sources}\n{older}",
            CACHE_RESTORE.uses(),
            self.with_paths()
        )
    }

    fn saved(&self, branch: &str) -> String {
        let id = self.id;
        format!(
            "        if: github.ref == 'refs/heads/{branch}' && steps.{id}.outputs.cache-primary-key && steps.{id}.outputs.cache-hit != 'true'
        {}
{}          key: ${{{{ steps.{id}.outputs.cache-primary-key }}}}
",
            CACHE_SAVE.uses(),
            self.with_paths()
        )
    }
}

struct GithubWriter<'p> {
    policy: &'p Policy,
    place: &'p PolicyLocation,
    root: RootDigests,
    /// The legs of a job that runs for each platform.
    matrix: String,
}

impl GithubWriter<'_> {
    fn ci(&self, graph: &Graph) -> String {
        let (policy, place) = (self.policy, self.place);
        let branch = branch_filter(&policy.project.default_branch);
        let (head, defaults, concurrency) = (header("ci", place), defaults(place), concurrency("ci", policy, place));
        let schedule = quoted(&policy.ci.schedule);
        let jobs: Vec<String> = graph.ci.iter().map(|job| self.job(job)).chain([self.required(graph)]).collect();
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

    fn version(&self, graph: &Graph) -> String {
        let (policy, place) = (self.policy, self.place);
        let (head, defaults, concurrency) =
            (header("release", place), defaults(place), concurrency("release", policy, place));
        format!(
            "{head}
on:
  push:
    tags: ['v*.*.*']

{defaults}
{concurrency}
jobs:
{}",
            graph.version.iter().map(|job| self.job(job)).collect::<Vec<_>>().join("\n")
        )
    }

    fn update(&self, when: &str, job: &Job) -> String {
        let (head, defaults, prefix) = (header(UPDATE, self.place), defaults(self.place), self.place.prefix());
        format!(
            "{head}
on:
  schedule:
    - cron: {}
  workflow_dispatch:

{defaults}
concurrency:
  group: {prefix}{UPDATE}
  cancel-in-progress: false

jobs:
{}",
            quoted(when),
            self.job(job)
        )
    }

    fn job(&self, job: &Job) -> String {
        let mut text = String::new();
        if !job.comment.is_empty() {
            let _ = writeln!(text, "  # {}", job.comment);
        }
        let _ = writeln!(text, "  {}:", job.name);
        match &job.needs[..] {
            [] => {}
            [one] => text += &format!("    needs: {one}\n"),
            several => text += &format!("    needs: [{}]\n", several.join(", ")),
        }
        let conditions = self.conditions(job, &job.when);
        match &conditions[..] {
            [] => {}
            [first, rest @ ..] if job.after_skipped => {
                let _ = writeln!(
                    text,
                    "    if: >-\n      !cancelled() && !failure() && !contains(needs.*.result, 'cancelled') && {first} &&\n      {}",
                    rest.join(" && ")
                );
            }
            all => text += &format!("    if: {}\n", all.join(" && ")),
        }
        match job.machines {
            Runners::Any => text += &format!("    runs-on: {RUNNER}\n"),
            Runners::Platforms => text += &format!("{}    runs-on: ${{{{ matrix.runner }}}}\n", self.matrix),
            Runners::Laptops(Laptop::MacOs) => {
                text += "    strategy:\n      fail-fast: false\n      matrix:\n        runner: [macos-15, macos-15-intel]\n";
                text += "    runs-on: ${{ matrix.runner }}\n";
            }
        }
        let _ = writeln!(text, "    timeout-minutes: {}\n    permissions:", self.policy.ci.timeout_minutes);
        for (what, right) in job.rights.iter().copied().chain(job.identity.then_some(("id-token", "write"))) {
            let _ = writeln!(text, "      {what}: {right}");
        }
        if !job.outputs.is_empty() {
            text += "    outputs:\n";
            if job.steps.iter().any(|step| matches!(step.does, Does::AskMay)) {
                text += "      publish: ${{ steps.may.outputs.publish }}\n";
            }
            for name in &job.outputs {
                let _ = writeln!(text, "      {name}: ${{{{ steps.plan.outputs.{name} }}}}");
            }
        }
        if job.asks_branch {
            text += "    env:\n";
            if matches!(job.machines, Runners::Platforms) {
                text += "      PLATFORM: ${{ matrix.platform }}\n";
            }
            text += "      XTASK_GIT_TOKEN: ${{ github.token }}\n";
        }
        text += "    steps:\n";
        job.steps.iter().fold(text, |text, step| text + &self.step(job, step))
    }

    fn step(&self, job: &Job, step: &JobStep) -> String {
        let mut text = format!("      - name: {}\n", step.name);
        let id = match &step.does {
            Does::Restore(cache) => cache.id,
            Does::AskMay => "may",
            Does::Plan => "plan",
            _ => "",
        };
        if !id.is_empty() {
            let _ = writeln!(text, "        id: {id}");
        }
        let when = self.conditions(job, &step.when);
        if !when.is_empty() {
            let _ = writeln!(text, "        if: {}", when.join(" && "));
        }
        text + &match &step.does {
            Does::CheckOut => format!(
                "        {}\n        with:\n          fetch-depth: 0\n          persist-credentials: false\n",
                CHECKOUT.uses()
            ),
            Does::Restore(cache) => cache.restored(),
            Does::Save(cache) => cache.saved(&self.policy.project.default_branch),
            Does::TrustTimes(id) => self.trust_times(id),
            Does::AskMay => format!(
                "        env:\n          PUBLISH: ${{{{ {} && {OF_ITS_OWN} }}}}\n        run: echo \"publish=$PUBLISH\" >> \"$GITHUB_OUTPUT\"\n",
                self.own_repository()
            ),
            Does::LogIn => self.log_in(),
            Does::Plan => {
                let note = self.root.note().map(|note| format!("        # {note}\n")).unwrap_or_default();
                format!("{note}        run: cargo xtask plan{} --format github\n", self.root.flag())
            }
            Does::PrepareDocker(_) => DOCKER_STORE.to_owned(),
            Does::StartCluster => {
                "        run: cargo xtask cluster up --kubeconfig \"$RUNNER_TEMP/kubeconfig\"\n".to_owned()
            }
            Does::Refuse(why) => format!("        run: |\n          echo '::error::{why}'\n          exit 1\n"),
            Does::Run(command, settings) => {
                let env = if settings.is_empty() { "" } else { "        env:\n" };
                let lines: String = settings.iter().map(|setting| self.setting(job, *setting)).collect();
                format!("{env}{lines}        run: {command}\n")
            }
        }
    }

    fn setting(&self, job: &Job, setting: Setting) -> String {
        match setting {
            Setting::Output(name, output) => format!("          {name}: ${{{{ {} }}}}\n", value(job, output)),
            Setting::RequireTools => "          # A missing tool is a failure here, not a test that is left out.
          XTASK_REQUIRE_REAL: '1'\n"
                .to_owned(),
            Setting::Kubeconfig => "          KUBECONFIG: ${{ runner.temp }}/kubeconfig\n".to_owned(),
            Setting::UpdateToken => "          # GitHub starts no workflow for a pull request of its own token: with a token of an app or a person, CI runs on it.
          GH_TOKEN: ${{ secrets.XTASK_UPDATE_TOKEN || github.token }}\n"
                .to_owned(),
            Setting::Secret(name) => format!("          {name}: ${{{{ secrets.{name} }}}}\n"),
        }
    }

    fn conditions(&self, job: &Job, when: &[When]) -> Vec<String> {
        when.iter().map(|when| self.condition(job, when)).collect()
    }

    fn condition(&self, job: &Job, when: &When) -> String {
        match when {
            When::Is(output, text) => format!("{} == '{text}'", value(job, output)),
            When::IsNot(output, text) => format!("{} != '{text}'", value(job, output)),
            When::Contains(output, text) => format!("contains({}, '{text}')", value(job, output)),
            When::Scheduled => "github.event_name == 'schedule'".to_owned(),
            When::NotScheduled => "github.event_name != 'schedule'".to_owned(),
            When::DefaultBranch => format!("github.ref == 'refs/heads/{}'", self.policy.project.default_branch),
            When::OwnRepository => self.own_repository(),
            When::Exists(file) => format!("hashFiles('{file}') != ''"),
            When::Missed(cache) => format!("steps.{cache}.outputs.cache-hit != 'true'"),
            When::Succeeded(earlier) => format!("needs.{earlier}.result == 'success'"),
            When::Any(all) => format!("({})", self.conditions(job, all).join(" || ")),
        }
    }

    /// A fork has Actions too, and its token has no right to write here. One that publishes images of its own says so in `source`.
    fn own_repository(&self) -> String {
        let path = super::own_repository(self.policy).and_then(|url| url.split_once("://")?.1.split_once('/'));
        match path {
            Some((_, path)) if path.split('/').count() == 2 => {
                format!("(github.repository == '{path}' || !github.event.repository.fork)")
            }
            _ => "(!github.event.repository.fork)".to_owned(),
        }
    }

    fn trust_times(&self, id: &str) -> String {
        let place = self.place;
        let folder = if place.workspace.is_empty() { "." } else { &place.workspace };
        let elsewhere = place.workspace != place.folder;
        let folder = if elsewhere { format!("        working-directory: {folder}\n") } else { String::new() };
        format!("        if: steps.{id}.outputs.cache-hit == 'true'\n{folder}        run: {}\n", super::trust_times())
    }

    /// GitHub's registry takes the job's own token; any other one has secrets of the repository.
    fn log_in(&self) -> String {
        let registry = super::registry_host(self.policy);
        let (user, password) = if registry == "ghcr.io" {
            ("${{ github.actor }}", "${{ secrets.GITHUB_TOKEN }}")
        } else {
            ("${{ secrets.REGISTRY_USERNAME }}", "${{ secrets.REGISTRY_PASSWORD }}")
        };
        format!(
            "        env:
          REGISTRY: {}
          REGISTRY_USERNAME: {user}
          REGISTRY_PASSWORD: {password}
        run: printf '%s' \"$REGISTRY_PASSWORD\" | docker login --username \"$REGISTRY_USERNAME\" --password-stdin \"$REGISTRY\"
",
            quoted(&registry)
        )
    }

    fn required(&self, graph: &Graph) -> String {
        // It checks nothing out: the folder of the other jobs does not exist.
        let folder = if self.place.folder.is_empty() { "" } else { "        working-directory: .\n" };
        let needs: Vec<&str> = graph.ci.iter().map(|job| job.name).collect();
        format!(
            "  # The one check that branch protection asks for: it always reports, also when nothing had to be built.
  required:
    needs: [{}]
    if: always()
    runs-on: {RUNNER}
    timeout-minutes: 5
    permissions: {{}}
    steps:
      - name: Check that no job failed
        if: contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled')
{folder}        run: exit 1
",
            needs.join(", ")
        )
    }
}

/// An output of the plan: of this job's own, or of the first job's.
fn value(job: &Job, output: &str) -> String {
    let plans = job.steps.iter().any(|step| matches!(step.does, Does::Plan));
    match (plans, output) {
        (false, _) => format!("needs.images.outputs.{output}"),
        (true, "publish") => "steps.may.outputs.publish".to_owned(),
        (true, _) => format!("steps.plan.outputs.{output}"),
    }
}
