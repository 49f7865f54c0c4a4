//! Output of `init`, staged in a folder of its own, to check it as a build and a lock would. Nothing is built.

use xtask_host::scratch::Scratch;
use xtask_host::terminal;
use xtask_host::tree::adoption::Survey;
use xtask_host::tree::facts::{self, Tree};
use xtask_host::tree::uv::{self, Request as Resolution, Upgrade};
use xtask_model::adopt::NewFile;
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::ImageKind;
use xtask_model::spec::lock::Lock;
use xtask_model::spec::lock::formats::Format;
use xtask_native::preflight;

/// The repository's new files in a folder of their own, to ask the same questions as a build does.
pub(super) struct Staged {
    folder: Scratch,
    /// One for each app.
    trees: Vec<Tree>,
}

impl Staged {
    pub(super) fn new(survey: &Survey, files: &[NewFile]) -> Result<Self, Fault> {
        let cannot = |error: std::io::Error| Fault::build("cannot make a temporary folder").cause(error);
        let folder = Scratch::new().map_err(cannot)?;
        let put = |path: &str, bytes: &[u8]| -> std::io::Result<()> {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            std::fs::write(path, bytes)
        };
        // What a resolution reads.
        let inputs = survey
            .files
            .iter()
            .filter(|path| [".txt", ".in", ".toml", ".lock", ".cfg", "setup.py"].iter().any(|end| path.ends_with(end)));
        for path in inputs.take(500) {
            // As it is: pip reads other encodings too.
            let from = survey.root.join(path);
            let is_text = std::fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file() && meta.len() < 16_000_000);
            if let (true, Ok(bytes)) = (is_text, std::fs::read(from)) {
                put(path, &bytes).map_err(cannot)?;
            }
        }
        for file in files {
            put(&file.path, file.text.as_bytes()).map_err(cannot)?;
        }
        let trees = Tree::all(None, Box::new(folder.path().to_owned()), &[])?;
        Ok(Self { folder, trees })
    }

    /// Checks that the engine of the policy can build what was written.
    pub(super) fn engines(&self, needs_docker: bool) -> Result<(), Fault> {
        let check = |tree: &Tree| {
            let platforms = &tree.policy.project.platforms;
            preflight::check(tree, ImageKind::Base, platforms)
                .and_then(|()| preflight::check(tree, ImageKind::App, platforms))
        };
        match self.trees.iter().try_for_each(check) {
            Ok(()) if self.trees.len() == 1 => terminal::step("engines", "docker and native can build both images"),
            Ok(()) => terminal::step("engines", "docker and native can build all images"),
            Err(_) if needs_docker => {
                terminal::step("engines", "only docker can build the images, because of the lines above");
            }
            Err(fault) => return Err(fault.needed_by("the native engine, which the new policy names")),
        }
        Ok(())
    }

    /// Reports packages without a wheel, by resolving the requirements; true if there are some. Nothing is built, and nothing is written to the
    /// repository.
    pub(super) fn wheels(&self, offline: bool) -> bool {
        let unknown = |why: &str| terminal::step("wheels", &format!("unknown: {why}; `cargo xtask lock` checks them"));
        if offline {
            unknown("`--offline`");
            return false;
        }
        let mut lacks = false;
        for (index, tree) in self.trees.iter().enumerate() {
            let base = &tree.policy.base.name;
            if !self.trees[..index].iter().any(|other| other.policy.base.name == *base) {
                lacks |= self.wheels_of(tree, &unknown);
            }
        }
        lacks
    }

    fn wheels_of(&self, tree: &Tree, unknown: &dyn Fn(&str)) -> bool {
        match self.without_wheel(tree) {
            Ok((packages, missing)) if missing.is_empty() => {
                terminal::step("wheels", &format!("all {packages} packages have one for every target"));
            }
            Ok((_, missing)) => {
                for package in &missing {
                    terminal::step("no wheel", package);
                }
                terminal::warn(
                    "packages without a wheel are built once from source: `cargo xtask lock` pins how, and says which need compilers",
                );
                return true;
            }
            Err(fault) if fault.exit == Exit::Network || fault.exit == Exit::Missing => unknown(&fault.what),
            Err(fault) => terminal::warn(&format!("the packages cannot be locked: {fault}")),
        }
        false
    }

    fn without_wheel(&self, tree: &Tree) -> Result<(usize, Vec<String>), Fault> {
        let base = &tree.policy.base;
        // An earlier lock may say how they are built, with the compilers of an earlier policy.
        let missing = |lock: &Lock| {
            let shown = facts::wheels::without_wheel(tree, lock)?.into_iter().map(|(_, shown)| shown);
            Ok((lock.packages.len(), shown.collect()))
        };
        if base.format() != Format::Pip {
            let lock = facts::lock(tree)?;
            return missing(&lock);
        }
        let uv = uv::find(&tree.root, &[]).or_else(|_| {
            terminal::step("installing", "uv, which is not on `PATH`, for this check");
            uv::install(self.folder.path())
        })?;
        let resolution = Resolution {
            root: self.folder.path(),
            requirements: &base.requirements,
            selection: &base.selection,
            lock: base.lock.as_ref(),
            python: &tree.policy.root.python,
            upgrade: &Upgrade::Keep,
        };
        let lock = Lock::parse(base.lock.as_ref(), &uv.resolve(&resolution)?)?;
        let records = uv.describe(&lock, &facts::indexes(tree)?, &facts::targets(tree)?)?;
        let lock = Lock { records, ..lock };
        missing(&lock)
    }
}
