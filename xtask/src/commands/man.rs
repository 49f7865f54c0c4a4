//! `man`: manual pages from the flags.

use xtask_model::fault::Fault;

/// The page of a command, or of all of xtask where none is named.
pub fn page(mut all: clap::Command, named: &[String]) -> anyhow::Result<String> {
    all.build();
    let mut command = &all;
    for name in named {
        command = command.find_subcommand(name).ok_or_else(|| unknown(command, name))?;
    }
    let title = ["cargo-xtask"].into_iter().chain(named.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(title).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

fn unknown(within: &clap::Command, name: &str) -> Fault {
    let known = within.get_subcommands().map(clap::Command::get_name);
    let near = known.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let fault = Fault::usage(format!("there is no command `{name}`"));
    match near.filter(|near| strsim::jaro_winkler(near, name) > 0.8) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault.hint("list all commands: `cargo xtask --help`"),
    }
}
