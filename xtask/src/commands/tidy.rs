//! tidy
use crate::flags::Global;
/// x
pub fn run(_: &Global) -> anyhow::Result<()> {
    Ok(())
}
