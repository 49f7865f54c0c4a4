//! The buildx plugin of a docker client, found where docker looks for it.
//!
//! Docker starts the plugin twice for each call, the first time to ask what it is. A plugin that is called by itself does the same work.

use crate::registry::settings_text;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Folders of all users, in docker's order.
const FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The plugin that `docker` would start with the configuration in `folder`, or `None` where only docker knows: it is a script, which
/// may choose an engine, or the configuration names other folders.
pub(super) fn buildx(docker: &Path, folder: &Path) -> Option<PathBuf> {
    let mut begin = [0; 2];
    File::open(docker).ok()?.read_exact(&mut begin).ok()?;
    let configuration = fs::read(folder.join("config.json")).map(settings_text).unwrap_or_default();
    let extra = b"cliPluginsExtraDirs";
    if begin == *b"#!" || configuration.windows(extra.len()).any(|part| part == extra) {
        return None;
    }
    let own = folder.join("cli-plugins");
    let folders = [own.as_os_str()].into_iter().chain(FOLDERS.map(OsStr::new));
    folders.map(|folder| Path::new(folder).join("docker-buildx")).find(|plugin| plugin.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_called_by_itself_where_docker_would_start_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("cli-plugins")).unwrap();
        fs::write(at("cli-plugins/docker-buildx"), "plugin").unwrap();
        fs::write(at("docker"), "\x7fELF").unwrap();
        fs::write(at("script"), "#!/bin/sh\nexec docker -H ssh://far \"$@\"\n").unwrap();
        let found = |docker: &str| buildx(&at(docker), folder.path());
        assert_eq!(found("docker"), Some(at("cli-plugins/docker-buildx")));
        assert_eq!(found("script"), None);
        assert_eq!(found("missing"), None);
        fs::write(at("config.json"), r#"{"auths": {}}"#).unwrap();
        assert_eq!(found("docker"), Some(at("cli-plugins/docker-buildx")));
        fs::write(at("config.json"), r#"{"cliPluginsExtraDirs": ["/opt/plugins"]}"#).unwrap();
        assert_eq!(found("docker"), None);
    }
}
