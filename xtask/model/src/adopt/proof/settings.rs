//! The configurations of two images, field by field.

use super::{Cause, ImagePart, Proof, Sides};
use crate::image::key::{FINGERPRINT_LABEL, KEY_LABEL};
use crate::spec::oci::Execution;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Variables that every base sets.
const BASE: [&str; 5] = ["VIRTUAL_ENV", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME", "PYTHONPATH"];

/// Begins of variables that only installers read.
const INSTALLERS: [&str; 5] = ["PIP_", "POETRY_", "UV_", "PIPENV_", "DEBIAN_FRONTEND"];

const RUNNERS: [&str; 3] = ["uv", "poetry", "pipenv"];

pub(super) fn compare(old: &Execution, new: &Execution, sides: &Sides<'_>, proof: &mut Proof) {
    let settings = ComparedSettings { old, new, sides };
    let mut values: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for (at, config) in [old, new].into_iter().enumerate() {
        for (name, value) in fields(config) {
            values.entry(name).or_default()[at] = Some(value);
        }
    }
    for (name, [one, other]) in values {
        if one == other {
            proof.same(ImagePart::Setting, 1);
            continue;
        }
        let cause = settings.cause(&name, one.as_deref(), other.as_deref());
        proof.add(ImagePart::Setting, &name, [one, other], cause);
    }
}

/// The fields that say how a container runs, with lists as JSON.
fn fields(config: &Execution) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in &config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        found.insert(format!("Env {name}"), value.to_owned());
    }
    let list = |words: &Option<Vec<String>>| {
        words.clone().filter(|words| !words.is_empty()).map(|words| Value::from(words).to_string())
    };
    found.extend(list(&config.entrypoint).map(|value| ("Entrypoint".to_owned(), value)));
    found.extend(list(&config.cmd).map(|value| ("Cmd".to_owned(), value)));
    let folder = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    found.insert("WorkingDir".to_owned(), folder.to_owned());
    let user = if config.user.is_empty() { "0" } else { &config.user };
    found.insert("User".to_owned(), user.to_owned());
    found.extend(config.exposed_ports.keys().map(|port| (format!("ExposedPorts {port}"), "yes".to_owned())));
    found.extend(config.volumes.keys().map(|path| (format!("Volumes {path}"), "yes".to_owned())));
    found.extend(config.labels.iter().map(|(name, value)| (format!("Labels {name}"), value.clone())));
    if !config.stop_signal.is_empty() {
        found.insert("StopSignal".to_owned(), config.stop_signal.clone());
    }
    let others = config.other.iter().filter(|(name, value)| *name != "ArgsEscaped" && !is_empty(value));
    found.extend(others.map(|(name, value)| (name.clone(), value.to_string())));
    found
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty) || value == ""
}

struct ComparedSettings<'a> {
    old: &'a Execution,
    new: &'a Execution,
    sides: &'a Sides<'a>,
}

impl ComparedSettings<'_> {
    fn cause(&self, name: &str, old: Option<&str>, new: Option<&str>) -> Option<Cause> {
        if let (Some(one), Some(other)) = (old, new)
            && self.moved(one) == other
        {
            return Some(Cause::Environment);
        }
        match name.split_once(' ') {
            Some(("Env", name)) => self.variable(name, old, new),
            Some(("Labels", label)) => {
                let ours =
                    [FINGERPRINT_LABEL, KEY_LABEL].contains(&label) || label.starts_with("org.opencontainers.image.");
                (ours && old.is_none()).then_some(Cause::Label)
            }
            _ => match name {
                "User" => {
                    let (one, other) = (self.sides.old.user(old?), self.sides.new.user(new?));
                    (one.is_some() && one == other).then_some(Cause::Accounts)
                }
                // The runner may be the entrypoint, and the program its argument.
                "Entrypoint" | "Cmd" => self.same_program().then_some(Cause::Runner),
                "Healthcheck" => same_question(old?, new?).then_some(Cause::HealthCheck),
                _ => None,
            },
        }
    }

    fn variable(&self, name: &str, old: Option<&str>, new: Option<&str>) -> Option<Cause> {
        match (old, new) {
            (Some(one), Some(other)) if name == "PATH" => {
                let plain = |text: &str, own: Option<&str>| -> Vec<String> {
                    let is_own = |part: &&str| own.is_none_or(|own| part.trim_matches('/') != format!("{own}/bin"));
                    let mut seen = BTreeSet::new();
                    text.split(':').filter(is_own).filter(|part| seen.insert(*part)).map(str::to_owned).collect()
                };
                let environments = [self.sides.old.environment(), self.sides.new.environment()];
                (plain(one, environments[0]) == plain(other, environments[1])).then_some(Cause::Environment)
            }
            // Any value but an empty one switches it on.
            (Some(one), Some(other)) if name.starts_with("PYTHON") && name != "PYTHONPATH" => {
                (BASE.contains(&name) && !one.is_empty() && !other.is_empty()).then_some(Cause::Base)
            }
            (None, Some(_)) if name == "PYTHONPATH" => {
                let is_project = |one: &super::InstalledDistribution| one.is_project();
                self.sides.old.distributions.iter().any(is_project).then_some(Cause::Project)
            }
            (None, Some(home)) if name == "HOME" => {
                let uid = self.sides.new.user(&self.new.user)?.0;
                let account = self.sides.new.accounts.values().find(|account| account.uid == uid);
                account.is_some_and(|account| account.home == home).then_some(Cause::Base)
            }
            (None, Some(_)) => BASE.contains(&name).then_some(Cause::Base),
            (Some(_), None) => INSTALLERS.iter().any(|begin| name.starts_with(begin)).then_some(Cause::Installer),
            _ => None,
        }
    }

    /// A text with the paths of the old environment as those of the new one.
    fn moved(&self, text: &str) -> String {
        match (self.sides.old.environment(), self.sides.new.environment()) {
            (Some(old), Some(new)) => text.replace(&format!("/{old}"), &format!("/{new}")),
            _ => text.to_owned(),
        }
    }

    /// True if entrypoint and command together are the same, but for a runner that begins the old ones.
    fn same_program(&self) -> bool {
        let words = |config: &Execution| -> Vec<String> {
            config.entrypoint.iter().chain(&config.cmd).flatten().map(|word| self.moved(word)).collect()
        };
        let (old, new) = (words(self.old), words(self.new));
        let begin = old.len().saturating_sub(new.len());
        let runner = |words: &[String]| match words {
            [program, run, options @ ..] => {
                RUNNERS.contains(&program.as_str()) && run == "run" && options.iter().all(|word| word.starts_with('-'))
            }
            _ => false,
        };
        let in_shell =
            |text: &String| RUNNERS.iter().fold(text.clone(), |text, name| text.replace(&format!("{name} run "), ""));
        !new.is_empty() && (old[begin..] == new[..] && runner(&old[..begin]))
            || !new.is_empty() && old != new && old.iter().map(in_shell).collect::<Vec<_>>() == new
    }
}

/// True if two health checks request the same address at the same times, the second with Python.
fn same_question(old: &str, new: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Map<String, Value>>(text).unwrap_or_default();
    let (mut old, mut new) = (parse(old), parse(new));
    let test = |from: &mut serde_json::Map<String, Value>| {
        from.remove("Test").map(|test| test.to_string()).unwrap_or_default()
    };
    let (one, other) = (test(&mut old), test(&mut new));
    let address = |text: &str| {
        let rest = &text[text.find("http")?..];
        Some(rest.split(['"', '\'', ' ', '\\']).next().unwrap_or(rest).trim_end_matches('/').to_owned())
    };
    let downloads = one.contains("curl") || one.contains("wget");
    old == new && downloads && other.contains("urllib") && address(&one).is_some() && address(&one) == address(&other)
}
