//! Moves a tag while other jobs may move it too.
//!
//! A registry cannot compare and swap: between a look at a tag and the write of it, the job of a later commit may have moved it. So a job
//! announces its move in the tag's record, looks at the tag again, moves it, and reads the record back. If another job announced
//! meanwhile, one of them is of the later commit, and the tag ends at its image: whoever writes last sees the record of the other.
//! Pure: [`Register`] does what is asked.

use super::{TagRecord, TaggedCommit};
use crate::fault::Fault;
use crate::spec::reference::Digest;

/// A tag and its record, which are read and written one by one.
pub trait Register {
    /// What the tag names.
    fn tag(&self) -> Result<Option<Tagged>, Fault>;
    fn record(&self) -> Result<Option<TagRecord>, Fault>;
    fn announce(&self, record: &TagRecord) -> Result<(), Fault>;
    fn put(&self, digest: Digest) -> Result<(), Fault>;
    /// Why a tag that is of this commit stays where it is.
    fn stays(&self, since: Option<&TaggedCommit>) -> Result<Option<String>, Fault>;
}

/// The image that a tag names, with the commit that the image itself states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub digest: Digest,
    pub revision: Option<String>,
}

/// Two jobs seldom meet once; each meeting costs a round.
const ROUNDS: usize = 5;

/// Moves a tag to the image of a commit, or returns why it stays. `own` is true for an image that was built from this commit.
pub fn move_to(register: &impl Register, digest: Digest, commit: &str, own: bool) -> Result<Option<String>, Fault> {
    let names_it = |tagged: &Option<Tagged>| tagged.as_ref().is_some_and(|tagged| tagged.digest == digest);
    let mut current = register.tag()?;
    if own && names_it(&current) {
        return Ok(None);
    }
    let mut record = register.record()?;
    let since = since(current.as_ref(), record.as_ref());
    if let Some(why) = register.stays(since.as_ref())? {
        // Nothing to say of a tag that names this very image, for whichever commit.
        return Ok((!names_it(&current)).then_some(why));
    }
    if names_it(&current) && since.is_some_and(|since| since.commit == commit) {
        return Ok(None);
    }
    for _ in 0..ROUNDS {
        let before = current.as_ref().map(|tagged| tagged.digest).zip(self::since(current.as_ref(), record.as_ref()));
        let since = TaggedCommit { commit: commit.to_owned(), rolled_back: false };
        register.announce(&TagRecord { digest, since, before })?;
        current = register.tag()?;
        if !names_it(&current) {
            if let Some(why) = register.stays(self::since(current.as_ref(), record.as_ref()).as_ref())? {
                return Ok(Some(why));
            }
            register.put(digest)?;
        }
        record = register.record()?;
        let Some(other) = record.as_ref().filter(|record| record.since.commit != commit) else { return Ok(None) };
        if let Some(why) = register.stays(Some(&other.since))? {
            register.put(other.digest)?;
            return Ok(Some(why));
        }
        current = Some(Tagged { digest, revision: Some(commit.to_owned()) });
    }
    Ok(None)
}

/// The commit that a tag is of: as its record says, or else as its image does.
fn since(tagged: Option<&Tagged>, record: Option<&TagRecord>) -> Option<TaggedCommit> {
    let tagged = tagged?;
    let own = || Some(TaggedCommit { commit: tagged.revision.clone()?, rolled_back: false });
    record.and_then(|record| record.since_of(&tagged.digest).cloned()).or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// What a tag and its record hold.
    #[derive(Clone, Default)]
    struct Registry {
        tag: Option<Tagged>,
        record: Option<TagRecord>,
    }

    #[derive(Clone)]
    enum Request {
        Tag,
        Record,
        Announce(TagRecord),
        Put(Digest),
    }

    #[derive(Clone)]
    enum Answer {
        Tag(Option<Tagged>),
        Record(Option<TagRecord>),
        Written,
    }

    /// A job: it runs from its start with the answers that it has had, up to the first request without one.
    #[derive(Clone)]
    struct Job {
        commit: char,
        image: char,
        answers: Vec<Answer>,
    }

    struct Run<'a> {
        job: &'a Job,
        asked: Cell<usize>,
        next: RefCell<Option<Request>>,
    }

    impl Run<'_> {
        fn ask(&self, request: Request) -> Result<Answer, Fault> {
            let number = self.asked.replace(self.asked.get() + 1);
            self.job.answers.get(number).cloned().ok_or_else(|| {
                *self.next.borrow_mut() = Some(request);
                Fault::usage("it waits for an answer")
            })
        }
    }

    impl Register for Run<'_> {
        fn tag(&self) -> Result<Option<Tagged>, Fault> {
            self.ask(Request::Tag).map(|answer| if let Answer::Tag(tag) = answer { tag } else { unreachable!() })
        }

        fn record(&self) -> Result<Option<TagRecord>, Fault> {
            self.ask(Request::Record)
                .map(|answer| if let Answer::Record(record) = answer { record } else { unreachable!() })
        }

        fn announce(&self, record: &TagRecord) -> Result<(), Fault> {
            self.ask(Request::Announce(record.clone())).map(drop)
        }

        fn put(&self, digest: Digest) -> Result<(), Fault> {
            self.ask(Request::Put(digest)).map(drop)
        }

        /// Commits are letters, and follow each other.
        fn stays(&self, since: Option<&TaggedCommit>) -> Result<Option<String>, Fault> {
            let later = since.filter(|since| since.commit > self.job.commit.to_string() || since.rolled_back);
            Ok(later.map(|since| format!("it is of {}", since.commit)))
        }
    }

    fn digest(image: char) -> Digest {
        Digest::of(image.to_string().as_bytes())
    }

    fn tagged(image: char) -> Tagged {
        Tagged { digest: digest(image), revision: Some(image.to_string()) }
    }

    impl Job {
        fn new(commit: char, image: char) -> Self {
            Self { commit, image, answers: Vec::new() }
        }

        /// The next request, or what the job ends with.
        fn next(&self) -> Result<Request, Option<String>> {
            let run = Run { job: self, asked: Cell::new(0), next: RefCell::default() };
            let ended = move_to(&run, digest(self.image), &self.commit.to_string(), self.commit == self.image);
            run.next.into_inner().ok_or_else(|| ended.expect("it has had every answer"))
        }

        fn step(&mut self, registry: &mut Registry, request: Request) {
            self.answers.push(match request {
                Request::Tag => Answer::Tag(registry.tag.clone()),
                Request::Record => Answer::Record(registry.record.clone()),
                Request::Announce(record) => {
                    registry.record = Some(record);
                    Answer::Written
                }
                Request::Put(put) => {
                    registry.tag = ('A'..='Z').map(tagged).find(|tagged| tagged.digest == put);
                    Answer::Written
                }
            });
        }

        fn finish(mut self, registry: &mut Registry) -> Option<String> {
            loop {
                match self.next() {
                    Ok(request) => self.step(registry, request),
                    Err(end) => return end,
                }
            }
        }
    }

    /// Lets jobs take turns in every order; `at_end` gets each registry that comes out. Returns the number of orders.
    fn in_every_order(registry: &Registry, jobs: &[Job], at_end: &mut dyn FnMut(&Registry)) -> usize {
        let mut orders = 0;
        for (number, job) in jobs.iter().enumerate() {
            let Ok(request) = job.next() else { continue };
            let (mut registry, mut jobs) = (registry.clone(), jobs.to_vec());
            jobs[number].step(&mut registry, request);
            orders += in_every_order(&registry, &jobs, at_end);
        }
        if orders > 0 {
            return orders;
        }
        at_end(registry);
        1
    }

    #[test]
    fn two_jobs_in_every_order_end_at_the_later_commit() {
        for first in [None, Some('A')] {
            let registry = Registry { tag: first.map(tagged), record: None };
            let jobs = [Job::new('B', 'B'), Job::new('C', 'C')];
            let orders = in_every_order(&registry, &jobs, &mut |end| assert_eq!(end.tag, Some(tagged('C'))));
            assert!(orders > 500, "{orders}");
        }
    }

    #[test]
    fn a_job_that_is_killed_anywhere_leaves_an_image_that_was_to_get_the_tag_and_the_next_job_is_right() {
        let registry = Registry { tag: Some(tagged('A')), record: None };
        for (killed, other) in [('B', 'C'), ('C', 'B')] {
            let mut job = Job::new(killed, killed);
            let mut before = registry.clone();
            while let Ok(request) = job.next() {
                job.step(&mut before, request);
                let mut after = before.clone();
                assert!([Some(tagged('A')), Some(tagged(killed))].contains(&after.tag));
                Job::new(other, other).finish(&mut after);
                let newest = if before.tag == Some(tagged('C')) { 'C' } else { other };
                assert_eq!(after.tag, Some(tagged(newest)), "{killed} was killed after {} requests", job.answers.len());
                Job::new('D', 'D').finish(&mut after);
                assert_eq!(after.tag, Some(tagged('D')));
            }
        }
    }

    #[test]
    fn a_commit_whose_image_is_older_keeps_the_tag_at_its_place_in_history() {
        let mut registry = Registry { tag: Some(tagged('A')), record: None };
        assert_eq!(Job::new('C', 'A').finish(&mut registry), None);
        assert_eq!(registry.tag, Some(tagged('A')));
        assert_eq!(Job::new('B', 'B').finish(&mut registry), Some("it is of C".to_owned()));
        // A job of D is killed after its announcement: the tag is still of C.
        let mut killed = Job::new('D', 'D');
        while !matches!(killed.next(), Ok(Request::Put(_))) {
            let request = killed.next().ok().unwrap();
            killed.step(&mut registry, request);
        }
        assert_eq!(Job::new('B', 'B').finish(&mut registry), Some("it is of C".to_owned()));
        assert_eq!(registry.tag, Some(tagged('A')));
        assert_eq!(Job::new('D', 'D').finish(&mut registry), None);
        assert_eq!(registry.tag, Some(tagged('D')));
        assert_eq!(Job::new('D', 'D').finish(&mut registry), None);
        registry.record = Some(TagRecord {
            digest: digest('D'),
            since: TaggedCommit { commit: "E".to_owned(), rolled_back: true },
            before: None,
        });
        assert_eq!(Job::new('D', 'B').finish(&mut registry), Some("it is of E".to_owned()));
    }
}
