//! The identity of a job in CI: a token of OIDC for which Sigstore gives a certificate.
//!
//! The token is never an argument, and no error repeats it.

use crate::clock;
use crate::http::Limits;
use crate::http::answer::until_answered;
use crate::http::deadline::Deadline;
use crate::http::proxy::Proxies;
use crate::http::retry::Retry;
use crate::http::transport::{HttpRequest, Payload, Reach, Transport, Trust, status};
use crate::http::url::Url;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use ureq::http::Method;
use xtask_model::fault::Fault;

/// Variable with a token, which cosign reads too.
pub const TOKEN: &str = "SIGSTORE_ID_TOKEN";
/// Variables by which a job of GitHub gets a token.
pub const REQUEST: [&str; 2] = ["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"];

/// The audience for which Sigstore wants a token.
const AUDIENCE: &str = "sigstore";

/// No answer with a token is longer.
const LONGEST: u64 = 1 << 20;

/// Issuer of the tokens of GitHub, whose certificates name the workflow.
const GITHUB: &str = "https://token.actions.githubusercontent.com";

/// Issuer of the tokens of GitLab, whose certificates name the file of the pipeline.
const GITLAB: &str = "https://gitlab.com";

const ELSEWHERE: &str = "elsewhere, set `SIGSTORE_ID_TOKEN` to a token for the audience `sigstore`";

/// A token that has not ended.
pub struct Identity {
    token: String,
    claims: Value,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Takes the token of a variable, or asks GitHub for one.
    ///
    /// # Errors
    /// There is none, it cannot be brought, it has ended, or it is for another audience.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let token = match (set(TOKEN), REQUEST.map(set)) {
            (Some(token), _) => token,
            (None, [Some(address), Some(secret)]) => request(&address, &secret)?,
            (None, [one, _]) => {
                let missing = if one.is_none() { REQUEST[0] } else { REQUEST[1] };
                return Err(Fault::usage("there is no identity to sign with")
                    .cause(format!("neither `{TOKEN}` nor `{missing}` is set"))
                    .hint("in a workflow of GitHub, give the job `permissions: id-token: write`; in a job of GitLab, `id_tokens`")
                    .hint(ELSEWHERE));
            }
        };
        let identity = Self::parse(token)
            .ok_or_else(|| Fault::usage("the token of the identity is not a JSON Web Token").hint(ELSEWHERE))?;
        identity.check()?;
        Ok(identity)
    }

    fn parse(token: String) -> Option<Self> {
        let token = token.trim().to_owned();
        let [_, payload, _] = token.split('.').collect::<Vec<_>>()[..] else { return None };
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        claims.is_object().then_some(Self { token, claims })
    }

    fn check(&self) -> Result<(), Fault> {
        let audience = &self.claims["aud"];
        let named = audience.as_str().map(|one| vec![one]);
        let named =
            named.unwrap_or_else(|| audience.as_array().into_iter().flatten().filter_map(Value::as_str).collect());
        if !named.contains(&AUDIENCE) {
            return Err(Fault::usage("the token of the identity is for another audience")
                .cause(format!("it is for `{}`, not for `{AUDIENCE}`", named.join("`, `")))
                .hint(ELSEWHERE));
        }
        let ends = self.claims["exp"].as_i64();
        if ends.is_some_and(|ends| ends <= clock::now().as_second()) {
            return Err(
                Fault::usage("the token of the identity has ended").hint("take a new one just before the build")
            );
        }
        Ok(())
    }

    /// The token itself, for the environment of cosign.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The service that made it.
    pub fn issuer(&self) -> &str {
        self.claims["iss"].as_str().unwrap_or_default()
    }

    /// The identity that a certificate will name, where that follows from the token: the workflow, for GitHub; for GitLab, the file
    /// of the pipeline.
    pub fn name(&self) -> Option<String> {
        let claim = |name: &str| self.claims[name].as_str();
        match self.issuer() {
            GITHUB => Some(format!("https://github.com/{}", claim("job_workflow_ref")?)),
            GITLAB => Some(format!("https://{}", claim("ci_config_ref_uri")?)),
            _ => None,
        }
    }
}

/// Asks GitHub for a token.
fn request(address: &str, secret: &str) -> Result<String, Fault> {
    let what = "cannot get a token for the identity of this job";
    let [name, _] = REQUEST;
    let url = Url::parse(address).ok_or_else(|| Fault::usage(what).cause(format!("`{name}` is not an address")))?;
    let url = url.query([("audience", AUDIENCE)]);
    let limits = Limits::default();
    let transport = Transport::new(&limits, &Proxies::from_env(), Reach::Listed(BTreeSet::new()), Trust::Host);
    let send = |deadline: &Deadline| {
        let headers = vec![("authorization", format!("bearer {secret}")), ("accept", "application/json".to_owned())];
        Ok(transport
            .exchange(&HttpRequest { method: Method::GET, url: &url, headers, payload: Payload::None }, deadline))
    };
    until_answered(
        what,
        Retry::new(&limits),
        |_| None,
        send,
        |reply, _| {
            if reply.status != 200 {
                // A redirect would take the secret elsewhere.
                return Err(Fault::network(what)
                    .cause(status(&reply))
                    .hint("give the job `permissions: id-token: write`; jobs of forks get none"));
            }
            let bytes = match reply.bytes(LONGEST) {
                Ok(bytes) => bytes,
                Err(broken) => return Ok(ControlFlow::Continue(broken)),
            };
            let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
            let token = answer.and_then(|answer| answer["value"].as_str().map(str::to_owned));
            token.map(ControlFlow::Break).ok_or_else(|| Fault::network(what).cause("the answer has no `value`"))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[track_caller]
    fn of(claims: &Value) -> Result<Identity, Fault> {
        let token = token(claims);
        Identity::of_environment(&|name| (name == TOKEN).then(|| token.clone()))
    }

    #[test]
    fn a_token_is_for_sigstore_and_has_not_ended() {
        let ends = clock::now().as_second() + 300;
        let good = json!({"aud": "sigstore", "exp": ends, "iss": GITHUB, "job_workflow_ref": "acme/app/.github/workflows/ci.yml@refs/heads/main"});
        let identity = of(&good).unwrap();
        assert_eq!(
            identity.name().as_deref(),
            Some("https://github.com/acme/app/.github/workflows/ci.yml@refs/heads/main")
        );
        assert!(!format!("{identity:?}").contains(identity.token()));
        let gitlab = of(
            &json!({"aud": "sigstore", "iss": GITLAB, "ci_config_ref_uri": "gitlab.com/acme/app//.gitlab-ci.yml@refs/heads/main"}),
        );
        assert_eq!(
            gitlab.unwrap().name().as_deref(),
            Some("https://gitlab.com/acme/app//.gitlab-ci.yml@refs/heads/main")
        );
        let other = of(&json!({"aud": ["a", "sigstore"], "iss": "https://gitlab.example.com"})).unwrap();
        assert_eq!((other.issuer(), other.name()), ("https://gitlab.example.com", None));
        for (claims, why) in [
            (json!({"aud": "npm", "exp": ends}), "another audience"),
            (json!({"exp": ends}), "another audience"),
            (json!({"aud": "sigstore", "exp": 1}), "has ended"),
            (json!([]), "not a JSON Web Token"),
        ] {
            let said = of(&claims).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains(&token(&claims)), "{said}");
        }
    }

    #[test]
    fn without_a_token_the_permission_is_named() {
        let said = Identity::of_environment(&|_| None).unwrap_err().to_string();
        assert!(said.contains("id-token: write") && said.contains("ACTIONS_ID_TOKEN_REQUEST_URL"), "{said}");
        let half = |name: &str| (name == REQUEST[0]).then(|| "https://example.com".to_owned());
        assert!(Identity::of_environment(&half).unwrap_err().to_string().contains("ACTIONS_ID_TOKEN_REQUEST_TOKEN"));
    }
}
