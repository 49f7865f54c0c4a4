//! ci
use crate::flags::Global;
/// x
pub fn run(_: &Global) -> anyhow::Result<()> {
    Ok(())
}
/// x
pub fn test(_: &Global, _: Option<&str>) -> anyhow::Result<()> {
    Ok(())
}
