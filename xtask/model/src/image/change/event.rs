//! CI events, and the revision to compare with.
//!
//! Pure: reads GitHub's variables and the event's JSON, or GitLab's variables, as they are given. An event without a revision is not an error: the
//! reason is part of the plan. An event that cannot be read is an error.
//! Reference: <https://docs.github.com/en/actions/reference/workflows-and-actions/events-that-trigger-workflows>,
//! <https://docs.gitlab.com/ci/variables/predefined_variables/>.

use crate::fault::Fault;
use crate::image::change::Purpose;
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    Revision(String),
    /// The merge base of this revision and head; the revision itself if that is unknown.
    Common(String),
    Nothing(String),
    /// Nothing, and nothing is built either: the event removed this branch or tag.
    Deleted(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub purpose: Purpose,
    pub comparison: Comparison,
}

#[derive(Default, Deserialize)]
struct Payload {
    before: Option<String>,
    after: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    ref_type: Option<String>,
    #[serde(default)]
    deleted: bool,
    pull_request: Option<PullRequest>,
    merge_group: Option<MergeGroup>,
    schedule: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct PullRequest {
    base: PullRequestBase,
}

#[derive(Deserialize)]
struct PullRequestBase {
    sha: String,
}

#[derive(Deserialize)]
struct MergeGroup {
    base_sha: String,
}

/// Reads an event. `name` is `GITHUB_EVENT_NAME`, `reference` is `GITHUB_REF`; `path` is only for messages.
pub fn read(name: Option<&str>, reference: Option<&str>, path: &str, json: &str) -> Result<Event, Fault> {
    let payload: Payload = serde_json::from_str(json).map_err(|error| {
        Fault::usage(format!("cannot read the event `{path}`"))
            .cause(error)
            .hint("name the revision instead: `cargo xtask plan --base REV`")
    })?;
    let nothing = |purpose, why: &str| Ok(Event { purpose, comparison: Comparison::Nothing(why.to_owned()) });
    let lacks = |what: &str| {
        Err(Fault::usage(format!("the event `{path}` has no `{what}`"))
            .hint("name the revision instead: `cargo xtask plan --base REV`"))
    };
    match name.unwrap_or_else(|| payload.kind()) {
        "push" => payload.push(reference, path),
        "pull_request" | "pull_request_target" => match payload.pull_request {
            Some(request) => change(Comparison::Common(checked(request.base.sha, path)?)),
            None => lacks("pull_request"),
        },
        "merge_group" => match payload.merge_group {
            Some(group) => change(Comparison::Revision(checked(group.base_sha, path)?)),
            None => lacks("merge_group"),
        },
        "delete" => {
            let named = payload.reference.as_deref().unwrap_or_default();
            let kind = if payload.ref_type.as_deref() == Some("tag") { "tags" } else { "heads" };
            deleted(&format!("refs/{kind}/{named}"))
        }
        "schedule" => nothing(Purpose::Schedule, "a schedule has no revision before it"),
        "release" => nothing(Purpose::Release, "a release has no revision before it"),
        "workflow_dispatch" => nothing(Purpose::Manual, "a manual run has no revision before it"),
        other => {
            nothing(Purpose::Manual, &format!("the event `{}` names no revision before it", other.escape_default()))
        }
    }
}

/// The event of GitLab's pipeline, by its variables; `None` elsewhere.
///
/// A job cannot tell a first attempt from a later one, and a pipeline does not say that a push was forced: a commit that was pushed over
/// is missing from the clone.
pub fn of_gitlab(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Event>, Fault> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if set("GITLAB_CI").is_none() {
        return Ok(None);
    }
    let id = |name: &str| set(name).filter(|id| !is_zero(id)).map(|id| checked(id, name)).transpose();
    let nothing = |purpose, why: &str| Ok(Some(Event { purpose, comparison: Comparison::Nothing(why.to_owned()) }));
    if let Some(tag) = set("CI_COMMIT_TAG") {
        return Ok(Some(tagged(&tag)));
    }
    if set("CI_MERGE_REQUEST_IID").is_some() {
        let target = id("CI_MERGE_REQUEST_TARGET_BRANCH_SHA")?;
        let train = set("CI_MERGE_REQUEST_EVENT_TYPE").as_deref() == Some("merge_train");
        let comparison = match (target, id("CI_MERGE_REQUEST_DIFF_BASE_SHA")?) {
            (Some(target), _) if train => Comparison::Revision(target),
            (Some(common), _) | (None, Some(common)) => Comparison::Common(common),
            (None, None) => Comparison::Nothing("the merge request names no revision before it".to_owned()),
        };
        return change(comparison).map(Some);
    }
    match set("CI_PIPELINE_SOURCE").unwrap_or_default().as_str() {
        "schedule" => nothing(Purpose::Schedule, "a schedule has no revision before it"),
        "push" | "parent_pipeline" => match id("CI_COMMIT_BEFORE_SHA")? {
            Some(before) => change(Comparison::Revision(before)).map(Some),
            None => nothing(Purpose::Change, "this is the first push of the branch"),
        },
        other => nothing(
            Purpose::Manual,
            &format!("a pipeline of the source `{}` has no revision before it", other.escape_default()),
        ),
    }
}

/// Reference that CI runs for, as git names it: `refs/heads/main`, `refs/tags/v1.2.3`. `None` where no CI says it.
pub fn reference(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    set("GITHUB_REF").or_else(|| {
        let tag = set("CI_COMMIT_TAG").map(|tag| format!("refs/tags/{tag}"));
        let branch = || set("CI_COMMIT_BRANCH").map(|branch| format!("refs/heads/{branch}"));
        tag.or_else(branch).or_else(|| set("CI_MERGE_REQUEST_REF_PATH")).filter(|_| set("GITLAB_CI").is_some())
    })
}

/// The job of CI that runs, in this attempt; `None` elsewhere.
pub fn job(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let of = |names: &[&str]| Some(names.iter().map(|name| set(name)).collect::<Option<Vec<_>>>()?.join("/"));
    of(&["GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB"]).or_else(|| of(&["CI_SERVER_URL", "CI_JOB_ID"]))
}

/// The commit that a push replaced by this one on a branch, where the event's JSON is of such a push. Whether the old commit is an
/// ancestor of the new one does not matter.
pub fn replaced_by(json: &str, branch: &str, commit: &str) -> Option<String> {
    let payload: Payload = serde_json::from_str(json).ok()?;
    let branch_tag = payload.reference?.strip_prefix("refs/heads/")? == branch;
    (branch_tag && !payload.deleted && payload.after? == commit).then_some(payload.before)?
}

fn change(comparison: Comparison) -> Result<Event, Fault> {
    Ok(Event { purpose: Purpose::Change, comparison })
}

fn tagged(tag: &str) -> Event {
    let purpose = if tag.starts_with('v') { Purpose::Release } else { Purpose::Manual };
    Event { purpose, comparison: Comparison::Nothing("a tag has no revision before it".to_owned()) }
}

fn deleted(reference: &str) -> Result<Event, Fault> {
    let name = match reference.strip_prefix("refs/heads/") {
        Some(branch) => format!("branch `{}`", branch.escape_default()),
        None => format!("`{}`", reference.escape_default()),
    };
    change(Comparison::Deleted(name))
}

fn is_zero(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b == b'0')
}

/// A full object name, and nothing that git could take for something else.
fn checked(id: String, path: &str) -> Result<String, Fault> {
    if matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(Fault::usage(format!("the event `{path}` names `{}`, which is not a revision", id.escape_default()))
        .hint("name the revision instead: `cargo xtask plan --base REV`"))
}

impl Payload {
    fn kind(&self) -> &'static str {
        match self {
            Self { pull_request: Some(_), .. } => "pull_request",
            Self { merge_group: Some(_), .. } => "merge_group",
            Self { before: Some(_), .. } => "push",
            Self { schedule: Some(_), .. } => "schedule",
            _ => "workflow_dispatch",
        }
    }

    fn push(self, reference: Option<&str>, path: &str) -> Result<Event, Fault> {
        let reference = self.reference.as_deref().or(reference).unwrap_or_default();
        // A deleted branch has no commit after it; some senders say only that.
        if self.deleted || self.after.as_deref().is_some_and(is_zero) {
            return deleted(reference);
        }
        if let Some(tag) = reference.strip_prefix("refs/tags/") {
            return Ok(tagged(tag));
        }
        let Some(before) = self.before.filter(|before| !before.is_empty()) else {
            return change(Comparison::Nothing("the push names no revision before it".to_owned()));
        };
        let before = checked(before, path)?;
        if is_zero(&before) {
            return change(Comparison::Nothing("this is the first push of the branch".to_owned()));
        }
        change(Comparison::Revision(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[track_caller]
    fn check(name: Option<&str>, json: &str, purpose: Purpose, comparison: Comparison) {
        let json = json.replace("ID", ID).replace("ZERO", &"0".repeat(40));
        assert_eq!(read(name, None, "event.json", &json).unwrap(), Event { purpose, comparison });
    }

    #[track_caller]
    fn refuse(name: Option<&str>, json: &str, what: &str) {
        let fault = read(name, None, "event.json", json).unwrap_err();
        assert_eq!((fault.what.as_str(), fault.exit), (what, crate::fault::Exit::Usage));
    }

    fn nothing(why: &str) -> Comparison {
        Comparison::Nothing(why.to_owned())
    }

    #[test]
    fn each_event_names_what_it_is_compared_with() {
        let revision = || Comparison::Revision(ID.to_owned());
        for name in [Some("push"), None] {
            check(name, r#"{"before":"ID","ref":"refs/heads/main"}"#, Purpose::Change, revision());
            check(
                name,
                r#"{"before":"ZERO","ref":"refs/heads/x"}"#,
                Purpose::Change,
                nothing("this is the first push of the branch"),
            );
            check(
                name,
                r#"{"before":"ZERO","ref":"refs/tags/v1.2.3"}"#,
                Purpose::Release,
                nothing("a tag has no revision before it"),
            );
        }
        for missing in ["{}", r#"{"before":null}"#, r#"{"before":""}"#] {
            check(Some("push"), missing, Purpose::Change, nothing("the push names no revision before it"));
        }
        let common = Comparison::Common(ID.to_owned());
        check(Some("pull_request"), r#"{"pull_request":{"base":{"sha":"ID"}}}"#, Purpose::Change, common.clone());
        check(None, r#"{"pull_request":{"base":{"sha":"ID"}}}"#, Purpose::Change, common);
        check(Some("merge_group"), r#"{"merge_group":{"base_sha":"ID"}}"#, Purpose::Change, revision());
        check(Some("schedule"), "{}", Purpose::Schedule, nothing("a schedule has no revision before it"));
        check(None, r#"{"schedule":"0 4 * * 1"}"#, Purpose::Schedule, nothing("a schedule has no revision before it"));
        check(Some("workflow_dispatch"), "{}", Purpose::Manual, nothing("a manual run has no revision before it"));
        check(Some("issues"), "{}", Purpose::Manual, nothing("the event `issues` names no revision before it"));
    }

    #[test]
    fn a_pipeline_of_gitlab_names_what_it_is_compared_with() {
        let read = |pairs: &[(&str, &str)]| {
            let found =
                |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            let variable = |name: &str| if name == "GITLAB_CI" { Some("true".to_owned()) } else { found(name) };
            (of_gitlab(&variable).map(|event| event.unwrap()), reference(&variable))
        };
        let zero = "0".repeat(40);
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let branch = ("CI_COMMIT_BRANCH", "main");
        let request = [("CI_PIPELINE_SOURCE", "merge_request_event"), ("CI_MERGE_REQUEST_IID", "7")];
        let with = |more: &[(&'static str, &str)]| {
            let all: Vec<(&str, &str)> = request.iter().chain(more).copied().collect();
            read(&all).0.unwrap().comparison
        };
        for (pairs, purpose, comparison) in [
            (
                [("CI_PIPELINE_SOURCE", "push"), branch, ("CI_COMMIT_BEFORE_SHA", &a)],
                Purpose::Change,
                Comparison::Revision(a.clone()),
            ),
            (
                [("CI_PIPELINE_SOURCE", "push"), branch, ("CI_COMMIT_BEFORE_SHA", &zero)],
                Purpose::Change,
                nothing("this is the first push of the branch"),
            ),
            (
                [("CI_PIPELINE_SOURCE", "schedule"), branch, ("CI_COMMIT_BEFORE_SHA", &zero)],
                Purpose::Schedule,
                nothing("a schedule has no revision before it"),
            ),
            (
                [("CI_PIPELINE_SOURCE", "web"), branch, ("CI_COMMIT_BEFORE_SHA", &zero)],
                Purpose::Manual,
                nothing("a pipeline of the source `web` has no revision before it"),
            ),
        ] {
            let (event, name) = read(&pairs);
            assert_eq!(event.unwrap(), Event { purpose, comparison });
            assert_eq!(name.as_deref(), Some("refs/heads/main"));
        }
        let (event, name) =
            read(&[("CI_PIPELINE_SOURCE", "push"), ("CI_COMMIT_TAG", "v1.2.3"), ("CI_COMMIT_BEFORE_SHA", &a)]);
        assert_eq!((event.unwrap().purpose, name.as_deref()), (Purpose::Release, Some("refs/tags/v1.2.3")));
        let base = ("CI_MERGE_REQUEST_DIFF_BASE_SHA", a.as_str());
        let target = ("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", b.as_str());
        assert_eq!(with(&[base]), Comparison::Common(a.clone()));
        assert_eq!(with(&[base, target]), Comparison::Common(b.clone()), "merged results contain the target");
        assert_eq!(
            with(&[base, target, ("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train")]),
            Comparison::Revision(b.clone())
        );
        let wrong = read(&[("CI_PIPELINE_SOURCE", "push"), ("CI_COMMIT_BEFORE_SHA", "--help")]).0.unwrap_err();
        assert_eq!(wrong.what, "the event `CI_COMMIT_BEFORE_SHA` names `--help`, which is not a revision");
        assert!(of_gitlab(&|_| None).unwrap().is_none() && reference(&|_| None).is_none());
    }

    #[test]
    fn a_push_says_which_commit_its_own_replaced() {
        let json = format!(r#"{{"before":"{}","after":"{ID}","ref":"refs/heads/a/b","forced":true}}"#, "b".repeat(40));
        assert_eq!(replaced_by(&json, "a/b", ID), Some("b".repeat(40)));
        assert_eq!(replaced_by(&json, "a", ID), None, "another branch");
        assert_eq!(replaced_by(&json, "a/b", &"c".repeat(40)), None, "another commit");
        assert_eq!(replaced_by("{}", "a/b", ID), None);
        assert_eq!(replaced_by("[", "a/b", ID), None);
    }

    #[test]
    fn a_broken_event_is_a_fault() {
        refuse(None, "{", "cannot read the event `event.json`");
        refuse(Some("push"), "[]", "cannot read the event `event.json`");
        refuse(Some("pull_request"), "{}", "the event `event.json` has no `pull_request`");
        refuse(
            Some("push"),
            r#"{"before":"--help"}"#,
            "the event `event.json` names `--help`, which is not a revision",
        );
    }

    #[test]
    fn the_event_of_a_deleted_branch_builds_nothing() {
        let deleted = |name: &str| Comparison::Deleted(name.to_owned());
        for json in [
            r#"{"deleted":true,"before":"ID","after":"ZERO","ref":"refs/heads/x"}"#,
            r#"{"deleted":true,"before":"x","ref":"refs/heads/x"}"#,
            r#"{"before":"ID","after":"ZERO","ref":"refs/heads/x"}"#,
        ] {
            check(Some("push"), json, Purpose::Change, deleted("branch `x`"));
            check(None, json, Purpose::Change, deleted("branch `x`"));
        }
        check(Some("delete"), r#"{"ref":"x","ref_type":"branch"}"#, Purpose::Change, deleted("branch `x`"));
        check(Some("delete"), r#"{"ref":"v1","ref_type":"tag"}"#, Purpose::Change, deleted("`refs/tags/v1`"));
        // A new branch has no commit before it, and is built.
        let first = nothing("this is the first push of the branch");
        check(Some("push"), r#"{"before":"ZERO","after":"ID","ref":"refs/heads/x"}"#, Purpose::Change, first);
    }
}
