//! Whether published images are whole, asked beside planning.
//!
//! A plan takes an image that it finds for whole, while a thread asks for its parts. Where one is lost, the plan is made once more
//! with that knowledge. What nobody asks beside is asked at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use xtask_host::registry::Client;
use xtask_model::fault::Fault;
use xtask_model::image::presence::Published;
use xtask_model::spec::reference::{Digest, Platform, Repository};

/// Images that are looked at, and those that were.
#[derive(Default)]
pub(super) struct Checks {
    jobs: RefCell<Option<Sender<(Repository, Published)>>>,
    done: RefCell<BTreeMap<(Repository, Digest), Published>>,
}

impl Checks {
    /// Looks at an image, or has it looked at until `Checks::beside` ends.
    pub(super) fn check(&self, client: &Client, repository: &Repository, found: &mut Published) -> Result<(), Fault> {
        if let Some(done) = self.done.borrow().get(&(repository.clone(), found.digest)) {
            *found = done.clone();
            return Ok(());
        }
        match &*self.jobs.borrow() {
            // The thread ends early only with a fault, which is told when it is joined.
            Some(jobs) => drop(jobs.send((repository.clone(), found.clone()))),
            None => xtask_host::registry::publish::whole::check(found, client, repository)?,
        }
        Ok(())
    }

    /// The layers of an image that was looked at, for a platform, with their bytes.
    pub(super) fn layers(&self, repository: &Repository, digest: Digest, platform: &Platform) -> Vec<(Digest, u64)> {
        let done = self.done.borrow();
        done.get(&(repository.clone(), digest)).map(|found| found.layers(platform)).unwrap_or_default()
    }

    /// Plans, and once more where an image turned out to have lost something.
    pub(super) fn beside<T>(&self, client: &Client, plan: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
        let (sender, receiver) = mpsc::channel::<(Repository, Published)>();
        self.jobs.replace(Some(sender));
        let (planned, looked) = std::thread::scope(|scope| {
            let look = scope.spawn(move || {
                receiver
                    .into_iter()
                    .map(|(repository, mut found)| {
                        xtask_host::registry::publish::whole::check(&mut found, client, &repository)?;
                        Ok(((repository, found.digest), found))
                    })
                    .collect::<Result<BTreeMap<_, _>, Fault>>()
            });
            let planned = plan();
            self.jobs.replace(None);
            (planned, look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let looked = looked?;
        let lost = looked.values().any(|found| !found.lost.is_empty());
        self.done.borrow_mut().extend(looked);
        if lost { plan() } else { planned }
    }
}
