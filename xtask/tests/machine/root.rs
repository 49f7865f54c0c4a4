//! The Debian root, twice: the same bytes, small enough, and nothing of the host in them.

use crate::debian_root;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Instant;
use xtask_host::registry::layout::Layout;
use xtask_model::spec::oci::Manifest;
use xtask_model::spec::reference::Platform;
use xtask_native::root;

#[test]
fn two_builds_of_a_root_are_identical() {
    if !rustix::process::geteuid().is_root() || xtask_host::docker::debian::Host::read().is_err() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: not root on a Debian host");
        println!("skipped: not root on a Debian host");
        return;
    }
    let folder = tempfile::Builder::new().prefix("rööt of a test ").tempdir().unwrap();
    let (recipe, _, other) = debian_root::shared();
    let platform = Platform::host();
    let make = |name: &str| {
        let layout = Layout::open_or_create(&folder.path().join(name)).unwrap();
        let began = Instant::now();
        let root = root::build(&recipe, &folder.path().join("work"), &layout, &platform);
        eprintln!("{:.1} s", began.elapsed().as_secs_f64());
        (root.unwrap_or_else(|fault| panic!("{fault}")), layout)
    };
    let (one, layout) = make("one");
    assert!(one.python.starts_with("3.13."), "{}", one.python);
    assert!(one.packages.iter().any(|(name, _)| name == "ca-certificates"));
    assert_eq!(root::find(&recipe, &layout, &platform).unwrap().as_ref(), Some(&one));

    let descriptor = layout.get(&recipe.ref_name(&platform)).unwrap().unwrap();
    let manifest: Manifest = layout.read_json(&descriptor).unwrap();
    let layer = flate2::read::GzDecoder::new(layout.open_blob(&manifest.layers[0].digest).unwrap());
    let source = xtask_host::docker::debian::AptSource::of_host().unwrap();
    let host = source.mirror.split('/').nth(2).unwrap().to_owned();
    let (mut paths, mut bytes) = (BTreeSet::new(), 0);
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        bytes += entry.size();
        // Apt's settings must not get into the image.
        if path.starts_with("etc/apt") || path.starts_with("etc/dpkg") {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert!(!text.contains(&host), "{path} names the mirror");
        }
        assert!(paths.insert(path.clone()), "{path} is listed twice");
    }
    for wanted in
        ["usr/bin/python3", "usr/local/bin/python", "var/lib/dpkg/status", "etc/ssl/certs/ca-certificates.crt"]
    {
        assert!(paths.contains(wanted), "{wanted}");
    }
    for unwanted in ["etc/resolv.conf", "etc/hostname", "etc/machine-id", "dev/null", "etc/apt/apt.conf.d/99mmdebstrap"]
    {
        assert!(!paths.contains(unwanted), "{unwanted}");
    }
    eprintln!(
        "{} MB in {} entries, {} MB compressed",
        bytes / 1_000_000,
        paths.len(),
        manifest.layers[0].size / 1_000_000
    );
    assert!(bytes < 150_000_000, "{bytes} bytes");

    // On a machine of a person the other may be of last week.
    let other = if other.packages == one.packages { other } else { make("two").0 };
    assert_eq!(other, one, "the same packages give the same bytes");
}
