//! Variables: which `ARG` and `ENV` hold where, and instructions with their values in place.
//!
//! Pure. Only stages that the target reaches are expanded, as BuildKit does: an error in another stage is not reported.

use super::ParseError;
use super::instruction::{Instruction, Kind, Transfer};
use super::limits::Budget;
use super::lines::Heredoc;
use super::words::{self, Quoting};
use super::{Dockerfile, Stage};
use crate::fault::Fault;
use crate::spec::reference::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// The stages that the target reaches, in order, with values in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The stages, the target last. `ONBUILD` triggers of a stage are where they run: at the start of those built on it.
    pub stages: Vec<Stage>,
}

/// Environment and triggers of an image that a stage is built on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    pub env: Vec<(String, String)>,
    /// Its `ONBUILD` triggers, as they are written.
    pub triggers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageBase {
    pub stage: usize,
    /// The image or stage in its `FROM`, expanded.
    pub base: String,
    /// Its `--platform`, with values in place.
    pub platform: Option<String>,
    /// The number of the stage that `FROM` names; `None` for an image and for `scratch`.
    pub on: Option<usize>,
}

/// Environment and triggers of the base image of a stage, by the stage's number.
type Images<'a> = &'a dyn Fn(usize) -> Option<Inherited>;

#[derive(Clone, Debug, Default)]
struct Scope {
    /// The last of `ARG` and `ENV` holds. The documentation says that `ENV` always does; in words, BuildKit disagrees.
    values: BTreeMap<String, String>,
    triggers: Vec<Instruction>,
    /// True if everything it builds on is in this file, so that no variable can come from elsewhere.
    closed: bool,
}

impl Inherited {
    /// Environment of `scratch`: the `PATH` that BuildKit gives every image without one.
    fn scratch() -> Self {
        Self { env: vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())], triggers: Vec::new() }
    }
}

/// `PATH` of an image that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Scope {
    fn bytes(&self) -> usize {
        self.values.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn over(image: Inherited, triggers: Vec<Instruction>) -> Self {
        Self { values: image.env.into_iter().collect(), triggers, closed: true }
    }
}

impl Dockerfile {
    /// The stages that the target reaches, with the values of `args` (`--build-arg`) in place.
    pub fn expand(&self, args: &BTreeMap<String, String>, platform: &Platform) -> Result<Expanded, Fault> {
        self.expand_over(args, platform, &|_| None)
    }

    /// The same where it is known what images bring into the stages, by their numbers, that are built on them.
    pub fn expand_over(
        &self,
        args: &BTreeMap<String, String>,
        platform: &Platform,
        images: Images<'_>,
    ) -> Result<Expanded, Fault> {
        self.expanded(args, platform, images).map_err(|problem| self.fault(&problem))
    }

    /// The names of all arguments that the file declares, in whatever stage.
    pub fn declared(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for instruction in self.globals.iter().chain(self.stages.iter().flat_map(|stage| &stage.instructions)) {
            let kind = match &instruction.kind {
                Kind::Onbuild(inner) => &inner.kind,
                kind => kind,
            };
            if let Kind::Arg(pairs) = kind {
                names.extend(pairs.iter().map(|(name, _)| name.as_str()));
            }
        }
        names
    }

    /// True if an argument has an effect without being declared: proxies, and what BuildKit itself reads.
    pub fn is_predefined(name: &str) -> bool {
        let upper = name.to_ascii_uppercase();
        ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"].contains(&upper.as_str())
            || name == "SOURCE_DATE_EPOCH"
            || name.starts_with("BUILDKIT_")
            || ["TARGET", "BUILD"].iter().any(|prefix| {
                name.strip_prefix(prefix).is_some_and(|rest| ["PLATFORM", "OS", "ARCH", "VARIANT"].contains(&rest))
            })
    }

    pub fn stage_bases(&self, args: &BTreeMap<String, String>, platform: &Platform) -> Result<Vec<StageBase>, Fault> {
        let found = || {
            let budget = Budget::default();
            let headers = self.headers(&self.globals_with(args, platform, &budget)?, &budget)?;
            let base = |index: usize| {
                let Stage { base, platform, .. } = headers[index].clone();
                StageBase { stage: index, on: self.find_stage(&base, index), base, platform }
            };
            Ok(self.reached(&headers)?.into_iter().map(base).collect())
        };
        found().map_err(|problem: ParseError| self.fault(&problem))
    }

    /// The stages that a stage's instructions copy from, those of its base's triggers too.
    pub fn copied_stages(&self, stage: usize, on: Option<usize>) -> BTreeSet<usize> {
        let own = self.stages[stage].instructions.iter();
        let inherited = on.into_iter().flat_map(|base| triggers(&self.stages[base]));
        let named = own.chain(inherited).flat_map(|instruction| stages_named(&instruction.kind));
        named.filter_map(|name| self.find_stage(name, stage)).collect()
    }

    /// Instructions of an image's triggers, with the stage's line.
    fn inherited(&self, triggers: &[String], line: usize) -> Result<Vec<Instruction>, ParseError> {
        let read = |text: &String| {
            let wrong = |_| {
                ParseError::new(line, 1, format!("cannot read the image's trigger `ONBUILD {text}`"))
                    .hint("rebuild that image without it")
            };
            let file = Dockerfile::parse(&self.path, &format!("FROM scratch\n{text}\n")).map_err(wrong)?;
            Ok(file.stages[0]
                .instructions
                .iter()
                .map(|found| Instruction { line, ..found.clone() })
                .collect::<Vec<_>>())
        };
        let read: Result<Vec<_>, ParseError> = triggers.iter().map(read).collect();
        Ok(read?.concat())
    }

    fn expanded(
        &self,
        args: &BTreeMap<String, String>,
        platform: &Platform,
        images: Images<'_>,
    ) -> Result<Expanded, ParseError> {
        let budget = Budget::default();
        let globals = self.globals_with(args, platform, &budget)?;
        let headers = self.headers(&globals, &budget)?;
        let reached = self.reached(&headers)?;
        let mut scopes: BTreeMap<usize, Scope> = BTreeMap::new();
        let mut stages = Vec::new();
        for index in reached {
            let mut stage = headers[index].clone();
            let mut scope = match self.find_stage(&stage.base, index) {
                Some(base) => {
                    let inherited = scopes.get(&base).cloned().unwrap_or_default();
                    budget.spend(inherited.bytes()).map_err(|why| ParseError::new(stage.line, 1, why))?;
                    inherited
                }
                None if stage.base == "scratch" => Scope::over(Inherited::scratch(), Vec::new()),
                None => match images(index) {
                    Some(image) => {
                        let triggers = self.inherited(&image.triggers, stage.line)?;
                        Scope::over(image, triggers)
                    }
                    None => Scope::default(),
                },
            };
            let triggers = std::mem::take(&mut scope.triggers);
            for instruction in triggers.iter().chain(&self.stages[index].instructions) {
                let work = Expander { escape: self.escape, given: args, globals: &globals, budget: &budget };
                stage.instructions.push(work.step(instruction, &mut scope)?);
            }
            scopes.insert(index, scope);
            stages.push(stage);
        }
        Ok(Expanded { stages })
    }

    /// Global arguments: the platform's, then those of the file, each overridden by what is given.
    fn globals_with(
        &self,
        given: &BTreeMap<String, String>,
        platform: &Platform,
        budget: &Budget,
    ) -> Result<BTreeMap<String, String>, ParseError> {
        let mut globals = predefined(platform, self.stages[self.target].name.as_deref());
        for (name, value) in &mut globals {
            if let Some(given) = given.get(name) {
                value.clone_from(given);
            }
        }
        for instruction in &self.globals {
            let Kind::Arg(pairs) = &instruction.kind else { continue };
            for (name, default) in pairs {
                let value = match (given.get(name), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(default)) => Some(word(default, self.escape, instruction.line, (&globals, budget))?),
                    (None, None) => None,
                };
                globals.extend(value.map(|value| (name.clone(), value)));
            }
        }
        Ok(globals)
    }

    /// The stages without their instructions, `FROM` expanded.
    fn headers(&self, globals: &BTreeMap<String, String>, budget: &Budget) -> Result<Vec<Stage>, ParseError> {
        let header = |stage: &Stage| {
            let base = word(&stage.base, self.escape, stage.line, (globals, budget))?;
            if base.is_empty() {
                let what = format!("`FROM {}` does not name an image", stage.base);
                return Err(
                    ParseError::new(stage.line, 1, what).hint("give the argument a default before the first `FROM`")
                );
            }
            let platform = stage
                .platform
                .as_ref()
                .map(|text| word(text, self.escape, stage.line, (globals, budget)))
                .transpose()?;
            Ok(Stage { base, platform, instructions: Vec::new(), ..stage.clone() })
        };
        self.stages.iter().map(header).collect()
    }

    /// Stages that the target needs, itself included, in order.
    fn reached(&self, headers: &[Stage]) -> Result<BTreeSet<usize>, ParseError> {
        let mut reached = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !reached.insert(index) {
                continue;
            }
            let base = self.find_stage(&headers[index].base, index);
            open.extend(base);
            let mut instructions: Vec<&Instruction> = self.stages[index].instructions.iter().collect();
            // Triggers of the base run here, and may name stages of their own.
            instructions.extend(base.into_iter().flat_map(|base| triggers(&self.stages[base])));
            for instruction in instructions {
                for name in stages_named(&instruction.kind) {
                    if name.contains('$') {
                        let what = "`--from` replaces no variables";
                        return Err(
                            ParseError::new(instruction.line, 1, what).hint("name a stage: `FROM $image AS name`")
                        );
                    }
                    open.extend(self.find_stage(name, index));
                }
            }
        }
        Ok(reached)
    }
}

fn triggers(stage: &Stage) -> impl Iterator<Item = &Instruction> {
    stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
        Kind::Onbuild(inner) => Some(&**inner),
        _ => None,
    })
}

fn stages_named(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Copy(transfer) => transfer.from.as_deref().into_iter().collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|mount| mount.from.as_deref()).collect(),
        _ => Vec::new(),
    }
}

/// Arguments that exist without being declared: before the first `FROM`, and in a stage once `ARG` names them.
fn predefined(target: &Platform, stage: Option<&str>) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", &Platform::host())] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    args.insert("TARGETSTAGE".to_owned(), stage.unwrap_or("default").to_owned());
    args
}

fn word(
    text: &str,
    escape: char,
    line: usize,
    (values, budget): (&BTreeMap<String, String>, &Budget),
) -> Result<String, ParseError> {
    let expanded = words::expand(text, escape, Quoting::default(), budget, &|name| values.get(name).cloned());
    expanded.map(|expanded| expanded.text).map_err(|why| ParseError::new(line, 1, why))
}

struct Expander<'a> {
    escape: char,
    given: &'a BTreeMap<String, String>,
    globals: &'a BTreeMap<String, String>,
    budget: &'a Budget,
}

struct InstructionWords<'a> {
    escape: char,
    line: usize,
    scope: &'a Scope,
    budget: &'a Budget,
    unset: BTreeSet<String>,
}

impl InstructionWords<'_> {
    fn expand(&self, text: &str, quoting: Quoting) -> Result<words::ExpandedWord, ParseError> {
        words::expand(text, self.escape, quoting, self.budget, &|name| self.scope.values.get(name).cloned())
            .map_err(|why| ParseError::new(self.line, 1, why))
    }

    fn one(&self, text: &mut String) -> Result<(), ParseError> {
        *text = self.expand(text, Quoting::default())?.text;
        Ok(())
    }

    fn all(&self, texts: &mut [String]) -> Result<(), ParseError> {
        texts.iter_mut().try_for_each(|text| self.one(text))
    }

    fn maybe(&self, text: &mut Option<String>) -> Result<(), ParseError> {
        text.as_mut().map_or(Ok(()), |text| self.one(text))
    }

    /// A path that is read: what is not set is remembered.
    fn read(&mut self, text: &mut String) -> Result<(), ParseError> {
        let expanded = self.expand(text, Quoting::default())?;
        *text = expanded.text;
        if !self.scope.closed {
            self.unset.extend(expanded.unset);
        }
        Ok(())
    }

    fn pairs(&self, pairs: &mut [(String, String)]) -> Result<(), ParseError> {
        pairs.iter_mut().try_for_each(|(name, value)| self.one(name).and_then(|()| self.one(value)))
    }

    fn transfer(&mut self, transfer: &mut Transfer) -> Result<(), ParseError> {
        for path in transfer.sources.iter_mut().chain(&mut transfer.excludes) {
            self.read(path)?;
        }
        for field in [&mut transfer.chown, &mut transfer.chmod, &mut transfer.checksum] {
            self.maybe(field)?;
        }
        for Heredoc { expand, content, .. } in &mut transfer.heredocs {
            if *expand {
                *content = self.expand(content, Quoting { no_quotes: true, ..Quoting::default() })?.text;
            }
        }
        self.one(&mut transfer.destination)
    }
}

impl Expander<'_> {
    fn step(&self, instruction: &Instruction, scope: &mut Scope) -> Result<Instruction, ParseError> {
        let mut done = instruction.clone();
        let (escape, line, budget) = (self.escape, instruction.line, self.budget);
        let mut words = InstructionWords { escape, line, scope, budget, unset: BTreeSet::new() };
        match &mut done.kind {
            Kind::Env(pairs) | Kind::Label(pairs) => words.pairs(pairs)?,
            Kind::Copy(transfer) | Kind::Add(transfer) => words.transfer(transfer)?,
            Kind::Run(run) => {
                for mount in &mut run.mounts {
                    mount.source.as_mut().map_or(Ok(()), |source| words.read(source))?;
                    words.maybe(&mut mount.target)?;
                    words.maybe(&mut mount.id)?;
                    mount.others.iter_mut().try_for_each(|(_, value)| words.one(value))?;
                }
            }
            Kind::Workdir(text) | Kind::User(text) | Kind::Stopsignal(text) => words.one(text)?,
            Kind::Volume(texts) => words.all(texts)?,
            Kind::Expose(texts) => {
                let mut ports = Vec::new();
                for text in texts.iter() {
                    ports.extend(words.expand(text, Quoting::default())?.words);
                }
                *texts = ports;
            }
            Kind::Arg(pairs) => {
                for (name, value) in pairs {
                    words.one(name)?;
                    // A default that is not used may ask for what is not set: `${FOO:?must be set}`.
                    if !self.given.contains_key(name) {
                        words.maybe(value)?;
                    }
                }
            }
            // BuildKit replaces nothing in these; a shell may, when they run.
            Kind::Shell(_) | Kind::Healthcheck(_) | Kind::Entrypoint(_) | Kind::Cmd(_) => {}
            Kind::Onbuild(_) | Kind::Maintainer(_) => {}
        }
        done.unset = words.unset.into_iter().collect();
        self.remember(&mut done.kind, scope);
        Ok(done)
    }

    fn remember(&self, kind: &mut Kind, scope: &mut Scope) {
        match kind {
            Kind::Env(pairs) => scope.values.extend(pairs.iter().cloned()),
            Kind::Arg(pairs) => {
                for (name, value) in pairs {
                    if let Some(given) = self.given.get(name) {
                        *value = Some(given.clone());
                    } else if value.is_none() {
                        *value = self.globals.get(name).cloned();
                    }
                    scope.values.extend(value.clone().map(|value| (name.clone(), value)));
                }
            }
            Kind::Onbuild(inner) => scope.triggers.push((**inner).clone()),
            _ => {}
        }
    }
}
