//! Reads history files. The only module that opens one.

use crate::failure::Failure;
use crate::history::History;
use crate::span::Span;
use std::fs::File;
use std::io::Read;
use std::path::Path;

// Far beyond the most samples that are read; a wrong path may name anything, a device too.
const LARGEST_FILE: u64 = 64 << 20;

/// Reads the history in a file.
pub fn read(path: &Path, step: Option<Span>) -> Result<History, Failure> {
    let cannot = || Failure::input(format!("cannot read the history `{}`", path.display()));
    let file = File::open(path).map_err(|cause| cannot().cause(cause).hint("check the path given to `--history`"))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|cause| cannot().cause(cause))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(cannot().cause(format!("it is larger than {} MiB", LARGEST_FILE >> 20)));
    }
    History::parse(&path.display().to_string(), &bytes, step).map_err(|invalid| {
        let mut failure = cannot();
        failure.causes = invalid.problems().to_vec();
        failure.hint("one sample a row, in order of time, evenly spaced; a missing value is empty, never 0")
    })
}
