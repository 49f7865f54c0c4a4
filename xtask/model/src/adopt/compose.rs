//! Builds in compose files: the `build` of each service, by the Compose Specification.
//!
//! Pure. Values with variables are left out.

use super::paths::absolute;
use yaml_rust2::{Yaml, YamlLoader};

/// A build of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceBuild {
    pub service: String,
    /// Path from the repository's root; empty at the top.
    pub context: String,
    /// Path from the repository's root.
    pub dockerfile: String,
    /// The stage that is built, if it is not the last one.
    pub target: Option<String>,
}

/// True for `compose.yaml`, `docker-compose.yml` and those with a word between, such as `compose.prod.yaml`.
pub fn is_compose(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.strip_suffix(".yaml").or(name.strip_suffix(".yml"));
    name.is_some_and(|name| ["compose", "docker-compose"].contains(&name.split('.').next().unwrap_or_default()))
}

/// The builds of a compose file at this path.
///
/// # Errors
/// The parser's words about a file that is not YAML.
pub fn builds(path: &str, text: &str) -> Result<Vec<ServiceBuild>, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let services = documents.first().and_then(|document| document["services"].as_hash());
    let build = |(name, service): (&Yaml, &Yaml)| {
        let build = &service["build"];
        let plain = |key: &str| match &build[key] {
            Yaml::BadValue | Yaml::Null => Some(None),
            value => value.as_str().filter(|text| !text.contains('$')).map(|text| Some(text.to_owned())),
        };
        let context = match build.as_str() {
            Some(context) => Some(context.to_owned()).filter(|context| !context.contains('$')),
            None if build.as_hash().is_some() => Some(plain("context")?.unwrap_or_else(|| ".".to_owned())),
            None => None,
        };
        let context = context.filter(|context| !context.contains(':') && !context.starts_with('/'))?;
        let context = absolute(&format!("/{folder}"), &context);
        let dockerfile = absolute(&context, &plain("dockerfile")?.unwrap_or_else(|| "Dockerfile".to_owned()));
        let from_root = |path: String| path.trim_start_matches('/').to_owned();
        Some(ServiceBuild {
            service: name.as_str()?.to_owned(),
            context: from_root(context),
            dockerfile: from_root(dockerfile),
            target: plain("target")?,
        })
    };
    Ok(services.into_iter().flatten().filter_map(build).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_compose_files_are_known() {
        for (path, expected) in [
            ("compose.yaml", true),
            ("deploy/docker-compose.yml", true),
            ("docker-compose.prod.yml", true),
            ("decompose.yaml", false),
            ("compose.txt", false),
            ("compose", false),
        ] {
            assert_eq!(is_compose(path), expected, "{path}");
        }
    }

    #[test]
    fn builds_are_read_with_their_folders() {
        let text = "\
services:
  short: { build: ./api }
  long:
    build:
      context: ..
      dockerfile: docker/web.Dockerfile
      target: production
  merged:
    build: &build { context: . }
  other: { build: *build }
  image: { image: redis }
  variable: { build: { context: '${WHERE}' } }
  far: { build: https://example.com/x.git }
  staged: { build: { context: ., target: '${STAGE:-dev}' } }
";
        let found = builds("deploy/compose.yaml", text).unwrap();
        let found: Vec<_> =
            found.iter().map(|one| (&*one.service, &*one.context, &*one.dockerfile, one.target.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("short", "deploy/api", "deploy/api/Dockerfile", None),
                ("long", "", "docker/web.Dockerfile", Some("production")),
                ("merged", "deploy", "deploy/Dockerfile", None),
                ("other", "deploy", "deploy/Dockerfile", None),
            ]
        );
        assert_eq!(builds("compose.yaml", "x: 1\n"), Ok(Vec::new()));
        assert_eq!(builds("compose.yaml", ""), Ok(Vec::new()));
        assert!(builds("compose.yaml", "a: [").is_err());
    }
}
