//! From a pull to the first answer of the app, by an engine that has nothing.

use super::harness::{self, Harness, Seeds};
use super::subject::Pulled;
use super::{native, peers};
use crate::sample::Sample;
use crate::scenarios;
use std::time::Instant;
use xtask::smoke;
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Compression, FILE, Smoke};
use xtask_native::container::Runner;

/// Publishes the app on first use, empties the engine, and measures until the app answers.
pub(super) fn first_answer(harness: &mut Harness, app: Pulled) -> Result<Sample, Fault> {
    let name = match harness.pulled.iter().find(|(known, _)| *known == app) {
        Some((_, name)) => name.clone(),
        None => {
            let name = match app {
                Pulled::Native(compression) => by_native(harness, compression)?,
                Pulled::Docker(compression) => peers::app(harness, compression)?,
            };
            harness.pulled.push((app, name.clone()));
            name
        }
    };
    let serve = harness.workspace.tree.policy.smoke.serve.clone().ok_or_else(|| {
        Fault::usage("this row asks the app for a page").hint("name the page: `[smoke.serve]` in `images.toml`")
    })?;
    let wanted = Smoke { user: None, runs: Vec::new(), serve: Some(serve) };
    harness.workspace.forget_builds()?;
    rustix::fs::sync();
    let runner = Runner::docker(harness.workspace.docker()?);
    let began = Instant::now();
    smoke::run(&runner.image(&name)?, &wanted, None)?;
    Ok(Sample { seconds: began.elapsed().as_secs_f64(), ..Sample::default() })
}

/// The app that the native engine makes, by its name in the registry.
fn by_native(harness: &mut Harness, compression: Compression) -> Result<String, Fault> {
    terminal::step("readying", &format!("the app with {} by the native engine", compression.as_str()));
    let (word, mut broken) = (compression.as_str(), None);
    harness.workspace.edit(FILE, |text| {
        let edited = text.parse::<toml::Table>().map(|mut policy| {
            let base = policy.get_mut("base").and_then(toml::Value::as_table_mut);
            base.into_iter().for_each(|base| drop(base.insert("compression".to_owned(), word.into())));
            policy.to_string()
        });
        edited.unwrap_or_else(|error| {
            broken = Some(error);
            text
        })
    })?;
    if let Some(error) = broken {
        return Err(Fault::usage(format!("cannot read `{FILE}`")).cause(error));
    }
    let Seeds { from, names } = native::seeds(harness, super::subject::Start::Nothing)?;
    let to = harness.filled(format!("pull-{word}"), &Seeds { from, names })?;
    scenarios::push(harness::call(&harness.workspace).args(["build", "--engine", "native"]), &to)?;
    harness.workspace.reset()?;
    let repository = to.repository(&harness.workspace.tree.policy.app.repository);
    let tags = harness.client.tags(&repository)?.present().unwrap_or_default();
    let tag = tags.first().ok_or_else(|| Fault::build(format!("`{repository}` has no image")))?;
    Ok(format!("{repository}:{tag}"))
}
