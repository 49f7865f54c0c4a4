//! True if a file can be installed on a target without a compiler, as far as its name says (PEP 425).
//!
//! Pure. Errs towards yes: an installer has the last word.

use crate::spec::requirements::Environment;

pub(super) fn fits(file: &str, target: &Environment) -> bool {
    let Some(stem) = file.strip_suffix(".whl") else { return false };
    let mut tags = stem.rsplit('-');
    let (Some(platforms), Some(abis), Some(pythons)) = (tags.next(), tags.next(), tags.next()) else { return false };
    let any = |set: &str, fits: &dyn Fn(&str) -> bool| set.split('.').any(fits);
    let minor = target.minor();
    let (major, number) = minor.split_once('.').unwrap_or((&minor, "0"));
    let number: u32 = number.parse().unwrap_or(0);
    let older = |tag: &str| {
        let digits = tag.trim_start_matches("cp").trim_start_matches("py");
        digits.strip_prefix(major).and_then(|rest| rest.parse::<u32>().ok()).is_some_and(|theirs| theirs <= number)
    };
    let exact = format!("cp{major}{number}");
    let python = any(pythons, &|tag| {
        tag == exact
            || tag.starts_with("py") && (tag == format!("py{major}") || older(tag))
            || tag.starts_with("cp") && older(tag) && (any(abis, &|abi| abi == "abi3" || abi == "none"))
    });
    let abi = any(abis, &|abi| matches!(abi, "none" | "abi3") || abi == exact);
    let platform = any(platforms, &|tag| {
        tag == "any" || (tag.contains("linux") && !tag.starts_with("musllinux") && tag.ends_with(target.machine()))
    });
    python && abi && platform
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_fit_by_their_tags() {
        let target = Environment::new("3.12.0", &"linux/amd64".parse().unwrap());
        for (file, expected) in [
            ("a-1-py3-none-any.whl", true),
            ("a-1-py2.py3-none-any.whl", true),
            ("a-1-py2-none-any.whl", false),
            ("a-1-py310-none-any.whl", true),
            ("a-1-py313-none-any.whl", false),
            ("a-1-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", true),
            ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", false),
            ("a-1-cp312-cp312t-manylinux_2_17_x86_64.whl", false),
            ("a-1-cp38-abi3-manylinux_2_17_x86_64.whl", true),
            ("a-1-cp313-abi3-manylinux_2_17_x86_64.whl", false),
            ("a-1-cp312-cp312-manylinux_2_17_aarch64.whl", false),
            ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", false),
            ("a-1-py3-none-manylinux_2_17_x86_64.whl", true),
            ("a-1-cp312-cp312-win_amd64.whl", false),
            ("a-1.tar.gz", false),
        ] {
            assert_eq!(fits(file, &target), expected, "{file}");
        }
    }
}
