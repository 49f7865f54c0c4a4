//! Every output that the documents show is what the program prints now.
//!
//! A line `<!-- example: NAME -->` before a fenced block names the scenario below that prepares a repository; the commands of the block are then run in it.
//! Digests, times, sizes and platforms are not compared. `UPDATE_EXPECT=1 cargo test -p xtask --test examples` writes the new outputs into the documents.

#![allow(clippy::disallowed_methods, reason = "the program under test is run as a person's shell would run it")]

#[path = "../support/busybox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod busybox;
#[path = "../support/fixture.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod fixture;
#[path = "../support/real_engine.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_engine;
#[path = "../support/real_registry.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
mod real_registry;

use clap::Parser as _;
use fixture::Repo;
use real_registry::RealRegistry;
use std::path::{Path, PathBuf};
use xtask_model::spec::lock::ImagesLock;
use xtask_model::spec::lock::images::RootPin;

/// The registry that the documents show.
const SHOWN_REGISTRY: &str = "127.0.0.1:5000";
const SESSION: &str = "docs/images/terminal.txt";
/// Commands of the session that the pictures show.
const SESSION_COMMANDS: [&str; 5] = [
    "git commit -qam 'Show the title in bold'",
    "cargo xtask plan --base HEAD~1",
    "cargo xtask build --push",
    "git commit -q --allow-empty -m 'Describe the title'",
    "cargo xtask plan --base HEAD~1",
];
const TEMPLATE: &str = "autoscaler/templates/forecast.html";

const PAGES: &str =
    "[[ci.tests]]\nname = \"pages\"\npaths = [\"autoscaler/templates\"]\nrun = [\"cargo\", \"xtask\", \"smoke\"]\n";

const FAST: &str = "\
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS app
COPY --link --chown=0:0 code /app/code
COPY --link --chown=0:0 autoscaler/templates /app/templates
ENTRYPOINT [\"cat\", \"/app/templates/forecast.html\"]
";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}

/// README and everything in `docs`, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![top().join("README.md"), top().join("CONTRIBUTING.md")];
    paths.extend(std::fs::read_dir(top().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// A fenced block, with the line numbers (from 0) of what is inside.
struct Block {
    example: Option<String>,
    lines: std::ops::Range<usize>,
}

fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut start) = (Vec::new(), None);
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("```")) {
        match start.take() {
            None => start = Some((number + 1, *line == "```console")),
            Some((begin, true)) => {
                let before = begin.checked_sub(2).map_or("", |at| lines[at]);
                let example = before.strip_prefix("<!-- example: ").and_then(|rest| rest.strip_suffix(" -->"));
                found.push(Block { example: example.map(str::to_owned), lines: begin..number });
            }
            Some((_, false)) => {}
        }
    }
    found
}

fn typed(line: &str) -> Option<&str> {
    line.strip_prefix("$ ").map(|command| command.split(" # ").next().unwrap_or(command).trim_end())
}

#[test]
fn every_command_in_the_documents_is_one_of_xtask() {
    for (path, text) in documents() {
        for command in text.lines().filter_map(typed).filter_map(|line| line.strip_prefix("cargo xtask")) {
            let words = ["cargo xtask"].into_iter().chain(command.split_whitespace());
            let parsed = xtask::flags::Flags::try_parse_from(words);
            let shown = format!("{}: {command}", path.display());
            if let Err(error) = parsed {
                assert!(!error.use_stderr(), "{shown}\n{error}");
            }
        }
    }
}

#[test]
fn every_output_in_the_documents_has_an_example() {
    for (path, text) in documents() {
        let lines: Vec<&str> = text.lines().collect();
        for block in blocks(&text) {
            let outputs = lines[block.lines.clone()].iter().filter(|line| !line.starts_with("$ ") && !line.is_empty());
            let place = format!("{}:{}", path.display(), block.lines.start);
            assert_eq!(
                outputs.count() > 0,
                block.example.is_some(),
                "{place}: an output needs a line `<!-- example: NAME -->`"
            );
        }
        // An error without the command that prints it would not be compared.
        let loose = lines.windows(2).position(|pair| pair[0].starts_with("```") && pair[1].starts_with("error: "));
        assert_eq!(loose, None, "{}: show the command above the error", path.display());
    }
}

/// A repository with a registry of its own, which the native engine builds.
struct Scene {
    repo: Repo,
    _registry: RealRegistry,
}

impl Scene {
    fn new() -> Option<Self> {
        let engine = real_engine::engine()?;
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let registry = RealRegistry::start_at(&engine.registry_program(), folder, &store, false);
        let repo = Repo::with_registry("autoscaler", &registry.address.to_string())?;
        let root = repo.repository("root");
        engine.push_root(&root, "1", "");
        repo.for_native(&root);
        repo.edit("images.toml", "name = \"app\"", "name = \"autoscaler\"");
        let policy = repo.read("images.toml") + PAGES;
        repo.write("images.toml", &policy).write("dockerfiles/Dockerfile.fast", FAST);
        repo.write(TEMPLATE, "<h1>Forecast</h1>\n");
        repo.write("images.lock", &pinned(&repo));
        repo.lock("numpy>=2\nscipy>=1\n", &[("numpy", "2.5.5"), ("scipy", "1.18.0")]);
        repo.commit("one");
        Some(Self { repo, _registry: registry })
    }

    /// Runs a command line in the repository; returns what a person sees of it.
    fn run(&self, line: &str) -> String {
        let Some(command) = line.strip_prefix("cargo xtask ") else {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", line]).current_dir(&self.repo.path);
            for role in ["AUTHOR", "COMMITTER"] {
                shell.env(format!("GIT_{role}_NAME"), "a").env(format!("GIT_{role}_EMAIL"), "a@example.com");
            }
            assert!(shell.status().unwrap().success(), "{line}");
            return String::new();
        };
        let args: Vec<&str> = command.split_whitespace().collect();
        let args: Vec<String> = args.iter().map(|arg| arg.replace(SHOWN_REGISTRY, &self.repo.registry)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let call = self.repo.xtask(&args).without_engine().env("COLUMNS", "120");
        let outcome = call.env("XTASK_STORE", self.repo.path.join("target/native/store")).run();
        let shown = outcome.stderr + &outcome.stdout;
        let here = self.repo.path.to_string_lossy();
        shown.replace(&self.repo.registry, SHOWN_REGISTRY).replace(&*here, ".")
    }

    fn built(self) -> Self {
        self.repo.xtask(&["build", "--push"]).without_engine().env("GITHUB_REF", "refs/heads/main").run().ok();
        self
    }
}

/// `images.lock` with the root's digests of now.
fn pinned(repo: &Repo) -> String {
    let found = repo.published("root", "1").expect("the root was pushed");
    let image = repo.repository("root").tag(&"1".parse().unwrap());
    let platforms = found.platforms.iter().map(|(platform, found)| (platform.clone(), found.digest)).collect();
    ImagesLock { root: Some(RootPin { image, platforms }), ..ImagesLock::default() }.to_string()
}

/// The repository in the state that an example needs.
fn prepared(example: &str) -> Option<Scene> {
    let scene = Scene::new()?;
    let edit = |scene: &Scene| {
        scene.repo.edit(TEMPLATE, "<h1>", "<h1 class=\"title\">");
    };
    let bump = |scene: &Scene| {
        scene.repo.lock("numpy>=2\nscipy>=1\n", &[("numpy", "2.5.5"), ("scipy", "1.18.1")]);
    };
    Some(match example {
        "edit" => {
            let scene = scene.built();
            edit(&scene);
            scene
        }
        "bump" => {
            let scene = scene.built();
            edit(&scene);
            bump(&scene);
            scene.repo.edit("dockerfiles/Dockerfile.base", "USER 10001", "WORKDIR /srv\nUSER 10001");
            scene.repo.commit("bump");
            scene
        }
        "missing base" => {
            let scene = scene.built();
            bump(&scene);
            scene.repo.commit("bump");
            scene
        }
        "ignored file" => {
            scene.repo.write(".gitignore", "target\n*.env\n").commit("ignore");
            scene.repo.write("autoscaler/templates/prod.env", "TOKEN=1\n");
            scene
        }
        "other stage" => {
            scene.repo.edit(
                "dockerfiles/Dockerfile.base",
                "FROM root AS base",
                "RUN mkdir /srv/data\nFROM root AS base",
            );
            scene.repo.commit("data");
            scene
        }
        "old lock" => {
            let lock = scene.repo.read("requirements-enhanced.lock");
            scene.repo.lock("numpy>=3\nscipy>=1\n", &[]).write("requirements-enhanced.lock", &lock);
            scene
        }
        other => panic!("there is no example `{other}`"),
    })
}

/// Without what differs from run to run and from machine to machine.
fn compared(text: &str) -> String {
    let mut compared = String::new();
    for line in text.lines() {
        // Phases that take no time are left out.
        let phases = line.trim_start().starts_with("image ").then(|| line.find(" (")).flatten();
        let line = phases.map_or(line, |at| &line[..at]);
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let mut shown: Vec<String> = Vec::new();
        for (index, word) in words.iter().enumerate() {
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
            let unit = words.get(index + 1).map(|next| next.trim_matches(|c: char| !c.is_alphabetic()));
            let is_unit = unit.is_some_and(|unit| ["ms", "s", "min", "B", "kB", "MB", "GB"].contains(&unit));
            let after = index > 0 && shown.last().is_some_and(|before| before.ends_with("NUMBER"));
            shown.push(match bare.parse::<f64>() {
                Ok(_) if is_unit => "NUMBER".to_owned(),
                _ if after => "UNIT".to_owned(),
                _ => without_digests(word),
            });
        }
        compared += &format!("{}\n", shown.join(" ").replace("linux/arm64", "linux/amd64"));
    }
    compared
}

/// A word with every hexadecimal number of twelve or more digits replaced.
fn without_digests(word: &str) -> String {
    let mut shown = String::new();
    let mut run = String::new();
    for c in word.chars().chain(['\n']) {
        if c.is_ascii_digit() || ('a'..='f').contains(&c) {
            run.push(c);
            continue;
        }
        shown += if run.len() >= 12 { "DIGEST" } else { &run };
        run.clear();
        shown.push(c);
    }
    shown.trim_end_matches('\n').to_owned()
}

#[test]
fn outputs_in_the_documents_are_what_the_program_prints() {
    if real_engine::engine().is_none() {
        return;
    }
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for (path, text) in documents() {
        let lines: Vec<&str> = text.lines().collect();
        let mut updated: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        // From the last one, so that line numbers stay right.
        for block in blocks(&text).into_iter().rev() {
            let Some(example) = block.example else { continue };
            let scene = prepared(&example).unwrap();
            let shown = &lines[block.lines.clone()];
            let mut actual = String::new();
            for line in shown.iter().filter(|line| line.starts_with("$ ")) {
                actual += &format!("{line}\n{}", scene.run(typed(line).unwrap()));
            }
            let expected = format!("{}\n", shown.join("\n"));
            if compared(&expected) != compared(&actual) {
                assert!(
                    update,
                    "{}:{}: `{example}`\n--- shown\n{expected}--- printed\n{actual}",
                    path.display(),
                    block.lines.start
                );
                updated.splice(block.lines, actual.lines().map(|line| line.trim_end().to_owned()));
            }
        }
        if update {
            std::fs::write(path, format!("{}\n", updated.join("\n"))).unwrap();
        }
    }
}

#[test]
fn the_recorded_session_is_what_the_program_prints() {
    if real_engine::engine().is_none() {
        return;
    }
    let scene = prepared("edit").unwrap();
    let mut actual = String::new();
    for command in SESSION_COMMANDS {
        actual += &format!("$ {command}\n{}\n", scene.run(command));
    }
    let actual = actual.replace("\n\n$ cargo", "\n$ cargo");
    let actual = format!("{}\n", actual.trim_end());
    let path = top().join(SESSION);
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    if compared(&recorded) != compared(&actual) && std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(&path, &actual).unwrap();
    }
    assert_eq!(compared(&recorded), compared(&actual));
}

#[test]
fn digests_times_and_sizes_are_not_compared() {
    let one = "  built `a:0123456789ab` in 12.5 ms (3 kB) for linux/amd64";
    let two = "  built `a:ba9876543210` in 1 s (200 MB) for linux/arm64";
    assert_eq!(compared(one), compared(two));
    assert_ne!(compared(one), compared(&one.replace("built", "reused")));
}
