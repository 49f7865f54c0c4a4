//! Build requirements of source distributions, resolved by uv and pinned with hashes: wheels alone.

use super::{Cooldown, Indexes, Uv, run, save};
use crate::scratch::Scratch;
use xtask_model::fault::Fault;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::lock::sources::SourcePin;

/// Build requirements of one source, to resolve.
pub struct BuildRequest<'a> {
    /// As `build-system.requires` has them.
    pub requires: &'a [String],
    pub indexes: &'a Indexes,
    /// The oldest Python that is built for: `3.12`.
    pub python: &'a str,
    /// Pins of before, which stay where they fit.
    pub before: &'a [LockedPackage],
    pub cooldown: Option<&'a Cooldown>,
    /// Names the source in errors.
    pub needed_by: &'a str,
}

impl Uv {
    /// Pins build requirements, sorted.
    ///
    /// # Errors
    /// Requirements that cannot be read or fulfilled by wheels (usage), an index that cannot be reached (network).
    pub fn build_requirements(&self, request: &BuildRequest<'_>) -> Result<Vec<LockedPackage>, Fault> {
        if request.requires.is_empty() {
            return Ok(Vec::new());
        }
        let folder = Scratch::new().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let (source, out) = (folder.path().join("build.txt"), folder.path().join("build.lock"));
        save(&source, &request.requires.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        if !request.before.is_empty() {
            let pin = SourcePin { build: request.before.to_vec(), ..SourcePin::default() };
            save(&out, &pin.build_lines().iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
        let command = self
            .installing(request.indexes)
            .args(["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"])
            .args(["--only-binary", ":all:", "--python-version", request.python])
            .arg("--output-file")
            .arg(&out);
        let command = if request.indexes.no_index() { command.arg("--no-index") } else { command };
        let command = match request.cooldown {
            Some(cooldown) => cooldown.limit(command),
            None => command,
        };
        run(&command.arg("--").arg(&source).current_dir(folder.path()), request.needed_by)?;
        let text = std::fs::read_to_string(&out).map_err(|error| Fault::build("uv wrote no lock").cause(error))?;
        let wrong =
            |why: &str| Fault::usage(format!("cannot pin the build requirements of {}", request.needed_by)).cause(why);
        let build = SourcePin::parse_build(&[text]).map_err(|why| wrong(&why))?;
        match build.iter().find(|package| package.url.is_some()) {
            Some(package) => {
                Err(wrong(&format!("`{}` is a URL, and build requirements are wheels of an index", package.name)))
            }
            None => Ok(build),
        }
    }
}
