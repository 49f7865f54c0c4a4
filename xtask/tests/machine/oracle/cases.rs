//! The Dockerfiles that both engines build. `{base}`, `{bare}`, `{full}` and `{trigger}` are images.

/// Expected result of a case.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    /// The same from both.
    Same,
    /// An error from both.
    Refused,
    /// An error from us alone, for a reason.
    OnlyWeRefuse(#[allow(dead_code, reason = "read by people")] &'static str),
    /// An error from docker's older BuildKit alone, for a reason.
    OnlyDockerRefuses(#[allow(dead_code, reason = "read by people")] &'static str),
    /// These differences, for a reason.
    Differs(#[allow(dead_code, reason = "read by people")] &'static str, &'static [&'static str]),
}

/// A Dockerfile and what it is built with.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) dockerfile: &'static str,
    pub(crate) ignore: &'static str,
    pub(crate) args: &'static [(&'static str, &'static str)],
    pub(crate) labels: &'static [(&'static str, &'static str)],
    pub(crate) target: &'static str,
    pub(crate) deferred: &'static [&'static str],
    pub(crate) expect: Expect,
}

impl Case {
    /// Nothing in particular.
    pub(crate) const SAME: Self = Self {
        name: "",
        dockerfile: "",
        ignore: "",
        args: &[],
        labels: &[],
        target: "",
        deferred: &[],
        expect: Expect::Same,
    };
}

const fn same(name: &'static str, dockerfile: &'static str) -> Case {
    Case { name, dockerfile, ..Case::SAME }
}

const fn refused(name: &'static str, dockerfile: &'static str) -> Case {
    Case { name, dockerfile, expect: Expect::Refused, ..Case::SAME }
}

const fn only_we(name: &'static str, dockerfile: &'static str, why: &'static str) -> Case {
    Case { name, dockerfile, expect: Expect::OnlyWeRefuse(why), ..Case::SAME }
}

const fn differs(
    name: &'static str,
    dockerfile: &'static str,
    why: &'static str,
    differences: &'static [&'static str],
) -> Case {
    Case { name, dockerfile, expect: Expect::Differs(why, differences), ..Case::SAME }
}

/// Version to follow where BuildKit's own versions differ: 0.32, the newest that was read. The oracle may be as old as 0.13.
const PARENTS: &str = "folders that are made on the way take an octal mode since BuildKit 0.21";

/// Cases about what is copied, and where it is put.
pub(crate) const COPYING: &[Case] = &[
    // Destinations.
    same("file to a name", "FROM scratch\nCOPY a.txt /x\n"),
    same("file to a name below folders", "FROM scratch\nCOPY a.txt /p/q/x\n"),
    same("file into a new folder", "FROM scratch\nCOPY a.txt /x/\n"),
    same("file into the root", "FROM scratch\nCOPY a.txt /\n"),
    same("file into an existing folder", "FROM {base}\nCOPY a.txt /data\n"),
    same("file into an existing folder, with a slash", "FROM {base}\nCOPY a.txt /data/sub/\n"),
    same("file over a file", "FROM {base}\nCOPY a.txt /data/file\n"),
    same("file to a dot", "FROM {base}\nWORKDIR /data\nCOPY a.txt .\n"),
    same("file to a dot with a slash", "FROM {base}\nWORKDIR /data/sub\nCOPY a.txt ./\n"),
    same("file to the folder above", "FROM {base}\nWORKDIR /data/sub\nCOPY a.txt ../x\n"),
    same("destination with a dot at its end", "FROM scratch\nCOPY a.txt /x/.\n"),
    same("relative destination with a dot at its end", "FROM scratch\nWORKDIR /w\nCOPY a.txt x/.\n"),
    same("destination with dots within", "FROM scratch\nCOPY a.txt /p/../q/./x\n"),
    same("destination beyond the root", "FROM scratch\nCOPY a.txt /../../x\n"),
    same("destination relative to the image's folder", "FROM {base}\nCOPY a.txt x\n"),
    same("destination relative to the root", "FROM {bare}\nCOPY a.txt x\n"),
    same("destination with a blank", "FROM scratch\nCOPY [\"a.txt\", \"/x y/\"]\n"),
    same("quoted destination", "FROM scratch\nCOPY a.txt \"/x\"\n"),
    same("folder to a name", "FROM scratch\nCOPY src /x\n"),
    same("folder to a name with a slash", "FROM scratch\nCOPY src/ /x/\n"),
    same("folder into the root", "FROM scratch\nCOPY src /\n"),
    same("folder merged", "FROM {base}\nCOPY docs /data\n"),
    differs(
        "folder merged, modes of the folders below",
        "FROM scratch\nCOPY --chmod=700 src /x\nCOPY src /x/\n",
        PARENTS,
        &["x: folder 755 0:0 -> folder 700 0:0"],
    ),
    same("empty folder", "FROM scratch\nCOPY empty /x\nCOPY empty /y/\n"),
    same("all", "FROM scratch\nCOPY . /x\n"),
    same("all of the root", "FROM scratch\nCOPY / /x/\n"),
    refused(
        "file over a folder",
        "FROM {base}\nCOPY docs/y.txt /x/sub\nCOPY src /y\nCOPY a.txt /y/deep/\nCOPY run.sh /y/deep/d.py/z\n",
    ),
    refused("folder over a file", "FROM {base}\nCOPY src /data/file\n"),
    refused("folder over a file, with a slash", "FROM {base}\nCOPY src /data/file/\n"),
    refused("folder over a link to a file", "FROM {base}\nCOPY src /to_file\n"),
    refused("file where a folder of that name is", "FROM scratch\nCOPY src /x/a.txt/\nCOPY a.txt /x/\n"),
    refused("folder below where a file is", "FROM scratch\nCOPY a.txt /x/deep\nCOPY src /x\n"),
    // Links in the image.
    same("destination is a link to a folder", "FROM {base}\nCOPY a.txt /lib/\n"),
    same("destination below a link", "FROM {base}\nCOPY src /lib/x\n"),
    same("destination is a link to a file", "FROM {base}\nCOPY a.txt /to_file\n"),
    same("destination is an absolute link", "FROM {base}\nCOPY a.txt /abs/\nCOPY b.txt /abs/deep/new/x\n"),
    same("destination is a link that leads nowhere", "FROM {base}\nCOPY a.txt /dangling\n"),
    same("folder to a link that leads nowhere", "FROM {base}\nCOPY docs /dangling\n"),
    same("destination is a link out of its folder", "FROM {base}\nCOPY a.txt /var/run/\nCOPY a.txt /data/up/x\n"),
    same("a name in a folder that is a link", "FROM {base}\nCOPY linkdir/m.py /data/\nCOPY a.txt /data/up/\n"),
    refused("destination is a circle", "FROM {base}\nCOPY a.txt /loop/x\n"),
    // Sources.
    same("several sources", "FROM scratch\nCOPY a.txt b.txt src /x/\n"),
    same("several sources, no slash, folder there", "FROM {base}\nCOPY a.txt b.txt /data\n"),
    same("two files to one name", "FROM scratch\nCOPY a.txt b.txt /x\n"),
    refused("file and folder to one name", "FROM scratch\nCOPY a.txt src /x\n"),
    same("glob", "FROM scratch\nCOPY *.txt /x/\n"),
    same("glob of folders merges them", "FROM scratch\nCOPY one/* /x/\n"),
    same("glob with one hit to a name", "FROM scratch\nCOPY c.* /x\n"),
    same("glob with several hits to a name", "FROM scratch\nCOPY [ab].txt /x\n"),
    same("glob without a hit", "FROM scratch\nCOPY a.txt none* /x/\n"),
    same("only globs without a hit", "FROM {base}\nCOPY none* /x/\n"),
    same("glob in the middle", "FROM scratch\nCOPY s*/*.py /x/\n"),
    same("double star is a star", "FROM scratch\nCOPY src/** /x/\n"),
    same("escaped glob", "FROM scratch\nCOPY \\[odd\\].txt /x/\n"),
    same("glob that meets links", "FROM scratch\nCOPY link* /x/\n"),
    same("link to a file", "FROM scratch\nCOPY link.txt /x/\nCOPY link.txt /y\n"),
    same("link to a folder", "FROM scratch\nCOPY linkdir /x/\n"),
    same("through a link", "FROM scratch\nCOPY linkdir/deep abs/x.md /x/\n"),
    same("links below a folder stay links", "FROM scratch\nCOPY src /x\nCOPY src/up /y\n"),
    same("hard links", "FROM scratch\nCOPY hard.txt a.txt /x/\n"),
    same("source above the context", "FROM scratch\nCOPY ../a.txt /../../b.txt /x/\n"),
    same("source with a slash in front", "FROM scratch\nCOPY /src/deep /x\n"),
    same("source with blanks", "FROM scratch\nCOPY [\"sp ace/f.txt\", \"/x/\"]\nCOPY \"sp*\" /y/\n"),
    refused("source that is missing", "FROM scratch\nCOPY none /x\n"),
    refused("source that is a link to nowhere", "FROM scratch\nCOPY dangling /x\n"),
    refused("source that is a circle", "FROM scratch\nCOPY circle /x\n"),
    Case { ignore: "src\n!src/deep\n*.md\n", ..same("ignore file", "FROM scratch\nCOPY . /x/\n") },
    Case {
        ignore: "*\n!src/deep/er\n",
        ..same("ignore file that takes back", "FROM scratch\nCOPY . /x/\nCOPY src /y/\n")
    },
    Case { ignore: "a.txt\n", ..refused("ignored source", "FROM scratch\nCOPY a.txt /x\n") },
    // Owners.
    same("owner by number", "FROM scratch\nCOPY --chown=5:6 src /p/x\n"),
    same("owner by one number", "FROM scratch\nCOPY --chown=5 src /p/x\n"),
    same("owner by name", "FROM {base}\nCOPY --chown=app a.txt /x/\n"),
    same("owner and group by name", "FROM {base}\nCOPY --chown=app:staff src /x/\n"),
    same("group by name", "FROM {base}\nCOPY --chown=:staff a.txt /x/\n"),
    same("number and name", "FROM {base}\nCOPY --chown=5:staff a.txt /x\nCOPY --chown=web:7 a.txt /y\n"),
    same("owner without a group", "FROM {base}\nCOPY --chown=web: a.txt /x\nCOPY --chown=9: a.txt /y\n"),
    same(
        "owner from a copied passwd",
        "FROM scratch\nCOPY <<EOF /etc/passwd\nme:x:77:78::/:\nEOF\nCOPY --chown=me a.txt /x\n",
    ),
    same("owner of links and of existing folders", "FROM {base}\nCOPY --chown=9:9 . /data/\n"),
    same("owner by variable", "FROM {base}\nARG WHO=web\nCOPY --chown=${WHO}:staff a.txt /x\n"),
    only_we(
        "unknown owner",
        "FROM {base}\nCOPY --chown=nobody a.txt /x\n",
        "BuildKit gives the file to root in silence",
    ),
    only_we(
        "unknown group",
        "FROM {base}\nCOPY --chown=app:none a.txt /x\n",
        "BuildKit takes another group in silence",
    ),
    only_we(
        "an owner with too large an id",
        "FROM {base}\nCOPY --chown=4294967296 a.txt /x\n",
        "BuildKit takes it for a name and gives the file to root in silence",
    ),
    refused("name for a linked layer", "FROM {base}\nCOPY --link --chown=app a.txt /x\n"),
    refused("name without an image", "FROM scratch\nCOPY --chown=app a.txt /x\n"),
    // Modes.
    same("mode", "FROM scratch\nCOPY --chmod=600 a.txt /x\n"),
    differs(
        "mode of a folder that is made on the way",
        "FROM {base}\nCOPY --chmod=770 a.txt /data/new/sub/x\n",
        PARENTS,
        &["data/new: folder 755 0:0 -> folder 770 0:0", "data/new/sub: folder 755 0:0 -> folder 770 0:0"],
    ),
    same("mode that new folders have anyway", "FROM scratch\nCOPY --chmod=755 a.txt /p/x\n"),
    differs(
        "mode of a folder's files and folders",
        "FROM scratch\nCOPY --chmod=0750 src /p/x\n",
        PARENTS,
        &["p: folder 755 0:0 -> folder 750 0:0", "p/x: folder 755 0:0 -> folder 750 0:0"],
    ),
    differs(
        "mode with set-id and sticky bits",
        "FROM scratch\nCOPY --chmod=6755 a.txt /x\nCOPY --chmod=1777 src /y/z\n",
        PARENTS,
        &["y: folder 755 0:0 -> folder 777 0:0", "y/z: folder 755 0:0 -> folder 777 0:0"],
    ),
    same("mode over existing folders", "FROM {base}\nCOPY --chmod=640 docs /data/deep\n"),
    differs(
        "mode and links",
        "FROM scratch\nCOPY --chmod=600 --chown=3 . /x/\n",
        PARENTS,
        &["x: folder 755 3:3 -> folder 600 3:3"],
    ),
    only_we(
        "mode that is not a number",
        "FROM scratch\nCOPY --chmod=9 a.txt /x\n",
        "BuildKit 0.13 ignores it, later ones refuse",
    ),
    only_we(
        "mode that is too great",
        "FROM scratch\nCOPY --chmod=17777 a.txt /x\n",
        "BuildKit 0.13 cuts it, later ones refuse",
    ),
    Case {
        expect: Expect::Differs(
            "BuildKit 0.13 ignores letters, later ones know them",
            &["x: file \"a\" 644 0:0 -> file \"a\" 755 0:0"],
        ),
        ..same("mode in letters", "FROM scratch\nCOPY --chmod=a+x a.txt /x\n")
    },
    // Links between layers.
    same("linked", "FROM {base}\nCOPY --link a.txt /x\n"),
    same("linked into existing folders", "FROM {base}\nCOPY --link a.txt /tmp/x\nCOPY --link src /data/deep/\n"),
    same("linked over a link", "FROM {base}\nCOPY --link a.txt /lib/x\n"),
    same("linked over a file", "FROM {base}\nCOPY --link docs /data/file\n"),
    same("linked with an owner", "FROM {base}\nCOPY --link --chown=5:6 src /data/x\n"),
    same("linked, then not", "FROM {base}\nCOPY --link src /app\nCOPY a.txt /app/\nCOPY --link b.txt /app/deep/\n"),
    same("linked with a relative destination", "FROM {base}\nWORKDIR /data\nCOPY --link a.txt x/\n"),
    same("linked with a mode", "FROM {base}\nCOPY --link --chmod=700 a.txt /tmp/x\n"),
    same("linked with a mode over a link", "FROM {base}\nCOPY --link --chmod=0755 a.txt /lib/x\n"),
    differs(
        "linked with a mode into new folders",
        "FROM {base}\nCOPY --link --chmod=700 src /new/x\n",
        PARENTS,
        &["new: folder 755 0:0 -> folder 700 0:0", "new/x: folder 755 0:0 -> folder 700 0:0"],
    ),
    same("link said to be false", "FROM {base}\nCOPY --link=false a.txt /tmp/x\n"),
    // Here-documents.
    same("here-document", "FROM scratch\nARG A=1\nCOPY <<EOF /x\nvalue $A ${A:-b} \\$A \"q\"\nEOF\n"),
    same("quoted here-document", "FROM scratch\nARG A=1\nCOPY <<'EOF' /x\nvalue $A\nEOF\n"),
    same("here-documents and files", "FROM scratch\nCOPY a.txt <<one <<-two /x/\n1\none\n\t2\n\ttwo\n"),
    same("here-document with flags", "FROM scratch\nCOPY --chmod=755 --chown=4:5 <<go.sh /bin/\n#!/bin/sh\ngo.sh\n"),
    same("escaped here-document", "FROM scratch\nARG A=1\nCOPY <<\\EOF /x\nvalue $A\nEOF\n"),
    same("two here-documents of one name", "FROM scratch\nCOPY <<A <<A /x/\none\nA\ntwo\nA\n"),
    same("here-document in a list", "FROM scratch\nCOPY [\"<<EOF\", \"/x\"]\n"),
    refused("here-document as a destination", "FROM scratch\nCOPY a.txt <<EOF\nx\nEOF\n"),
    refused("here-document with a blank in front of its name", "FROM scratch\nCOPY << EOF /x\nx\nEOF\n"),
    same("here-document over a file", "FROM {base}\nCOPY <<x /data/file\nnew\nx\n"),
    // Stages.
    same("stage on a stage", "FROM {base} AS one\nENV A=1\nCOPY a.txt /x\nFROM one\nCOPY b.txt /y\nENV B=$A\n"),
    same("copy from a stage", "FROM scratch AS one\nCOPY src /p/x\nFROM {base}\nCOPY --from=one /p/x /data/\n"),
    same("copy from a stage by number", "FROM scratch\nCOPY src /x\nFROM scratch\nCOPY --from=0 /x/deep/d.py /\n"),
    differs(
        "copy from a stage keeps owners",
        "FROM scratch AS one\nCOPY --chown=5:6 --chmod=750 src /x\nFROM scratch\nCOPY --from=one / /y\n",
        PARENTS,
        &["y/x: folder 755 5:6 -> folder 750 5:6"],
    ),
    same(
        "copy from a stage, glob and link",
        "FROM scratch AS one\nCOPY src /x\nCOPY docs /docs\nFROM scratch\nCOPY --from=one /x/*.py /x/up* /z/\n",
    ),
    same(
        "copy from a stage, linked",
        "FROM scratch AS one\nCOPY src /x\nFROM {base}\nCOPY --link --from=one --chown=3 /x /data/y\n",
    ),
    same("copy a working folder", "FROM scratch AS one\nUSER 4:4\nWORKDIR /p/q\nFROM scratch\nCOPY --from=one /p /z\n"),
    same(
        "copy what a stage on an image made",
        "FROM {base} AS one\nCOPY src /new/x\nFROM scratch\nCOPY --from=one /new/x /x\n",
    ),
    only_we(
        "copy what is the image's",
        "FROM {base} AS one\nFROM scratch\nCOPY --from=one /data /x\n",
        "the image's files would have to be fetched",
    ),
    only_we(
        "copy from an image",
        "FROM scratch\nCOPY --from={base} /data /x\n",
        "the image's files would have to be fetched",
    ),
    refused("copy what a stage has not", "FROM scratch AS one\nCOPY a.txt /x\nFROM scratch\nCOPY --from=one /y /\n"),
    Case { target: "one", ..same("target", "FROM scratch AS one\nCOPY a.txt /x\nFROM one\nRUN none\n") },
    same("stages that are not reached", "FROM {base} AS unused\nRUN none\nFROM scratch\nCOPY a.txt /x\n"),
    refused("a command", "FROM {base}\nRUN [\"/none\"]\nCOPY a.txt /\n"),
    // Working folders and users.
    same("working folders", "FROM scratch\nWORKDIR /a\nWORKDIR b/c\nWORKDIR ../d\nCOPY a.txt .\n"),
    same("existing working folder", "FROM {base}\nWORKDIR /data/sub\nWORKDIR /\n"),
    same("working folder behind a link", "FROM {base}\nWORKDIR /lib/x\nWORKDIR /var/run/y\n"),
    same(
        "working folder of a user",
        "FROM {base}\nUSER app\nWORKDIR /p/q\nUSER 5:staff\nWORKDIR r\nUSER web:9\nWORKDIR s\n",
    ),
    same("working folder by variable", "FROM {base}\nARG A=x\nENV B=y\nWORKDIR /$A/${B}\nWORKDIR \"$HOME/z\"\n"),
    same("working folder with odd spelling", "FROM {base}\nWORKDIR /a//b/./c/../d/\nCOPY a.txt e\nWORKDIR \"p q\"\n"),
    refused("working folder is a file", "FROM {base}\nWORKDIR /data/file\n"),
    // Configuration.
    same("everything of an image is kept", "FROM {full}\nCOPY a.txt b\n"),
    same(
        "an image is overridden",
        "FROM {full}\nENTRYPOINT [\"n\"]\nLABEL l=n k=o\nEXPOSE 2\nVOLUME /w\nENV A=2 C=3\nUSER 0\nHEALTHCHECK NONE\nSTOPSIGNAL 9\n",
    ),
    same("shell of an image", "FROM {full}\nCMD a $b\n"),
    same("image without a path", "FROM {bare}\nENV A=$PATH\n"),
    same("triggers", "FROM {trigger}\nENV A=$SEEN\nCOPY b.txt /triggered/\n"),
    same(
        "triggers of a stage",
        "FROM scratch AS one\nONBUILD COPY a.txt /t/\nONBUILD ENV T=1\nFROM one AS two\nENV U=$T\nFROM two\n",
    ),
];

/// Cases about what describes an image, and what variables hold.
pub(crate) const DESCRIBING: &[Case] = &[
    same("cmd in both forms", "FROM scratch\nCMD a  b \"c d\" $E\nCMD [\"a\", \"b c\", \"$E\"]\n"),
    same("cmd that is nothing", "FROM {full}\nCMD []\n"),
    same("cmd that is not a list", "FROM scratch\nCMD [a, b]\n"),
    same("cmd with a continuation", "FROM scratch\nCMD a \\\n  b \\\n# comment\n\n  c\n"),
    same("cmd in a shell", "FROM scratch\nSHELL [\"/x\", \"-y\"]\nCMD a\nSHELL [\"/z\"]\nENTRYPOINT b\n"),
    same("entrypoint in both forms", "FROM scratch\nENTRYPOINT a $b\nENTRYPOINT [\"c\"]\n"),
    same("entrypoint that is nothing", "FROM {full}\nENTRYPOINT []\n"),
    same("entrypoint without a word", "FROM {full}\nENTRYPOINT\n"),
    refused("cmd of a number", "FROM scratch\nCMD [\"a\", 1]\n"),
    refused("entrypoint of a list", "FROM scratch\nENTRYPOINT [[\"a\"]]\n"),
    refused("volume that is not a text", "FROM scratch\nVOLUME [true]\n"),
    same("entrypoint takes an inherited cmd", "FROM {base}\nENTRYPOINT [\"x\"]\n"),
    same("entrypoint after cmd", "FROM {base}\nCMD [\"y\"]\nENTRYPOINT [\"x\"]\n"),
    same("entrypoint takes a stage's cmd", "FROM scratch AS one\nCMD [\"y\"]\nFROM one\nENTRYPOINT [\"x\"]\n"),
    same(
        "health check",
        "FROM scratch\nHEALTHCHECK --interval=1m30s --timeout=3s --start-period=1h --retries=3 CMD a $B\n",
    ),
    same(
        "health check as a list",
        "FROM scratch\nHEALTHCHECK --start-interval=500ms --interval=1.5s CMD [\"a\", \"b\"]\n",
    ),
    same("health check in a shell", "FROM {full}\nHEALTHCHECK CMD a b\n"),
    same("no health check", "FROM {full}\nHEALTHCHECK NONE\n"),
    same("health check of nothing", "FROM scratch\nHEALTHCHECK --interval=0s --retries=0 CMD x\n"),
    refused("health check with a bad time", "FROM scratch\nHEALTHCHECK --interval=5 CMD x\n"),
    refused("health check that is too quick", "FROM scratch\nHEALTHCHECK --interval=1us CMD x\n"),
    refused("health check with bad tries", "FROM scratch\nHEALTHCHECK --retries=-1 CMD x\n"),
    refused("health check of no list", "FROM scratch\nHEALTHCHECK CMD []\n"),
    same(
        "ports",
        "FROM scratch\nARG P=70\nEXPOSE 80 53/udp 90-92/tcp $P ${P}1/sctp\nENV Q=\"1 2/udp\"\nEXPOSE $Q 80/TCP\n",
    ),
    same("ports of a host", "FROM scratch\nEXPOSE 8080:80 127.0.0.1:1:2/udp\n"),
    refused("an invalid port", "FROM scratch\nEXPOSE x\n"),
    refused("a port that is too great", "FROM scratch\nEXPOSE 70000\n"),
    refused("an invalid protocol", "FROM scratch\nEXPOSE 80/icmp\n"),
    same("volumes", "FROM scratch\nARG V=/v\nVOLUME /a b $V/c\nVOLUME [\"/d e\", \"$V\"]\n"),
    same("stop signals", "FROM scratch\nARG S=term\nSTOPSIGNAL SIG$S\n"),
    same("stop signal by number", "FROM scratch\nSTOPSIGNAL 9\n"),
    same("stop signal of real time", "FROM scratch\nSTOPSIGNAL SIGRTMIN+3\n"),
    refused("an invalid stop signal", "FROM scratch\nSTOPSIGNAL SIGNONE\n"),
    refused("stop signal zero", "FROM scratch\nSTOPSIGNAL 0\n"),
    same("users", "FROM scratch\nARG U=a\nUSER $U:b\nUSER \"c d\"\n"),
    same("labels", "FROM scratch\nLABEL a=b \"c d\"='e f' g=\"h\\\ni\" j=\nLABEL k l  m\nLABEL a=n\n"),
    Case { labels: &[("a", "3"), ("z", "4")], ..same("labels of the command line", "FROM {full}\nLABEL a=1 b=2\n") },
    same("author", "FROM {base}\nMAINTAINER  me <me@example.com> \n"),
    same("triggers are kept", "FROM scratch\nONBUILD COPY  a.txt \\\n  /b\nonbuild run x\nONBUILD CMD [\"a\"]\n"),
    same("env in its order", "FROM {base}\nENV Z=1 A=2\nENV Z=3 GREETING=\nENV old  form  of it\n"),
    same(
        "env within env",
        "FROM {base}\nENV A=1\nENV A=2 B=$A C=\"$B\" D='$A' E=\\$A F=${A}x\nENV G=$F$B PATH=/x:$PATH\n",
    ),
    same(
        "modifiers",
        "FROM scratch\nENV s=set e=\nENV A=${s:-d} B=${e:-d} C=${u:-d} D=${s:+p} E=${e:+p} F=${u:+p} G=${e-d} H=${u-d} I=${e+p} J=${u+p}\n",
    ),
    same("modifiers within modifiers", "FROM scratch\nENV s=set\nENV A=${u:-${s:+x$s}} B=${u:-\"a b\"} C=${s:?none}\n"),
    // `${u:#}` cannot be a case: it ends an engine with a BuildKit before 0.16.
    Case {
        args: &[("BAR", "given")],
        expect: Expect::OnlyDockerRefuses("BuildKit 0.13 expands a default that is not used"),
        ..same("a default that is not used", "FROM scratch\nARG FOO\nARG BAR=${FOO:?\"foo missing\"}\nENV X=$BAR\n")
    },
    refused("a variable that has to be set", "FROM scratch\nENV A=${u:?none}\n"),
    same(
        "patterns",
        "FROM scratch\nENV p=foo.bar.gz\nENV A=${p#*.} B=${p##*.} C=${p%.*} D=${p%%.*} E=${p/o/0} F=${p//o/0} G=${p/.*/} H=${p//[a-f]/x}\n",
    ),
    same(
        "quotes and escapes",
        "FROM scratch\nENV A=a\\ b B=\"a\\\"b\" C='a\\b' D=\"a\\nb\" E=a\\\\b F=\"it's\" G='\"'\n",
    ),
    same("escape directive", "# escape=`\nFROM scratch\nENV A=a` b B=c`\n C=\\d\nCOPY a.txt `\n /x\\y\n"),
    same("carriage returns", "FROM scratch\r\nENV A=1 \\\r\n  B=2\r\nCMD a \\\r\n b\r\nLABEL x=y\r\nCOPY a.txt /x\r\n"),
    same("byte order mark and lower case", "\u{feff}from scratch\nenv A=1\nCopy a.txt /x\ncmd [\"x\"]\n"),
    same(
        "comments and blank lines",
        "# first\n\nFROM scratch\n  # indented\nENV A=1 \\\n\n  # within\n  B=2\n\tCMD [\"x\"]\n",
    ),
    same("arguments before from", "ARG A=1\nARG B=$A-2\nARG C={base}\nFROM ${C}\nARG A\nARG B\nENV X=$A Y=$B Z=$C\n"),
    Case {
        args: &[("A", "given"), ("B", "given"), ("NONE", "x")],
        ..same(
            "arguments that are given",
            "ARG A=1\nFROM scratch\nARG A\nARG B=2\nARG C=$A$B\nARG D\nENV X=$A-$B-$C-$D\n",
        )
    },
    same("arguments and env of one name", "FROM scratch\nARG A=1\nENV A=2\nARG B=$A\nARG A=3\nENV X=$A Y=$B\n"),
    same(
        "arguments of another stage",
        "FROM scratch AS one\nARG A=1\nENV B=2\nFROM scratch\nENV X=${A:-none} Y=${B:-none}\n",
    ),
    same(
        "arguments of a lower stage",
        "FROM scratch AS one\nARG A=1\nFROM one\nENV X=${A:-none}\nARG A\nENV Y=${A:-none}\n",
    ),
    same(
        "arguments of the platform",
        "FROM --platform=$TARGETPLATFORM scratch\nARG TARGETARCH\nARG TARGETOS\nENV X=$TARGETARCH-$TARGETOS-$TARGETVARIANT\nLABEL arch=$TARGETARCH\n",
    ),
    same("platform", "FROM --platform=linux/arm64 scratch\nCOPY a.txt /x\n"),
    same("platform of a target", "FROM --platform=linux/arm/v7 scratch AS one\nCOPY a.txt /x\nFROM one\nENV A=1\n"),
    same("arguments in the history", "FROM scratch\nARG A B=1 C=\"x y\"\nARG D=$B\n"),
    same("many images", "FROM {full} AS one\nENV B=$A\nFROM {base}\nCOPY a.txt .\n"),
    // `ADD` of what is local.
    differs(
        "added files",
        "FROM {base}\nADD a.txt src/deep /data/x/\nADD --chown=app --chmod=600 b.txt y\n",
        PARENTS,
        &["srv: folder 755 10:20 -> folder 600 10:20"],
    ),
    same("added glob and link", "FROM scratch\nADD *.txt link* /x/\n"),
    same("added here-document", "FROM scratch\nADD <<x /y\nz\nx\n"),
    Case {
        expect: Expect::OnlyDockerRefuses("BuildKit 0.13 takes these flags in its experimental frontend alone"),
        ..same("parents", "FROM scratch\nCOPY --parents one/*/t.txt src/./deep/er /x/\n")
    },
    Case {
        expect: Expect::OnlyDockerRefuses("BuildKit 0.13 takes these flags in its experimental frontend alone"),
        ..same("parents with a wildcard in front of the pivot", "FROM scratch\nCOPY --parents one/t*/./** /x/\n")
    },
    refused("parents that are missing", "FROM scratch\nCOPY --parents none /x/\n"),
    Case {
        expect: Expect::OnlyDockerRefuses("BuildKit 0.13 takes these flags in its experimental frontend alone"),
        ..same("excludes", "FROM scratch\nCOPY --exclude=*.py --exclude=deep src /x/\n")
    },
    refused("an image that is missing", "FROM {base}-none\nCOPY a.txt /x\n"),
    refused("nothing to copy from", "FROM scratch\nCOPY --from=none /x /\n"),
];

/// On files that no checkout of git has.
pub(crate) const ON_PURPOSE: &[Case] = &[
    Case {
        expect: Expect::Differs(
            "modes are those that git records, so that every machine gives the same image",
            &[
                "f: file \"f\" 600 0:0 -> file \"f\" 644 0:0",
                "x: file \"x\" 4711 0:0 -> file \"x\" 755 0:0",
                "y/d: folder 2700 0:0 -> folder 755 0:0",
                "y/f: file \"f\" 600 0:0 -> file \"f\" 644 0:0",
                "y/x: file \"x\" 4711 0:0 -> file \"x\" 755 0:0",
            ],
        ),
        ignore: "pipe\npacked.gz\n",
        ..same("modes", "FROM scratch\nCOPY f x /\nCOPY . /y\n")
    },
    only_we("pipe", "FROM scratch\nCOPY pipe /\n", "what is neither file, folder nor link has no place in an image"),
    only_we("something compressed that is added", "FROM scratch\nADD packed.gz /\n", "it might be an archive"),
    same("something compressed that is copied", "FROM scratch\nCOPY packed.gz /\n"),
];
