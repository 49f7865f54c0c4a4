//! What is asked, and decided from the answers, for `build` and `plan` alike: one place, so that the one does what the other
//! says. Reads the registry; builds, makes and writes nothing.

use super::checks::Checks;
use std::collections::BTreeMap;
use xtask_host::registry::{Answer, Client, publish};
use xtask_host::tree::facts::Tree;
use xtask_model::fault::Fault;
use xtask_model::image::key::Fingerprint;
use xtask_model::image::plan::{self, Decision, Wish};
use xtask_model::image::policy::ImageKind;
use xtask_model::image::presence::{Published, Standing};
use xtask_model::spec::oci::annotation;
use xtask_model::spec::reference::{Digest, Platform, Tag};

/// Who asks, and for what.
#[derive(Clone, Copy)]
pub struct Inquiry<'a> {
    /// The tree whose images it is about.
    pub tree: &'a Tree,
    /// Who asks the registry.
    pub client: &'a Client,
    /// What is wanted of the images.
    pub wish: &'a Wish,
    /// No registry is asked.
    pub offline: bool,
    /// Nothing is taken that is not pinned.
    pub locked: bool,
    /// A root from Debian's packages is made anew.
    pub fresh_root: bool,
    /// Whether what is found is whole.
    pub checks: &'a Checks,
}

impl Inquiry<'_> {
    /// What the registry has under an image's own tag.
    pub fn published(&self, kind: ImageKind, fingerprint: &Fingerprint, tag: &Tag) -> Result<Standing, Fault> {
        let repository = self.tree.repository(kind);
        Ok(match publish::read(self.client, &repository, tag.clone())? {
            Answer::Present(mut found) => {
                publish::check_owner(&found, fingerprint, &repository.tag(tag))?;
                self.checks.check(self.client, &repository, &mut found)?;
                Standing::Registry(Box::new(found))
            }
            Answer::Absent => Standing::Absent,
        })
    }

    /// What is done about the app on a base of which this was decided, and why one of the right key does not do.
    pub fn decide_app(
        &self,
        standing: &Standing,
        base: &Decision,
        changes: &[String],
    ) -> Result<(Decision, Option<String>), Fault> {
        let decision = plan::decide(self.wish, standing, changes);
        let Decision::Reuse { platforms, .. } = &decision else { return Ok((decision, None)) };
        // Equal keys name equal bases by fingerprint; the base itself may have been built anew since.
        let stale = match base {
            Decision::Build { .. } => Some("its base is built".to_owned()),
            Decision::Reuse { platforms: bases, .. } => self.stale(standing, platforms, bases)?,
        };
        Ok(match stale {
            Some(reason) => {
                let (platforms, reasons) = (self.wish.platforms.clone(), vec![reason.clone()]);
                (Decision::Build { platforms, reasons }, Some(reason))
            }
            None => (decision, None),
        })
    }

    /// Why an app of the right key is not on the base that is there now.
    fn stale(
        &self,
        standing: &Standing,
        platforms: &BTreeMap<Platform, Digest>,
        bases: &BTreeMap<Platform, Digest>,
    ) -> Result<Option<String>, Fault> {
        for platform in platforms.keys() {
            let stands_on = match standing {
                Standing::Registry(published) => publish::base_digest(
                    self.client,
                    &self.tree.repository(ImageKind::App),
                    &published.platforms[platform],
                )?,
                Standing::Local(local) => local.labels.get(annotation::BASE_DIGEST).and_then(|d| d.parse().ok()),
                Standing::Absent => None,
            };
            if let Some(base) = bases.get(platform).filter(|base| stands_on != Some(**base)) {
                return Ok(Some(format!("it stands on another build of its base than {base}")));
            }
        }
        Ok(None)
    }
}

/// The base that `images.lock` pins, which has to be there, be one of ours and have the platforms.
pub fn pinned_base(tree: &Tree, client: &Client, digest: Digest, platforms: &[Platform]) -> Result<Published, Fault> {
    let reference = tree.repository(ImageKind::Base).digest(digest);
    let again = "pin another, or none: `cargo xtask base pin`, `cargo xtask base pin --remove`";
    let needed = |fault: Fault| fault.needed_by("`[base]` of `images.lock`").hint(again);
    let Answer::Present(mut found) = publish::read(client, &reference.repository, digest)? else {
        return Err(needed(Fault::usage(format!("the pinned base `{reference}` is not in the registry"))));
    };
    if found.fingerprint().is_none() {
        return Err(needed(Fault::usage(format!(
            "the pinned `{reference}` is no base of ours: it has no fingerprint"
        ))));
    }
    xtask_host::registry::publish::whole::check(&mut found, client, &reference.repository)?;
    if let Some(lost) = found.lost_reason(platforms) {
        return Err(needed(Fault::usage(format!("the pinned base `{reference}` is not whole")).cause(lost)));
    }
    match found.missing(platforms).as_slice() {
        [] => Ok(found),
        missing => {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Err(needed(Fault::usage(format!("the pinned base `{reference}` lacks {}", names.join(", ")))))
        }
    }
}
