//! Selects reused images to build again in CI, to prove that reusing them was right.

use crate::image::key::Fingerprint;
use crate::spec::reference::Digest;

/// True for this share of all pairs of a commit and an image. The same pair gives the same answer everywhere: a run that is started
/// again checks the same images, and nobody can choose which.
pub fn is_sampled(share: f64, commit: &str, fingerprint: &Fingerprint) -> bool {
    let drawn = Digest::of(format!("shadow\0{commit}\0{fingerprint}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&drawn.as_bytes()[..8]);
    // The upper 53 bits are exact in a float, and less than one.
    let drawn = (u64::from_be_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
    drawn < share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_commits_is_sampled_always_the_same_ones() {
        let fingerprint: Fingerprint = "ab".repeat(32).parse().unwrap();
        let sampled = |share: f64| (0..2000).filter(|n| is_sampled(share, &format!("{n:040x}"), &fingerprint)).count();
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        let tenth = sampled(0.1);
        assert!((140..260).contains(&tenth), "{tenth}");
        assert_eq!(sampled(0.1), tenth);
        // A larger share has all of a smaller one.
        let both = |n: &u32| {
            let commit = format!("{n:040x}");
            is_sampled(0.1, &commit, &fingerprint) && !is_sampled(0.2, &commit, &fingerprint)
        };
        assert_eq!((0..2000).filter(both).count(), 0);
    }

    #[test]
    fn another_image_of_one_commit_is_drawn_by_itself() {
        let of = |byte: u8| format!("{byte:02x}").repeat(32).parse::<Fingerprint>().unwrap();
        let drawn: Vec<bool> = (0..64).map(|byte| is_sampled(0.5, "commit", &of(byte))).collect();
        assert!(drawn.contains(&true) && drawn.contains(&false));
    }
}
