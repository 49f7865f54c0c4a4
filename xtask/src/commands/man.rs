//! `man`: manual pages out of the flags. Writes nothing.

use crate::fault::Fault;

/// The page of a command, or of all of xtask where none is named.
pub fn page(mut all: clap::Command, named: &[String]) -> anyhow::Result<String> {
    all.build();
    let mut command = &all;
    for name in named {
        command = command.find_subcommand(name).ok_or_else(|| {
            Fault::usage(format!("there is no command `{}`", named.join(" ")))
                .hint("`cargo xtask --help` names them all")
        })?;
    }
    let title = ["cargo-xtask"].into_iter().chain(named.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(title).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}
