//! Moves a tag while other jobs may move it too.
//!
//! A registry cannot compare and swap: between a look at a tag and the write of it, the job of a later commit may have moved it. So a job
//! announces its move, looks at the tag and its record, writes them, and reads the announcement back. Of two jobs, one reads the
//! announcement of the other, or sees what the other wrote; the one of the earlier commit leaves the tag where the later one put it, or
//! puts it there again. Announcements have a tag of their own: a record that another job overwrote unseen would be lost.
//! Pure: [`Register`] does what is asked.

use super::{TagRecord, TaggedCommit};
use crate::fault::Fault;
use crate::spec::reference::Digest;

/// A tag, its record, and the last announcement of a move, which are read and written one by one.
pub trait Register {
    /// Image that the tag names.
    fn tag(&self) -> Result<Option<Tagged>, Fault>;
    fn record(&self) -> Result<Option<TagRecord>, Fault>;
    fn announced(&self) -> Result<Option<Move>, Fault>;
    fn announce(&self, planned: &Move) -> Result<(), Fault>;
    fn note(&self, record: &TagRecord) -> Result<(), Fault>;
    fn put(&self, digest: Digest) -> Result<(), Fault>;
    /// Reason why a tag that is of this commit stays where it is.
    fn stays(&self, since: Option<&TaggedCommit>) -> Result<Option<String>, Fault>;
}

/// The image that a tag names, with the commit that the image itself states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub digest: Digest,
    pub revision: Option<String>,
}

/// A move of a tag to the image of a commit, which has passed its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub digest: Digest,
    pub commit: String,
}

impl Move {
    /// The commit of the tag after the move.
    pub fn since(&self) -> TaggedCommit {
        TaggedCommit { commit: self.commit.clone(), rolled_back: false }
    }
}

/// Two jobs seldom meet once; each meeting costs a round.
const ROUNDS: usize = 5;

/// Moves a tag to the image of a commit, or returns why it stays. `own` is true for an image that was built from this commit.
///
/// A move that was announced for a later commit is completed. Its job was killed, or the job of an earlier commit was, between its write
/// and the look back.
pub fn move_to(register: &impl Register, digest: Digest, commit: &str, own: bool) -> Result<Option<String>, Fault> {
    let ours = Move { digest, commit: commit.to_owned() };
    let tagged = register.tag()?;
    let mut announced = register.announced()?;
    let names_it = tagged.as_ref().is_some_and(|tagged| tagged.digest == digest);
    if own && names_it && announced.as_ref().is_none_or(|other| *other == ours) {
        return Ok(None);
    }
    let state = State { tagged, record: register.record()? };
    if let Some(why) = register.stays(state.since().as_ref())? {
        return Ok(state.said(why, &ours));
    }
    let mut target = later(register, announced.as_ref(), &ours)?.unwrap_or_else(|| ours.clone());
    if target == ours && state.is_of(&ours) {
        return Ok(None);
    }
    let mut written: Option<Move> = None;
    for _ in 0..ROUNDS {
        if announced.as_ref() != Some(&target) {
            register.announce(&target)?;
        }
        let state = State::read(register)?;
        // What this job wrote itself shows no other job.
        if !written.is_some_and(|written| state.is_of(&written))
            && let Some(why) = register.stays(state.since().as_ref())?
        {
            return Ok(state.said(why, &ours));
        }
        state.change_to(&target, own && target == ours, register)?;
        announced = register.announced()?;
        if announced.as_ref() == Some(&target) {
            break;
        }
        let next = later(register, announced.as_ref(), &ours)?.unwrap_or_else(|| target.clone());
        written = Some(std::mem::replace(&mut target, next));
    }
    if target == ours { Ok(None) } else { register.stays(Some(&target.since())) }
}

/// The announced move, if it is of a commit that comes after ours.
fn later(register: &impl Register, announced: Option<&Move>, ours: &Move) -> Result<Option<Move>, Fault> {
    let Some(other) = announced.filter(|other| other.commit != ours.commit) else { return Ok(None) };
    Ok(register.stays(Some(&other.since()))?.map(|_| other.clone()))
}

/// A tag and its record.
struct State {
    tagged: Option<Tagged>,
    record: Option<TagRecord>,
}

impl State {
    fn read(register: &impl Register) -> Result<Self, Fault> {
        Ok(Self { tagged: register.tag()?, record: register.record()? })
    }

    /// The commit that the tag is of.
    fn since(&self) -> Option<TaggedCommit> {
        since(self.tagged.as_ref(), self.record.as_ref())
    }

    fn is_of(&self, planned: &Move) -> bool {
        self.names(&planned.digest) && self.since() == Some(planned.since())
    }

    fn names(&self, digest: &Digest) -> bool {
        self.tagged.as_ref().is_some_and(|tagged| tagged.digest == *digest)
    }

    /// Returns the reason why the tag stays, or `None` for a tag that names our image, for whichever commit.
    fn said(&self, why: String, ours: &Move) -> Option<String> {
        (!self.names(&ours.digest)).then_some(why)
    }

    /// Writes the record, unless the image itself states the commit, and then the tag.
    fn change_to(&self, target: &Move, own: bool, register: &impl Register) -> Result<(), Fault> {
        let image = Tagged { digest: target.digest, revision: own.then(|| target.commit.clone()) };
        if since(Some(&image), self.record.as_ref()) != Some(target.since()) {
            let before = self.tagged.as_ref().map(|tagged| tagged.digest).zip(self.since());
            register.note(&TagRecord { digest: target.digest, since: target.since(), before })?;
        }
        if self.names(&target.digest) { Ok(()) } else { register.put(target.digest) }
    }
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
    use std::collections::HashSet;

    /// A tag with its record and its announcement, in memory.
    #[derive(Clone, Debug, Default)]
    struct Registry {
        tag: Option<Tagged>,
        record: Option<TagRecord>,
        announced: Option<Move>,
    }

    #[derive(Clone)]
    enum Request {
        Tag,
        Record,
        Announced,
        Announce(Move),
        Note(TagRecord),
        Put(Digest),
    }

    #[derive(Clone, Debug)]
    enum Answer {
        Tag(Option<Tagged>),
        Record(Option<TagRecord>),
        Announced(Option<Move>),
        Written,
    }

    /// A job: it runs from its start with the answers that it has had, up to the first request without one.
    #[derive(Clone, Debug)]
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

        fn announced(&self) -> Result<Option<Move>, Fault> {
            self.ask(Request::Announced)
                .map(|answer| if let Answer::Announced(planned) = answer { planned } else { unreachable!() })
        }

        fn announce(&self, planned: &Move) -> Result<(), Fault> {
            self.ask(Request::Announce(planned.clone())).map(drop)
        }

        fn note(&self, record: &TagRecord) -> Result<(), Fault> {
            self.ask(Request::Note(record.clone())).map(drop)
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

        fn since(&self) -> TaggedCommit {
            TaggedCommit { commit: self.commit.to_string(), rolled_back: false }
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
                Request::Announced => Answer::Announced(registry.announced.clone()),
                Request::Announce(planned) => {
                    registry.announced = Some(planned);
                    Answer::Written
                }
                Request::Note(record) => {
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

    impl Registry {
        /// The image that the tag names, and the commit that it is of.
        fn place(&self) -> (Option<Digest>, Option<TaggedCommit>) {
            (self.tag.as_ref().map(|tagged| tagged.digest), since(self.tag.as_ref(), self.record.as_ref()))
        }

        #[track_caller]
        fn is_at(&self, job: &Job, how: &str) {
            let planned = Move { digest: digest(job.image), commit: job.commit.to_string() };
            assert_eq!(self.place(), (Some(planned.digest), Some(planned.since())), "{how}: {self:?}");
        }
    }

    /// Lets jobs take turns in every order. Each may be killed before each of its requests, if `kills` is true. `at_end` gets each
    /// registry that comes out, with the jobs that were killed. What was seen before is not followed again.
    fn in_every_order(
        registry: &Registry,
        jobs: &[Job],
        (kills, killed): (bool, &[Job]),
        seen: &mut HashSet<String>,
        at_end: &mut dyn FnMut(&Registry, &[Job]),
    ) {
        if !seen.insert(format!("{registry:?}{jobs:?}{killed:?}")) {
            return;
        }
        let mut ended = true;
        for (number, job) in jobs.iter().enumerate() {
            let Ok(request) = job.next() else { continue };
            ended = false;
            if kills && !job.answers.is_empty() {
                let mut rest = jobs.to_vec();
                let killed = [killed, &[Job::new(rest.remove(number).commit, job.image)]].concat();
                in_every_order(registry, &rest, (kills, &killed), seen, at_end);
            }
            let (mut registry, mut jobs) = (registry.clone(), jobs.to_vec());
            jobs[number].step(&mut registry, request);
            in_every_order(&registry, &jobs, (kills, killed), seen, at_end);
        }
        if ended {
            at_end(registry, killed);
        }
    }

    /// Images of the jobs of B and C: their own, and older ones that they use again.
    const IMAGES: [(char, char); 5] = [('B', 'C'), ('B', 'A'), ('A', 'C'), ('A', 'A'), ('B', 'B')];

    fn registries() -> [Registry; 2] {
        [None, Some('A')].map(|first| Registry { tag: first.map(tagged), ..Registry::default() })
    }

    #[test]
    fn two_jobs_in_every_order_end_at_the_later_commit() {
        for (b, c) in IMAGES {
            for registry in registries() {
                let jobs = [Job::new('B', b), Job::new('C', c)];
                let mut seen = HashSet::new();
                in_every_order(&registry, &jobs, (false, &[]), &mut seen, &mut |end, _| {
                    end.is_at(&jobs[1], &format!("{b} {c}"));
                });
                assert!(seen.len() > 60, "{}", seen.len());
            }
        }
    }

    #[test]
    fn jobs_that_are_killed_anywhere_leave_a_tested_image_and_the_next_job_or_the_same_one_again_repairs_it() {
        for (b, c) in IMAGES {
            for registry in registries() {
                let jobs = [Job::new('B', b), Job::new('C', c)];
                let first = registry.place();
                let mut ends = 0;
                in_every_order(&registry, &jobs, (true, &[]), &mut HashSet::new(), &mut |end, killed| {
                    ends += 1;
                    let how = format!("{b} {c}, killed: {:?}", killed.iter().map(|job| job.commit).collect::<String>());
                    let places = jobs.iter().map(|job| Some(digest(job.image))).chain([first.0]);
                    assert!(places.clone().any(|image| image == end.place().0), "{how}: {end:?}");
                    let finished = |job: &Job| killed.iter().all(|killed| killed.commit != job.commit);
                    let since = end.place().1.map(|since| since.commit);
                    assert!(!finished(&jobs[0]) || since >= Some("B".to_owned()), "{how}: {end:?}");
                    // The same job again: the tag is of no commit before the last one whose job ever finished.
                    for again in killed {
                        let mut end = end.clone();
                        again.clone().finish(&mut end);
                        if finished(&jobs[1]) || again.commit == 'C' {
                            end.is_at(&jobs[1], &how);
                        } else {
                            assert!(
                                end.place().1.is_some_and(|since| since.commit >= jobs[0].since().commit),
                                "{how}: {end:?}"
                            );
                        }
                    }
                    // The job of a later commit, whichever image it has.
                    for image in ['D', 'C', 'A'] {
                        let (mut end, next) = (end.clone(), Job::new('D', image));
                        next.clone().finish(&mut end);
                        end.is_at(&next, &how);
                    }
                    // Only the job of the earlier commit, killed between its write and the look back, takes back what was finished.
                    if finished(&jobs[1]) && end.place().1 != Some(jobs[1].since()) {
                        assert!(!finished(&jobs[0]) && end.announced.as_ref().unwrap().commit == "C", "{how}: {end:?}");
                    }
                });
                assert!(ends > 50, "{ends}");
            }
        }
    }

    #[test]
    fn a_commit_whose_image_is_older_keeps_the_tag_at_its_place_in_history() {
        let mut registry = Registry { tag: Some(tagged('A')), ..Registry::default() };
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
