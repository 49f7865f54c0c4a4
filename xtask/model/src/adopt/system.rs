//! Packages of the operating system: those that an image needs, and those that only compile.
//!
//! Pure.

/// Purpose of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PackagePurpose {
    /// It compiles: a compiler, headers. With the libraries that what is compiled needs at run time.
    Build(&'static [&'static str]),
    /// The root has it.
    Present,
    /// Only this command needs it, if the health check alone calls it.
    Asks,
    Runtime,
}

const COMPILERS: [&str; 22] = [
    "build-essential",
    "gcc",
    "g++",
    "clang",
    "make",
    "cmake",
    "ninja-build",
    "pkg-config",
    "pkgconf",
    "autoconf",
    "automake",
    "libtool",
    "rustc",
    "cargo",
    "gfortran",
    "build-base",
    "musl-dev",
    "linux-headers",
    "swig",
    "patch",
    "rust",
    "python3-dev",
];

/// Headers, and the libraries of Debian 13 that they belong to.
const LIBRARIES: [(&str, &[&str]); 16] = [
    ("libpq-dev", &["libpq5"]),
    ("postgresql-dev", &["libpq5"]),
    ("default-libmysqlclient-dev", &["libmariadb3"]),
    ("libmariadb-dev", &["libmariadb3"]),
    ("libxml2-dev", &["libxml2"]),
    ("libxslt1-dev", &["libxslt1.1"]),
    ("libxslt-dev", &["libxslt1.1"]),
    ("libjpeg-dev", &["libjpeg62-turbo"]),
    ("libldap2-dev", &["libldap2"]),
    ("libsasl2-dev", &["libsasl2-2"]),
    ("unixodbc-dev", &["unixodbc"]),
    ("libffi-dev", &[]),
    ("libssl-dev", &[]),
    ("zlib1g-dev", &[]),
    ("libsqlite3-dev", &[]),
    ("openssl-dev", &[]),
];

/// Alpine's packages that are Debian's by another name.
const ALPINE: [(&str, &str); 16] = [
    ("freetype", "libfreetype6"),
    ("geos", "libgeos-c1t64"),
    ("jpeg", "libjpeg62-turbo"),
    ("lcms2", "liblcms2-2"),
    ("libjpeg", "libjpeg62-turbo"),
    ("libjpeg-turbo", "libjpeg62-turbo"),
    ("libldap", "libldap2"),
    ("libmagic", "libmagic1t64"),
    ("libpq", "libpq5"),
    ("libwebp", "libwebp7"),
    ("libxslt", "libxslt1.1"),
    ("mariadb-connector-c", "libmariadb3"),
    ("openjpeg", "libopenjp2-7"),
    ("postgresql-libs", "libpq5"),
    ("sqlite", "sqlite3"),
    ("yaml", "libyaml-0-2"),
];

/// Alpine's packages that Debian has by the same name.
const SAME: [&str; 28] = [
    "bash",
    "coreutils",
    "dumb-init",
    "ffmpeg",
    "file",
    "gettext",
    "git",
    "gnupg",
    "gzip",
    "htop",
    "iproute2",
    "iptables",
    "jq",
    "less",
    "libxml2",
    "mailcap",
    "nano",
    "nginx",
    "openssl",
    "procps",
    "redis",
    "rsync",
    "supervisor",
    "tar",
    "tini",
    "unzip",
    "vim",
    "zip",
];

/// Debian's name of a package of Alpine.
pub(super) fn of_alpine(package: &str) -> Option<&'static str> {
    let name = package.split(['=', '~', '<', '>', '@']).next().unwrap_or(package);
    let other = ALPINE.iter().find(|(alpine, _)| *alpine == name).map(|(_, debian)| *debian);
    other.or_else(|| SAME.into_iter().find(|same| *same == name))
}

pub(super) fn purpose(package: &str) -> PackagePurpose {
    let name = package.split(['=', '~']).next().unwrap_or(package);
    if let Some((_, libraries)) = LIBRARIES.iter().find(|(headers, _)| *headers == name) {
        return PackagePurpose::Build(libraries);
    }
    match name {
        _ if COMPILERS.contains(&name) => PackagePurpose::Build(&[]),
        "ca-certificates" | "tzdata" | "libstdc++6" | "libffi" | "libstdc++" | "libgcc" | "apt-utils" | "zlib" => {
            PackagePurpose::Present
        }
        "curl" | "wget" => PackagePurpose::Asks,
        "python-dev" | "python2-dev" => PackagePurpose::Build(&[]),
        _ if name.starts_with("python3") || name == "python" || name == "py3-pip" => PackagePurpose::Present,
        _ => PackagePurpose::Runtime,
    }
}
