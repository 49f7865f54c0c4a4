//! A requirement file as every version of uv reads it.
//!
//! Pure. Lines that uv reads otherwise than pip, or not at all, are written in the form that both read: options that only pip
//! knows, options behind a requirement, a URL without a name, paths of the repository. What options mean has been read by then,
//! and reaches uv as arguments.

use super::local::{self, LocalProject, LocalRequirement};
use super::{lines, options, options_begin, requirement};
use std::fmt::Write as _;
use std::path::Path;

/// Options that pip reads in a file and uv only on its command line.
const PIP_ONLY: [&str; 4] = ["--all-releases", "--always-unzip", "--no-require-hashes", "--only-final"];

/// The file in the form that uv reads; `None` where it can be used as it is. `root` is the repository's folder, `project` has
/// the requirements of a project in it.
pub fn portable(source: &str, root: &Path, project: &dyn Fn(&LocalProject) -> Vec<String>) -> Option<String> {
    let (mut text, mut differs) = (String::new(), false);
    for line in lines::logical(source) {
        let changed = rewritten(line.text.trim(), root, project);
        differs |= changed.is_some();
        let _ = writeln!(text, "{}", changed.unwrap_or(line.text));
    }
    differs.then_some(text)
}

/// A line in another form; `None` where it can stay.
fn rewritten(line: &str, root: &Path, project: &dyn Fn(&LocalProject) -> Vec<String>) -> Option<String> {
    let of_path = |text: &str| match local::read(text).ok()? {
        LocalRequirement::Project(found) => Some(project(&found).join("\n")),
        LocalRequirement::File(found, folder) => {
            Some(format!("{}\n--find-links '{}'", found.meaning(), root.join(folder).display()))
        }
    };
    if line.starts_with('-') {
        let written = options::read(line).ok()?;
        if let Some(project) = written.iter().find(|option| option.name == "--editable") {
            return of_path(&project.value);
        }
        return separate(&written, line);
    }
    let split = options_begin(line);
    let (wanted, trailing) = (line[..split].trim(), options::read(&line[split..]).ok()?);
    if super::location::is_path(wanted.split_whitespace().next().unwrap_or_default()) {
        return of_path(wanted);
    }
    let read = requirement::read(wanted).ok()?;
    let scheme = wanted.split_once("://").map(|(scheme, _)| scheme);
    let bare = scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)));
    if !bare && trailing.iter().all(|option| option.name == "--hash") {
        return None;
    }
    let mut text = match bare {
        true => format!("{} @ {wanted}", requirement::shown_name(&read)),
        false => wanted.to_owned(),
    };
    for option in trailing.iter().filter(|option| option.name == "--hash") {
        let _ = write!(text, " --hash={}", option.value);
    }
    Some(text)
}

/// Options on a line each, without pip's own; `None` where the line can stay.
fn separate(written: &[options::WrittenOption], line: &str) -> Option<String> {
    let head = line.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or(line);
    let as_uv = |option: &options::WrittenOption| {
        (head == option.name || head.len() == 2) && !PIP_ONLY.contains(&option.name) && option.name != "--pypi-url"
    };
    if matches!(written, [only] if as_uv(only)) {
        return None;
    }
    let kept = written.iter().filter(|option| !PIP_ONLY.contains(&option.name));
    let line = |option: &options::WrittenOption| {
        let name = if option.name == "--pypi-url" { "--index-url" } else { option.name };
        match option.value.as_str() {
            "" => name.to_owned(),
            value if value.contains(char::is_whitespace) => format!("{name} '{value}'"),
            value => format!("{name} {value}"),
        }
    };
    Some(kept.map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: Option<&str>) {
        let project = |found: &LocalProject| vec![format!("what-{}-requires", found.folder.display())];
        assert_eq!(portable(source, Path::new("/repository"), &project).as_deref(), expected);
    }

    #[test]
    fn only_options_that_pip_alone_reads_are_left_out() {
        check("--pre\na>=1\n", None);
        check("--all-releases a,b\na \\\n  >=1 # x\n", Some("\na   >=1 \n"));
        check("--pre --only-final=:all: -c c.txt\na", Some("--pre\n--constraint c.txt\na\n"));
        check("-Z\n--no-require-hashes\na", Some("\n\na\n"));
    }

    #[test]
    fn options_are_written_as_uv_spells_them() {
        check("-i https://h/simple\n-r other.txt\n--find-links=x\n-c=c.txt\n", None);
        check("-ihttps://h/simple\n-rother.txt", Some("--index-url https://h/simple\n--requirement other.txt\n"));
        check("--no-index --find-links x", Some("--no-index\n--find-links x\n"));
        check("--pypi-url https://h/simple", Some("--index-url https://h/simple\n"));
        check("--extra-index https://h/simple", Some("--extra-index-url https://h/simple\n"));
        check("-r 'a b.txt' --pre", Some("--requirement 'a b.txt'\n--pre\n"));
    }

    #[test]
    fn lines_of_pip_are_written_as_uv_reads_them() {
        let hash = format!("--hash=sha256:{}", "0".repeat(64));
        check(&format!("a==1 {hash}\nb @ https://h/b-1.zip ; os_name == 'x'\n"), None);
        check(&format!("a==1 --no-binary :all: {hash}"), Some(&format!("a==1 {hash}\n")));
        let url = "https://h/a-1-py3-none-any.whl ; os_name == 'x'";
        check(url, Some(&format!("a @ {url}\n")));
        check("https://h/main.zip#egg=shop[web]", Some("shop[web] @ https://h/main.zip#egg=shop[web]\n"));
        check("-e .", Some("what--requires\n"));
        check("-e ./libs/a[x]\n./libs/b", Some("what-libs/a-requires\nwhat-libs/b-requires\n"));
        check("wheels/a-1+x-py3-none-any.whl", Some("a==1+x\n--find-links '/repository/wheels'\n"));
    }
}
