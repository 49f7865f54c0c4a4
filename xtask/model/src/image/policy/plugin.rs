//! Descriptions of build plugins: the name of each, its settings, and which others it waits for.
//!
//! `images.toml` is checked against them, so that bad settings of any plugin are reported with every other problem of the policy. The code
//! that runs a plugin is elsewhere.

use super::keys::{Default, PolicyKey, ValueKind};
use super::{RelPath, size};
use crate::spec::reference::Platform;
use serde_json::Value;
use std::collections::BTreeMap;

/// A plugin as the policy, the reference and `plugin describe` see it.
#[derive(Debug)]
pub struct Description {
    /// The word after `uses`.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub about: &'static str,
    /// Programs that it needs on `PATH`.
    pub tools: &'static [&'static str],
    /// Keys of its `[[step]]`, besides those that every step has.
    pub settings: &'static [PolicyKey],
    /// Checks that need more than one setting, or more than a type.
    pub check: fn(&Settings) -> Vec<SettingProblem>,
    /// The steps whose outcome it reads, where the policy has no `needs`.
    pub waits: Waits,
    /// True if it attaches something to the image, which is done before any tag moves.
    pub attaches: bool,
}

/// The steps for which a plugin waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    Nothing,
    /// Steps that use this plugin.
    For(&'static str),
    /// Every step before it in the file.
    Before,
}

/// A problem of a setting; without a name, of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    pub setting: Option<String>,
    pub what: String,
    pub hint: Option<String>,
}

impl SettingProblem {
    pub fn new(setting: &str, what: impl Into<String>) -> Self {
        Self { setting: Some(setting.to_owned()), what: what.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// No further check.
pub fn unchecked(_: &Settings) -> Vec<SettingProblem> {
    Vec::new()
}

/// The settings of a step, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<String, PlacedValue>);

#[derive(Clone, Debug, PartialEq)]
struct PlacedValue {
    value: Value,
    /// `images.toml:12:1`.
    place: String,
}

impl Settings {
    pub fn insert(&mut self, name: &str, value: Value, place: String) {
        self.0.insert(name.to_owned(), PlacedValue { value, place });
    }

    /// The others.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(|setting| &setting.value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A list of strings; `None` if the setting is missing.
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
    }

    /// The strings of a setting that is one or a list; none if it is missing.
    pub fn one_or_more(&self, name: &str) -> Vec<&str> {
        self.text(name).map_or_else(|| self.texts(name).unwrap_or_default(), |one| vec![one])
    }

    /// Place of a setting in the policy, `images.toml:12:1`.
    pub fn place(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|setting| setting.place.as_str())
    }

    pub fn to_json(&self) -> Value {
        self.0.iter().map(|(name, setting)| (name.clone(), setting.value.clone())).collect()
    }
}

/// Compares settings with a description. `is_file` answers for paths in the repository.
pub fn problems(
    description: &Description,
    settings: &Settings,
    is_file: &dyn Fn(&RelPath) -> bool,
) -> Vec<SettingProblem> {
    let name = description.name;
    let mut found = Vec::new();
    for key in description.settings {
        match settings.get(key.name) {
            Some(value) => found.extend(wrong(key, value, is_file).map(|what| SettingProblem::new(key.name, what))),
            None if key.default == Default::Required => found.push(SettingProblem {
                setting: None,
                what: format!("a `{name}` step needs `{}`", key.name),
                hint: Some(format!("`{}`: {}", key.name, key.meaning)),
            }),
            None => {}
        }
    }
    for unknown in settings.0.keys().filter(|unknown| description.settings.iter().all(|key| key.name != **unknown)) {
        let known: Vec<String> = description.settings.iter().map(|key| format!("`{}`", key.name)).collect();
        let nearest = super::nearest(unknown, description.settings.iter().map(|key| key.name));
        let hint = nearest.unwrap_or_else(|| match known.is_empty() {
            true => format!("`{name}` has no settings"),
            false => format!("settings of `{name}`: {}", known.join(", ")),
        });
        found.push(
            SettingProblem::new(unknown, format!("`step.{unknown}` has no effect with `uses = \"{name}\"`")).hint(hint),
        );
    }
    if found.is_empty() {
        found = (description.check)(settings);
    }
    found
}

/// The difference between a value and its description, if there is one.
fn wrong(key: &PolicyKey, value: &Value, is_file: &dyn Fn(&RelPath) -> bool) -> Option<String> {
    let name = format!("`step.{}`", key.name);
    let words = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let list = |of: &dyn Fn(&str) -> Option<String>| match value.as_array() {
        None => Some(format!("{name} is not a list")),
        Some(items) => items.iter().find_map(|item| match item.as_str() {
            None => Some(format!("{name} holds something that is not a string")),
            Some(text) => of(text),
        }),
    };
    let file = |text: &str| match text.parse::<RelPath>() {
        Err(why) => Some(format!("{name}: {why}")),
        Ok(path) => (!is_file(&path)).then(|| format!("{name}: there is no file `{path}`")),
    };
    match key.kind {
        ValueKind::Text => {
            value.as_str().is_none_or(str::is_empty).then(|| format!("{name} is not a string, or empty"))
        }
        ValueKind::Path => match value.as_str() {
            None => Some(format!("{name} is not a path")),
            Some(text) => file(text),
        },
        ValueKind::Paths => match value.as_str() {
            None => list(&file),
            Some(text) => file(text),
        },
        ValueKind::Choice(choices) => {
            let good = value.as_str().is_some_and(|text| choices.contains(&text));
            (!good).then(|| format!("{name} is not one of {}", words(choices)))
        }
        ValueKind::Choices(choices) => list(&|text| {
            (!choices.contains(&text)).then(|| format!("{name} holds `{text}`, not one of {}", words(choices)))
        }),
        ValueKind::Texts => list(&|_| None),
        ValueKind::Platforms => list(&|text| text.parse::<Platform>().err().map(|error| format!("{name}: {error}"))),
        ValueKind::Boolean => (!value.is_boolean()).then(|| format!("{name} is not `true` or `false`")),
        ValueKind::Whole(least, most) => {
            let good = value.as_i64().is_some_and(|number| (least..=most).contains(&number));
            (!good).then(|| format!("{name} is not a whole number from {least} to {most}"))
        }
        ValueKind::AtLeast(least) => {
            let good = value.as_f64().is_some_and(|number| number >= least);
            (!good).then(|| format!("{name} is not a number of at least {least}"))
        }
        ValueKind::Share => {
            let good = value.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number));
            (!good).then(|| format!("{name} is not a number from 0 to 1"))
        }
        ValueKind::Version
        | ValueKind::Map
        | ValueKind::MapOf(_)
        | ValueKind::Table
        | ValueKind::Tables
        | ValueKind::TableOrTables
        | ValueKind::Named(_)
        | ValueKind::ForEach(_) => None,
    }
}

/// Runs the checks of `[smoke]`.
pub const SMOKE: Description = Description {
    name: "smoke",
    about: "runs the checks of `[smoke]` in the image",
    tools: &[],
    settings: &[],
    check: unchecked,
    waits: Waits::Nothing,
    attaches: false,
};

/// Limits the compressed size.
pub const SIZE_BUDGET: Description = Description {
    name: "size-budget",
    about: "fails if the image is larger than its budget",
    tools: &[],
    settings: &[PolicyKey::plugin(
        "max",
        ValueKind::Text,
        Default::Required,
        "largest compressed size, for example `max = \"400 MB\"`",
    )],
    check: |settings| {
        let max = settings.text("max").unwrap_or_default();
        let wrong = || {
            SettingProblem::new("max", format!("`step.max` `{max}` is not a size"))
                .hint("write `max = \"400 MB\"` (compressed)")
        };
        size(max).is_none().then(wrong).into_iter().collect()
    },
    waits: Waits::Nothing,
    attaches: false,
};

/// Formats of an SBOM: SPDX 2.3, CycloneDX 1.6 and SPDX 3.0.
pub const SBOM_FORMATS: &[&str] = &["spdx", "cyclonedx", "spdx3"];

/// The formats of a step that names none.
pub const DEFAULT_SBOM_FORMATS: [&str; 2] = ["spdx", "cyclonedx"];

/// Lists what is in the image.
pub const SBOM: Description = Description {
    name: "sbom",
    about: "attaches a list of every Python package, Debian package and crate in the image",
    tools: &[],
    settings: &[
        PolicyKey::plugin(
            "formats",
            ValueKind::Choices(SBOM_FORMATS),
            Default::Toml("[\"spdx\", \"cyclonedx\"]"),
            "formats to write: SPDX 2.3, CycloneDX 1.6, and SPDX 3.0 as `spdx3`",
        ),
        PolicyKey::plugin(
            "crate-licences",
            ValueKind::Text,
            Default::None,
            "file of the repository with the licences of crates, which `Cargo.lock` does not have; `cargo xtask sbom --write-licences` writes it",
        ),
    ],
    check: |settings| {
        let path = settings.text("crate-licences").map(str::parse::<RelPath>);
        let wrong = |why| SettingProblem::new("crate-licences", format!("`step.crate-licences`: {why}"));
        path.and_then(Result::err).map(wrong).into_iter().collect()
    },
    waits: Waits::Nothing,
    attaches: true,
};

/// Says what the image was built from.
pub const PROVENANCE: Description = Description {
    name: "provenance",
    about: "attaches a SLSA v1 statement: commit, key, engine, builder, and what the image was made of, by digest",
    tools: &[],
    settings: &[],
    check: unchecked,
    waits: Waits::For("sbom"),
    attaches: true,
};

/// The word of `cosign` for signatures without a key.
pub const KEYLESS: &str = "keyless";

/// Prefixes of keys that cosign does not read from files: services, hardware, a cluster, a variable.
const KEY_PLACES: [&str; 8] =
    ["awskms://", "azurekms://", "env://", "gcpkms://", "gitlab://", "hashivault://", "k8s://", "pkcs11:"];

/// True if the setting `cosign` names a key by a reference, and not by the path of a file.
pub fn is_reference(key: &str) -> bool {
    KEY_PLACES.iter().any(|place| key.starts_with(place))
}

/// Problems of a key for the cosign program.
fn key_problem(key: &str) -> Option<SettingProblem> {
    // The reference is an argument, which every process of the machine can read.
    let (_, rest) = key.split_once(':')?;
    let authority = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
    if key.contains("pin-value=") || (key.contains("://") && authority.contains('@')) {
        return Some(
            SettingProblem::new("cosign", "`step.cosign` has a password in it")
                .hint("give it by a variable of cosign: `COSIGN_PKCS11_PIN`, `COSIGN_PASSWORD`, `VAULT_TOKEN`"),
        );
    }
    let unknown = key.contains("://") && !is_reference(key);
    unknown.then(|| {
        SettingProblem::new("cosign", format!("`step.cosign` `{key}` is not a key that cosign can use"))
            .hint(format!("write a path, `{KEYLESS}`, or a reference: `{}`", KEY_PLACES.join("`, `")))
    })
}

pub const SIGN: Description = Description {
    name: "sign",
    about: "signs the image, its index and its provenance, as cosign does",
    tools: &[],
    settings: &[
        PolicyKey::plugin(
            "public-key",
            ValueKind::Path,
            Default::None,
            "PEM file of the public key, ECDSA P-256. The private one is in the file that `XTASK_SIGNING_KEY_FILE` names, or in `XTASK_SIGNING_KEY`",
        ),
        PolicyKey::plugin(
            "cosign",
            ValueKind::Text,
            Default::None,
            "key for the cosign program instead: `awskms://…`, `hashivault://…`, the file of an encrypted key; `keyless` for an identity of OIDC",
        ),
        PolicyKey::plugin(
            "identity",
            ValueKind::Text,
            Default::None,
            "identity in the certificate, for `cosign = \"keyless\"`",
        ),
        PolicyKey::plugin("issuer", ValueKind::Text, Default::None, "OIDC issuer of that identity"),
    ],
    check: |settings| {
        let keyless = settings.text("cosign") == Some(KEYLESS);
        let mut found: Vec<SettingProblem> = settings.text("cosign").and_then(key_problem).into_iter().collect();
        if !keyless && settings.text("public-key").is_none() {
            let what = "a `sign` step needs `public-key`".to_owned();
            let hint = "name the public key that verifies the signatures, or set `cosign = \"keyless\"`".to_owned();
            found.push(SettingProblem { setting: None, what, hint: Some(hint) });
        }
        for name in ["identity", "issuer"] {
            match (keyless, settings.text(name)) {
                (true, None) => found.push(SettingProblem {
                    setting: None,
                    what: format!("a `sign` step with `cosign = \"keyless\"` needs `{name}`"),
                    hint: Some("`verify` accepts no other signer".to_owned()),
                }),
                (false, Some(_)) => {
                    found.push(SettingProblem::new(
                        name,
                        format!("`step.{name}` has no effect without `cosign = \"keyless\"`"),
                    ));
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        found
    },
    waits: Waits::Before,
    attaches: true,
};

/// Settings of `scan` that the command has too.
pub const FAIL_ON: &[&str] = &["never", "unknown", "low", "medium", "high", "critical"];

/// Looks vulnerabilities up.
pub const SCAN: Description = Description {
    name: "scan",
    about: "looks up known vulnerabilities of every Python package, Debian package and crate in the image",
    tools: &[],
    settings: &[
        PolicyKey::plugin(
            "database",
            ValueKind::Text,
            Default::Required,
            "records in the OSV format: a folder or a file of the repository or of this machine (`.zip`, `.json`), the URL of a mirror with `ECOSYSTEM/all.zip`, or the URL of a service, which ends with `/v1`",
        ),
        PolicyKey::plugin(
            "public-key",
            ValueKind::Path,
            Default::None,
            "PEM file of a public key, ECDSA P-256, that signed each archive of the database: `cosign sign-blob` wrote `FILE.sig` next to it",
        ),
        PolicyKey::plugin(
            "fail-on",
            ValueKind::Choice(FAIL_ON),
            Default::Text("high"),
            "mildest severity that stops the image",
        ),
        PolicyKey::plugin(
            "only-fixed",
            ValueKind::Boolean,
            Default::Toml("false"),
            "stop only for what a newer version fixes",
        ),
        PolicyKey::plugin(
            "vex",
            ValueKind::Paths,
            Default::None,
            "OpenVEX documents of the repository: which vulnerabilities do not count, why, and until when (`expires`)",
        ),
    ],
    check: |settings| {
        let database = settings.text("database").unwrap_or_default();
        let service = database.contains("://") && database.trim_end_matches('/').ends_with("/v1");
        let mut found = Vec::new();
        if database.contains("://") && !database.starts_with("https://") && !database.starts_with("http://") {
            found.push(
                SettingProblem::new("database", "`step.database` is not an address of http or https")
                    .hint("name a folder, a file, or `https://HOST/PATH`"),
            );
        }
        if database.split("://").nth(1).is_some_and(|rest| rest.split('/').next().unwrap_or_default().contains('@')) {
            found.push(SettingProblem::new("database", "`step.database` has a user name or a password in it"));
        }
        if service && settings.get("public-key").is_some() {
            found.push(
                SettingProblem::new("public-key", "`step.public-key` has no effect with a service: it has no archives")
                    .hint("use a mirror or files"),
            );
        }
        found
    },
    waits: Waits::Nothing,
    attaches: false,
};

/// The plugins that every xtask has, in the order of the reference.
pub const BUILT_IN: [&Description; 6] = [&SMOKE, &SIZE_BUDGET, &SBOM, &SCAN, &PROVENANCE, &SIGN];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn key(key: &str, problem: Option<&str>) {
        let found = key_problem(key).map(|problem| problem.what);
        assert!(found.as_deref().unwrap_or_default().contains(problem.unwrap_or_default()), "{found:?}");
        assert_eq!(found.is_some(), problem.is_some(), "{key}: {found:?}");
        assert!(!found.unwrap_or_default().contains("1234"), "a secret is repeated");
    }

    #[test]
    fn keys_of_services_and_tokens_are_known_and_have_no_password() {
        for good in
            ["keys/cosign.key", "keyless", "awskms:///alias/sign", "pkcs11:token=a;slot-id=1", "k8s://ns/secret"]
        {
            key(good, None);
        }
        key("pkcs11:token=a?pin-value=1234", Some("has a password"));
        key("hashivault://user:1234@vault/key", Some("has a password"));
        key("ftp://host/key", Some("is not a key"));
    }
}
