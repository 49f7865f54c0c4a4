//! Puts the tags other than the fingerprint's, `latest` last, and decides right before each whether it may move.

use super::Context;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use xtask_host::registry::Client;
use xtask_host::registry::publish::{self, records};
use xtask_host::tree::facts::Tree;
use xtask_host::tree::git::Git;
use xtask_host::tree::git::remote::RemoteHead;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::image::change::event;
use xtask_model::image::commit::Ancestry;
use xtask_model::image::plan::{ImagePlan, Latest};
use xtask_model::image::presence::Published;
use xtask_model::image::tags::moving::{self, Move, Register, Tagged};
use xtask_model::image::tags::{self, BranchTag, Head, TagRecord, TaggedCommit};
use xtask_model::record::report;
use xtask_model::spec::reference::{Digest, Platform, Repository, Tag};

/// An image to tag.
pub(super) struct Named {
    pub digest: Digest,
    /// The commit that it was built from.
    pub revision: Option<String>,
    /// The image of `latest`, where it was read just now and is this one.
    pub latest: Option<Published>,
}

/// The outcome.
pub(super) struct Put {
    /// The tags that name the image now.
    pub tags: Vec<Tag>,
    /// The others, and names without a tag, with the reason.
    pub kept: Vec<String>,
    /// Reason why `latest` stayed, if it did.
    pub latest_stays: Option<String>,
}

impl Put {
    /// No tag yet.
    pub(super) fn nothing(plan: &ImagePlan) -> Self {
        Self { tags: Vec::new(), kept: plan.notes.clone(), latest_stays: report::stays(&plan.latest) }
    }
}

/// Puts the tags of a build's images.
pub(super) struct Tagger<'a> {
    context: &'a Context<'a>,
    /// The commit of the branch, once a remote was asked.
    remote: OnceCell<RemoteHead>,
    /// Commits that were compared. Several tags mostly name one commit.
    compared: RefCell<BTreeMap<(String, String), Ancestry>>,
    /// The image that gets tags. Several records mostly list one image.
    image: RefCell<Option<Rc<Published>>>,
}

impl<'a> Tagger<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, remote: OnceCell::new(), compared: RefCell::default(), image: RefCell::default() }
    }

    /// Puts the tags other than the fingerprint's; those that name the image already are left alone. An image that lacks a platform of
    /// the policy gets none: its last platform's job names it.
    pub(super) fn put_tags(
        &self,
        plan: &ImagePlan,
        platforms: &BTreeMap<Platform, Digest>,
        mut image: Named,
    ) -> Result<Put, Fault> {
        let mut put = Put::nothing(plan);
        let lacks = |platform: &&Platform| !platforms.contains_key(*platform);
        if let Some(missing) = self.context.tree.policy.project.platforms.iter().find(lacks) {
            terminal::step(
                "unnamed",
                &format!("`{}` gets its tags once {missing} is published", plan.repository.tag(&plan.tag)),
            );
            return Ok(put);
        }
        // What never moves comes first: where a registry refuses to move the others, the image has its names.
        let (moving, fixed): (Vec<&Tag>, Vec<&Tag>) =
            plan.tags.iter().partition(|tag| plan.branch.as_ref() == Some(*tag));
        let latest = (plan.latest == Latest::Moves).then(Tag::latest);
        let mut stayed: BTreeMap<Tag, String> = BTreeMap::new();
        for tag in fixed {
            process::interrupted()?;
            if let Some(why) = self.put_fixed(plan, image.digest, tag)? {
                stayed.insert(tag.clone(), why);
            }
        }
        for tag in moving.into_iter().chain(&latest) {
            process::interrupted()?;
            let known = if *tag == Tag::latest() { image.latest.take() } else { None };
            if let Some(why) = self.put_moving(&plan.repository, tag, &image, known)? {
                stayed.insert(tag.clone(), why);
            }
        }
        put.latest_stays = put.latest_stays.or_else(|| stayed.get(&Tag::latest()).cloned());
        put.tags = plan.tags.iter().chain(&latest).filter(|tag| !stayed.contains_key(*tag)).cloned().collect();
        for (tag, why) in stayed {
            let why = format!("`{}` stays: {why}", plan.repository.tag(&tag));
            // Of `latest` the report says it.
            if tag != Tag::latest() {
                terminal::step("kept", &why);
            }
            put.kept.push(why);
        }
        Ok(put)
    }

    /// Puts a tag that does not move: of the commit, or of a version. Returns why it stays at another image.
    fn put_fixed(&self, plan: &ImagePlan, digest: Digest, tag: &Tag) -> Result<Option<String>, Fault> {
        let (client, repository) = (self.context.client, &plan.repository);
        let names = || Ok::<_, Fault>(client.head(repository, tag)?.present().map(|head| head.digest));
        let is_version = tags::is_version(tag.as_str());
        // No tag names yet what was just built.
        let named = if is_version || !plan.builds() { names()? } else { None };
        if named == Some(digest) {
            return Ok(None);
        }
        if is_version
            && named.is_some()
            && let Some(why) = self.version_stays(repository, tag)?
        {
            return Ok(Some(why));
        }
        match publish::move_tag(client, repository, digest, tag) {
            Err(fault) if publish::is_immutable(&fault) && names()? != Some(digest) => {
                Ok(Some("the registry's tags are immutable, and it names another build of this commit".to_owned()))
            }
            Err(fault) if !publish::is_immutable(&fault) => Err(fault),
            Ok(()) | Err(_) => Ok(None),
        }
    }

    /// A version that is published moves only for its own git tag: in that tag's run, or by hand to another build of its commit.
    fn version_stays(&self, repository: &Repository, tag: &Tag) -> Result<Option<String>, Fault> {
        match event::reference(&|name| std::env::var(name).ok()) {
            Some(name) if name == format!("refs/tags/v{tag}") => return Ok(None),
            Some(name) => {
                return Ok(Some(format!("only the git tag `v{tag}` moves a version, and this is for `{name}`")));
            }
            None => {}
        }
        let published = publish::read(self.context.client, repository, tag)?.present();
        let revision = published.as_ref().and_then(Published::revision).unwrap_or("unknown");
        let ours = self.context.tree.commit.as_ref().is_some_and(|commit| commit.id == revision);
        Ok((!ours).then(|| format!("a version does not move to another commit (it is of `{revision}`)")))
    }

    /// Puts a tag that moves, with the record of its commit. Returns why it stays at another image. `known` is what it names.
    fn put_moving(
        &self,
        repository: &Repository,
        tag: &Tag,
        image: &Named,
        known: Option<Published>,
    ) -> Result<Option<String>, Fault> {
        let Some(commit) = &self.context.tree.commit else { return Ok(None) };
        let own = image.revision.as_ref() == Some(&commit.id);
        let register =
            RegistryTag { tagger: self, repository, tag, known: RefCell::new(known), seen: RefCell::default() };
        // Another job could have to be seen after the write.
        process::uninterrupted(|| moving::move_to(&register, image.digest, &commit.id, own))
    }

    fn image(&self, repository: &Repository, digest: Digest) -> Result<Rc<Published>, Fault> {
        if let Some(known) = self.image.borrow().as_ref().filter(|known| known.digest == digest) {
            return Ok(Rc::clone(known));
        }
        let image = Rc::new(publish::read_as_known(self.context.client, repository, digest)?);
        self.image.replace(Some(Rc::clone(&image)));
        Ok(image)
    }

    fn ancestry(&self, ancestor: &str, descendant: &str) -> Result<Ancestry, Fault> {
        // Mostly a commit is published after the one before it, which takes no process to see.
        let own = self.context.tree.commit.as_ref().filter(|own| own.id == descendant);
        if own.is_some_and(|own| own.parents.iter().any(|parent| parent == ancestor)) {
            return Ok(Ancestry::Ancestor);
        }
        let pair = (ancestor.to_owned(), descendant.to_owned());
        if let Some(known) = self.compared.borrow().get(&pair) {
            return Ok(*known);
        }
        let found = Git::at(&self.context.tree.root).ancestry(ancestor, descendant)?;
        self.compared.borrow_mut().insert(pair, found);
        Ok(found)
    }

    /// Compares this commit with its branch's newest: as a remote says; where none answers, as CI's event says of the push that
    /// replaced `other`.
    fn head(&self, other: &str) -> Result<Head, Fault> {
        let Some((id, branch)) =
            self.context.tree.commit.as_ref().and_then(|commit| Some((&commit.id, commit.branch.as_ref()?)))
        else {
            return Ok(Head::Unknown("no branch is checked out".to_owned()));
        };
        if self.remote.get().is_none() {
            let _ = self.remote.set(Git::at(&self.context.tree.root).remote_head(branch)?);
        }
        Ok(match self.remote.get().expect("it was set") {
            RemoteHead::At(head, _) if head == id => Head::Ours,
            RemoteHead::At(head, remote) => {
                Head::Other(format!("`{branch}` of `{remote}` is at `{}`", &head[..12.min(head.len())]))
            }
            RemoteHead::Absent(remote) => Head::Other(format!("`{remote}` has no branch `{branch}`")),
            RemoteHead::Unknown(_) if replaced(branch, id).is_some_and(|before| before == other) => Head::Ours,
            RemoteHead::Unknown(why) => Head::Unknown(why.clone()),
        })
    }
}

/// A tag that moves, in the registry.
struct RegistryTag<'a> {
    tagger: &'a Tagger<'a>,
    repository: &'a Repository,
    tag: &'a Tag,
    /// Its image, for the first look: what counts for a move is read again.
    known: RefCell<Option<Published>>,
    /// Image that it named at the last look.
    seen: RefCell<Option<Tagged>>,
}

impl RegistryTag<'_> {
    fn client(&self) -> &Client {
        self.tagger.context.client
    }

    fn note(&self, place: &Tag, record: &TagRecord) -> Result<(), Fault> {
        let image = self.tagger.image(self.repository, record.digest)?;
        match records::note(self.client(), self.repository, place, &image, record) {
            // An immutable record belongs to a tag that does not move either.
            Err(fault) if publish::is_immutable(&fault) => {
                terminal::detail(&fault.what);
                Ok(())
            }
            written => written,
        }
    }
}

impl Register for RegistryTag<'_> {
    fn tag(&self) -> Result<Option<Tagged>, Fault> {
        let seen = self.seen.take();
        // Mostly it still names what it did.
        if let Some(seen) = &seen
            && let Some(head) = self.client().head(self.repository, self.tag)?.present()
            && head.digest == seen.digest
        {
            self.seen.replace(Some(seen.clone()));
            return Ok(Some(seen.clone()));
        }
        let published = match self.known.take() {
            Some(known) => Some(known),
            None => publish::read(self.client(), self.repository, self.tag.clone())?.present(),
        };
        let tagged = published.map(|published| Tagged {
            digest: published.digest,
            revision: published.revision().map(|revision| revision.trim_end_matches("-dirty").to_owned()),
        });
        self.seen.replace(tagged.clone());
        Ok(tagged)
    }

    fn record(&self) -> Result<Option<TagRecord>, Fault> {
        records::read(self.client(), self.repository, self.tag)
    }

    fn announced(&self) -> Result<Option<Move>, Fault> {
        records::announced(self.client(), self.repository, self.tag)
    }

    fn announce(&self, planned: &Move) -> Result<(), Fault> {
        let record = TagRecord { digest: planned.digest, since: planned.since(), before: None };
        self.note(&tags::announcement_tag(self.tag), &record)
    }

    fn note(&self, record: &TagRecord) -> Result<(), Fault> {
        self.note(&tags::record_tag(self.tag), record)
    }

    fn put(&self, digest: Digest) -> Result<(), Fault> {
        match publish::move_tag(self.client(), self.repository, digest, self.tag) {
            Err(fault) if publish::is_immutable(&fault) => Err(leave_out(fault, self.tag)),
            done => done,
        }
    }

    fn stays(&self, since: Option<&TaggedCommit>) -> Result<Option<String>, Fault> {
        let Some(commit) = &self.tagger.context.tree.commit else { return Ok(None) };
        let ancestry = |first: &str, second: &str| self.tagger.ancestry(first, second);
        tags::stays(&commit.id, since, &ancestry, &|other| self.tagger.head(other))
    }
}

/// The tag of the branch that is checked out, whether this tree is its commit's or not.
pub(super) fn branch_tag(tree: &Tree) -> Option<Tag> {
    let branch = tree.commit.as_ref()?.branch.as_ref()?;
    match tags::branch_tag(branch, &tree.policy.project.default_branch) {
        BranchTag::Same(tag) | BranchTag::Other(tag, _) => Some(tag),
        BranchTag::None(_) => None,
    }
}

/// The commit that CI's push replaced by this one. A job that is run again may be of a push that was replaced since, and says
/// nothing.
fn replaced(branch: &str, commit: &str) -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("GITHUB_RUN_ATTEMPT").is_some_and(|attempt| attempt != "1") {
        return None;
    }
    event::replaced_by(&std::fs::read_to_string(variable("GITHUB_EVENT_PATH")?).ok()?, branch, commit)
}

/// Adds the remedy for a tag that the registry does not let move.
fn leave_out(fault: Fault, tag: &Tag) -> Fault {
    let (flag, rest) = match *tag == Tag::latest() {
        true => ("--no-latest", "moving-tags = [\"branch\"]"),
        false => ("--no-branch-tag", "moving-tags = [\"latest\"]"),
    };
    let fault = fault.cause("this registry's tags are immutable, and this one names another image already");
    fault.hint(format!(
        "leave it out once: `{flag}`; for every build: `{rest}` in `[project]` of `images.toml`, or `moving-tags = []` for no tag \
         that moves"
    ))
}
