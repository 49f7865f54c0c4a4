//! Generated workflows, for policies of several kinds.

use super::*;
use crate::image::policy::Dependencies;
use yaml_rust2::{Yaml, YamlLoader};

/// This repository's own; [`keys`] adds to its `[ci]`.
const POLICY: &str = include_str!("../../../../../images.toml");

fn policy(edit: impl FnOnce(String) -> String) -> Policy {
    crate::image::policy::parse(&edit(POLICY.to_owned()), &|_| true).unwrap_or_else(|fault| panic!("{fault}"))
}

/// A policy with more keys in `[ci]`.
fn keys(text: &str, keys: &str) -> String {
    text.replace("[ci]\n", &format!("[ci]\n{keys}"))
}

/// The files of policies whose root is pinned.
fn generate(policies: &[&Policy], place: &PolicyLocation) -> Result<Vec<File>, Fault> {
    super::generate(policies, place, RootDigests::Pinned)
}

/// Policies that differ in all that the generator reads.
fn policies() -> Vec<Policy> {
    vec![
        policy(|text| text),
        policy(|text| text.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]")),
        policy(|text| {
            let text =
                text.replace("\"main\"", "\"release/a+b\"").replace("ghcr.io/acme", "registry.example:5000/team/x");
            let text = text.replace("engine = \"native\"", "engine = \"docker\"");
            keys(&text, "schedule = \"0 0 * * 0\"\ntimeout-minutes = 9\nlaptops = [\"macos\"]\nrunners = { \"linux/amd64\" = \"own.one\" }\n")
                .replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]")
        }),
        {
            let mut policy = policy(|text| text);
            policy.app.binary = None;
            policy.ci.gate_factor = None;
            policy
        },
    ]
}

/// Every job of every workflow of every policy: its name, itself, and its text for messages.
fn jobs(check: impl Fn(&str, &Yaml)) {
    for policy in policies() {
        for file in generate(&[&policy], &PolicyLocation::default()).unwrap() {
            let document =
                YamlLoader::load_from_str(&file.text).unwrap_or_else(|error| panic!("{error}\n{}", file.text));
            for (name, job) in document[0]["jobs"].as_hash().unwrap() {
                check(name.as_str().unwrap(), job);
            }
        }
    }
}

fn steps(job: &Yaml) -> &[Yaml] {
    job["steps"].as_vec().unwrap()
}

#[test]
fn the_files_of_this_repository_are_what_its_policy_gives() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let pins = std::fs::read_to_string(root.join("images.lock")).unwrap_or_default();
    let pins =
        if pins.is_empty() { ImagesLock::default() } else { ImagesLock::parse("images.lock".as_ref(), &pins).unwrap() };
    let policy = policy(|text| text);
    let digests = RootDigests::of(&[&policy], &pins);
    for file in super::generate(&[&policy], &PolicyLocation::default(), digests).unwrap() {
        let found = std::fs::read_to_string(root.join(&file.path)).unwrap_or_default();
        if let Some(difference) = difference(&file, &found) {
            panic!("{difference}\n\nhint: write them: `cargo xtask workflows`");
        }
    }
}

/// `--locked` refuses a root that is not pinned: with it, such a repository's first step would always fail.
/// Tests run what anybody's dependency brings: no job with all of them can write to the registry.
#[test]
fn whoever_runs_every_test_cannot_publish() {
    jobs(|name, job| {
        let runs_tests = steps(job).iter().any(|step| step["name"].as_str() == Some("Run the tests"));
        if runs_tests {
            assert!(job["permissions"]["packages"].is_badvalue(), "{name}");
            let logs_in = steps(job).iter().any(|step| step["name"].as_str() == Some("Log in to the registry"));
            assert!(!logs_in, "{name}");
        }
    });
    for policy in policies().iter().filter(|policy| policy.project.platforms.len() == 1) {
        let release = &generate(&[policy], &PolicyLocation::default()).unwrap()[1].text;
        let document = &YamlLoader::load_from_str(release).unwrap()[0];
        assert_eq!(document["jobs"]["test"]["needs"].as_str(), Some("images"));
        let needs: Vec<_> = document["jobs"]["release"]["needs"].as_vec().unwrap().iter().map(Yaml::as_str).collect();
        assert_eq!(needs, [Some("images"), Some("test")]);
        // Where it has to succeed: GitHub runs no job after one that was skipped, failed or cancelled.
        assert!(!document["jobs"]["release"]["if"].as_str().unwrap().contains("failure()"));
    }
}

#[test]
fn a_release_waits_for_tests_that_succeeded() {
    for policy in policies() {
        let ci = &generate(&[&policy], &PolicyLocation::default()).unwrap()[0].text;
        let document = &YamlLoader::load_from_str(ci).unwrap()[0];
        let condition = document["jobs"]["release"]["if"].as_str().unwrap();
        let several = policy.project.platforms.len() > 1;
        let small = if several {
            "(needs.images.outputs.tests != 'all' || "
        } else {
            "needs.images.outputs.tests == 'all' && "
        };
        for part in ["!contains(needs.*.result, 'cancelled')", &format!("{small}needs.test.result == 'success'")] {
            assert!(condition.contains(part), "{condition}");
        }
    }
}

#[test]
fn nothing_is_locked_that_is_not_pinned() {
    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let root = format!(
        "[root]\nimage = \"docker.io/library/python:3.12-slim\"\n\n[root.platforms]\n\"linux/amd64\" = \"{DIGEST}\"\n"
    );
    let policies = policies();
    for (pins, expected) in [
        (String::new(), RootDigests::Current),
        (root, RootDigests::Pinned),
        (format!("[base]\ndigest = \"{DIGEST}\"\n"), RootDigests::Pinned),
        (format!("[bases]\nother = \"{DIGEST}\"\n"), RootDigests::Current),
    ] {
        let lock = match &*pins {
            "" => ImagesLock::default(),
            text => ImagesLock::parse("images.lock".as_ref(), text).unwrap(),
        };
        for policy in &policies {
            let digests = RootDigests::of(&[policy], &lock);
            assert_eq!(digests, expected, "{pins}");
            for provider in [Provider::GitHub, Provider::GitLab] {
                let mut policy = policy.clone();
                policy.ci.provider = provider;
                policy.ci.laptops.clear();
                let text: String = super::generate(&[&policy], &PolicyLocation::default(), digests)
                    .unwrap()
                    .into_iter()
                    .map(|file| file.text)
                    .collect();
                let is_command = |line: &&str| ["cargo xtask plan", "--push "].iter().any(|part| line.contains(part));
                let locked = text.lines().filter(is_command).filter(|line| line.contains("--locked")).count();
                let all = text.lines().filter(is_command).filter(|line| !line.contains('`')).count();
                assert!(all > 3);
                assert_eq!(locked, if expected == RootDigests::Pinned { all } else { 0 }, "{text}");
                assert_eq!(text.contains("The root is not pinned"), expected == RootDigests::Current);
            }
        }
    }
}

#[test]
fn every_job_has_an_end_and_no_more_rights_than_it_names() {
    jobs(|name, job| {
        assert!(job["timeout-minutes"].as_i64().is_some_and(|minutes| minutes > 0), "{name}");
        let permissions = job["permissions"].as_hash().unwrap_or_else(|| panic!("`{name}` names no permissions"));
        for (what, right) in permissions {
            let (what, right) = (what.as_str().unwrap(), right.as_str().unwrap());
            match (what, right) {
                ("contents" | "packages", "read") => {}
                // GitHub takes the right to write from a stranger's run, whatever the file says.
                ("packages", "write") => {}
                // It has no event of a stranger: it runs by the clock and by hand.
                ("contents" | "pull-requests", "write") if name == "locks" => {}
                _ => panic!("{name}: {what}: {right}"),
            }
        }
    });
}

/// A workflow of its own for each would race: the app's might take the base of the push before.
#[test]
fn fault_8_the_app_waits_for_the_base_of_its_own_push() {
    for policy in policies() {
        let files = generate(&[&policy], &PolicyLocation::default()).unwrap();
        for file in &files {
            let document = &YamlLoader::load_from_str(&file.text).unwrap()[0];
            let jobs = document["jobs"].as_hash().unwrap();
            let (mut base, mut app) = (Vec::new(), Vec::new());
            for (name, job) in jobs {
                for (at, step) in steps(job).iter().enumerate() {
                    let run = step["run"].as_str().unwrap_or_default();
                    let at = (name.as_str().unwrap(), at);
                    base.extend(run.contains("build-base").then_some(at));
                    app.extend(run.contains("build-fast").then_some(at));
                }
            }
            // In one job in this order, or in jobs of which the later one waits.
            for (job, at) in app {
                let before = |(other, earlier): &(&str, usize)| *other == job && *earlier < at;
                let needs = jobs[&Yaml::String(job.to_owned())]["needs"].as_vec().cloned().unwrap_or_default();
                let waits = |(other, _): &(&str, usize)| needs.iter().any(|name| name.as_str() == Some(other));
                assert!(base.iter().any(|base| before(base) || waits(base)), "{job}");
            }
        }
    }
}

#[test]
fn whoever_runs_every_test_has_the_cargo_deny_that_it_needs() {
    let found = std::cell::Cell::new(0);
    jobs(|_, job| {
        let runs: Vec<_> = steps(job).iter().filter_map(|step| step["run"].as_str()).collect();
        let named = |step: &Yaml| step["name"].as_str() == Some("Run the tests");
        let Some(tests) = steps(job).iter().filter(|step| step["run"].as_str().is_some()).position(named) else {
            return;
        };
        let install = format!("cargo install --locked --version {CARGO_DENY} cargo-deny");
        assert!(runs.iter().position(|run| *run == install).is_some_and(|install| install < tests), "{runs:?}");
        found.set(found.get() + 1);
    });
    let several = policies().iter().filter(|policy| policy.project.platforms.len() > 1).count();
    assert_eq!(found.get(), 2 * policies().len() - several, "one in each file, but for a release of several platforms");
}

#[test]
fn a_laptops_system_has_a_job_where_the_policy_asks_for_it() {
    for policy in policies() {
        let text = generate(&[&policy], &PolicyLocation::default()).unwrap().remove(0).text;
        let job = &YamlLoader::load_from_str(&text).unwrap()[0]["jobs"]["macos"];
        assert_eq!(job.is_badvalue(), policy.ci.laptops.is_empty());
        if !policy.ci.laptops.is_empty() {
            let runners: Vec<_> = job["strategy"]["matrix"]["runner"].as_vec().unwrap().iter().collect();
            assert_eq!(runners.len(), 2, "both processors");
            let runs: Vec<_> = steps(job).iter().filter_map(|step| step["run"].as_str()).collect();
            assert_eq!(runs, ["cargo xtask test --quick"]);
        }
    }
}

#[test]
fn the_time_of_fast_builds_is_compared_where_the_policy_wants_it() {
    let text = |text: &str| {
        generate(&[&policy(|all| all.replace("gate-factor = 2", text))], &PolicyLocation::default())
            .unwrap()
            .remove(0)
            .text
    };
    assert!(text("gate-factor = 1.5").contains("run: cargo xtask stats --from-registry --gate-factor 1.5\n"));
    assert!(!text("").contains("gate"));
}

#[test]
fn what_is_reused_is_checked_by_a_job_that_cannot_publish() {
    let file = |text: &str| {
        let policy = policy(|all| all.replace("shadow = 0.05", text));
        let text = generate(&[&policy], &PolicyLocation::default()).unwrap().remove(0).text;
        (YamlLoader::load_from_str(&text).unwrap().remove(0), text)
    };
    for none in ["", "shadow = 0"] {
        assert!(!file(none).1.contains("shadow"), "{none}");
    }
    let (document, _) = file("shadow = 1");
    let job = &document["jobs"]["shadow"];
    assert_eq!(job["permissions"]["packages"].as_str(), Some("read"));
    assert!(job["if"].as_str().unwrap().contains("needs.images.outputs.shadow != ''"));
    let runs: Vec<_> = steps(job).iter().filter_map(|step| step["run"].as_str()).collect();
    assert_eq!(runs.last(), Some(&"cargo xtask reproduce --shadow"));
    let outputs = &document["jobs"]["images"]["outputs"];
    assert_eq!(outputs["shadow"].as_str(), Some("${{ steps.plan.outputs.shadow }}"));
    let needs = document["jobs"]["required"]["needs"].as_vec().unwrap();
    assert!(needs.contains(&Yaml::String("shadow".to_owned())), "{needs:?}");
    // A difference does not keep tested images from their tags: they were published before.
    assert!(!document["jobs"]["release"]["needs"].as_vec().unwrap().contains(&Yaml::String("shadow".to_owned())));
}

#[test]
fn locks_are_upgraded_by_one_pull_request_where_the_policy_wants_it() {
    let files = |text: &str, lock: &str| {
        let policy = policy(|all| {
            let all = all.replace("updates = \"41 4 * * 3\"\n", text);
            match lock {
                "uv.lock" => all
                    .replace("requirements = \"requirements-enhanced.txt\"\n", "")
                    .replace("lock = \"requirements-enhanced.lock\"", "lock = \"uv.lock\""),
                _ => all,
            }
        });
        let place = PolicyLocation::default();
        let files = generate(&[&policy], &place).unwrap();
        let obsolete: Vec<String> = obsolete(&policy, &place).into_iter().map(|(path, _)| path).collect();
        (files, obsolete)
    };
    let update = ".github/workflows/update.yml";
    let (none, obsolete) = files("", "requirements-enhanced.lock");
    assert!(none.iter().all(|file| file.path != update) && obsolete.contains(&update.to_owned()));
    for (lock, run) in [
        ("requirements-enhanced.lock", "cargo xtask lock --upgrade --pull-request"),
        ("uv.lock", "cargo xtask lock --pull-request"),
    ] {
        let (files, obsolete) = files("updates = \"1 2 * * 3\"\n", lock);
        assert!(!obsolete.contains(&update.to_owned()));
        let file = files.iter().find(|file| file.path == update).unwrap();
        let document = &YamlLoader::load_from_str(&file.text).unwrap()[0];
        assert_eq!(document["on"]["schedule"][0]["cron"].as_str(), Some("1 2 * * 3"));
        assert_eq!(document["permissions"].as_hash().map(|rights| rights.len()), Some(0));
        let job = &document["jobs"]["locks"];
        let rights: Vec<_> = job["permissions"].as_hash().unwrap().keys().filter_map(Yaml::as_str).collect();
        assert_eq!(rights, ["contents", "pull-requests"]);
        let runs: Vec<_> = steps(job).iter().filter_map(|step| step["run"].as_str()).collect();
        assert_eq!(runs.last(), Some(&run));
        // The step that upgrades alone gets a token.
        let with_token = steps(job).iter().filter(|step| !step["env"]["GH_TOKEN"].is_badvalue()).count();
        assert_eq!(with_token, 1);
    }
}

/// Every step that runs xtask with `--push`, with the text of its job.
fn pushes(check: impl Fn(&str, &str, &str, &Yaml)) {
    jobs(|name, job| {
        for step in steps(job) {
            let run = step["run"].as_str().unwrap_or_default();
            if run.contains("--push") {
                check(name, run, step["if"].as_str().unwrap_or_default(), job);
            }
        }
    });
}

#[test]
fn tags_that_claim_tests_are_put_by_steps_that_build_nothing() {
    pushes(|name, run, _, _| {
        let builds = run.contains("build-fast") || run.contains("xtask build ");
        assert!(!builds || run.contains("--untested") != run.contains("--reuse-only"), "{name}: {run}");
        assert!(!run.contains("build-base") || run.contains("--no-latest"), "{name}: {run}");
    });
}

#[test]
fn every_step_that_publishes_asks_whether_the_event_may() {
    pushes(|name, run, when, job| {
        let of_job = job["if"].as_str().unwrap_or_default();
        let asked = [when, of_job].iter().any(|text| text.contains("outputs.publish == 'true'"));
        // A run for a tag of the repository itself may: a fork's is kept out by its first job.
        assert!(asked || name == "release" || of_job.contains("event.repository.fork"), "{name}: {run}");
    });
}

#[test]
fn a_fork_is_known_by_the_source_that_the_policy_names() {
    let with = |source: &str, more: &str| {
        let policy = policy(|text| {
            let text = text.replace("source = \"https://github.com/acme/autoscaler\"\n", source);
            keys(&text, more)
        });
        generate(&[&policy], &PolicyLocation::default()).unwrap()
    };
    let named = "(github.repository == 'acme/autoscaler' || !github.event.repository.fork)";
    let any = "(!github.event.repository.fork)";
    for (source, expected) in [
        ("source = \"https://github.com/acme/autoscaler\"\n", named),
        ("source = \"https://github.example/acme/autoscaler.git/\"\n", named),
        ("source = \"https://github.example/acme/autoscaler.git\"\n", named),
        ("source = \"https://acme.example/code/of/autoscaler\"\n", any),
        ("source = \"https://acme.example/it's/this\"\n", any),
        ("", any),
    ] {
        let [ci, release, ..] = &with(source, "")[..] else { panic!() };
        assert!(ci.text.contains(&format!("PUBLISH: ${{{{ {expected} && (")), "{source}: {}", ci.text);
        let release = &YamlLoader::load_from_str(&release.text).unwrap()[0];
        assert_eq!(release["jobs"]["images"]["if"].as_str(), Some(expected), "{source}");
    }
    let gitlab = |source: &str| with(source, "provider = \"gitlab\"\n").remove(0).text;
    let text = gitlab("source = \"https://gitlab.example/team/sub/app\"\n");
    let asked = "{ own='https://gitlab.example/team/sub/app'; \
                 case \"$own\" in \"$CI_PROJECT_URL\") ;; \"$CI_SERVER_URL\"/*) false ;; esac; }";
    assert_eq!(text.matches(asked).count(), 2, "the first job, and the job of a version: {text}");
    assert!(!gitlab("").contains("$CI_PROJECT_URL"));
}

#[test]
fn jobs_that_move_tags_can_ask_where_the_branch_is() {
    jobs(|name, job| {
        let moves = steps(job).iter().filter_map(|step| step["run"].as_str()).any(|run| run.contains("--reuse-only"));
        let token = job["env"]["XTASK_GIT_TOKEN"].as_str();
        assert!(!moves || token == Some("${{ github.token }}"), "{name}");
    });
}

#[test]
fn a_cache_is_written_by_the_default_branch_alone_and_a_release_reads_none() {
    for policy in policies() {
        let [ci, release, ..] = &generate(&[&policy], &PolicyLocation::default()).unwrap()[..] else { panic!() };
        assert!(!release.text.contains("actions/cache"), "{}", release.text);
        let document = &YamlLoader::load_from_str(&ci.text).unwrap()[0];
        let branch = format!("github.ref == 'refs/heads/{}' && ", policy.project.default_branch);
        for (name, job) in document["jobs"].as_hash().unwrap() {
            for step in steps(job) {
                let uses = step["uses"].as_str().unwrap_or_default();
                assert!(!uses.starts_with("actions/cache@"), "{name:?}: it would write after every run");
                let saves = uses.starts_with("actions/cache/save@");
                assert!(!saves || step["if"].as_str().unwrap().starts_with(&branch), "{name:?}: {step:?}");
            }
        }
    }
}

#[test]
fn a_policy_of_one_platform_has_no_job_on_another_machine() {
    let names = |policy: &Policy| {
        let text = generate(&[policy], &PolicyLocation::default()).unwrap().remove(0).text;
        let document = YamlLoader::load_from_str(&text).unwrap().remove(0);
        document["jobs"].as_hash().unwrap().keys().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = policies();
    assert_eq!(names(&all[0]), ["images", "test", "shadow", "release", "required"]);
    assert_eq!(names(&all[1]), ["images", "base", "app", "test", "shadow", "release", "required"]);
}

#[test]
fn actions_are_pinned_and_keep_no_credentials() {
    jobs(|name, job| {
        for step in steps(job) {
            let Some(uses) = step["uses"].as_str() else { continue };
            let (action, commit) = uses.split_once('@').unwrap();
            assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: {uses}");
            if action == "actions/checkout" {
                assert_eq!(step["with"]["persist-credentials"].as_bool(), Some(false), "{name}");
            }
        }
    });
}

#[test]
fn a_run_line_holds_no_expression_and_builds_only_by_xtask() {
    jobs(|name, job| {
        for step in steps(job) {
            let Some(run) = step["run"].as_str() else { continue };
            assert!(!run.contains("${{"), "{name}: {run}");
            for word in ["docker build", "buildx", "pip ", "cargo build", "cargo test", "docker push", "docker tag"] {
                assert!(!run.contains(word), "{name}: {run}");
            }
        }
    });
}

#[test]
fn the_required_check_waits_for_every_other_job() {
    for policy in policies() {
        let text = generate(&[&policy], &PolicyLocation::default()).unwrap().remove(0).text;
        let document = &YamlLoader::load_from_str(&text).unwrap()[0];
        let mut others: Vec<_> = document["jobs"].as_hash().unwrap().keys().filter_map(Yaml::as_str).collect();
        others.retain(|name| *name != "required");
        let needs: Vec<_> =
            document["jobs"]["required"]["needs"].as_vec().unwrap().iter().filter_map(Yaml::as_str).collect();
        assert_eq!(needs, others);
    }
}

#[test]
fn the_texts_contain_the_policy() {
    let files = generate(&[&policies()[2]], &PolicyLocation::default()).unwrap();
    let document = &YamlLoader::load_from_str(&files[0].text).unwrap()[0];
    let on = &document["on"];
    assert_eq!(on["push"]["branches"][0].as_str(), Some("release/a\\+b"));
    assert_eq!(on["schedule"][0]["cron"].as_str(), Some("0 0 * * 0"));
    let base = &document["jobs"]["base"];
    assert_eq!(base["timeout-minutes"].as_i64(), Some(9));
    assert_eq!(base["strategy"]["matrix"]["include"][0]["runner"].as_str(), Some("own.one"));
    assert!(files[0].text.contains("REGISTRY: \"registry.example:5000\"\n"));
    assert!(files[0].text.contains("secrets.REGISTRY_PASSWORD") && !files[0].text.contains("GITHUB_TOKEN"));
}

#[test]
fn a_platform_without_a_runner_is_reported() {
    let text = |text: String| text.replace("[\"linux/amd64\"]", "[\"linux/riscv64\"]");
    let fault = generate(&[&policy(text)], &PolicyLocation::default()).unwrap_err();
    assert_eq!(fault.what, "no runner is known for `linux/riscv64`");
    let named = keys(&text(POLICY.to_owned()), "runs = 1\n");
    assert!(crate::image::policy::parse(&named, &|_| true).is_err(), "`runs` is not a key");
    let named = |all| keys(&text(all), "runners = { \"linux/riscv64\" = \"riscv\" }\n");
    assert!(generate(&[&policy(named)], &PolicyLocation::default()).is_ok());
}

#[test]
fn a_difference_is_reported_by_line() {
    let file = File { path: "x.yml".to_owned(), text: "a\nb\n".to_owned() };
    let told = |found: &str| difference(&file, found).unwrap_or_default();
    assert_eq!(told("a\nb\n"), "");
    assert_eq!(told("a\n c\n"), "x.yml:2: `c` should be `b`");
    assert_eq!(told("a\n"), "x.yml:2: `b` is missing");
    assert_eq!(told("a\nb\nc\n"), "x.yml:3: `c` should be removed");
    assert_eq!(told("a\r\nb\r\n"), "`x.yml` differs in how its lines end");
}

#[test]
fn a_cluster_is_started_only_where_the_policy_wants_one() {
    let text = |cluster: bool| {
        let ci = crate::image::policy::Ci { cluster, ..Default::default() };
        generate(&[&Policy { ci, ..policy(|text| text) }], &PolicyLocation::default()).unwrap().remove(0).text
    };
    let wanted = text(true);
    assert!(
        wanted.contains("run: cargo xtask cluster up") && wanted.contains("KUBECONFIG: ${{ runner.temp }}/kubeconfig"),
        "{wanted}"
    );
    assert!(!text(false).contains("KUBECONFIG") && !text(false).contains("cluster up"));
}

#[test]
fn the_workflows_of_a_policy_below_the_top_are_where_github_reads_them() {
    let policy = policy(|text| text);
    for (folder, workspace, in_workspace) in [("services/app", "services/app", None), ("services/app", "", Some("."))] {
        let place = PolicyLocation::new(folder, workspace).unwrap();
        let files = generate(&[&policy], &place).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let names = ["ci", "release", "update"].map(|name| format!(".github/workflows/services-app-{name}.yml"));
        assert_eq!(paths, names);
        for file in &files {
            assert!(file.text.starts_with("# Written by `cargo xtask workflows` from `services/app/images.toml`;"));
            let document = &YamlLoader::load_from_str(&file.text).unwrap()[0];
            assert_eq!(document["defaults"]["run"]["working-directory"].as_str(), Some("services/app"));
            assert!(document["name"].as_str().unwrap().ends_with("(services/app)"));
            assert!(document["concurrency"]["group"].as_str().unwrap().starts_with("services-app-"));
            for (name, job) in document["jobs"].as_hash().unwrap() {
                let checks_out =
                    steps(job).iter().any(|step| step["uses"].as_str().is_some_and(|u| u.contains("checkout")));
                for step in steps(job).iter().filter(|step| !step["run"].is_badvalue()) {
                    let own = step["working-directory"].as_str();
                    match step["name"].as_str().unwrap() {
                        "Trust the times of cached sources" => assert_eq!(own, in_workspace),
                        _ => assert_eq!(own, (!checks_out).then_some("."), "{name:?}"),
                    }
                }
            }
        }
        let at = slashed(workspace);
        assert!(files[0].text.contains(&format!("            {at}target/debug\n")));
        let sources =
            format!("hashFiles('{at}Cargo.toml', '{at}.cargo/config.toml', '{at}xtask/**', '{at}dockerfiles/*.py')");
        assert!(files[0].text.contains(&sources));
    }
    for wrong in ["a b", "a'b", "-a", "a\nb", "ä"] {
        assert!(PolicyLocation::new(wrong, "").is_err(), "{wrong}");
    }
}

#[test]
fn only_a_file_that_was_written_for_this_policy_is_ours() {
    let policy = policy(|text| text);
    let (top, below) = (PolicyLocation::default(), PolicyLocation::new("a", "a").unwrap());
    for (place, other) in [(&top, &below), (&below, &top)] {
        for file in generate(&[&policy], place).unwrap() {
            assert!(is_ours(&file.text, place) && !is_ours(&file.text, other));
            assert!(is_ours(&file.text.replace("timeout-minutes", "x"), place), "an edit below the header");
        }
    }
    assert!(!is_ours("name: ci\n# Written by `cargo xtask workflows` from `images.toml`; do not edit.\n", &top));
    let wanted = File { path: "ci.yml".to_owned(), text: "name: ci\nours\nend\n".to_owned() };
    let said = foreign_file(&wanted, "name: ci\nmine\nend\n").to_string();
    assert!(said.contains("-mine\n") && said.contains("+ours\n") && !said.contains("end"), "{said}");
}

#[test]
fn only_the_steps_that_publish_get_the_key() {
    let with = |settings: &str| {
        let policy = policy(|text| format!("{text}\n[[step]]\nname = \"sign\"\nuses = \"sign\"\n{settings}\n"));
        generate(&[&policy], &PolicyLocation::default()).unwrap().into_iter().map(|file| file.text).collect::<String>()
    };
    let plain = generate(&[&policy(|text| text)], &PolicyLocation::default()).unwrap();
    assert!(plain.iter().all(|file| !file.text.contains("SIGNING") && !file.text.contains("id-token")));
    let text = with("public-key = \"sign.pub\"");
    let lines: Vec<&str> = text.lines().collect();
    let runs = |line: &&str| {
        let builds = line.contains("run: cargo xtask build") && line.contains("--push");
        builds && !line.contains("--reuse-only") || line.contains("run: cargo xtask rebase")
    };
    let keys = lines.iter().filter(|line| line.contains("XTASK_SIGNING_KEY:")).count();
    assert_eq!(keys, lines.iter().filter(|line| runs(line)).count());
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("XTASK_SIGNING_KEY:")) {
        assert!(runs(&lines[index + 1]), "{line}\n{}", lines[index + 1]);
    }
    let keyless = with("cosign = \"keyless\"\nidentity = \"https://a/\"\nissuer = \"https://b/\"");
    assert_eq!(keyless.matches("id-token: write").count(), keyless.matches("packages: write").count());
    assert!(
        with("public-key = \"k\"\ncosign = \"awskms:///a\"")
            .contains("COSIGN_PASSWORD: ${{ secrets.COSIGN_PASSWORD }}")
    );
}

/// The file for GitLab, as text and as YAML.
fn gitlab(edit: impl FnOnce(String) -> String) -> (String, Yaml) {
    let policy = policy(|text| edit(keys(&text, "provider = \"gitlab\"\n")));
    let file = generate(&[&policy], &PolicyLocation::default()).unwrap().remove(0);
    assert_eq!(file.path, ".gitlab-ci.yml");
    let document = YamlLoader::load_from_str(&file.text).unwrap_or_else(|error| panic!("{error}\n{}", file.text));
    (file.text, document.into_iter().next().unwrap())
}

fn script(job: &Yaml) -> String {
    job["script"].as_vec().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn gitlab_has_the_jobs_of_github_in_the_same_order() {
    let two = |text: String| text.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    for edit in [std::convert::identity::<String> as fn(String) -> String, two] {
        let document = gitlab(edit).1;
        let found: Vec<&str> = document.as_hash().unwrap().keys().filter_map(Yaml::as_str).collect();
        let github = generate(&[&policy(edit)], &PolicyLocation::default()).unwrap();
        let mut expected = vec![".xtask".to_owned()];
        for (file, own) in github.iter().zip(["", "version", "locks"]) {
            let jobs = YamlLoader::load_from_str(&file.text).unwrap().remove(0);
            let names = jobs["jobs"].as_hash().unwrap().keys().filter_map(Yaml::as_str).map(str::to_owned);
            // There, no job says whether a pipeline succeeded, and one file has all names.
            expected.extend(
                names.filter(|name| name != "required").map(|name| if own.is_empty() { name } else { own.to_owned() }),
            );
        }
        // There, every job has the same rights: one does the work of a version.
        expected.dedup();
        assert_eq!(found, expected);
        // Every command of xtask is in both.
        let github: String = github.iter().map(|file| file.text.as_str()).collect();
        for job in found.iter().filter(|name| !name.starts_with('.')) {
            for line in script(&document[*job]).lines().map(str::trim).filter(|line| line.starts_with("cargo xtask ")) {
                let line = line.split(" > ").next().unwrap().replace("gitlab", "github");
                let line = line.replace("$CI_PROJECT_DIR.tmp", "$RUNNER_TEMP");
                assert!(github.contains(&format!("run: {line}\n")), "{job}: {line}");
            }
        }
    }
}

#[test]
fn a_script_of_gitlab_holds_no_text_that_a_stranger_chooses() {
    // Names and messages of others. A branch alone is compared, in quotes.
    for strangers in ["MESSAGE", "TITLE", "DESCRIPTION", "REF_NAME", "REF_SLUG", "AUTHOR", "SOURCE_BRANCH", "USER_NAME"]
    {
        assert!(!gitlab(|text| text).0.contains(strangers), "{strangers}");
    }
    let (text, document) = gitlab(|text| text);
    let mut words = text
        .split_whitespace()
        .filter(|word| word.contains("$CI_COMMIT_BRANCH") || word.contains("${CI_COMMIT_BRANCH"));
    assert!(words.all(|word| word.starts_with('"') || word.starts_with('\'') || word == "$CI_COMMIT_BRANCH"));
    for (name, job) in document.as_hash().unwrap() {
        // A job of the default branch, of a tag or of a schedule is not ended by newer work.
        for rule in job["rules"].as_vec().into_iter().flatten() {
            let publishes = ["COMMIT_TAG =~", "COMMIT_BRANCH ==", "PIPELINE =="]
                .iter()
                .any(|what| rule["if"].as_str().unwrap().contains(what));
            assert_eq!(rule["interruptible"].as_bool(), publishes.then_some(false), "{name:?}: {rule:?}");
        }
    }
}

#[test]
fn a_job_of_gitlab_without_the_plan_fails() {
    let document = gitlab(|text| text).1;
    for name in ["test", "shadow", "release"] {
        let done = script(&document[name]);
        let (guard, asks) = (done.find(": \"${XTASK_DECISION:?"), done.find("if ! {"));
        assert!(guard.is_some() && guard < asks, "{name}: {done}");
    }
}

#[test]
fn gitlab_starts_docker_only_where_something_needs_it() {
    let starts = |edit: &dyn Fn(String) -> String, job: &str| {
        let document = gitlab(edit).1;
        let (starts, ends) =
            (script(&document[job]).contains("xtask engine up"), !document[job]["after_script"].is_badvalue());
        assert_eq!(starts, ends, "{job}: what a job starts, it ends");
        starts
    };
    let alone = |text: String| text.replace("cluster = \"k3d\"\n", "");
    let docker = |text: String| alone(text).replace("engine = \"native\"", "engine = \"docker\"");
    assert!(starts(&|text| text, "test"), "the cluster");
    assert!(!starts(&alone, "test") && !starts(&alone, "version") && starts(&alone, "images"));
    assert!(starts(&docker, "test") && starts(&docker, "shadow") && !starts(&docker, "release"));
}

#[test]
fn gitlab_names_what_it_has_no_counterpart_for() {
    let with = |more: &str| policy(|text| keys(&text, &format!("provider = \"gitlab\"\n{more}")));
    let place = PolicyLocation::default();
    let fault = generate(&[&with("laptops = [\"macos\"]\n")], &place).unwrap_err();
    assert_eq!(fault.what, "`[ci] laptops` cannot be used with `provider = \"gitlab\"`");
    let text = generate(&[&with("image = \"registry.example/ci:1\"\n")], &place).unwrap().remove(0).text;
    assert!(text.contains("  image: \"registry.example/ci:1\"\n"), "{text}");
    let github = crate::image::policy::parse(&keys(POLICY, "image = \"a/b:1\"\n"), &|_| true).unwrap_err();
    assert!(github.to_string().contains("`ci.image` cannot be used with `provider = \"github\"`"), "{github}");
    let signed =
        |settings: &str| gitlab(|text| format!("{text}\n[[step]]\nname = \"sign\"\nuses = \"sign\"\n{settings}\n")).1;
    let keyless = signed("cosign = \"keyless\"\nidentity = \"https://a/\"\nissuer = \"https://b/\"");
    for (name, job) in keyless.as_hash().unwrap() {
        let publishes = !job["script"].is_badvalue() && script(job).contains("--push");
        let audience = job["id_tokens"]["SIGSTORE_ID_TOKEN"]["aud"].as_str();
        assert_eq!(audience, publishes.then_some("sigstore"), "{name:?}");
    }
    let own = signed("public-key = \"k\"");
    assert!(own["images"]["id_tokens"].is_badvalue());
    // A merge request without the key publishes nothing, and says nothing of a key where none is needed.
    assert!(script(&own["images"]).contains("|| [ -z \"${XTASK_SIGNING_KEY:-}\" ]; then XTASK_PUBLISH=false; fi"));
    assert!(!gitlab(|text| text).0.contains("XTASK_SIGNING_KEY"));
}

#[test]
fn several_apps_have_the_jobs_of_one_and_a_cache_of_all_programs() {
    let place = PolicyLocation::default();
    let mut one = policy(|text| text.replace("profile = \"dev\"", "profile = \"release\""));
    one.app.binary.as_mut().unwrap().dependencies = Dependencies::Off;
    let texts = |policies: &[&Policy]| -> Vec<String> {
        generate(policies, &place).unwrap().into_iter().map(|file| file.text).collect()
    };
    let mut other = one.clone();
    assert_eq!(texts(&[&one, &other]), texts(&[&one]));
    let binary = other.app.binary.as_mut().unwrap();
    binary.profile = "small".to_owned();
    let both = texts(&[&one, &other]);
    assert!(both[0].contains("            target/release\n") && both[0].contains("            target/small\n"));
    other.app.binary.as_mut().unwrap().dependencies = Dependencies::Registry;
    assert!(!texts(&[&one, &other])[0].contains("target/small"), "those are in the registry");
}

/// Files that a source outside its tests is compiled with, relative to the workspace.
fn included(folder: &std::path::Path, root: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["tests", "fuzz", "bench", "target"].contains(&name.as_str()) {
                included(&path, root, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for part in text.split("include_").skip(1).filter_map(|part| part.split_once("!(\"")) {
                let file = part.1.split('"').next().unwrap();
                let file = folder.join(file).canonicalize().unwrap();
                found.push(file.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
        }
    }
}

#[test]
fn the_cache_of_xtask_knows_every_file_that_is_compiled_into_it() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut found = Vec::new();
    included(&root.join("xtask"), &root, &mut found);
    found.retain(|file| !file.starts_with("xtask/"));
    found.sort();
    let scripts = ["check-imports.py", "compile.py", "install.py"].map(|name| format!("dockerfiles/{name}"));
    assert_eq!(found, [&scripts[..], &["rust-toolchain.toml".to_owned()]].concat());
    let text = &generate(&[&policy(|text| text)], &PolicyLocation::default()).unwrap()[0].text;
    assert!(
        text.contains("'xtask/**', 'dockerfiles/*.py'")
            && text.contains("rust-toolchain.toml .cargo xtask 'dockerfiles/*.py'")
    );
}
