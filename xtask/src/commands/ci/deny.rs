//! Licences, bans, sources and advisories of the dependencies, by `deny.toml`. cargo-deny does the work.

use super::cargo;
use std::path::Path;
use xtask_host::tree::binary;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::record::workflows::CARGO_DENY;

/// Checks them. Without cargo-deny nothing is checked, which is a fault where `XTASK_REQUIRE_REAL=1` says that nothing may be left
/// out, and a warning elsewhere. Without the advisory database advisories are not checked, which is always a warning: it is a
/// repository of others, and no statement about this one.
pub(super) fn check(root: &Path, offline: bool) -> anyhow::Result<()> {
    if !root.join("deny.toml").is_file() {
        terminal::step("note", "there is no `deny.toml`: dependencies are not checked");
        return Ok(());
    }
    if process::found("cargo-deny").is_none() {
        let required = std::env::var("XTASK_REQUIRE_REAL").is_ok_and(|value| value == "1");
        return absent(required).map_err(Into::into);
    }
    let hint = "change the dependency, or `deny.toml` with the reason";
    cargo(root, &["deny", "check", "licenses", "bans", "sources"], hint)?;
    if offline {
        terminal::warn("advisories were not checked: `--offline` asks for no database");
        return Ok(());
    }
    let fetched = binary::cargo(root).args(["deny", "fetch", "db"]).output()?;
    if !fetched.status.success() {
        terminal::warn(&format!("advisories were not checked: {}", cause(&String::from_utf8_lossy(&fetched.stderr))));
        return Ok(());
    }
    let hint = "update the dependency: `cargo update`; or ignore the advisory in `deny.toml` with the reason";
    cargo(root, &["deny", "--offline", "check", "advisories"], hint)
}

fn absent(required: bool) -> Result<(), Fault> {
    let what = "`cargo-deny` is not installed: licences, bans, sources and advisories were not checked";
    let install = format!("cargo install --locked --version {CARGO_DENY} cargo-deny");
    if required {
        return Err(Fault::missing(what).needed_by("`deny.toml`").hint(format!("install it: `{install}`")));
    }
    terminal::warn(&format!("{what}; install it: `{install}`"));
    Ok(())
}

/// Last message of git or cargo-deny.
fn cause(said: &str) -> String {
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.unwrap_or("the database cannot be fetched").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::fault::Exit;

    #[test]
    fn a_missing_cargo_deny_fails_only_where_nothing_may_be_left_out() {
        assert!(absent(false).is_ok());
        let fault = absent(true).unwrap_err();
        assert_eq!(fault.exit, Exit::Missing);
        assert!(fault.hints[0].contains(CARGO_DENY), "{fault}");
    }

    #[test]
    fn the_cause_of_a_missing_database_is_the_last_line() {
        assert_eq!(cause("[ERROR] failed\nfatal: Could not resolve host\n\n"), "fatal: Could not resolve host");
        assert_eq!(cause(""), "the database cannot be fetched");
    }
}
