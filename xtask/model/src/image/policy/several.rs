//! The bases and apps of a policy: one of each, or several by name.

use super::toml_reader::{self, Problems, Section, Spanned};
use super::{App, Base, Binary, RelPath, Smoke, read_app, read_base, read_smoke};
use crate::spec::lock::formats::Format;
use std::ops::Range;
use toml::de::DeTable;

/// An app with its base, and its smoke tests where it has its own.
pub(super) type AppImages = (Base, App, Option<Smoke>);

/// A base or an app as it was read, with the place of its table.
struct ReadTable<T> {
    name: Option<String>,
    at: Range<usize>,
    image: Option<T>,
}

/// One of several apps, or the only one.
struct ReadApp {
    app: ReadTable<App>,
    base: Option<Spanned<String>>,
    smoke: Option<Smoke>,
}

/// Reads them, and reports what does not fit together.
pub(super) fn read(
    top: &mut Section<'_>,
    project: &str,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Option<Vec<AppImages>> {
    let bases = bases(top, project, problems, is_file);
    let apps = apps(top, project, problems, is_file);
    let several = apps.iter().any(|app| app.app.name.is_some());
    if let (Some(base), false) = (bases.iter().find(|base| base.name.is_some()), several) {
        let hint = "write `[[app]]` with a `name` and a `base`, once for each app";
        problems.add(&base.at, "`[bases.NAME]` has no effect: `[app]` names no base", Some(hint.into()));
        return None;
    }
    let mut used = Vec::new();
    for (index, app) in apps.iter().enumerate() {
        if app.app.name.is_some() && apps[..index].iter().any(|other| other.app.name == app.app.name) {
            let name = app.app.name.as_deref().unwrap_or_default();
            problems.add(&app.app.at, format!("there are two apps named `{name}`"), None);
        }
        used.push(base_of(app, &bases, problems));
    }
    for (index, base) in bases.iter().enumerate() {
        if let (Some(name), false) = (&base.name, used.contains(&Some(index))) {
            let hint = format!("name it in an `[[app]]`: `base = \"{name}\"`, or remove it");
            problems.add(&base.at, format!("no app is on the base `{name}`"), Some(hint));
        }
    }
    if several {
        one_repository_each(project, &bases, &apps, problems);
        one_program_each_name(&apps, problems);
        one_lock_for_one_set(&bases, problems);
    }
    let image = |(app, base): (ReadApp, Option<usize>)| {
        let base = &bases[base?];
        let base = Base { name: base.name.clone(), ..base.image.clone()? };
        Some((base, App { name: app.app.name, ..app.app.image? }, app.smoke))
    };
    apps.into_iter().zip(used).map(image).collect()
}

fn bases(
    top: &mut Section<'_>,
    project: &str,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Vec<ReadTable<Base>> {
    let shared = top.section("base", problems);
    let named = top.named("bases", shared.as_ref(), problems);
    if named.is_empty() {
        // Every key has a default.
        let empty = DeTable::new();
        let section = shared.unwrap_or_else(|| Section::absent("base", &empty));
        let at = section.at().clone();
        return vec![ReadTable {
            name: None,
            at,
            image: read_base(section, format!("{project}-base"), problems, is_file),
        }];
    }
    if let Some(shared) = &shared {
        shared.only_known(problems);
    }
    let read = |(name, section): (Spanned<String>, Section<'_>)| {
        check_name("bases", &name, problems);
        let image = read_base(section, format!("{project}-{}-base", name.value), problems, is_file);
        ReadTable { name: Some(name.value), at: name.at, image }
    };
    named.into_iter().map(read).collect()
}

fn apps(
    top: &mut Section<'_>,
    project: &str,
    problems: &mut Problems<'_>,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Vec<ReadApp> {
    let empty = DeTable::new();
    let one = top.place_of("app").is_none() || top.holds_table("app");
    let sections = if one {
        vec![top.section("app", problems).unwrap_or_else(|| Section::absent("app", &empty))]
    } else {
        top.sections("app", problems)
    };
    let mut apps = Vec::new();
    for mut section in sections {
        let at = section.at().clone();
        let name = if one { section.text("name", problems) } else { section.required("name", problems) };
        let base = section.text("base", problems);
        let smoke = section.section("smoke", problems);
        for (key, place) in [("name", section.place_of("name")), ("base", section.place_of("base"))]
            .into_iter()
            .chain([("smoke", section.place_of("smoke"))])
        {
            if let (true, Some(place)) = (one, place) {
                let what = format!("`app.{key}` has no effect: the only app has no name");
                problems.add(&place, what, Some("write `[[app]]` in the place of `[app]`, or remove the key".into()));
            }
        }
        if let Some(name) = name.as_ref().filter(|_| !one) {
            check_name("app", name, problems);
        }
        let default = match &name {
            Some(name) if !one => format!("{project}-{}", name.value),
            _ => project.to_owned(),
        };
        let image = read_app(&mut section, default, problems, is_file);
        let smoke = smoke.map(|section| read_smoke(section, problems));
        section.finish(problems);
        let name = name.filter(|_| !one).map(|name| name.value);
        apps.push(ReadApp { app: ReadTable { name, at, image }, base, smoke });
    }
    apps
}

/// A name is part of repositories, files and flags.
fn check_name(table: &str, name: &Spanned<String>, problems: &mut Problems<'_>) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: char| c != '-';
    let text = &name.value;
    if !text.chars().all(good) || !text.starts_with(edge) || !text.ends_with(edge) || text.len() > 64 {
        let hint = "lowercase letters, digits and `-` between them, at most 64";
        problems.add(&name.at, format!("`{table}`: `{text}` is not a name"), Some(hint.into()));
    }
}

/// The position of the base that an app is on.
fn base_of(app: &ReadApp, bases: &[ReadTable<Base>], problems: &mut Problems<'_>) -> Option<usize> {
    let names = || bases.iter().filter_map(|base| base.name.as_deref());
    match &app.base {
        Some(wanted) => {
            let found = bases.iter().position(|base| base.name.as_ref() == Some(&wanted.value));
            if found.is_none() {
                let hint = toml_reader::nearest(&wanted.value, names())
                    .unwrap_or_else(|| format!("write a table `[bases.{}]`, or name another base", wanted.value));
                problems.add(&wanted.at, format!("`app.base`: there is no base `{}`", wanted.value), Some(hint));
            }
            found
        }
        None if bases.len() == 1 => Some(0),
        None => {
            let known: Vec<String> = names().map(|name| format!("`{name}`")).collect();
            let hint = format!("name one with `base`: {}", known.join(", "));
            problems.add(&app.app.at, "`app.base` is missing: there are several bases", Some(hint));
            None
        }
    }
}

/// Two images in one repository would share tags: each would move those of the other.
fn one_repository_each(project: &str, bases: &[ReadTable<Base>], apps: &[ReadApp], problems: &mut Problems<'_>) {
    let shown = |kind: &str, name: &Option<String>| match name {
        Some(name) => format!("the {kind} `{name}`"),
        None => format!("the {kind}"),
    };
    let bases = bases
        .iter()
        .filter_map(|base| Some((base.image.as_ref()?.repository.clone(), shown("base", &base.name), base.at.clone())));
    let apps = apps.iter().filter_map(|app| {
        let image = app.app.image.as_ref()?;
        Some((image.repository.clone(), shown("app", &app.app.name), app.app.at.clone()))
    });
    let mut taken = vec![(format!("{project}-root"), "the root".to_owned())];
    for (repository, shown, at) in bases.chain(apps) {
        if let Some((_, other)) = taken.iter().find(|(known, _)| *known == repository) {
            let what = format!("{shown} and {other} share the repository `{repository}`");
            problems.add(&at, what, Some("name another one with `repository`".into()));
        }
        taken.push((repository, shown));
    }
}

/// Programs are staged for the build under their names.
fn one_program_each_name(apps: &[ReadApp], problems: &mut Problems<'_>) {
    let mut known: Vec<&Binary> = Vec::new();
    for app in apps {
        let Some(binary) = app.app.image.as_ref().and_then(|image| image.binary.as_ref()) else { continue };
        let same = |other: &&&Binary| {
            (&other.package, &other.profile, &other.glibc) == (&binary.package, &binary.profile, &binary.glibc)
        };
        match known.iter().find(|other| other.name == binary.name) {
            Some(other) if !same(&other) => {
                let what = format!("two apps have different programs named `{}`", binary.name);
                let hint = "name another one with `app.binary.name`, or give both the same package, profile and glibc";
                problems.add(&app.app.at, what, Some(hint.into()));
            }
            _ => known.push(binary),
        }
    }
}

/// `cargo xtask lock` writes a lock for each base. One that another tool writes may serve several, each with its selection of it.
fn one_lock_for_one_set(bases: &[ReadTable<Base>], problems: &mut Problems<'_>) {
    for (index, base) in bases.iter().enumerate() {
        let Some(image) = base.image.as_ref().filter(|image| image.format() == Format::Pip) else { continue };
        let differs = |other: &Base| {
            other.lock == image.lock
                && (&other.requirements, &other.selection) != (&image.requirements, &image.selection)
        };
        let other = bases[..index].iter().find(|other| other.image.as_ref().is_some_and(differs));
        if let (Some(name), Some(other)) = (&base.name, other.and_then(|other| other.name.as_ref())) {
            let what =
                format!("the bases `{other}` and `{name}` have one lock, `{}`, for different packages", image.lock);
            problems.add(&base.at, what, Some(format!("name another file: `lock = \"{name}.lock\"`")));
        }
    }
}
