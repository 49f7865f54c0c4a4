//! Checks in parallel with planning that published images are whole.
//!
//! A plan assumes that an image in the registry is whole, while a thread asks for its parts. Where one is lost, the plan is made
//! again with that knowledge. Outside of [`Checks::in_parallel`] an image is checked at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use xtask_host::registry::Client;
use xtask_host::registry::publish::completeness;
use xtask_model::fault::Fault;
use xtask_model::image::presence::Published;
use xtask_model::spec::reference::{Digest, Platform, Repository};

/// Images to check, and those that were checked.
#[derive(Default)]
pub(super) struct Checks {
    jobs: RefCell<Option<Sender<(Repository, Published)>>>,
    done: RefCell<BTreeMap<(Repository, Digest), Published>>,
}

impl Checks {
    /// Checks an image, at once or until [`Checks::in_parallel`] ends.
    pub(super) fn check(&self, client: &Client, repository: &Repository, found: &mut Published) -> Result<(), Fault> {
        if let Some(done) = self.done.borrow().get(&(repository.clone(), found.digest)) {
            *found = done.clone();
            return Ok(());
        }
        match &*self.jobs.borrow() {
            // The thread ends early only with a fault, which is returned when it is joined.
            Some(jobs) => drop(jobs.send((repository.clone(), found.clone()))),
            None => completeness::check(found, client, repository)?,
        }
        Ok(())
    }

    /// The layers of an image that was checked, for a platform, with their bytes.
    pub(super) fn layers(&self, repository: &Repository, digest: Digest, platform: &Platform) -> Vec<(Digest, u64)> {
        let done = self.done.borrow();
        done.get(&(repository.clone(), digest)).map(|found| found.layers(platform)).unwrap_or_default()
    }

    /// Plans, and again where an image turned out to have lost a part.
    pub(super) fn in_parallel<T>(&self, client: &Client, plan: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
        let (sender, receiver) = mpsc::channel::<(Repository, Published)>();
        self.jobs.replace(Some(sender));
        let (planned, checked) = std::thread::scope(|scope| {
            let check = scope.spawn(move || {
                receiver
                    .into_iter()
                    .map(|(repository, mut found)| {
                        completeness::check(&mut found, client, &repository)?;
                        Ok(((repository, found.digest), found))
                    })
                    .collect::<Result<BTreeMap<_, _>, Fault>>()
            });
            let planned = plan();
            self.jobs.replace(None);
            (planned, check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let checked = checked?;
        let lost = checked.values().any(|found| !found.lost.is_empty());
        self.done.borrow_mut().extend(checked);
        if lost { plan() } else { planned }
    }
}
