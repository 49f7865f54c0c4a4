//! The plans of all apps of a repository as one: what CI does, and for which images.

use super::{ChangePlan, Changes, Machines, PlannedImage, Work, image, plain};
use crate::image::change::verification::Needed;
use crate::image::policy::{ImageKind, Policy};
use serde::{Serialize, Serializer};

/// Plans for a change, one for each app of a repository. If the app has no name, its only plan.
#[derive(Clone, Debug)]
pub struct Plans(Vec<ChangePlan>);

/// Document about one of several apps.
#[derive(Serialize)]
struct AppPlan<'a> {
    name: Option<&'a str>,
    /// Name of its base, where the policy names several.
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<&'a str>,
    decision: Work,
    reasons: &'a [String],
    changes: Option<&'a Changes>,
    base: &'a PlannedImage,
    app: &'a PlannedImage,
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<&'a str>,
}

/// The document of several apps. Its first fields are those of one app's.
#[derive(Serialize)]
struct Document<'a> {
    decision: Work,
    reasons: Vec<String>,
    purpose: super::Purpose,
    base_revision: &'a Option<String>,
    head_revision: &'a Option<String>,
    affected: Vec<String>,
    apps: Vec<AppPlan<'a>>,
    verification: &'a Needed,
    verification_reason: &'a str,
    machines: Machines,
    compiles: bool,
    shadow: Vec<String>,
}

impl Serialize for Plans {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if let Some(one) = self.only() {
            return one.serialize(to);
        }
        let verified = self.verified();
        Document {
            decision: self.decision(),
            reasons: self.reasons(),
            purpose: verified.purpose,
            base_revision: &verified.base_revision,
            head_revision: &verified.head_revision,
            affected: self.affected(),
            apps: self.0.iter().map(AppPlan::of).collect(),
            verification: &verified.verification,
            verification_reason: &verified.verification_reason,
            machines: self.machines(),
            compiles: self.compiles(),
            shadow: self.shadow(),
        }
        .serialize(to)
    }
}

impl<'a> AppPlan<'a> {
    fn of(plan: &'a ChangePlan) -> Self {
        Self {
            name: plan.app_name.as_deref(),
            on: plan.base_name.as_deref(),
            decision: plan.decision,
            reasons: &plan.reasons,
            changes: plan.changes.as_ref(),
            base: &plan.base,
            app: &plan.app,
            dependencies: plan.dependencies.as_deref(),
        }
    }
}

impl Plans {
    /// The plans of a repository's apps, of which there is at least one.
    ///
    /// # Panics
    /// Without any.
    pub fn new(plans: Vec<ChangePlan>) -> Self {
        assert!(!plans.is_empty(), "a policy has an app");
        Self(plans)
    }

    /// The plan of the only app, where it has no name.
    fn only(&self) -> Option<&ChangePlan> {
        self.0.first().filter(|plan| plan.app_name.is_none())
    }

    /// The plan of each app.
    pub fn all(&self) -> &[ChangePlan] {
        &self.0
    }

    pub fn base_revision(&self) -> Option<&str> {
        self.0[0].base_revision.as_deref()
    }

    /// The work that does what each app needs: what an app does not need is found, and reused.
    pub fn decision(&self) -> Work {
        let any = |work| self.0.iter().any(|plan| plan.decision == work);
        match () {
            () if any(Work::Full) => Work::Full,
            // A rebase leaves out an app that has to be built, and a build takes the root that is pinned.
            () if any(Work::BaseFast) || any(Work::Rebase) && any(Work::Fast) => Work::BaseFast,
            () if any(Work::Fast) => Work::Fast,
            () if any(Work::Rebase) => Work::Rebase,
            () => Work::Skip,
        }
    }

    /// The images that are built, or of which it cannot be known: `base:cpu`, `app:web`.
    pub fn affected(&self) -> Vec<String> {
        let mut names = Vec::new();
        for kind in [ImageKind::Base, ImageKind::App] {
            for plan in &self.0 {
                let built = match kind {
                    ImageKind::Base => plan.decision == Work::BaseFast,
                    ImageKind::App | ImageKind::Enhanced => !matches!(plan.decision, Work::Skip | Work::Rebase),
                };
                let name = plan.named(kind);
                if built && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The reasons of each app that needs work, with its name; where none does, why.
    fn reasons(&self) -> Vec<String> {
        let decision = self.decision();
        let mut reasons = Vec::new();
        for plan in self.0.iter().filter(|plan| decision == Work::Skip || plan.decision != Work::Skip) {
            for reason in &plan.reasons {
                let named = match (&plan.app_name, decision) {
                    (Some(name), work) if work != Work::Skip => format!("{name}: {reason}"),
                    _ => reason.clone(),
                };
                if !reasons.contains(&named) {
                    reasons.push(named);
                }
            }
        }
        reasons
    }

    /// The plan that says which tests the commit must pass: they differ only for an app whose image was not tested.
    fn verified(&self) -> &ChangePlan {
        self.0.iter().find(|plan| plan.verification != Needed::None).unwrap_or(&self.0[0])
    }

    fn machines(&self) -> Machines {
        let several = self.0.iter().any(|plan| plan.machines == Machines::Several);
        if several { Machines::Several } else { Machines::One }
    }

    fn compiles(&self) -> bool {
        self.0.iter().any(|plan| plan.compiles)
    }

    fn shadow(&self) -> Vec<String> {
        let mut names = Vec::new();
        for plan in &self.0 {
            for name in plan.shadow.iter().map(|kind| plan.named(*kind)) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The plan as a person reads it.
    pub fn text(&self) -> String {
        if let Some(one) = self.only() {
            return one.text();
        }
        let mut text = format!("{}\n", self.decision());
        for reason in self.reasons() {
            text += &format!("  {reason}\n");
        }
        let affected = self.affected();
        text += &format!("images: {}\n", if affected.is_empty() { "none".to_owned() } else { affected.join(", ") });
        for plan in &self.0 {
            if let Some(dependencies) = &plan.dependencies {
                text += &format!("  dependencies of {}: {dependencies}\n", plan.named(ImageKind::App));
            }
        }
        let verified = self.verified();
        text + &format!("tests: {}\n  {}\n", verified.verification, verified.verification_reason)
    }

    /// Outputs for CI's later jobs. Those of an image are, for several apps, those of all of its kind: `base-present` is `true` if every
    /// base exists.
    pub fn outputs(&self) -> Vec<(&'static str, String)> {
        if let Some(one) = self.only() {
            return one.outputs();
        }
        let decision = self.decision();
        let mut references: Vec<String> =
            self.0.iter().filter_map(|plan| plan.base.reference.as_ref().map(ToString::to_string)).collect();
        references.dedup();
        let present = |word: &str| self.0.iter().any(|plan| plan.base.as_output() == word);
        let present = ["false", "unknown"].into_iter().find(|word| present(word)).unwrap_or("true");
        let changed = self.0.iter().any(ChangePlan::requirements_changed);
        let [tests, long_tests] = self.verified().verification.outputs();
        vec![
            ("decision", decision.to_string()),
            ("should-build", (!matches!(decision, Work::Skip | Work::Rebase)).to_string()),
            ("use-fast-build", (decision == Work::Fast).to_string()),
            ("requirements-changed", changed.to_string()),
            ("base-reference", references.join(",")),
            ("base-present", present.to_owned()),
            tests,
            long_tests,
            ("machines", self.machines().as_output().to_owned()),
            ("compiles", self.compiles().to_string()),
            ("shadow", self.shadow().join(",")),
            ("affected", self.affected().join(",")),
        ]
    }

    /// The job's summary, Markdown.
    pub fn markdown(&self) -> String {
        if let Some(one) = self.only() {
            return one.markdown();
        }
        let mut text = format!("## Plan: `{}`\n\n", self.decision());
        for reason in self.reasons() {
            text += &format!("- {}\n", plain(&reason));
        }
        text += "\n| image | |\n|---|---|\n";
        let mut rows: Vec<(String, String)> = Vec::new();
        for kind in [ImageKind::Base, ImageKind::App] {
            for plan in &self.0 {
                let planned = if kind == ImageKind::Base { &plan.base } else { &plan.app };
                let row = (plan.named(kind), image(planned));
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        let verified = self.verified();
        let tests = format!("`{}`: {}", verified.verification, plain(&verified.verification_reason));
        for (name, value) in rows.into_iter().chain([("tests".to_owned(), tests)]) {
            text += &format!("| {name} | {value} |\n");
        }
        text
    }
}

impl ChangePlan {
    /// The plan of an app of this policy.
    pub fn of(self, policy: &Policy) -> Self {
        Self { app_name: policy.app.name.clone(), base_name: policy.base.name.clone(), ..self }
    }

    /// An image by kind and name: `base:cpu`, `app:web`; without a name by kind.
    fn named(&self, kind: ImageKind) -> String {
        let name = if kind == ImageKind::Base { &self.base_name } else { &self.app_name };
        name.as_ref().map_or_else(|| kind.to_string(), |name| format!("{kind}:{name}"))
    }
}
