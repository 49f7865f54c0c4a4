//! SIGKILL at a hundred moments spread over builds: whatever it hits, nothing that is wrong has a name, and the next build heals.

use crate::fixture::{Call, Repo, actions};
use crate::world::{NAMES, World};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask_host::registry::layout::Layout;
use xtask_model::spec::reference::Digest;

const KILLS: usize = 40;

/// Builds that are at work at one moment, over one registry and one store.
const AT_ONCE: usize = 2;

/// Numbers that look random and are the same in every run (splitmix64).
struct Moments(u64);

impl Moments {
    /// A moment of a time span.
    fn of(&mut self, span: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        span.mul_f64((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Edits what base and app, or the app alone, are made of.
fn edit(repo: &Repo, round: usize) {
    if round.is_multiple_of(2) {
        repo.write("dockerfiles/check.txt", &format!("{round}\n").repeat(50_000));
    }
    repo.write("templates/page.html", &format!("<p>{round}</p>\n").repeat(20_000)).commit("edit");
}

fn build(repo: &Repo, store: &Path) -> Call {
    repo.xtask(&["build", "--push", "--format", "json"]).without_engine().env("XTASK_STORE", store)
}

/// Digests that the names of the registry refer to.
fn names(world: &World) -> BTreeMap<String, String> {
    let names = NAMES.iter().flat_map(|name| world.repo.tags(name).into_iter().map(move |tag| (name, tag)));
    names.map(|(name, tag)| (format!("{name}:{tag}"), world.repo.digest(name, &tag))).collect()
}

/// Every blob is what it is called, and every note names an existing blob.
#[track_caller]
fn is_sound(store: &Path) {
    let layout = Layout::open_or_create(store).unwrap();
    for entry in std::fs::read_dir(store.join("blobs/sha256")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
            assert!(name.starts_with('.'), "`{name}` is neither a blob nor one in the making");
            continue;
        };
        assert_eq!(Digest::of(&std::fs::read(entry.path()).unwrap()), digest);
    }
    for entry in std::fs::read_dir(store.join("recipes")).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with('.') {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let note: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let digest: Digest = note["descriptor"]["digest"].as_str().unwrap().parse().unwrap();
        assert_eq!(layout.blob_size(&digest), note["descriptor"]["size"].as_u64(), "{note}");
    }
}

#[test]
fn kills_at_any_moment_do_no_damage_and_the_next_build_succeeds() {
    let Some(world) = World::new("kills") else { return };
    let store = world.repo.path.join("target/store of all");
    let copies: Vec<Repo> = (0..AT_ONCE).map(|number| world.repo.clone(&format!("copy {number}"))).collect();
    // How long a build takes in company: the moments are of this time.
    edit(&world.repo, 0);
    let began = Instant::now();
    build(&world.repo, &store).run().ok();
    let mut span = began.elapsed();
    let mut moments = Moments(4);
    let mut killed = 0;
    for round in 1..=KILLS / AT_ONCE {
        edit(&world.repo, round);
        let mut starts = Vec::new();
        for copy in &copies {
            copy.git(&["pull", "-q", "--ff-only", world.repo.path.to_str().unwrap(), "main"]);
            // Over one registry they are jobs of one commit; each has its own moment.
            starts.push((build(copy, &store).start(), Instant::now(), moments.of(span)));
        }
        starts.sort_by_key(|(_, began, moment)| *began + *moment);
        for (running, began, moment) in &mut starts {
            std::thread::sleep((*began + *moment).saturating_duration_since(Instant::now()));
            running.signal(Signal::KILL);
        }
        for (running, ..) in starts {
            let outcome = running.end();
            // The machine is not equally fast all the time: moments are spread over builds, to their very end.
            span = span.mul_f64(if outcome.code.is_none() { 1.03 } else { 0.93 });
            killed += usize::from(outcome.code.is_none());
            assert!(matches!(outcome.code, None | Some(0)), "{outcome:?}");
        }
        world.is_whole();
    }
    assert!(killed >= KILLS / 2, "of {KILLS} kills only {killed} hit a build");
    is_sound(&store);

    let healed = build(&world.repo, &store).run().ok().report();
    world.is_whole();
    for (name, kind) in NAMES.iter().zip(["base", "app"]) {
        assert_eq!(world.repo.digest(name, "latest"), healed.digest(kind));
    }
    let after = names(&world);
    // What was never disturbed gives the same.
    world.wipe();
    let fresh = world.repo.clone("undisturbed");
    let calm = build(&fresh, &fresh.path.join("target/store")).run().ok().report();
    assert_eq!(calm.actions(), actions("built", "built"));
    for kind in ["base", "app"] {
        assert_eq!(calm.image(kind)["platforms"], healed.image(kind)["platforms"], "{kind}");
    }
    assert!(after.len() > KILLS / AT_ONCE / 4, "some builds came through: {after:?}");
}
