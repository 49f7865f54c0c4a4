//! The command line: reads it, calls the command, and reports a failure with its exit code. Nothing else.

use crate::flags::{BuildFlags, Command, Flags, Format, Global};
use crate::plugins::{self, Plugin};
use crate::{announce, commands, documents, pipeline};
use clap::{CommandFactory as _, Parser as _};
use std::io::Write as _;
use std::process::ExitCode;
use xtask_host::tree::facts;
use xtask_host::{process, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::record::report::ImageReport;
use xtask_native::container;

/// Runs `xtask` and returns its exit code.
pub fn main() -> ExitCode {
    main_with(&[])
}

/// Runs `xtask` with plugins of the repository's own.
pub fn main_with(plugins: &[&'static dyn Plugin]) -> ExitCode {
    plugins::register(plugins);
    if let Some(code) = container::dispatch() {
        return code;
    }
    dispatch(run)
}

/// Reads the command line and runs it by `run`: what every program with these flags does.
pub fn dispatch(run: fn(&Flags) -> anyhow::Result<ExitCode>) -> ExitCode {
    // Cargo repeats the name of a subcommand that is a program, `cargo-xtask`.
    let flags = Flags::parse_from(
        std::env::args_os().enumerate().filter(|(at, arg)| *at != 1 || arg != "xtask").map(|(_, arg)| arg),
    );
    terminal::set_volume(match (flags.global.quiet, flags.global.verbose) {
        (true, _) => terminal::Volume::Quiet,
        (_, true) => terminal::Volume::Verbose,
        _ => terminal::Volume::Normal,
    });
    let done = process::forward_signals().and_then(|()| run(&flags));
    hide_state(&flags.global);
    match done {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Has git ignore what this program leaves in `target`, whatever the repository's own `.gitignore` says.
fn hide_state(global: &Global) {
    let Ok(root) = facts::find_root(global.root.as_deref()) else { return };
    let (folder, file) = (root.join("target"), root.join("target/.gitignore"));
    if folder.is_dir() && !file.exists() {
        // A folder that cannot be written has no state to hide.
        let _ = std::fs::write(file, "# Written by xtask: its state does not belong to the repository.\n*\n");
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let global = &flags.global;
    let of_plan = match global.format {
        Format::Github => Some("github"),
        Format::Gitlab => Some("gitlab"),
        Format::Text | Format::Json => None,
    };
    if let Some(format) = of_plan.filter(|_| !matches!(flags.command, Command::Plan(_))) {
        return Err(Fault::usage(format!("`--format {format}` is for `plan`"))
            .hint(format!("use `--format json`, or `cargo xtask plan --format {format}`"))
            .into());
    }
    match &flags.command {
        Command::Build(build) => images(global, build, pipeline::Target::App)?,
        Command::BuildBase { build, analyze: true } if !build.dry_run => {
            commands::analyze::check(global)?;
            let done = pipeline::run(global, build, pipeline::Target::Base)?;
            announce::conclude(&done);
            commands::analyze::run(global, build, &done)?;
        }
        Command::BuildBase { build, .. } => images(global, build, pipeline::Target::Base)?,
        Command::BuildFast(build) => images(global, build, pipeline::Target::Fast)?,
        Command::BuildEnhanced(build) => images(global, build, pipeline::Target::Enhanced)?,
        Command::Plan(plan) => commands::plan::run(global, plan)?,
        Command::Explain { commit } => commands::explain::run(global, commit)?,
        Command::Lock { check: true, .. } => commands::lock::check(global)?,
        Command::Lock { upgrade, upgrade_package, cooldown, pull_request, .. } => {
            let wanted = commands::lock::Wanted { upgrade: *upgrade, packages: upgrade_package, cooldown: *cooldown };
            commands::lock::run(global, &wanted, *pull_request)?;
        }
        Command::Smoke { image } => commands::smoke::run(global, image.as_deref())?,
        Command::Sbom(sbom) => commands::sbom::run(global, sbom)?,
        Command::Scan(scan) => commands::scan::run(global, scan)?,
        Command::Verify { image, key } => commands::verify::run(global, image.as_deref(), key.as_deref())?,
        Command::Reproduce(reproduce) => commands::reproduce::run(global, reproduce)?,
        Command::Rebase(rebase) => commands::rebase::run(global, rebase)?,
        Command::Bundle(bundle) => commands::bundle::run(global, bundle)?,
        Command::Plugin(plugin) => commands::plugin::run(global, plugin)?,
        Command::Run { image, args } => return commands::run::run(global, image.as_deref(), args),
        Command::Watch(watch) => commands::watch::run(global, watch)?,
        Command::Init(init) => commands::init::run(global, init)?,
        Command::Doctor => commands::doctor::run(global)?,
        Command::Quickstart { yes, engine } => commands::quickstart::run(global, *yes, *engine)?,
        Command::Engine(engine) => commands::engine::run(global, engine)?,
        Command::Cluster(cluster) => commands::cluster::run(global, cluster)?,
        Command::Base(base) => commands::base::run(global, base)?,
        Command::Prune(prune) => commands::prune::run(global, prune)?,
        Command::Stats(stats) => commands::stats::run(global, stats)?,
        Command::Bench { .. } => return commands::bench::run(global),
        Command::Ci { only, part } => commands::ci::run(global, only.as_deref(), *part)?,
        Command::Test { filter, quick } => commands::test::run(global, filter.as_deref(), *quick)?,
        Command::Workflows { check } => commands::workflows::run(global, *check)?,
        Command::Reference { check } => commands::reference::run(global, *check)?,
        Command::Tidy => commands::tidy::run(global, &|_| true)?,
        Command::Clean { yes } => commands::clean::run(global, *yes)?,
        Command::Man { command } => commands::print(&commands::man::page(Flags::command(), command)?)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Flags::command(), "cargo-xtask", &mut script);
            commands::print(&String::from_utf8(script)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn images(global: &Global, flags: &BuildFlags, target: pipeline::Target) -> anyhow::Result<()> {
    let done = pipeline::run(global, flags, target)?;
    if flags.dry_run {
        return Ok(());
    }
    announce::conclude(&done);
    let wanted: Vec<&ImageReport> = done.wanted().collect();
    if !flags.publishes() {
        wanted.iter().for_each(|image| announce::local(image));
    }
    match global.format {
        Format::Json => documents::BUILD.print(&done),
        Format::Text | Format::Github | Format::Gitlab => {
            commands::print(&wanted.iter().map(|image| format!("{}\n", image.reference)).collect::<String>())
        }
    }
}

/// Prints an error and returns its exit code; an unexpected one is a bug.
fn report(error: &anyhow::Error) -> ExitCode {
    let _ = std::io::stdout().flush();
    if let Some(fault) = error.downcast_ref::<Fault>() {
        terminal::error(&fault.to_string());
        return ExitCode::from(fault.exit as u8);
    }
    terminal::error(&format!(
        "{error:#}\n\nhint: this is a bug of xtask; `RUST_BACKTRACE=1` shows where it comes from"
    ));
    ExitCode::from(Exit::Bug as u8)
}
