//! Meaning of an error response: absent, refused, or not understood.
//!
//! Absent is said only by a registry's own error or by a 404 of something that has proved to be a registry.

use crate::http::transport::{HttpResponse, SHORT, status as answered};
use serde::Deserialize;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Repository;

/// The distribution specification's error body.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    code: String,
    message: Option<String>,
}

/// An answer that was not the wanted one, read to its end.
pub(in crate::registry) struct ErrorResponse {
    pub(in crate::registry) status: u16,
    /// `MANIFEST_UNKNOWN` and the like; empty where the body is not a registry's.
    pub(in crate::registry) codes: Vec<String>,
    /// In words, without secrets.
    pub(in crate::registry) cause: String,
}

impl ErrorResponse {
    pub(in crate::registry) fn read(reply: HttpResponse) -> Self {
        let (status, mut cause) = (reply.status, answered(&reply));
        let body = reply.bytes(SHORT).unwrap_or_default();
        let errors = serde_json::from_slice::<Errors>(&body).map(|errors| errors.errors).unwrap_or_default();
        let said: Vec<String> = errors
            .iter()
            .map(|error| match error.message.as_deref().map(printable).filter(|message| !message.is_empty()) {
                Some(message) => format!("{}: {message}", printable(&error.code)),
                None => printable(&error.code),
            })
            .collect();
        if !said.is_empty() {
            cause.push_str(&format!(" ({})", said.join("; ")));
        }
        Self {
            status,
            codes: errors.into_iter().map(|error| error.code).filter(|code| !code.is_empty()).collect(),
            cause,
        }
    }

    /// True if the registry itself says that there is no such thing; `None` where a 404 does not say who speaks.
    pub(in crate::registry) fn absent(&self) -> Option<bool> {
        const ABSENT: [&str; 4] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"];
        match self.status {
            404 if self.codes.is_empty() => None,
            404 => Some(self.codes.iter().any(|code| ABSENT.contains(&code.as_str()))),
            _ => Some(false),
        }
    }

    pub(in crate::registry) fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|known| known == code)
    }

    pub(in crate::registry) fn fault(&self, what: &str) -> Fault {
        Fault::network(what).cause(&self.cause)
    }
}

/// Adds that a repository has to be created before anything is pushed to it, and how: some registries create none by themselves.
pub(in crate::registry) fn create_hint(fault: Fault, repository: &Repository) -> Fault {
    fault.hint(create(repository.registry(), repository.path()))
}

fn create(registry: &str, path: &str) -> String {
    let labels: Vec<&str> = registry.split('.').collect();
    let command = match labels.as_slice() {
        [_, "dkr", "ecr" | "ecr-fips", region, "amazonaws", ..] => {
            format!("aws ecr create-repository --repository-name {path} --region {region}")
        }
        ["public", "ecr", "aws"] => {
            // The first part is the registry's alias.
            let name = path.split_once('/').map_or(path, |(_, name)| name);
            format!("aws ecr-public create-repository --repository-name {name} --region us-east-1")
        }
        [host, "pkg", "dev"] if host.ends_with("-docker") => {
            let location = host.trim_end_matches("-docker");
            let mut parts = path.split('/');
            let (project, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!(
                "gcloud artifacts repositories create {name} --repository-format=docker --location={location} --project={project}"
            )
        }
        _ => {
            return format!(
                "create the repository `{path}` in `{registry}`, and one for every other image of the policy"
            );
        }
    };
    format!("create it, and one for every other image of the policy: `{command}`")
}

/// One line of a foreign text, short enough for a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The fault of an answer that is not the wanted one.
pub(in crate::registry) fn refused(what: &str, reply: HttpResponse) -> Fault {
    ErrorResponse::read(reply).fault(what)
}

/// Adds what a person can do about a 401 or 403.
pub(in crate::registry) fn login_hint(fault: Fault, registry: &str, anonymous: bool) -> Fault {
    let login = if registry == "docker.io" { "docker login".to_owned() } else { format!("docker login {registry}") };
    let fault = if anonymous {
        fault.hint(format!("not logged in: `{login}`"))
    } else {
        fault.hint(format!("the account may lack the permission, or its password may have expired: `{login}`"))
    };
    // ghcr.io and docker.io give the same answer for a missing repository.
    fault.hint(
        "registries give the same answer for a repository that does not exist: check its name, or create it by pushing",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_created_in_its_registrys_own_way() {
        for (registry, path, says) in [
            (
                "123.dkr.ecr.eu-central-1.amazonaws.com",
                "acme/app-base",
                "`aws ecr create-repository --repository-name acme/app-base --region eu-central-1`",
            ),
            ("123.dkr.ecr-fips.us-east-1.amazonaws.com", "app", "--repository-name app --region us-east-1`"),
            ("123.dkr.ecr.cn-north-1.amazonaws.com.cn", "app", "--region cn-north-1`"),
            (
                "public.ecr.aws",
                "a1b2/app",
                "`aws ecr-public create-repository --repository-name app --region us-east-1`",
            ),
            (
                "europe-west1-docker.pkg.dev",
                "acme/images/app",
                "create images --repository-format=docker --location=europe-west1 --project=acme`",
            ),
            ("registry.example", "acme/app", "create the repository `acme/app` in `registry.example`"),
        ] {
            let hint = create(registry, path);
            assert!(hint.contains(says), "{hint}");
        }
    }
}
