//! `plan` and `explain` over real git repositories: against an oracle that extracts build contexts, by random edits, and by
//! the command line. No registry is asked and no engine is needed.

use crate::history;
use history::{Repo, State, edit, seed, seeded};
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask::flags::{Format, Global, PlanFlags};
use xtask::pipeline::{Sources, Unreadable};
use xtask_host::tree::git::Revision;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::change::{ChangePlan, Inputs, Purpose, Work};
use xtask_model::image::context::FileKind;
use xtask_model::image::presence::Presence;

fn global(root: &Path) -> Global {
    Global {
        root: Some(root.to_owned()),
        registry: None,
        app: Vec::new(),
        format: Format::Text,
        locked: false,
        offline: true,
        verbose: false,
        quiet: true,
    }
}

/// The plan of the only app.
fn plan(global: &Global, flags: &PlanFlags, variable: &dyn Fn(&str) -> Option<String>) -> Result<ChangePlan, Fault> {
    xtask::commands::plan::plan(global, flags, variable).map(|plans| plans.all()[0].clone())
}

fn ask(root: &Path, base: &str, head: Option<&str>) -> Result<ChangePlan, Fault> {
    let flags = PlanFlags { base: Some(base.to_owned()), head: head.map(str::to_owned), event: None };
    plan(&global(root), &flags, &|_| None)
}

fn inputs(root: &Path, revision: Option<&str>) -> Inputs {
    let files: Box<dyn xtask_host::tree::files::Files> = match revision {
        Some(name) => Box::new(Revision::open(root, name, true).unwrap()),
        None => Box::new(root.to_owned()),
    };
    let tree = global(root).tree_of(files).unwrap();
    Sources::read_all(&tree).map_err(Unreadable::fault).unwrap().inputs()
}

#[test]
fn a_program_of_another_profile_is_another_app_on_the_same_base() {
    let (repo, state) = (Repo::new(), seed());
    repo.import(std::slice::from_ref(&state));
    repo.checkout("main");
    let own = inputs(repo.root(), None);
    let policy = repo.root().join("images.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    assert!(text.contains("profile = \"dev\""));
    std::fs::write(&policy, text.replace("profile = \"dev\"", "profile = \"release\"")).unwrap();
    let other = inputs(repo.root(), None);
    assert_eq!(own.base, other.base);
    let [own, other] = [own.app, other.app].map(|app| app.binary.unwrap());
    assert_eq!((own.profile.as_str(), other.profile.as_str()), ("dev", "release"));
    assert_eq!(own.sources, other.sources);
}

/// Work that the oracle expects, from the bytes that two extracted trees would send to a builder.
fn expected(old: &history::Extracted, new: &history::Extracted) -> Work {
    if old.base != new.base {
        Work::BaseFast
    } else if old.app != new.app {
        Work::Fast
    } else {
        Work::Skip
    }
}

#[test]
fn neighbours_of_a_made_up_history_agree_with_extracted_contexts() {
    const COMMITS: usize = 120;
    let mut random = history::Random(0x9e37_79b9_7f4a_7c15);
    let mut state = seed();
    let mut states = vec![state.clone()];
    for _ in 1..COMMITS {
        for _ in 0..=random.below(2) {
            edit(&mut state, random.below(history::EDITS), random.below(8));
        }
        states.push(state.clone());
    }
    let repo = Repo::new();
    repo.import(&states);
    let ids = repo.lines(&["rev-list", "--reverse", "main"]);
    assert_eq!(ids.len(), COMMITS);
    let (mut compared, mut seen) = (0, [0; 3]);
    repo.checkout(&ids[0]);
    let mut before = history::extracted(repo.root()).unwrap();
    for pair in ids.windows(2) {
        repo.checkout(&pair[1]);
        let after = history::extracted(repo.root()).unwrap();
        let wanted = expected(&before, &after);
        let found = ask(repo.root(), &pair[0], Some(&pair[1])).unwrap();
        assert_eq!(found.decision, wanted, "{} {}: {:?}", pair[0], pair[1], found.reasons);
        seen[wanted as usize] += 1;
        compared += 1;
        if compared % 10 == 0 {
            let found = ask(repo.root(), &pair[0], None).unwrap();
            assert_eq!(found.decision, wanted, "the working tree at {}: {:?}", pair[1], found.reasons);
            assert_eq!(inputs(repo.root(), None), inputs(repo.root(), Some(&pair[1])));
        }
        before = after;
    }
    println!("compared {compared} pairs: skip, fast, base+fast {seen:?}");
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// The law: `skip` exactly where the inputs are bit for bit the same, whatever was edited and not committed.
    #[test]
    fn skip_is_given_exactly_for_identical_inputs(
        edits in prop::collection::vec((0..history::EDITS, 0_usize..8), 0..5),
    ) {
        thread_local! {
            static REPO: (Repo, history::Extracted, State) = {
                let (repo, state) = (Repo::new(), seed());
                repo.import(std::slice::from_ref(&state));
                repo.checkout("main");
                let extracted = history::extracted(repo.root()).unwrap();
                (repo, extracted, state)
            };
        }
        REPO.with(|(repo, before, state)| {
            let mut edited = state.clone();
            edits.iter().for_each(|(kind, value)| edit(&mut edited, *kind, *value));
            repo.write(state, &edited);
            let after = history::extracted(repo.root()).unwrap();
            let found = ask(repo.root(), "HEAD", None).unwrap();
            let wanted = expected(before, &after);
            repo.write(&edited, state);
            prop_assert_eq!(found.decision, wanted, "{:?}", found.reasons);
            Ok(())
        })?;
    }
}

#[test]
fn this_repositorys_own_history_agrees_with_extracted_contexts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let repo = Repo::at(root);
    // Each takes a checkout; the newest are enough to cover every kind of file.
    let ids = repo.lines(&["rev-list", "--reverse", "--first-parent", "--max-count=20", "HEAD"]);
    let mut compared = 0;
    let mut before: Option<history::Extracted> = None;
    for (index, id) in ids.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        repo.archive(id, folder.path());
        let after = history::extracted(folder.path());
        if let (Some(before), Some(after)) = (&before, &after) {
            match ask(root, &ids[index - 1], Some(id)) {
                Ok(found) if found.changes.is_some() => {
                    assert_eq!(found.decision, expected(before, after), "{id}: {:?}", found.reasons);
                    compared += 1;
                }
                // The older tree is invalid by today's rules: never `skip`.
                Ok(found) => assert_ne!(found.decision, Work::Skip, "{id}"),
                Err(fault) => assert_eq!(fault.exit, Exit::Usage, "{id}: {fault}"),
            }
        }
        before = after;
    }
    println!("compared {compared} of {} commits", ids.len());
}

/// A repository with one commit, checked out.
fn committed() -> (Repo, State) {
    let (repo, state) = (Repo::new(), seed());
    repo.import(std::slice::from_ref(&state));
    repo.checkout_branch("main");
    (repo, state)
}

#[track_caller]
fn after_writing(path: &str, text: &str, wanted: Work) {
    let (repo, _) = committed();
    repo.file(path, text);
    let found = ask(repo.root(), "HEAD", None).unwrap();
    assert_eq!(found.decision, wanted, "{path}: {:?}", found.reasons);
}

#[test]
fn fault_5_an_edit_of_another_requirements_file_or_dockerfile_does_not_rebuild_the_base() {
    after_writing("requirements-dev.txt", "pytest\n", Work::Skip);
    after_writing("autoscaler/forecaster/tests/requirements.txt", "pytest\n", Work::Skip);
    after_writing("dockerfiles/Dockerfile.other", "FROM scratch\n", Work::Skip);
    after_writing("dockerfiles/Dockerfile.enhanced", "FROM scratch\n", Work::Skip);
}

#[test]
fn fault_6_documents_build_nothing() {
    after_writing("README.md", "x\n", Work::Skip);
    after_writing("docs/a/b.md", "x\n", Work::Skip);
    after_writing("autoscaler/README.md", "x\n", Work::Skip);
    after_writing(".github/workflows/ci.yml", "on: push\n", Work::Skip);
}

#[test]
fn a_document_in_an_image_is_code() {
    for (path, tests) in
        [("autoscaler/templates/README.md", "pages"), ("autoscaler/README.md", "payload"), ("docs/a/b.md", "documents")]
    {
        let (repo, _) = committed();
        repo.file(path, "x\n");
        let found = ask(repo.root(), "HEAD", None).unwrap();
        assert_eq!(found.verification.to_string(), tests, "{path}: {}", found.verification_reason);
        // It counts where it was, too.
        repo.commit("document");
        std::fs::remove_file(repo.root().join(path)).unwrap();
        let found = ask(repo.root(), "HEAD", None).unwrap();
        assert_eq!(found.verification.to_string(), tests, "{path} is gone: {}", found.verification_reason);
    }
}

#[test]
fn fault_1_an_edit_of_the_bases_dockerfile_is_a_base_rebuild() {
    let text = history::seeded("dockerfiles/Dockerfile.base");
    after_writing("dockerfiles/Dockerfile.base", &format!("{text}LABEL a=b\n"), Work::BaseFast);
    after_writing("dockerfiles/Dockerfile.base", &format!("{text}# a comment\n"), Work::Skip);
    after_writing("dockerfiles/check-imports.py", "print()\n", Work::BaseFast);
    after_writing("autoscaler/templates/new.html", "x\n", Work::Fast);
}

#[test]
fn without_a_base_that_can_be_named_everything_is_built_from_scratch() {
    let text = history::seeded("dockerfiles/Dockerfile.base");
    after_writing("dockerfiles/Dockerfile.base", &format!("{text}COPY no-such-file /x\n"), Work::Full);
    after_writing("dockerfiles/Dockerfile.base", "", Work::Full);
}

/// The plan's decision can be carried out: the image from scratch reads nothing of the broken Dockerfile.
#[test]
fn the_image_from_scratch_is_read_where_the_bases_dockerfile_is_broken() {
    let (repo, _) = committed();
    let key = || {
        let tree = global(repo.root()).tree_of(Box::new(repo.root().to_owned())).unwrap();
        let read = Sources::read(&tree, xtask::pipeline::Target::Enhanced).unwrap_or_else(|fault| panic!("{fault}"));
        read.app().parsed.meaning.clone()
    };
    let whole = key();
    let text = history::seeded("dockerfiles/Dockerfile.base");
    for broken in [format!("{text}RUNN x\n"), format!("{text}COPY no-such-file /x\n"), String::new()] {
        repo.file("dockerfiles/Dockerfile.base", &broken);
        assert_eq!(key(), whole);
    }
}

#[test]
fn settings_that_no_key_holds_count_too() {
    let text = history::seeded("images.toml");
    let more = text.replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    assert_ne!(text, more);
    after_writing("images.toml", &more, Work::BaseFast);
    after_writing("images.toml", &text.replace("ghcr.io/acme", "ghcr.io/else"), Work::BaseFast);
    after_writing("images.toml", &text.replace("\"libstdc++6\"", "\"libgomp1\""), Work::BaseFast);
    after_writing("images.toml", &format!("{text}# a comment\n"), Work::Skip);
}

#[test]
fn pinning_the_root_is_a_change_of_the_base() {
    let (repo, _) = committed();
    let pins = |base: &str| {
        let digest = xtask_model::spec::reference::Digest::of(b"root");
        format!(
            "[root]\nimage = \"docker.io/library/python:3.12-slim\"\n[root.platforms]\n\"linux/amd64\" = \"{digest}\"\n{base}"
        )
    };
    repo.file("images.lock", &pins(""));
    let found = ask(repo.root(), "HEAD", None).unwrap();
    let said = "base: root docker.io/library/python:3.12-slim is pinned now (images.lock)";
    assert_eq!((found.decision, found.reasons), (Work::BaseFast, vec![said.to_owned()]));
    assert!(found.base.reference.is_some(), "with the root its name is known");
    repo.commit("pin");
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap().decision, Work::Skip);
    let digest = xtask_model::spec::reference::Digest::of(b"base");
    repo.file("images.lock", &pins(&format!("[base]\ndigest = \"{digest}\"\n")));
    let found = ask(repo.root(), "HEAD", None).unwrap();
    let said = [
        format!("base: pinned base {digest} is new (images.lock)"),
        "the base is pinned in `images.lock`: none is built".to_owned(),
    ];
    assert_eq!((found.decision, found.reasons), (Work::Fast, said.to_vec()), "what is pinned is not built");
    repo.commit("pin the base");
    let check = history::seeded("dockerfiles/check-imports.py");
    repo.file("dockerfiles/check-imports.py", "print()\n");
    let found = ask(repo.root(), "HEAD", None).unwrap();
    let said = [
        "nothing that an image is made of changed",
        "base: dockerfiles/check-imports.py was edited; it waits, the base is pinned in `images.lock`",
    ];
    assert_eq!((found.decision, found.reasons), (Work::Skip, said.map(str::to_owned).to_vec()));
    repo.file("dockerfiles/check-imports.py", &check);
    repo.file("images.lock", &pins(""));
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap().decision, Work::BaseFast);
}

#[test]
fn a_folder_without_git_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::at(&folder.path().canonicalize().unwrap());
    repo.write(&State::new(), &seed());
    let found = plan(&global(repo.root()), &PlanFlags::default(), &|_| None).unwrap();
    assert_eq!(found.decision, Work::BaseFast);
    let why = &found.reasons[0];
    assert!(why.starts_with("what changed cannot be known: ") && why.contains("not a git repository"), "{why}");
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap_err().exit, Exit::Usage);
}

#[test]
fn the_policy_may_be_below_the_repositorys_top_and_object_names_may_be_long() {
    let folder = tempfile::tempdir().unwrap();
    let top = Repo::at(&folder.path().canonicalize().unwrap());
    top.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
    let repo = Repo::at(&top.root().join("deep/er"));
    repo.write(&State::new(), &seed());
    top.commit("first");
    top.file("README.md", "x\n");
    top.commit("docs");
    assert_eq!(ask(repo.root(), "HEAD~1", Some("HEAD")).unwrap().decision, Work::Skip);
    repo.file("autoscaler/templates/new.html", "x\n");
    assert_eq!(ask(repo.root(), "HEAD~1", None).unwrap().decision, Work::Fast);
    let before = top.lines(&["rev-parse", "HEAD~1"])[0].clone();
    std::fs::create_dir_all(repo.root().join("target")).unwrap();
    let json = format!(r#"{{"before":"{before}","ref":"refs/heads/main"}}"#);
    assert_eq!(event(&repo, "push", &json).unwrap().decision, Work::Fast);
}

#[test]
fn a_partial_clone_without_its_objects_fails_open() {
    let (repo, _) = committed();
    repo.file("autoscaler/templates/new.html", "x\n");
    repo.file("requirements-enhanced.lock", &format!("{}# x\n", history::seeded("requirements-enhanced.lock")));
    let elsewhere = history::seeded("images.toml").replace("docker.io/", "127.0.0.99:9/");
    repo.file("images.toml", &elsewhere);
    repo.commit("template");
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let folder = tempfile::tempdir().unwrap();
    let partial = Repo::at(&folder.path().canonicalize().unwrap());
    let url = format!("file://{}", repo.root().display());
    partial.git(&["clone", "-q", "--filter=blob:none", &url, "."]);
    let found = ask(partial.root(), "HEAD~1", None).unwrap();
    assert_eq!(found.decision, Work::BaseFast);
    assert!(found.reasons[0].contains("is not in this clone"), "{:?}", found.reasons);
    // With a network git brings what is asked for.
    let online = Global { offline: false, registry: Some("127.0.0.1:9".parse().unwrap()), ..global(partial.root()) };
    let flags = PlanFlags { base: Some("HEAD~1".to_owned()), ..PlanFlags::default() };
    let found = plan(&online, &flags, &|_| None).unwrap();
    assert_eq!(found.changes.map(|changes| changes.app), Some(vec!["autoscaler/templates/new.html is new".to_owned()]));
}

/// The promise: 150 ms on a repository of 100,000 files, half of them in a folder that the app copies, which `bench` measures. Looking at each takes
/// seconds: that is what this finds, on a busy machine too.
#[test]
fn a_hundred_thousand_files_cost_nothing() {
    let mut state = seed();
    for number in 0..100_000 {
        let top = if number < 50_000 { "lib" } else { "autoscaler/samples/many" };
        let path = format!("{top}/m{}/n{}/f{number}.py", number / 1000, number / 100 % 10);
        state.insert(path, (0o100_644, b"pass\n".to_vec()));
    }
    let mut edited = state.clone();
    edit(&mut edited, 9, 0);
    let repo = Repo::new();
    repo.import(&[state, edited]);
    repo.write(&State::new(), &seed());
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let (code, out, _) = run(&repo, &["plan", "--offline", "--base", "main~1", "--head", "main"], &[]);
        best = best.min(began.elapsed());
        assert_eq!((code, out.as_str()), (0, planned("new-0.html").as_str()));
    }
    println!("plan over 100,000 files: {} ms", best.as_millis());
    assert!(best < Duration::from_secs(1), "{} ms", best.as_millis());
}

/// Plans for a CI event on the checked-out commit.
fn event(repo: &Repo, name: &str, json: &str) -> Result<ChangePlan, Fault> {
    let file = repo.root().join("target/event.json");
    std::fs::write(&file, json).unwrap();
    let variable = |asked: &str| match asked {
        "GITHUB_EVENT_NAME" => Some(name.to_owned()),
        "GITHUB_EVENT_PATH" => Some(file.display().to_string()),
        _ => None,
    };
    plan(&global(repo.root()), &PlanFlags::default(), &variable)
}

#[test]
fn events_find_what_they_are_compared_with() {
    let (repo, _) = committed();
    let first = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    repo.file("README.md", "x\n");
    repo.commit("docs");
    let docs = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    let push = |before: &str| format!(r#"{{"before":"{before}","ref":"refs/heads/main"}}"#);
    assert_eq!(event(&repo, "push", &push(&first)).unwrap().decision, Work::Skip);

    // First push, a commit that was pushed over, a tag, a schedule: never `skip`.
    for (name, json, purpose, why) in [
        ("push", push(&"0".repeat(40)), Purpose::Change, "first push"),
        ("push", push(&"1".repeat(40)), Purpose::Change, "is not in this clone"),
        ("push", r#"{"ref":"refs/tags/v1.0.0","before":"x"}"#.to_owned(), Purpose::Release, "a release"),
        ("schedule", "{}".to_owned(), Purpose::Schedule, "regular rebuild"),
        ("workflow_dispatch", "{}".to_owned(), Purpose::Manual, "by hand"),
    ] {
        let plan = event(&repo, name, &json).unwrap();
        assert_eq!((plan.decision, plan.purpose), (Work::BaseFast, purpose), "{json}");
        assert!(plan.reasons.iter().any(|reason| reason.contains(why)), "{json}: {:?}", plan.reasons);
    }

    // A pull request, on its own head and on the merge commit, while the default branch went on.
    repo.git(&["checkout", "-qb", "feature", &first]);
    repo.file("autoscaler/templates/new.html", "x\n");
    repo.commit("template");
    let request = format!(r#"{{"pull_request":{{"base":{{"sha":"{docs}"}}}}}}"#);
    let plan = event(&repo, "pull_request", &request).unwrap();
    assert_eq!((plan.decision, plan.base_revision.as_ref()), (Work::Fast, Some(&first)));
    repo.git(&["checkout", "-q", "--detach", &docs]);
    repo.git(&["merge", "-q", "--no-ff", "-m", "merge", "feature"]);
    let plan = event(&repo, "pull_request", &request).unwrap();
    assert_eq!((plan.decision, plan.base_revision.as_ref()), (Work::Fast, Some(&docs)));
    let group = format!(r#"{{"merge_group":{{"base_sha":"{docs}"}}}}"#);
    assert_eq!(event(&repo, "merge_group", &group).unwrap().decision, Work::Fast);
}

#[test]
fn a_shallow_clone_fails_open() {
    let (repo, _) = committed();
    let first = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    repo.file("README.md", "x\n");
    repo.commit("docs");
    let shallow = Repo::new();
    let url = format!("file://{}", repo.root().display());
    shallow.git(&["fetch", "-q", "--depth", "1", &url, "main"]);
    shallow.git(&["checkout", "-q", "--detach", "FETCH_HEAD"]);
    let plan = event(&shallow, "push", &format!(r#"{{"before":"{first}","ref":"refs/heads/main"}}"#)).unwrap();
    assert_eq!(plan.decision, Work::BaseFast);
    assert!(plan.reasons[0].contains("the clone is shallow (`fetch-depth: 0`;"), "{:?}", plan.reasons);
}

#[test]
fn at_the_desk_a_change_is_compared_with_where_it_left_the_default_branch() {
    let (repo, _) = committed();
    let desk = |head: Option<&str>| {
        let flags = PlanFlags { head: head.map(str::to_owned), ..PlanFlags::default() };
        plan(&global(repo.root()), &flags, &|_| None).unwrap().decision
    };
    assert_eq!(desk(None), Work::Skip);
    assert_eq!(desk(Some("HEAD")), Work::BaseFast, "the first commit has nothing before it");
    repo.file("autoscaler/templates/new.html", "x\n");
    assert_eq!(desk(None), Work::Fast, "uncommitted, and git has not seen the file yet");
    repo.commit("template");
    assert_eq!((desk(None), desk(Some("HEAD"))), (Work::Skip, Work::Fast), "on the default branch");
    repo.git(&["checkout", "-qb", "feature", "HEAD~1"]);
    repo.file("dockerfiles/check-imports.py", "x\n");
    repo.commit("check");
    repo.file("README.md", "x\n");
    assert_eq!(desk(None), Work::BaseFast, "the whole branch counts");
    repo.git(&["checkout", "-q", "--detach"]);
    assert_eq!(desk(None), Work::BaseFast, "detached");
}

#[test]
fn a_repository_without_commits_is_built() {
    let (repo, state) = (Repo::new(), seed());
    repo.write(&State::new(), &state);
    let found = plan(&global(repo.root()), &PlanFlags::default(), &|_| None).unwrap();
    assert_eq!(found.decision, Work::BaseFast);
    assert_eq!(found.reasons, ["what changed cannot be known: the repository has no commits"]);
    assert_eq!(found.base.presence, Presence::NotAsked);
}

#[test]
fn links_and_submodules() {
    let (repo, _) = committed();
    // A Dockerfile behind a link is read where it leads.
    let text = history::seeded("dockerfiles/Dockerfile.base");
    repo.file("dockerfiles/real", &text);
    std::fs::remove_file(repo.root().join("dockerfiles/Dockerfile.base")).unwrap();
    std::os::unix::fs::symlink("./../dockerfiles/real", repo.root().join("dockerfiles/Dockerfile.base")).unwrap();
    repo.commit("link");
    assert_eq!(ask(repo.root(), "HEAD~1", Some("HEAD")).unwrap().decision, Work::Skip);
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap().decision, Work::Skip);

    // A submodule that no image reads is nothing; one that an image reads cannot be read at a revision.
    let id = repo.lines(&["rev-parse", "HEAD"])[0].clone();
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},vendor/other")]);
    repo.git(&["commit", "-qm", "submodule"]);
    assert_eq!(ask(repo.root(), "HEAD~1", Some("HEAD")).unwrap().decision, Work::Skip);
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},autoscaler/templates/other")]);
    repo.git(&["commit", "-qm", "submodule in the image"]);
    let fault = ask(repo.root(), "HEAD~1", Some("HEAD")).unwrap_err();
    assert_eq!(
        (fault.exit, fault.what.as_str()),
        (Exit::Usage, "cannot read `autoscaler/templates/other` at a revision")
    );
    let found = ask(repo.root(), "HEAD", None).unwrap();
    assert_ne!(found.decision, Work::Skip);
    assert!(found.reasons[0].contains("it is in a submodule"), "{:?}", found.reasons);
}

/// The command itself.
fn run(repo: &Repo, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).arg("--root").arg(repo.root());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GITHUB_") || name == "XTASK_REGISTRY") {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The plan for a new template.
fn planned(name: &str) -> String {
    let path = format!("autoscaler/templates/{name}");
    format!("fast\n  app: {path} is new\ntests: pages\n  `[[ci.tests]]` `pages` covers every changed file (`{path}`)\n")
}

#[test]
fn the_command_line() {
    let (repo, _) = committed();
    let first = repo.lines(&["rev-parse", "--short=12", "HEAD"])[0].clone();
    repo.file("autoscaler/templates/new.html", "x\n");
    repo.commit("template");
    let (code, out, _) = run(&repo, &["plan", "--offline", "--base", "HEAD~1"], &[]);
    assert_eq!((code, out.as_str()), (0, planned("new.html").as_str()));

    // Git is started once for all objects, once for the changed paths, and once more where histories are compared.
    let trace = repo.root().join("target/trace");
    for (args, most) in [(["--base", "HEAD~1", "--head", "HEAD"].as_slice(), 2), (["--head", "HEAD"].as_slice(), 3)] {
        let _ = std::fs::remove_file(&trace);
        let args = [["plan", "--offline"].as_slice(), args].concat();
        assert_eq!(run(&repo, &args, &[("GIT_TRACE", trace.to_str().unwrap())]).0, 0);
        let calls = std::fs::read_to_string(&trace).unwrap().matches("trace: built-in: git").count();
        assert!((1..=most).contains(&calls), "{args:?}: {calls}");
    }

    let (code, out, _) = run(&repo, &["plan", "--offline", "--base", "HEAD~1", "--format", "json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["decision"].as_str()), (0, Some("fast")));

    let [outputs, summary] = ["outputs", "summary"].map(|name| repo.root().join("target").join(name));
    std::fs::write(&outputs, "before=1\n").unwrap();
    let variables = [("GITHUB_OUTPUT", outputs.to_str().unwrap()), ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap())];
    let (code, out, _) = run(&repo, &["plan", "--offline", "--base", "HEAD~1", "--format", "github"], &variables);
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(
        std::fs::read_to_string(outputs).unwrap(),
        "before=1\ndecision=fast\nshould-build=true\nuse-fast-build=true\nrequirements-changed=false\nbase-reference=\nbase-present=unknown\ntests=pages\nlong-tests=\nmachines=one\ncompiles=false\nshadow=\n"
    );
    assert!(std::fs::read_to_string(summary).unwrap().starts_with("## Plan: `fast`\n"));

    let (code, out, _) = run(&repo, &["explain", "--commit", "HEAD~1", "--commit", "HEAD"], &[]);
    assert_eq!(code, 0);
    assert!(out.contains(&format!("compared with the one at `{first}`\n  nothing differs\napp ")), "{out}");
    assert!(out.ends_with("\n  autoscaler/templates/new.html is new\n"), "{out}");
    let (code, out, _) = run(&repo, &["explain", "--offline"], &[]);
    assert_eq!((code, out.contains("nothing was built here yet")), (0, true), "{out}");
}

#[test]
fn a_programs_changed_sources_are_named() {
    let (repo, _) = committed();
    let first = repo.lines(&["rev-parse", "--short=12", "HEAD"])[0].clone();
    repo.file("autoscaler/src/main.rs", "fn main() { }\n");
    repo.file("autoscaler/src/new.rs", "\n");
    std::fs::remove_file(repo.root().join("autoscaler/src/page.rs")).unwrap();
    let names = "autoscaler/src/main.rs, autoscaler/src/new.rs (new), autoscaler/src/page.rs (gone)";
    let said = format!("sources of autoscaler/autoscaler changed since {first}: {names}");
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap().reasons, [format!("app: {said}")]);
    repo.commit("code");
    let (_, out, _) = run(&repo, &["explain", "--commit", "HEAD~1", "--commit", "HEAD"], &[]);
    assert!(out.ends_with(&format!("\n  {said}\n")), "{out}");
}

#[test]
fn sources_that_a_large_copied_folder_leaves_out_count_for_the_program() {
    let mut state = seed();
    let mut insert = |path: &str, text: &str| drop(state.insert(path.to_owned(), (0o100_644, text.into())));
    for number in 0..300 {
        insert(&format!("autoscaler/samples/many/{number}.csv"), "1\n");
    }
    insert("autoscaler/samples/part.rs", "\n");
    insert("autoscaler/samples/whole.rs", "\n");
    let ignored = seeded("dockerfiles/Dockerfile.fast.dockerignore") + "autoscaler/samples/part.rs\n";
    insert("dockerfiles/Dockerfile.fast.dockerignore", &ignored);
    let repo = Repo::new();
    repo.import(std::slice::from_ref(&state));
    repo.checkout("main");
    let files = inputs(repo.root(), None).app.files;
    assert!(files.iter().any(|entry| entry.kind == FileKind::Tree), "{files:?}");
    for (path, reason) in [
        ("autoscaler/samples/part.rs", "app: sources of autoscaler/autoscaler changed since"),
        ("autoscaler/samples/whole.rs", "app: autoscaler/samples was edited"),
        ("autoscaler/samples/many/7.csv", "app: autoscaler/samples was edited"),
    ] {
        repo.file(path, "edited\n");
        let local = ask(repo.root(), "HEAD", None).unwrap().reasons;
        repo.commit("edit");
        let committed = ask(repo.root(), "HEAD~1", Some("HEAD")).unwrap().reasons;
        for reasons in [local, committed] {
            assert!(matches!(reasons.as_slice(), [one] if one.starts_with(reason)), "{path}: {reasons:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_the_exit_code_of_the_table() {
    let (repo, _) = committed();
    let wrong = |args: &[&str], what: &str| {
        let (code, out, err) = run(&repo, args, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.starts_with(&format!("error: {what}")), "{err}");
    };
    wrong(&["plan", "--base", "nope"], "revision `nope` does not exist");
    wrong(&["plan", "--base=--help"], "revision `--help` does not exist");
    wrong(&["plan", "--head", "HEAD:images.toml"], "revision `HEAD:images.toml` does not exist");
    wrong(&["plan", "--base", "HEAD\nHEAD"], "revision `HEAD\\nHEAD` does not exist");
    wrong(&["plan", "--event", "no-such-file"], "cannot read the event `no-such-file`");
    wrong(&["explain", "--commit", "nope"], "revision `nope` does not exist");
    wrong(&["explain", "--format", "github"], "`--format github` is for `plan`");
    repo.file("images.toml", "");
    wrong(&["plan"], "`images.toml` is invalid");
    std::fs::remove_file(repo.root().join("images.toml")).unwrap();
    wrong(&["plan"], &format!("`{}` has no `images.toml`", repo.root().display()));
}

/// A label in the images' configuration that follows from the policy.
#[test]
fn the_label_of_the_source_is_in_both_keys() {
    let repo = Repo::new();
    repo.import(&[seed()]);
    repo.checkout("main");
    assert_eq!(ask(repo.root(), "HEAD", None).unwrap().decision, Work::Skip);
    let policy = std::fs::read_to_string(repo.root().join("images.toml")).unwrap();
    let edited = policy.replace("https://github.com/acme/autoscaler", "https://example.com/autoscaler");
    assert_ne!(policy, edited);
    std::fs::write(repo.root().join("images.toml"), edited).unwrap();
    let found = ask(repo.root(), "HEAD", None).unwrap();
    assert_eq!(found.decision, Work::BaseFast);
    assert!(
        found.reasons.iter().any(|reason| reason.contains("label org.opencontainers.image.source")),
        "{:?}",
        found.reasons
    );
}

/// `stats --replay` of a range, as JSON.
#[track_caller]
fn replayed(root: &Path, range: &str) -> serde_json::Value {
    let call = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["--offline", "--root"])
        .arg(root)
        .args(["stats", "--format", "json", "--replay", range])
        .output()
        .unwrap();
    assert!(call.status.success(), "{}", String::from_utf8_lossy(&call.stderr));
    let census: serde_json::Value = serde_json::from_slice(&call.stdout).unwrap();
    assert_eq!(xtask::documents::CENSUS.unlisted(&census), [""; 0]);
    census
}

/// Each commit is classified as `plan` decides it, whatever was not read again.
#[track_caller]
fn agrees_with_plan(root: &Path, census: &serde_json::Value) -> usize {
    let commits = census["commits"].as_array().unwrap();
    for commit in commits {
        let id = commit["commit"].as_str().unwrap();
        let class = commit["class"].as_str().unwrap();
        match ask(root, &format!("{id}^1"), Some(id)) {
            Ok(found) => {
                let expected = match (found.decision, found.compiles) {
                    (Work::Skip | Work::Rebase, _) => "nothing",
                    (Work::Fast, false) => "files",
                    (Work::Fast, true) => "program",
                    (Work::BaseFast, _) => "base",
                    (Work::Full, _) => "everything",
                };
                assert_eq!(
                    (class, commit["tests"].as_str().unwrap()),
                    (expected, &*found.verification.to_string()),
                    "{commit:#}"
                );
            }
            Err(fault) => assert_eq!(class, "unreadable", "{fault}"),
        }
    }
    commits.len()
}

#[test]
fn a_replayed_history_is_what_plan_says_of_each_commit() {
    const COMMITS: usize = 80;
    let mut random = history::Random(0x51ed_270b_9f4a_7c15);
    let mut states = vec![seed()];
    for number in 1..COMMITS {
        let mut state = states[number - 1].clone();
        edit(&mut state, random.below(history::EDITS), random.below(8));
        states.push(state);
    }
    // A commit that nobody can plan, and one that repairs it.
    let mut broken = states[COMMITS - 1].clone();
    broken.insert("images.toml".to_owned(), (0o100_644, b"[project\n".to_vec()));
    states.extend([broken, states[COMMITS - 1].clone(), states[0].clone()]);
    let repo = Repo::new();
    repo.import(&states);
    repo.checkout("main");
    let census = replayed(repo.root(), &format!("HEAD~{}..HEAD", COMMITS + 2));
    assert_eq!(agrees_with_plan(repo.root(), &census), COMMITS + 2);
    let of = |class: &str| census["classes"].as_array().unwrap().iter().find(|row| row["class"] == class);
    for class in ["nothing", "files", "program", "base", "unreadable"] {
        assert!(of(class).is_some(), "no `{class}`: {:#}", census["classes"]);
    }
    assert_eq!(of("unreadable").unwrap()["commits"], 1);
    assert_eq!(replayed(repo.root(), "HEAD..HEAD")["commits"].as_array().map(Vec::len), Some(0));
}

#[test]
fn this_repositorys_own_history_is_replayed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let known = Repo::at(root).lines(&["rev-list", "--first-parent", "HEAD"]).len();
    let census = replayed(root, &format!("HEAD~{}..HEAD", (known - 1).min(25)));
    assert_eq!(agrees_with_plan(root, &census), (known - 1).min(25));
}
