//! The tags of a commit: which name each gets, so that no two of them share one, and when one that moves may move.
//!
//! Pure. A repository's tags are one namespace: fingerprints, commits, versions, branches and `latest` share it. A
//! branch whose name belongs to another kind gets no tag; one whose name is not a tag gets one that ends in a hash of the name.

pub mod moving;

use crate::fault::Fault;
use crate::image::commit::{Ancestry, Commit};
use crate::spec::reference::{Digest, Tag};

/// Prefix of the branches of GitHub's merge queue. Each exists for one run, and nobody would remove its tag.
const QUEUE: &str = "gh-readonly-queue/";

/// Begin of the tags that record the commit of a tag that moves, or announce a move; see [`record_tag`] and [`announcement_tag`].
pub const RECORD_PREFIX: &str = "xtask-tag-";

const LONGEST: usize = 128;

/// Hex digits of the hash in a tag that is not the branch's own name: as many as in a commit's tag.
const DIGITS: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchTag {
    Same(Tag),
    Other(Tag, String),
    None(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitTags {
    /// All of them, in the order in which they are shown: commit, branch, versions.
    pub all: Vec<Tag>,
    pub branch: Option<Tag>,
    /// CommitTags that get no tag or another one, each with its reason.
    pub notes: Vec<String>,
}

/// Returns the names of a commit whose tree is its own: short commit, branch, versions. `default` is the default branch.
pub fn of_commit(commit: &Commit, default: &str) -> CommitTags {
    let mut names = CommitTags { all: Tag::from_name(commit.short()).into_iter().collect(), ..CommitTags::default() };
    // `latest` follows the default branch already: a default branch of that name needs no second tag.
    let branch = commit.branch.as_deref().filter(|branch| !branch.starts_with(QUEUE));
    if let Some(branch) = branch.filter(|branch| !(*branch == default && *branch == "latest")) {
        match branch_tag(branch, default) {
            BranchTag::Same(tag) => names.branch = Some(tag),
            BranchTag::Other(tag, why) => {
                names.notes.push(format!("branch `{branch}` is tagged `{tag}`: {why}"));
                names.branch = Some(tag);
            }
            BranchTag::None(why) => names.notes.push(format!("branch `{branch}` gets no tag: {why}")),
        }
        names.all.extend(names.branch.clone());
    }
    for version in &commit.versions {
        match version.parse() {
            Ok(tag) => names.all.push(tag),
            // A shortened version would be another one's.
            Err(_) => {
                names.notes.push(format!("version `{version}` gets no tag: it is longer than {LONGEST} characters"))
            }
        }
    }
    names
}

/// Returns the tag of a branch: another one for every branch, whatever the others are called, and none of another kind.
pub fn branch_tag(branch: &str, default: &str) -> BranchTag {
    let plain = replaced(branch);
    if let Some(why) = reserved(branch).or_else(|| reserved(&plain)) {
        return BranchTag::None(why);
    }
    let hash = &Digest::of(branch.as_bytes()).hex()[..DIGITS];
    let long = plain.len() > LONGEST;
    let other = |why: &str| {
        let kept = plain[..plain.len().min(LONGEST - DIGITS - 1)].trim_end_matches(['-', '.']);
        let name = if kept.is_empty() { format!("branch-{hash}") } else { format!("{kept}-{hash}") };
        match (reserved(&name), Tag::from_name(&name)) {
            (Some(why), _) => BranchTag::None(why),
            (None, Some(tag)) => BranchTag::Other(tag, why.to_owned()),
            (None, None) => BranchTag::None("its name has no character that a tag can have".to_owned()),
        }
    };
    // The default branch keeps a short name; whoever is called like its tag gets another one.
    if branch == default && !long && !plain.is_empty() {
        let tag = Tag::from_name(&plain).expect("characters, beginning and length are those of a tag");
        let why = || "a tag has no other characters, and only the default branch may be shortened so".to_owned();
        return if plain == branch { BranchTag::Same(tag) } else { BranchTag::Other(tag, why()) };
    }
    if branch != default && plain.eq_ignore_ascii_case(&replaced(default)) {
        return other("its name would be read as the default branch's");
    }
    if long {
        return other("its name is too long for a tag");
    }
    if plain != branch {
        return other("its name has characters that a tag cannot have");
    }
    if ends_in_hash(branch) {
        return other("its name ends like the tag of a renamed branch");
    }
    match branch.parse() {
        Ok(tag) => BranchTag::Same(tag),
        Err(_) => other("its name is not a valid tag"),
    }
}

/// A name with a dash for each character that a tag cannot have.
fn replaced(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let text: String = name.chars().map(|c| if good(c) { c } else { '-' }).collect();
    text.trim_start_matches(['.', '-']).to_owned()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// True if a tag ends like that of a renamed branch.
pub(super) fn ends_in_hash(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(_, end)| end.len() == DIGITS && is_hex(end))
}

/// Reason why a name belongs to tags of another kind. Ignores case, as some registries and many people do.
fn reserved(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let text = |text: &str| Some(text.to_owned());
    if name == "latest" {
        return text("`latest` follows the default branch");
    }
    if is_version(&name) || name.strip_prefix('v').is_some_and(is_version) {
        return text("it looks like a version, and only the git tag of a version gives that name");
    }
    if name.starts_with(RECORD_PREFIX) {
        return text("such tags record the commit of another tag");
    }
    let digest = ["sha256-", "sha512-"].iter().find_map(|start| name.strip_prefix(start));
    if digest.is_some_and(|digest| digest.len() >= 32) {
        return text("it looks like the tag of a signature");
    }
    // `enhanced-3f9c02d1a7b4`, `3f9c02d1a7b4-linux-amd64`
    let hex = name.strip_prefix("enhanced-").unwrap_or(&name);
    let hex = hex.split_once("-linux-").map_or(hex, |(hex, _)| hex);
    ((7..=64).contains(&hex.len()) && is_hex(hex)).then(|| "it looks like a commit or a fingerprint".to_owned())
}

/// `X.Y.Z` with an optional pre-release, as semantic versioning spells it.
pub fn is_version(text: &str) -> bool {
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let numbers = core.split('.').collect::<Vec<_>>();
    numbers.len() == 3
        && numbers.iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && pre.is_none_or(|pre| {
            !pre.is_empty() && pre.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        })
}

/// Name of the tag that records for which commit another one was put where it is.
pub fn record_tag(tag: &Tag) -> Tag {
    about(tag, "")
}

/// Name of the tag with the last announcement of a move of another one. A tag does not begin with a dot, so no record has this name.
pub fn announcement_tag(tag: &Tag) -> Tag {
    about(tag, ".move-")
}

/// True if a record or an announcement is about this tag.
pub fn is_about(record: &Tag, tag: &Tag) -> bool {
    *record == record_tag(tag) || *record == announcement_tag(tag)
}

fn about(tag: &Tag, kind: &str) -> Tag {
    let name = format!("{RECORD_PREFIX}{kind}{tag}");
    let name = if name.len() <= LONGEST {
        name
    } else {
        format!("{RECORD_PREFIX}{kind}{}", Digest::of(tag.as_str().as_bytes()).hex())
    };
    Tag::from_name(&name).expect("a prefix keeps a tag a tag")
}

/// Commit that a published tag is of, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedCommit {
    pub commit: String,
    /// The tag was moved from this commit's image by hand, to an earlier one or to one on another root: only a later commit moves it.
    pub rolled_back: bool,
}

/// The newest commit of a branch, as the event or the remote says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    Ours,
    /// Another one, as this names it: "`main` of `origin` is at `0123456789ab`".
    Other(String),
    Unknown(String),
}

/// Reason why a tag stays where it is. `None` where it may move to the image of `ours`.
///
/// It moves to a commit that follows the one it is of. Where history was replaced (a force push), or this clone does not know
/// how the two are related, it moves only for the branch's newest commit, which `head` knows.
pub fn stays(
    ours: &str,
    since: Option<&TaggedCommit>,
    ancestry: &dyn Fn(&str, &str) -> Result<Ancestry, Fault>,
    head: &dyn Fn(&str) -> Result<Head, Fault>,
) -> Result<Option<String>, Fault> {
    let Some(TaggedCommit { commit, rolled_back }) = since else { return Ok(None) };
    let short = &commit[..12.min(commit.len())];
    let back = || {
        let why = "it was rolled back or rebased by hand from the image of";
        Ok(Some(format!("{why} `{short}`; only a later commit moves it")))
    };
    if commit == ours {
        return if *rolled_back { back() } else { Ok(None) };
    }
    let known = ancestry(commit, ours)?;
    if known == Ancestry::Ancestor {
        return Ok(None);
    }
    let clause = match head(commit)? {
        Head::Ours => return Ok(None),
        Head::Other(said) => said,
        Head::Unknown(why) => format!("cannot tell whether this commit replaced it: {why}"),
    };
    if known == Ancestry::NotAncestor && ancestry(ours, commit)? == Ancestry::Ancestor {
        return Ok(Some("it names the image of a later commit".to_owned()));
    }
    let relation = match known {
        Ancestry::Unknown => "a commit that this clone does not have",
        Ancestry::Ancestor | Ancestry::NotAncestor => "a commit that this one does not follow",
    };
    Ok(Some(format!("it names the image of `{short}`, {relation} ({clause})")))
}

/// The record of a tag that moves. It is written before the tag, so it also says what is true until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub since: TaggedCommit,
    /// The image that the tag named before, and of which commit it was.
    pub before: Option<(Digest, TaggedCommit)>,
}

impl TagRecord {
    /// The commit of the tag while it names this image; `None` if the record is about other images.
    pub fn since_of(&self, digest: &Digest) -> Option<&TaggedCommit> {
        let before = || self.before.as_ref().filter(|(before, _)| before == digest).map(|(_, since)| since);
        if self.digest == *digest { Some(&self.since) } else { before() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn is(branch: &str, expected: &str) {
        let tag = match branch_tag(branch, "main") {
            BranchTag::Same(tag) | BranchTag::Other(tag, _) => tag.to_string(),
            BranchTag::None(why) => format!("none: {why}"),
        };
        assert_eq!(tag, expected, "{branch}");
    }

    #[test]
    fn an_ordinary_branch_keeps_its_name() {
        for branch in ["main", "feature-a", "JIRA-12_x", "v2", "1.2", "2026.11", "deadbe", "fix.typo", "Feature"] {
            is(branch, branch);
        }
    }

    #[test]
    fn a_branch_never_takes_the_tag_of_another_kind() {
        let version = "none: it looks like a version, and only the git tag of a version gives that name";
        for branch in ["1.2.3", "v1.2.3", "1.2.3-rc.1", "1.2.3/x", "1.2.3+4", "V1.2.3", "1.2.3ü"] {
            is(branch, version);
        }
        for branch in ["latest", "LATEST", "Latest"] {
            is(branch, "none: `latest` follows the default branch");
        }
        let hex = "0123456789abcdef".repeat(4);
        for branch in [
            "0123456789ab",
            "deadbeef",
            "DEADBEEF",
            "1234567",
            &hex,
            &hex[..40],
            "3f9c02d1a7b4-linux-amd64",
            "3f9c02d1a7b4/linux/amd64",
            "enhanced-3f9c02d1a7b4",
            "enhanced-3f9c02d1a7b4-linux-arm64",
        ] {
            is(branch, "none: it looks like a commit or a fingerprint");
        }
        is(&format!("sha256-{hex}"), "none: it looks like the tag of a signature");
        is("xtask-tag-main", "none: such tags record the commit of another tag");
    }

    #[test]
    fn two_branches_never_share_a_tag() {
        is("feature-a", "feature-a");
        is("feature/a", "feature-a-951d42dc02dc");
        is("feature+a", "feature-a-58e5b8cdd876");
        is("feature-a-951d42dc02dc", "feature-a-951d42dc02dc-c686322ff59a");
        is("Main", "Main-eb814be3ca3b");
        is("-ü", "branch-1dc69771d4e2");
        let long = "x".repeat(200);
        let BranchTag::Other(tag, _) = branch_tag(&long, "main") else { panic!() };
        assert_eq!(tag.as_str().len(), LONGEST);
        assert_ne!(branch_tag(&long, "main"), branch_tag(&format!("{long}y"), "main"));
    }

    #[test]
    fn the_default_branch_has_a_short_tag_of_its_own() {
        let tag = |branch: &str| match branch_tag(branch, "release/a+b") {
            BranchTag::Same(tag) | BranchTag::Other(tag, _) => tag.to_string(),
            BranchTag::None(why) => panic!("{why}"),
        };
        assert_eq!(tag("release/a+b"), "release-a-b");
        assert!(tag("release-a-b").starts_with("release-a-b-") && tag("Release/a-b").starts_with("Release-a-b-"));
    }

    #[test]
    fn what_gets_no_tag_or_another_one_is_said() {
        let commit = |branch: &str, versions: &[&str]| Commit {
            id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            time: 0,
            parents: Vec::new(),
            branch: Some(branch.to_owned()),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        };
        let names = of_commit(&commit("1.2.3", &["1.2.3"]), "main");
        assert_eq!(names.all.iter().map(Tag::as_str).collect::<Vec<_>>(), ["0123456789ab", "1.2.3"]);
        assert!(names.branch.is_none() && names.notes[0].starts_with("branch `1.2.3` gets no tag: it looks like a"));
        let names = of_commit(&commit("a/b", &[]), "main");
        assert_eq!(names.branch.as_ref(), Some(&names.all[1]));
        assert!(names.notes[0].starts_with("branch `a/b` is tagged `a-b-"), "{:?}", names.notes);
        let long = format!("1.0.0-{}", "x".repeat(130));
        assert!(of_commit(&commit("main", &[&long]), "main").notes[0].contains("gets no tag"));
    }

    #[test]
    fn a_record_is_not_a_branch_tag() {
        assert_eq!(record_tag(&Tag::latest()).as_str(), "xtask-tag-latest");
        assert_eq!(announcement_tag(&Tag::latest()).as_str(), "xtask-tag-.move-latest");
        let long = "y".repeat(128).parse().unwrap();
        assert!([record_tag(&long), announcement_tag(&long)].iter().all(|tag| tag.as_str().len() <= LONGEST));
    }

    /// A history of letters: `AB` was replaced by `AC`, and `D` follows `C`.
    fn ancestry(first: &str, second: &str) -> Result<Ancestry, Fault> {
        let before = |commit: &str| match commit {
            "A" => "A",
            "B" => "AB",
            "C" => "AC",
            "D" => "ACD",
            _ => "",
        };
        Ok(match (before(first), before(second)) {
            ("", _) | (_, "") => Ancestry::Unknown,
            (_, line) if line.contains(first) => Ancestry::Ancestor,
            _ => Ancestry::NotAncestor,
        })
    }

    #[track_caller]
    fn moves(ours: &str, of: &str, head: &str, expected: &str) {
        let since = TaggedCommit { commit: of.trim_end_matches('!').to_owned(), rolled_back: of.ends_with('!') };
        let head = |_: &str| {
            Ok(match head {
                "" => Head::Unknown("no remote".to_owned()),
                head if head == ours => Head::Ours,
                head => Head::Other(format!("`main` is at `{head}`")),
            })
        };
        let why = stays(ours, Some(&since), &ancestry, &head).unwrap();
        assert_eq!(why.as_deref().unwrap_or("moves"), expected, "{ours} on {of}");
    }

    #[test]
    fn a_tag_moves_only_to_a_descendant_or_to_the_head_that_replaced_it() {
        for (ours, of) in [("B", "A"), ("D", "A"), ("D", "C"), ("C", "C")] {
            moves(ours, of, "", "moves");
        }
        // C replaced B by a force push; B's job is run again afterwards.
        moves("C", "B", "C", "moves");
        moves("B", "C", "C", "it names the image of `C`, a commit that this one does not follow (`main` is at `C`)");
        moves("B", "D", "D", "it names the image of `D`, a commit that this one does not follow (`main` is at `D`)");
        let unsure = "a commit that this one does not follow (cannot tell whether this commit replaced it: no remote)";
        moves("C", "B", "", &format!("it names the image of `B`, {unsure}"));
        // An older job overtaken by a newer one; the branch was set back on purpose.
        moves("A", "B", "B", "it names the image of a later commit");
        moves("A", "B", "", "it names the image of a later commit");
        moves("A", "B", "A", "moves");
        // A shallow clone.
        moves("B", "X", "B", "moves");
        moves("B", "X", "C", "it names the image of `X`, a commit that this clone does not have (`main` is at `C`)");
    }

    #[test]
    fn what_was_moved_back_by_hand_waits_for_a_later_commit() {
        let back = "it was rolled back or rebased by hand from the image of `C`; only a later commit moves it";
        moves("C", "C!", "C", back);
        moves("D", "C!", "D", "moves");
    }

    proptest! {
        #[test]
        fn any_two_branches_have_two_tags(one in "[a-cA-C/_.ü-]{1,6}", other in "[a-cA-C/_.ü-]{1,6}", default in "[ab/-]{1,3}") {
            let tag = |branch: &str| match branch_tag(branch, &default) {
                BranchTag::Same(tag) | BranchTag::Other(tag, _) => Some(tag),
                BranchTag::None(_) => None,
            };
            if let (Some(first), Some(second)) = (tag(&one), tag(&other)) {
                prop_assert_eq!(first == second, one == other);
            }
        }

        #[test]
        fn no_branch_has_a_reserved_tag(branch in "(latest|enhanced-|v|sha256-|xtask-tag-)?[0-9a-f./+-]{0,40}(-linux-amd64)?") {
            if let BranchTag::Same(tag) | BranchTag::Other(tag, _) = branch_tag(&branch, "main") {
                prop_assert_eq!(reserved(tag.as_str()), None);
            }
        }
    }
}
