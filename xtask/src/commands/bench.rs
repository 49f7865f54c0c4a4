//! bench
use crate::flags::Global;
/// x
pub fn run(_: &Global, _: Option<&str>, _: u32) -> anyhow::Result<()> {
    Ok(())
}
