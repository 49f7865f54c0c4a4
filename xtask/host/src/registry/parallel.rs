//! Calls of a registry on several threads.

use crate::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use xtask_model::fault::Fault;

/// Calls `work` for every item on a number of threads, and returns the results in the order of the items.
///
/// # Errors
/// The first fault, which ends the others; an interruption.
pub fn some_at_once<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, Fault> + Sync,
) -> Result<Vec<R>, Fault> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Ok(Vec::with_capacity(items.len())));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, items.get(index)?)))
                {
                    let result = process::interrupted().and_then(|()| work(item));
                    let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    match (result, done.as_mut()) {
                        (Ok(result), Ok(all)) => all.push((index, result)),
                        (Err(fault), Ok(_)) => *done = Err(fault),
                        (_, Err(_)) => break,
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
