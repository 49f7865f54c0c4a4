//! The plugins `smoke` and `size-budget`.

use super::{Call, Description, Outcome, Plugin};
use crate::smoke::{self, Memory};
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::policy;
use xtask_model::image::policy::plugin::{SIZE_BUDGET, SMOKE};
use xtask_model::quantity;
use xtask_model::spec::reference::Platform;

pub(super) struct Smoke;

impl Plugin for Smoke {
    fn description(&self) -> &'static Description {
        &SMOKE
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let subject = call.subject;
        let runner = call.runner.filter(|_| subject.platform.architecture == Platform::host().architecture);
        let Some(runner) = runner else {
            terminal::warn(&format!(
                "the {} for {} cannot be run here: no smoke test of it",
                subject.kind, subject.platform
            ));
            return Ok(Outcome::default());
        };
        let tree = call.tree;
        let shown = smoke::run(&runner.image(&subject.reference.to_string())?, &tree.policy.smoke, subject.version)?;
        let what = (&tree.policy.smoke, subject.version);
        Memory::of(&tree.root, subject.digest, what, &|name| std::env::var(name).ok()).keep(&shown)?;
        Ok(Outcome::default())
    }
}

pub(super) struct SizeBudget;

impl Plugin for SizeBudget {
    fn description(&self) -> &'static Description {
        &SIZE_BUDGET
    }

    fn run(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        let max = call.settings.text("max").and_then(policy::size).unwrap_or(u64::MAX);
        budget(call.subject.kind, call.subject.size, max).map(|()| Outcome::default())
    }
}

fn budget(kind: policy::ImageKind, size: Option<u64>, max: u64) -> Result<(), Fault> {
    let Some(size) = size else {
        terminal::step("size", &format!("{kind}: the compressed size is known once it is pushed"));
        return Ok(());
    };
    if size <= max {
        terminal::step("size", &format!("{kind} {} of {}", quantity::bytes(size), quantity::bytes(max)));
        return Ok(());
    }
    let over = quantity::bytes(size - max);
    Err(Fault::build(format!("the {kind} is {}, {over} over its budget", quantity::bytes(size)))
        .hint("`cargo xtask build-base --analyze` shows where the bytes are; `max` in `images.toml` is the budget"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::image::policy::ImageKind;

    #[test]
    fn a_budget_is_a_limit() {
        assert!(budget(ImageKind::App, Some(2_000_000), 2_000_000).is_ok());
        assert!(budget(ImageKind::App, None, 1).is_ok());
        let fault = budget(ImageKind::App, Some(2_000_000), 1_500_000).unwrap_err();
        assert_eq!(fault.what, "the app is 2.0 MB, 500.0 kB over its budget");
    }
}
