//! Alternatives: `/var/lib/dpkg/alternatives` and the links that it describes, update-alternatives(1).
//!
//! Pure. Only what an installation of packages does: adding choices, and moving links in automatic mode.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A link with the choices for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkGroup {
    name: String,
    manual: bool,
    link: String,
    /// Links that follow, by name.
    slaves: BTreeMap<String, String>,
    choices: BTreeMap<String, Choice>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choice {
    priority: i64,
    slaves: BTreeMap<String, String>,
}

impl LinkGroup {
    /// Reads the file of a name; `None` if it is damaged.
    pub fn parse(name: &str, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let manual = lines.next()? == "manual";
        let link = lines.next()?.to_owned();
        let mut group = Self { name: name.to_owned(), manual, link, slaves: BTreeMap::new(), choices: BTreeMap::new() };
        let mut order = Vec::new();
        while let Some(slave) = lines.next().filter(|line| !line.is_empty()) {
            group.slaves.insert(slave.to_owned(), lines.next()?.to_owned());
            order.push(slave.to_owned());
        }
        while let Some(path) = lines.next().filter(|line| !line.is_empty()) {
            let mut choice = Choice { priority: lines.next()?.parse().ok()?, slaves: BTreeMap::new() };
            for slave in &order {
                let target = lines.next()?;
                if !target.is_empty() {
                    choice.slaves.insert(slave.clone(), target.to_owned());
                }
            }
            group.choices.insert(path.to_owned(), choice);
        }
        Some(group)
    }

    /// Name in the arguments of `--install`.
    pub fn name_in(args: &[String]) -> Option<&str> {
        args.get(1).map(String::as_str)
    }

    /// Adds the choice of `--install LINK NAME PATH PRIORITY [--slave LINK NAME PATH]…`; `None` if the arguments are others.
    pub fn install(before: Option<Self>, args: &[String]) -> Option<Self> {
        let [link, name, path, priority, rest @ ..] = args else { return None };
        let mut group = before.unwrap_or_else(|| Self {
            name: name.clone(),
            manual: false,
            link: link.clone(),
            slaves: BTreeMap::new(),
            choices: BTreeMap::new(),
        });
        let mut choice = Choice { priority: priority.parse().ok()?, slaves: BTreeMap::new() };
        for slave in rest.chunks(4) {
            let [flag, link, name, target] = slave else { return None };
            if flag != "--slave" {
                return None;
            }
            group.slaves.insert(name.clone(), link.clone());
            choice.slaves.insert(name.clone(), target.clone());
        }
        group.choices.insert(path.clone(), choice);
        Some(group)
    }

    /// The file, as update-alternatives writes it.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", if self.manual { "manual" } else { "auto" }, self.link);
        for (name, link) in &self.slaves {
            let _ = writeln!(text, "{name}\n{link}");
        }
        text.push('\n');
        for (path, choice) in &self.choices {
            let _ = writeln!(text, "{path}\n{}", choice.priority);
            for name in self.slaves.keys() {
                let _ = writeln!(text, "{}", choice.slaves.get(name).map_or("", String::as_str));
            }
        }
        text.push('\n');
        text
    }

    /// The links of the best choice, path and target: none in manual mode. A following link needs its file.
    pub fn links(&self, exists: &dyn Fn(&str) -> bool) -> Vec<(String, String)> {
        let best = self.choices.iter().max_by_key(|(path, choice)| (choice.priority, std::cmp::Reverse(*path)));
        let Some((path, choice)) = best.filter(|_| !self.manual) else { return Vec::new() };
        let mut links = Vec::new();
        let mut add = |link: &str, name: &str, target: &str| {
            links.push((link.to_owned(), format!("/etc/alternatives/{name}")));
            links.push((format!("/etc/alternatives/{name}"), target.to_owned()));
        };
        add(&self.link, &self.name, path);
        for (name, target) in choice.slaves.iter().filter(|(_, target)| exists(target)) {
            if let Some(link) = self.slaves.get(name) {
                add(link, name, target);
            }
        }
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    const OLD: &str = "auto\n/usr/bin/pager\npager.1.gz\n/usr/share/man/man1/pager.1.gz\n\n/bin/more\n50\n/usr/share/man/man1/more.1.gz\n\n";

    #[test]
    fn a_file_is_read_and_written_unchanged() {
        assert_eq!(LinkGroup::parse("pager", OLD).unwrap().text(), OLD);
    }

    #[test]
    fn the_best_choice_has_the_links() {
        let args = words(
            "/usr/bin/pager pager /usr/bin/less 77 --slave /usr/share/man/man1/pager.1.gz pager.1.gz /usr/share/man/man1/less.1.gz",
        );
        assert_eq!(LinkGroup::name_in(&args), Some("pager"));
        let group = LinkGroup::install(LinkGroup::parse("pager", OLD), &args).unwrap();
        let link = |path: &str, target: &str| (path.to_owned(), target.to_owned());
        let main =
            [link("/usr/bin/pager", "/etc/alternatives/pager"), link("/etc/alternatives/pager", "/usr/bin/less")];
        assert_eq!(group.links(&|_| false), main);
        assert_eq!(group.links(&|_| true).len(), 4);
        let lower = LinkGroup::install(Some(group.clone()), &words("/usr/bin/pager pager /bin/cat 1")).unwrap();
        assert_eq!(lower.links(&|_| false), main);
        assert!(lower.text().contains("/bin/cat\n1\n\n/bin/more\n50\n/usr"), "{}", lower.text());
        let manual = LinkGroup { manual: true, ..group };
        assert!(manual.links(&|_| true).is_empty());
        assert_eq!(LinkGroup::install(None, &words("/usr/bin/x x /usr/bin/y")), None);
    }
}
