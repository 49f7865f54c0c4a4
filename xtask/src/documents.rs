//! The documents that `--format json` prints: each with a version, and every field with its meaning.
//!
//! A version goes up when a field is renamed, removed or gets another meaning; a new field does not raise it. Tests compare what commands print with
//! these lists.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;
use std::io::Write as _;

#[derive(Debug)]
pub struct Document {
    /// The commands that print it, in Markdown.
    pub commands: &'static str,
    pub version: u32,
    /// Path and meaning of each field: `a.b` in an object, `a[]` in a list, `*` for any name, `**` for everything below.
    pub fields: &'static [(&'static str, &'static str)],
}

pub const BUILD: Document = Document {
    commands: "`build`, `build-base`, `build-fast`, `build-enhanced`",
    version: 1,
    fields: &[
        ("images[].kind", "`base`, `app` or `enhanced`; the base is first"),
        ("images[].name", "name of the base or the app, if the policy names several"),
        ("images[].reference", "name by digest"),
        ("images[].digest", "digest of the index, or of the only manifest"),
        ("images[].platforms.*", "digest of each platform's manifest"),
        ("images[].fingerprint", "SHA-256 of the key"),
        ("images[].tags[]", "tags that the image has now"),
        ("images[].latest_stays", "why `latest` did not move; absent if it moved"),
        ("images[].kept[]", "other tags that did not move or were not set, with the reason"),
        ("images[].differences[].path", "an input that differs from the commit"),
        ("images[].differences[].why", "the difference"),
        ("images[].differences[].ignored", "`true` if git ignores the file"),
        ("images[].action", "`built`, `reused`, or `adopted` if another job was first"),
        ("images[].reasons[]", "why it was built"),
        ("images[].size", "compressed bytes of one platform"),
        ("images[].steps[]", "number of the Dockerfile's steps, and how many were cached"),
        (
            "images[].imports.packages[]",
            "packages that were imported before the image was published; `imports` is absent if none were",
        ),
        (
            "images[].imports.known[]",
            "packages that an earlier image's record says were imported, and that no change can affect",
        ),
        ("images[].imports.from", "digest of that earlier image"),
        ("images[].seconds[][]", "name and seconds of each phase, in order"),
        (
            "images[].dependencies.action",
            "`pulled` or `pushed`, if compiled dependencies came from the registry or went there",
        ),
        ("images[].dependencies.crates", "number of their crates"),
        ("images[].dependencies.size", "compressed bytes of them"),
        ("seconds", "wall-clock seconds of the command"),
        ("peak_memory", "largest memory of the process in bytes, where the system reports it"),
        ("disk_written", "bytes that the process wrote to files on a disk, where the system reports it"),
    ],
};

pub const PLAN: Document = Document {
    commands: "`plan`",
    version: 2,
    fields: &[
        ("decision", "`skip`, `fast`, `base+fast`, `rebase` or `full`"),
        ("reasons[]", "why"),
        ("purpose", "`change`, `release`, `schedule` or `manual`"),
        ("base_revision", "the commit that was compared with"),
        ("head_revision", "the commit that was planned; `null` for the working tree"),
        ("changes.base[]", "differences of the base's inputs"),
        ("changes.app[]", "differences of the app's own inputs"),
        ("changes.waiting[]", "differences that a pinned base does not contain"),
        (
            "base.reference",
            "the base by its fingerprint's tag, or by digest if it is pinned; absent if its root is unknown",
        ),
        ("base.presence.answer", "`registry`, `local`, `absent`, `unknown` or `not-asked`"),
        ("base.presence.because", "why it is unknown"),
        ("base.presence.digest", "its digest"),
        ("base.presence.platforms[]", "its platforms"),
        ("base.presence.lost.*", "what the registry lost of a platform"),
        ("base.decision.action", "`reuse` or `build`; absent if the registry did not answer"),
        ("base.decision.digest", "the digest that is reused"),
        ("base.decision.place", "`registry` or `local`, if it is reused"),
        ("base.decision.platforms.*", "digest of each platform's manifest that is reused"),
        ("base.decision.platforms[]", "platforms that are built"),
        ("base.decision.reasons[]", "why it is built"),
        ("app.**", "the same for the app"),
        ("affected[]", "with several apps: the images that are built, or that cannot be known: `base:cpu`, `app:web`"),
        ("apps[].name", "with several apps, in the place of `changes`, `base` and `app`: name of an app"),
        ("apps[].on", "name of its base, if the policy names several"),
        ("apps[].decision", "`decision`, of this app"),
        ("apps[].reasons[]", "why"),
        ("apps[].changes.**", "`changes`, of this app and its base"),
        ("apps[].base.**", "`base`, of this app"),
        ("apps[].app.**", "`app`, of this app"),
        ("verification.tests", "the tests that the commit must pass: `all`, `long`, `selected`, `documents` or `none`"),
        ("verification.name", "the `[[ci.tests]]` that is enough"),
        ("verification_reason", "why these tests"),
        ("machines", "`one` if one machine can build everything"),
        ("compiles", "`true` if the app's program is compiled, as far as the comparison shows"),
        ("dependencies", "compiled dependencies that this machine would pull, or why it compiles all of them"),
        ("shadow[]", "`base` or `app`: it is reused, and in the sample that `[ci] shadow` has built again"),
    ],
};

pub const EXPLAIN: Document = Document {
    commands: "`explain`",
    version: 1,
    fields: &[
        ("images[].image", "`base` or `app`"),
        ("images[].name", "name of the base or the app, if the policy names several"),
        ("images[].this", "the image of this tree, or of the newer commit"),
        ("images[].compared_with", "the other image"),
        ("images[].verdict", "a summary, if there are no differences to list"),
        ("images[].differences[]", "each difference of the two keys"),
        ("images[].dependencies", "compiled dependencies that this machine would pull, or why it compiles all of them"),
    ],
};

pub const DOCTOR: Document = Document {
    commands: "`doctor`",
    version: 1,
    fields: &[
        ("findings[].state", "`good`, `note` or `bad`"),
        ("findings[].what", "what was checked"),
        ("findings[].said", "the result"),
        ("findings[].remedy[]", "commands or edits that help"),
    ],
};

pub const STATS: Document = Document {
    commands: "`stats`",
    version: 1,
    fields: &[
        ("since", "start of the time that counts"),
        ("until", "end of it"),
        ("builds", "number of builds, failed ones included"),
        ("failed", "number of failed builds"),
        ("days[].date", "a day in UTC"),
        ("days[].kinds.*", "number of builds of each kind on it"),
        ("machines[].machine", "kind of machine"),
        ("machines[].kinds.*.builds", "number of builds of this kind on it"),
        ("machines[].kinds.*.failed", "number of failed ones"),
        ("machines[].kinds.*.median", "median seconds"),
        ("machines[].kinds.*.slowest", "seconds of the slowest"),
        ("machines[].kinds.*.pushed", "compressed bytes pushed by all of them"),
        ("machines[].saved.**", "time saved by fast builds, measured against the last `build-enhanced`"),
        ("machines[].fast_phases[][]", "name and median seconds of each phase of fast builds, longest first"),
        ("machines[].fast[]", "seconds of each fast build, oldest first"),
        ("saved[]", "seconds saved on all machines, and by how many fast builds; `null` without a `build-enhanced`"),
        ("gate[].of", "the builds that were compared, with `--gate-factor`"),
        ("gate[].state", "`too-few` or `compared`"),
        ("gate[].builds", "number of fast builds, if too few"),
        ("gate[].needed", "number of fast builds that are needed"),
        ("gate[].before", "median seconds of the builds before"),
        ("gate[].now", "median seconds of the last builds"),
        ("gate[].slower", "`true` if the gate fails"),
        ("records[].**", "the builds, as in `target/ledger/builds.jsonl`"),
    ],
};

pub const CENSUS: Document = Document {
    commands: "`stats --replay`",
    version: 1,
    fields: &[
        ("range", "the range of commits"),
        ("classes[].class", "kind of commit: `nothing`, `files`, `program`, `base`, `everything` or `unreadable`"),
        ("classes[].commits", "number of commits of this kind"),
        ("classes[].cost.seconds", "median seconds of such a build on this machine"),
        ("classes[].cost.builds", "number of builds of which it is the median; 0 if the time is assumed"),
        ("classes[].spent", "seconds of all of them"),
        ("classes[].saved", "seconds saved against building everything"),
        ("tests.*", "number of commits that need these tests"),
        ("everything.seconds", "seconds of building everything once"),
        ("everything.builds", "as `classes[].cost.builds`; of a sum, the smallest number, and 0 if a part is assumed"),
        ("spent", "seconds of all builds"),
        ("saved", "seconds saved by all"),
        ("commits[].commit", "a commit, the oldest first"),
        ("commits[].subject", "first line of its message"),
        ("commits[].class", "its kind"),
        ("commits[].reasons[]", "why"),
        ("commits[].tests", "the tests that it needs: `all`, `documents`, `none`, or the name of a `[[ci.tests]]`"),
        (
            "apps[].name",
            "with several apps, in the place of `classes`, `tests`, `everything` and `commits`: name of an app",
        ),
        (
            "apps[].**",
            "as the fields above, of this app; `spent` of the document counts a base that several apps share once",
        ),
    ],
};

pub const SMOKE: Document = Document {
    commands: "`smoke`",
    version: 1,
    fields: &[
        ("checks[].check", "name of a check that passed"),
        ("checks[].seconds", "its seconds"),
        ("checks[].app", "name of the app, if the policy names several"),
    ],
};

pub const SBOM_DIFF: Document = Document {
    commands: "`sbom --diff`",
    version: 1,
    fields: &[("changes[]", "a component that is new, gone, or of another version or licence")],
};

pub const SCAN: Document = Document {
    commands: "`scan`",
    version: 1,
    fields: &[
        ("image", "the image by digest"),
        ("platform", "its platform"),
        ("database", "where the records are from"),
        ("modified", "when the newest record that was looked at was changed"),
        ("components", "number of components"),
        ("unchecked[]", "package URLs of components of a kind that is not looked up"),
        ("vulnerabilities[].id", "`CVE-…` if it has one; the worst is first"),
        ("vulnerabilities[].aliases[]", "its other names"),
        ("vulnerabilities[].summary", "first sentence"),
        ("vulnerabilities[].severity", "`critical`, `high`, `medium`, `low` or `unknown`"),
        ("vulnerabilities[].score", "highest score of its CVSS 3 and 4 vectors, if it has one"),
        ("vulnerabilities[].purl", "package URL of the component"),
        ("vulnerabilities[].name", "its name"),
        ("vulnerabilities[].version", "its version"),
        ("vulnerabilities[].layer", "uncompressed digest of the layer that holds it"),
        ("vulnerabilities[].fixed", "first version with a fix, if there is one"),
        ("vulnerabilities[].dismissed", "why it does not count, if a statement says so"),
        ("notes[]", "statements that ended or that are about nothing in the image"),
    ],
};

pub const VERIFY: Document = Document {
    commands: "`verify`",
    version: 1,
    fields: &[
        ("image", "the image by digest"),
        ("checks[].check", "what was checked"),
        ("checks[].result", "the result, in words"),
    ],
};

pub const REPRODUCE: Document = Document {
    commands: "`reproduce`",
    version: 1,
    fields: &[
        ("images[].image", "the image by digest"),
        ("images[].platforms[].platform", "platform"),
        ("images[].platforms[].commit", "the commit that was built again"),
        ("images[].platforms[].engine", "`native` or `docker`: the engine that built the image, and built it again"),
        ("images[].platforms[].published", "digest of the published manifest"),
        ("images[].platforms[].rebuilt", "digest of the manifest that was built again"),
        ("images[].platforms[].result", "the result, in words"),
        ("images[].platforms[].differences[].part", "`configuration`, `manifest`, or a layer by its number"),
        ("images[].platforms[].differences[].path", "path of the file or field; empty for the part as a whole"),
        ("images[].platforms[].differences[].what", "the published value, and the one that was built again"),
    ],
};

pub const PROOF: Document = Document {
    commands: "`init --prove`",
    version: 1,
    fields: &[
        ("proofs[].dockerfile", "the repository's own Dockerfile"),
        ("proofs[].app", "name of the app, if the policy names several"),
        ("proofs[].engine", "what built that Dockerfile; `null` if only what its files state was compared"),
        ("proofs[].root", "the root that both images are built on"),
        ("proofs[].replaced[]", "other images in `FROM` that the root took the place of"),
        ("proofs[].equal.*", "number of things that are equal: `distribution`, `package`, `path`, `setting`"),
        ("proofs[].differences[].part", "`distribution`, `package`, `path` or `setting`"),
        ("proofs[].differences[].name", "name of the distribution, package or field, or the path"),
        (
            "proofs[].differences[].old",
            "the value in the image of the repository's own Dockerfile; `null` if it has none",
        ),
        ("proofs[].differences[].new", "the value in the new image; `null` if it has none"),
        ("proofs[].differences[].cause", "why they differ; `null` if it is unexplained"),
    ],
};

pub const BUNDLE_CREATE: Document = Document {
    commands: "`bundle create`",
    version: 1,
    fields: &[
        ("manifests", "number of manifests in the archive"),
        ("blobs", "number of blobs in it, manifests included"),
        ("bytes", "their bytes"),
        ("resumed", "number of blobs that an interrupted call had written"),
        ("left_out", "number of blobs that the other side has"),
    ],
};

pub const BUNDLE_LOAD: Document = Document {
    commands: "`bundle load`",
    version: 1,
    fields: &[
        ("images[]", "the images that were brought, by tag"),
        ("sent", "number of blobs that were sent"),
        ("bytes", "their bytes"),
        ("present", "number of blobs that the registry had"),
    ],
};

pub const REBASE: Document = Document {
    commands: "`rebase`",
    version: 1,
    fields: &[
        ("images[].image", "the image by the name that was given, or a tag of it"),
        ("images[].kind", "`base` or `app`"),
        (
            "images[].action",
            "`rebased`; `present` if an image of the new key existed; `current` on the newest root, `unfixed` if that fixes nothing; `undone`",
        ),
        ("images[].from", "its digest before"),
        ("images[].to", "its digest now; absent if nothing was changed"),
        ("images[].fingerprint", "SHA-256 of its key now"),
        ("images[].tags[]", "tags that moved"),
        ("images[].kept[]", "tags that stay, with the reason"),
        (
            "fixes.*[].package",
            "a package that the new root has in a newer version; the list is by the root's name and platform",
        ),
        ("fixes.*[].old", "its version in the old root"),
        ("fixes.*[].new", "its version in the new root"),
        ("fixes.*[].advisories[]", "vulnerabilities that go with it, if the policy has a `scan` step"),
        ("seconds", "wall-clock seconds of the command"),
    ],
};

pub const PLUGINS: Document = Document {
    commands: "`plugin list`, `plugin describe`",
    version: 1,
    fields: &[
        ("plugins[].name", "the word after `uses`"),
        ("plugins[].about", "what it does"),
        ("plugins[].tools[]", "programs that it needs"),
        ("plugins[].settings.*", "meaning of each setting"),
        ("plugins[].steps[]", "steps of the policy that use it"),
    ],
};

pub const BASES: Document = Document {
    commands: "`base list`",
    version: 1,
    fields: &[
        ("bases[].name", "name of the base, if the policy names several"),
        ("bases[].digest", "digest of the index, or of the only manifest; the newest base is first"),
        ("bases[].tags[]", "its tags, without those of single platforms"),
        ("bases[].fingerprint", "SHA-256 of its key"),
        ("bases[].own_tag", "the fingerprint's tag, if it has it"),
        ("bases[].revision", "the commit that it was built from"),
        ("bases[].created", "that commit's time"),
        ("bases[].root", "the root that it was built on"),
        ("bases[].built", "when it was built"),
        ("bases[].size", "compressed bytes of all platforms, each layer once"),
        ("bases[].platforms.*", "digest of each platform's manifest"),
        ("bases[].missing[]", "platforms of the policy that it does not have"),
        ("bases[].lost[]", "manifests that it lists and the registry does not have"),
        ("bases[].parts[]", "manifests that belong to it: platforms, attestations, referrers"),
        ("bases[].staging.*", "tags of single platforms"),
        ("bases[].age", "its age in words"),
        ("bases[].complete", "`true` if it has every platform whole"),
        ("bases[].latest", "`true` if `latest` names it"),
        ("bases[].pinned", "`true` if `images.lock` pins it"),
        ("bases[].this_tree", "`true` if it is this tree's base; absent if that is not known"),
        ("bases[].used_by[]", "tags of the apps built on it"),
    ],
};

const VERDICT: &str = "name, digest, size, whether it is kept, and why";

pub const PRUNE: Document = Document {
    commands: "`base prune`, `prune`",
    version: 1,
    fields: &[
        ("registry.verdicts[].**", VERDICT),
        ("registry.digests[]", "manifests to delete, in this order"),
        ("registry.tags[]", "tags to delete whose image stays"),
        ("layouts[].**", "the same for images on this machine"),
        ("dependencies[].**", "the same for compiled dependencies, with `prune`"),
        ("parts[].**", "the same for parts of root images, with `prune`; of all apps together"),
        (
            "images[].name",
            "with several apps or bases, in the place of `registry`, `layouts` and `dependencies`: name of one",
        ),
        ("images[].registry.**", "as `registry`, of this one"),
        ("images[].layouts[].**", "as `layouts`, of this one"),
        ("images[].dependencies[].**", "as `dependencies`, of this one"),
    ],
};

pub const ANALYSIS: Document = Document {
    commands: "`build-base --analyze`",
    version: 1,
    fields: &[
        ("layers[].size", "compressed bytes of a layer"),
        ("layers[].made_by", "the instruction that made it"),
        ("packages[].name", "a Python package, the largest first"),
        ("packages[].version", "its version"),
        ("packages[].size", "bytes of its files"),
        ("packages[].files", "number of its files"),
    ],
};

pub const ENGINE: Document = Document {
    commands: "`engine up`, `engine status`",
    version: 1,
    fields: &[
        ("registry", "host and port of the private registry"),
        ("registry_only", "`true` if there is no Docker engine"),
        ("docker", "path of the docker client"),
        ("folder", "the engine's folder"),
        ("run", "folder of the sockets"),
        ("processes.**", "the daemons, by program"),
        ("packages.*", "versions of the Debian packages"),
        ("created[]", "folders outside of `target` that the engine made"),
    ],
};

/// Every document, in the order of the reference.
pub const ALL: [&Document; 20] = [
    &BUILD,
    &PLAN,
    &EXPLAIN,
    &DOCTOR,
    &STATS,
    &CENSUS,
    &SMOKE,
    &SBOM_DIFF,
    &SCAN,
    &VERIFY,
    &REPRODUCE,
    &PROOF,
    &REBASE,
    &BUNDLE_CREATE,
    &BUNDLE_LOAD,
    &PLUGINS,
    &BASES,
    &PRUNE,
    &ANALYSIS,
    &ENGINE,
];

/// Writes data to stdout. A reader that closed the pipe is not an error.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A document's value behind its version.
#[derive(serde::Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// A list by its name, as the only field.
struct Listed<'a, T>(&'static str, &'a [T]);

impl<T: Serialize> Serialize for Listed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.0, self.1)?;
        map.end()
    }
}

impl Document {
    /// Prints a value as this document.
    pub fn print(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let versioned = Versioned { version: self.version, value };
        print(&format!("{}\n", serde_json::to_string_pretty(&versioned)?))
    }

    /// Prints a list as this document, as its field `name`.
    pub fn print_list<T: Serialize>(&self, name: &'static str, items: &[T]) -> anyhow::Result<()> {
        self.print(&Listed(name, items))
    }

    /// Fields of a printed document that this list does not have: a field without a meaning, or another version.
    pub fn unlisted(&self, printed: &Value) -> Vec<String> {
        let mut paths = Vec::new();
        collect(printed, "", &mut paths);
        let listed = |path: &str| path == "version" || self.fields.iter().any(|(field, _)| matches(field, path));
        let mut unlisted: Vec<String> = paths.into_iter().filter(|path| !listed(path)).collect();
        if printed["version"] != self.version {
            unlisted.push(format!("version {}", printed["version"]));
        }
        unlisted
    }
}

/// The path of every value that is not a list or an object; of these, those that are empty are passed over.
fn collect(value: &Value, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, &path, paths);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, &format!("{path}[]"), paths)),
        _ => paths.push(path.to_owned()),
    }
}

fn matches(field: &str, path: &str) -> bool {
    // `null` in place of a list or an object.
    if field.strip_prefix(path).is_some_and(|rest| rest.starts_with(['[', '.'])) {
        return true;
    }
    if let Some(above) = field.strip_suffix("**") {
        return path.starts_with(above.trim_end_matches('.'));
    }
    match field.split_once('*') {
        None => field == path,
        // A name may have dots: the version of a package, a platform's variant.
        Some((before, after)) => {
            path.strip_prefix(before).is_some_and(|rest| rest.len() > after.len() && rest.ends_with(after))
        }
    }
}

/// The section of the reference.
pub fn markdown() -> String {
    let mut text = String::new();
    for Document { commands, version, fields } in ALL {
        text += &format!("### {commands}: version {version}\n\n| field | meaning |\n|---|---|\n");
        for (field, meaning) in *fields {
            text += &format!("| `{field}` | {meaning} |\n");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_are_not_listed_are_found() {
        let document = Document { commands: "", version: 2, fields: &[("a[].b", ""), ("c.*", ""), ("d.**", "")] };
        let good = json!({"version": 2, "a": [{"b": 1}], "c": {"x.y": 1}, "d": {"e": [{"f": 1}]}});
        assert_eq!(document.unlisted(&good), [""; 0]);
        assert_eq!(document.unlisted(&json!({"version": 2, "a": null, "c": null, "d": []})), [""; 0]);
        let bad = json!({"version": 1, "a": [{"x": 1}], "c": {"x": {}}, "e": true});
        assert_eq!(document.unlisted(&bad), ["a[].x", "e", "version 1"]);
    }
}
