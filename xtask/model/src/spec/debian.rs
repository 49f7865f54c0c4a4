//! dpkg's database: the status of packages, and what is recorded of a package that is installed.
//!
//! Pure. The texts are those that dpkg writes for a package that was not installed before, so that `dpkg` and `apt` of an
//! image see no difference: deb-control(5), dpkg's `lib/dpkg/parse.c` for the order of fields.

pub mod alternatives;
pub mod cache;
pub mod filter;
pub mod md5;
pub mod script;
mod shell;
pub mod status;
pub mod triggers;

use crate::spec::reference::Platform;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Debian's name of a platform's processor; none for one that Debian has no release for.
pub fn architecture(platform: &Platform) -> Option<&'static str> {
    Some(match (platform.architecture.as_str(), platform.variant.as_deref()) {
        ("amd64", _) => "amd64",
        ("arm64", _) => "arm64",
        ("arm", Some("v5" | "v6")) => "armel",
        ("arm", _) => "armhf",
        ("386", _) => "i386",
        ("ppc64le", _) => "ppc64el",
        ("riscv64", _) => "riscv64",
        ("s390x", _) => "s390x",
        _ => return None,
    })
}

/// Fields of a status paragraph in dpkg's order; others follow as the package has them.
const ORDER: [&str; 26] = [
    "Package",
    "Essential",
    "Protected",
    "Status",
    "Priority",
    "Section",
    "Installed-Size",
    "Origin",
    "Maintainer",
    "Bugs",
    "Architecture",
    "Multi-Arch",
    "Source",
    "Version",
    "Config-Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
    "Breaks",
    "Conflicts",
    "Enhances",
    "Conffiles",
    "Description",
];

/// Fields of a control paragraph, each with its value and continuation lines, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paragraph(Vec<(String, String)>);

impl Paragraph {
    /// Reads one paragraph; lines that belong to no field are left out.
    pub fn parse(text: &str) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            match (line.starts_with([' ', '\t']), fields.last_mut()) {
                (true, Some((_, value))) => {
                    value.push('\n');
                    value.push_str(line);
                }
                _ => {
                    fields.extend(line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
                }
            }
        }
        Self(fields)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// A package to install: its control files, and what else dpkg records.
#[derive(Clone, Debug, Default)]
pub struct Package {
    pub control: Paragraph,
    /// Files of the control archive by name, without `control`.
    pub members: BTreeMap<String, Vec<u8>>,
    /// Every path of the package in the archive's order, `/.` first.
    pub list: Vec<String>,
    /// MD5 of each file, by path: `/etc/x`.
    pub sums: BTreeMap<String, String>,
}

impl Package {
    pub fn name(&self) -> &str {
        self.control.get("Package").unwrap_or_default()
    }

    pub fn version(&self) -> &str {
        self.control.get("Version").unwrap_or_default()
    }

    pub fn architecture(&self) -> &str {
        self.control.get("Architecture").unwrap_or_default()
    }

    /// Begin of the names of its files in `info`.
    pub fn stem(&self) -> String {
        match self.control.get("Multi-Arch") {
            Some("same") => format!("{}:{}", self.name(), self.architecture()),
            _ => self.name().to_owned(),
        }
    }

    /// A control file as text.
    pub fn member(&self, name: &str) -> Option<String> {
        self.members.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Its configuration files, as `conffiles` lists them.
    fn conffiles(&self) -> Vec<String> {
        let lines = self.member("conffiles").unwrap_or_default();
        // A second word is a flag, about a file that is removed.
        lines.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned).collect()
    }

    /// Its paragraph of `status`, with the line end, once it is configured.
    pub fn status(&self) -> String {
        let mut conffiles = String::new();
        for path in self.conffiles() {
            let sum = self.sums.get(&path).map_or("newconffile", String::as_str);
            let _ = write!(conffiles, "\n {path} {sum}");
        }
        let own = |name: &str| match name {
            "Status" => Some("install ok installed"),
            "Conffiles" => Some(conffiles.as_str()).filter(|text| !text.is_empty()),
            name => self.control.get(name),
        };
        let mut text = String::new();
        let mut put = |name: &str, value: &str| {
            let blank = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(text, "{name}:{blank}{value}");
        };
        for name in ORDER {
            if let Some(value) = own(name) {
                put(name, value);
            }
        }
        let known = |name: &str| ORDER.iter().any(|known| known.eq_ignore_ascii_case(name));
        for (name, value) in self.control.0.iter().filter(|(name, value)| !known(name) && !value.is_empty()) {
            put(name, value);
        }
        text
    }

    /// Its files of `/var/lib/dpkg/info` with their modes, by name.
    pub fn info(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let stem = self.stem();
        let scripts = ["preinst", "postinst", "prerm", "postrm", "config"];
        let members = self.members.iter().map(|(name, bytes)| {
            let mode = if scripts.contains(&name.as_str()) { 0o755 } else { 0o644 };
            (format!("{stem}.{name}"), (mode, bytes.clone()))
        });
        let mut files: BTreeMap<String, (u32, Vec<u8>)> = members.collect();
        let lines = |lines: &[String]| lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
        files.insert(format!("{stem}.list"), (0o644, lines(&self.list).into_bytes()));
        let conffiles = self.conffiles();
        let sums: Vec<String> = self
            .sums
            .iter()
            .filter(|(path, _)| !conffiles.contains(path))
            .map(|(path, sum)| format!("{sum}  {}", path.trim_start_matches('/')))
            .collect();
        if !sums.is_empty() {
            files.entry(format!("{stem}.md5sums")).or_insert_with(|| (0o644, lines(&sums).into_bytes()));
        }
        files
    }
}

/// A status with these packages, which it does not have yet. Paragraphs stay as they are, sorted by name.
pub fn merged(status: &str, packages: &[Package]) -> String {
    let key = |text: &str| {
        let paragraph = Paragraph::parse(text);
        let field = |name| paragraph.get(name).unwrap_or_default().to_owned();
        (field("Package"), field("Architecture"))
    };
    let own = packages.iter().map(|package| (package.name().to_owned(), package.architecture().to_owned()));
    let own: Vec<(String, String)> = own.collect();
    let old = status.split("\n\n").map(|text| text.trim_matches('\n')).filter(|text| !text.is_empty());
    // One that was removed but for its configuration is replaced.
    let old = old.map(|text| (key(text), text.to_owned())).filter(|(key, _)| !own.contains(key));
    let new = packages.iter().map(|package| package.status().trim_end().to_owned());
    let mut all: Vec<((String, String), String)> = old.chain(own.iter().cloned().zip(new)).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all.into_iter().map(|(_, text)| format!("{text}\n\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: libx\nSource: x\nVersion: 1:2-3\nArchitecture: amd64\nMaintainer: M <m@example.com>\nInstalled-Size: 9\nDepends: libc6 (>= 2.38)\nSection: libs\nPriority: optional\nMulti-Arch: same\nHomepage: https://example.com\nDescription: short\n long\n .\n text\n";

    fn package() -> Package {
        Package {
            control: Paragraph::parse(CONTROL),
            members: [
                ("conffiles", "/etc/x.conf\nremove-on-upgrade /etc/old\n"),
                ("triggers", "activate-noawait ldconfig\n"),
            ]
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
            .into(),
            list: ["/.", "/etc", "/etc/x.conf", "/usr"].map(str::to_owned).to_vec(),
            sums: [("/etc/x.conf", "a1"), ("/usr/x", "b2")].map(|(path, sum)| (path.to_owned(), sum.to_owned())).into(),
        }
    }

    const STATUS: &str = "Package: libx\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 9\nMaintainer: M <m@example.com>\nArchitecture: amd64\nMulti-Arch: same\nSource: x\nVersion: 1:2-3\nDepends: libc6 (>= 2.38)\nConffiles:\n /etc/x.conf a1\nDescription: short\n long\n .\n text\nHomepage: https://example.com\n";

    #[test]
    fn a_status_has_dpkgs_order() {
        assert_eq!(package().status(), STATUS);
    }

    #[test]
    fn a_status_is_merged_by_name() {
        let paragraph =
            |name: &str| format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n");
        let root = format!("{}\n{}\n", paragraph("liba"), paragraph("libz"));
        let removed = "Package: libx\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n";
        let expected = format!("{}\n{STATUS}\n{}\n", paragraph("liba"), paragraph("libz"));
        assert_eq!(merged(&root, &[package()]), expected);
        assert_eq!(merged(&format!("{root}{removed}\n"), &[package()]), expected);
    }

    #[test]
    fn info_files_are_named_by_architecture_where_several_can_be_installed() {
        let info = package().info();
        let names: Vec<&str> = info.keys().map(String::as_str).collect();
        assert_eq!(names, ["libx:amd64.conffiles", "libx:amd64.list", "libx:amd64.md5sums", "libx:amd64.triggers"]);
        assert_eq!(info["libx:amd64.list"].1, b"/.\n/etc\n/etc/x.conf\n/usr\n");
        assert_eq!(info["libx:amd64.md5sums"].1, b"b2  usr/x\n", "configuration files are not in it");
    }
}
