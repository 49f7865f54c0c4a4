//! `[[step]]`: the keys that every step has, and the settings of its plugin.

use super::toml_reader::{self, Problems, Section, Spanned};
use super::{Action, After, ImageKind, RelPath, Step, Tag};
use crate::image::policy::plugin::{self, Description, Settings};
use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr as _;

/// Prefix of `uses` for a program of the workspace.
const PACKAGE: &str = "package:";

/// Reads every step. `plugins` are those besides the built-in ones.
pub(super) fn read(
    top: &mut Section<'_>,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
    plugins: &[&'static Description],
) -> Vec<Step> {
    let known: Vec<&'static Description> = plugin::BUILT_IN.into_iter().chain(plugins.iter().copied()).collect();
    let mut steps: Vec<Step> = Vec::new();
    let mut named: Vec<(String, Spanned<String>)> = Vec::new();
    for section in top.sections("step", problems) {
        let at = section.at().clone();
        let Some((step, needs)) = read_step(section, problems, is_file, &known) else { continue };
        if steps.iter().any(|other| other.name == step.name) {
            problems.add(&at, format!("there are two steps named `{}`", step.name), None);
        }
        named.extend(needs.into_iter().map(|need| (step.name.clone(), need)));
        steps.push(step);
    }
    for (step, need) in &named {
        let names = || steps.iter().map(|step| step.name.as_str());
        if need.value == *step || !names().any(|name| name == need.value) {
            let what = format!("`step.needs` names `{}`, which is no other step", need.value);
            problems.add(&need.at, what, toml_reader::nearest(&need.value, names().filter(|name| name != step)));
        }
    }
    if let (Some(cycle), Some((_, need))) = (cycle(&steps), named.first()) {
        problems.add(
            &need.at,
            format!("the steps {cycle} wait for each other"),
            Some("remove a name from `needs`".into()),
        );
    }
    steps
}

/// Names of steps of which none can begin.
fn cycle(steps: &[Step]) -> Option<String> {
    let all: Vec<&Step> = steps.iter().collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let waits = |step: &&Step| !done.contains(step.name.as_str());
        let ready: Vec<&str> = steps
            .iter()
            .filter(waits)
            .filter(|step| step.waits_for(&all).into_iter().all(|name| done.contains(name)))
            .map(|step| step.name.as_str())
            .collect();
        if ready.is_empty() {
            let left: Vec<String> = steps.iter().filter(waits).map(|step| format!("`{}`", step.name)).collect();
            return (!left.is_empty()).then(|| left.join(", "));
        }
        done.extend(ready);
    }
}

fn read_step(
    mut section: Section<'_>,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
    known: &[&'static Description],
) -> Option<(Step, Vec<Spanned<String>>)> {
    let at = section.at().clone();
    let name = section.required("name", problems);
    if let Some(name) = &name {
        // The name becomes a folder: `target/steps/NAME`.
        if Tag::from_str(&name.value).is_err() {
            problems.add(
                &name.at,
                format!("`step.name` `{}` holds more than letters, digits, `.`, `_` and `-`", name.value),
                None,
            );
        }
    }
    let after_at = section.place_of("after");
    let after = section.choice("after", &[("build", After::Build), ("push", After::Push)], problems);
    let only = section.choice("only", &[("ci", true)], problems);
    let images = images(&mut section, problems);
    let needs = section.texts("needs", problems);
    let uses = section.text("uses", problems);
    let run = section.texts("run", problems);
    // A plugin has keys of its own; a program has none.
    let (settings, places) = if uses.is_some() { settings(&mut section, problems) } else { Default::default() };
    section.finish(problems);
    let action = match (uses, run) {
        (None, Some(run)) if run.is_empty() || run[0].value.is_empty() => {
            let hint = "write a list: `run = [\"program\", \"argument\"]`";
            problems.add(&at, "`step.run` names no program", Some(hint.into()));
            None
        }
        (None, Some(run)) => Some(Action::Run(run.into_iter().map(|arg| arg.value).collect())),
        (Some(uses), None) => match uses.value.strip_prefix(PACKAGE) {
            Some(package) if !package.is_empty() => Some(Action::Package(package.to_owned(), settings)),
            _ => plugin_of(&uses, known, problems).map(|description| {
                for problem in plugin::problems(description, &settings, is_file) {
                    let setting = problem.setting.as_ref();
                    let place = setting.and_then(|setting| places.iter().find(|(key, _)| key == setting));
                    problems.add(place.map_or(&uses.at, |(_, place)| place), problem.what, problem.hint);
                }
                if let (true, Some(After::Push), Some(at)) = (description.attaches, after, &after_at) {
                    let what = format!("`{}` attaches to the image, which is done before a tag moves", uses.value);
                    problems.add(at, what, Some("remove `after`".into()));
                }
                Action::Uses(description, settings)
            }),
        },
        _ => {
            problems.add(&at, "a step has either `uses` or `run`", None);
            None
        }
    };
    let step = Step {
        name: name?.value,
        after: after.unwrap_or(After::Build),
        only_in_ci: only.unwrap_or(false),
        images,
        needs: needs.as_ref().map(|needs| needs.iter().map(|need| need.value.clone()).collect()),
        action: action?,
    };
    Some((step, needs.unwrap_or_default()))
}

fn images(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<ImageKind> {
    let kinds = [("base", ImageKind::Base), ("app", ImageKind::App), ("enhanced", ImageKind::Enhanced)];
    let mut images = Vec::new();
    for text in section.texts("images", problems).unwrap_or_default() {
        match kinds.iter().find(|(kind, _)| *kind == text.value) {
            Some((_, kind)) => images.push(*kind),
            None => {
                let what = format!("`step.images` holds `{}`, not `base`, `app` or `enhanced`", text.value);
                problems.add(&text.at, what, toml_reader::nearest(&text.value, kinds.iter().map(|(kind, _)| *kind)));
            }
        }
    }
    if images.is_empty() { vec![ImageKind::App, ImageKind::Enhanced] } else { images }
}

fn plugin_of(
    uses: &Spanned<String>,
    known: &[&'static Description],
    problems: &mut Problems<'_>,
) -> Option<&'static Description> {
    let found = known.iter().find(|description| description.name == uses.value).copied();
    if found.is_none() {
        let names = || known.iter().map(|description| description.name);
        let listed: Vec<String> = names().map(|name| format!("`{name}`")).collect();
        let hint = toml_reader::nearest(&uses.value, names()).unwrap_or_else(|| {
            format!("known here: {}; any program: `run = [\"program\", \"argument\"]`", listed.join(", "))
        });
        problems.add(&uses.at, format!("`{}` is not a plugin", uses.value), Some(hint));
    }
    found
}

/// The keys that only the plugin knows, with the place of each.
fn settings(section: &mut Section<'_>, problems: &Problems<'_>) -> (Settings, Vec<(String, Range<usize>)>) {
    let (mut settings, mut places) = (Settings::default(), Vec::new());
    for (key, value, at) in section.others() {
        settings.insert(&key, value, problems.place(&at));
        places.push((key, at));
    }
    (settings, places)
}
