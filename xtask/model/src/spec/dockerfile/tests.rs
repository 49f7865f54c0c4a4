//! Syntax, expansion, sources and rules, one line each; robustness over made-up text.

use super::limits::Budget;
use super::words::{Quoting, expand};
use super::*;
use crate::spec::reference::Platform;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn parsed(text: &str) -> Dockerfile {
    Dockerfile::parse("Dockerfile", text).unwrap_or_else(|fault| panic!("{fault}"))
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn refused(text: &str, expected: Expect) {
    expected.assert_eq(&Dockerfile::parse("Dockerfile", text).unwrap_err().to_string());
}

#[track_caller]
fn meaning(text: &str, expected: &[&str]) {
    assert_eq!(parsed(text).meaning(), expected);
}

#[test]
fn meaning_knows_no_comments_blanks_or_continuations() {
    meaning("from scratch\n# c\n\ncopy a \\\n# c\n\n  b /\n", &["FROM scratch", "COPY a   b /"]);
    meaning("\u{feff}FROM scratch\r\nCOPY a \\\r\n b /\r\n", &["FROM scratch", "COPY a  b /"]);
    meaning("# escape=`\nFROM scratch\nCOPY a ` \n b /", &["# escape=`", "FROM scratch", "COPY a  b /"]);
    meaning("FROM scratch\nRUN echo \\\\\nRUN x", &["FROM scratch", "RUN echo \\\\", "RUN x"]);
    meaning("# syntax=docker/dockerfile:1\nFROM scratch", &["# syntax=docker/dockerfile:1", "FROM scratch"]);
    meaning("# c\n# syntax=x\nFROM scratch", &["FROM scratch"]);
    meaning("FROM scratch\nRUN <<E cat\n# kept\nE\nUSER a", &["FROM scratch", "RUN <<E cat\n# kept\nE", "USER a"]);
    assert_eq!(parsed("# c\nFROM scratch\n\nCOPY a \\\n b /\nUSER x").meaning_lines(), [2, 4, 6]);
}

fn kind(text: &str) -> Kind {
    parsed(&format!("FROM scratch\n{text}")).stages()[0].instructions[0].kind.clone()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn instructions_are_typed() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        kind("ENV a=1 b=\"x y\" c=x\\ y"),
        Kind::Env(vec![pair("a", "1"), pair("b", "\"x y\""), pair("c", "x\\ y")])
    );
    assert_eq!(kind("ENV a b c"), Kind::Env(vec![pair("a", "b c")]));
    assert_eq!(kind("label a=1"), Kind::Label(vec![pair("a", "1")]));
    assert_eq!(kind("ARG a b=c"), Kind::Arg(vec![("a".into(), None), ("b".into(), Some("c".into()))]));
    assert_eq!(kind("CMD [\"a\", \"b\"]"), Kind::Cmd(Command::Exec(strings(&["a", "b"]))));
    assert_eq!(kind("CMD ['a']"), Kind::Cmd(Command::Shell("['a']".into())));
    assert_eq!(kind("ENTRYPOINT a b"), Kind::Entrypoint(Command::Shell("a b".into())));
    assert_eq!(kind("SHELL [\"/bin/bash\", \"-c\"]"), Kind::Shell(strings(&["/bin/bash", "-c"])));
    assert_eq!(kind("EXPOSE 80 443/tcp"), Kind::Expose(strings(&["80", "443/tcp"])));
    assert_eq!(kind("VOLUME [\"/a b\"]"), Kind::Volume(strings(&["/a b"])));
    assert_eq!(kind("HEALTHCHECK NONE"), Kind::Healthcheck(None));
    assert_eq!(kind("STOPSIGNAL SIGINT"), Kind::Stopsignal("SIGINT".into()));
    assert_eq!(kind("MAINTAINER a b"), Kind::Maintainer("a b".into()));
    let Kind::Healthcheck(Some(check)) = kind("HEALTHCHECK --interval=5s --retries=3 CMD curl x") else { panic!() };
    assert_eq!(check.options, [pair("interval", "5s"), pair("retries", "3")]);
    let Kind::Onbuild(inner) = kind("ONBUILD COPY a b") else { panic!() };
    assert_eq!(inner.kind.keyword(), "COPY");
}

#[test]
fn copies_are_typed() {
    let Kind::Copy(copy) = kind("COPY --chown=1:2 --link --exclude=*.md --exclude=x --from=b [\"a b\", \"c\", \"/d\"]")
    else {
        panic!()
    };
    assert_eq!((copy.sources, copy.destination.as_str()), (strings(&["a b", "c"]), "/d"));
    assert_eq!((copy.chown.as_deref(), copy.link, copy.from.as_deref()), (Some("1:2"), true, Some("b")));
    assert_eq!(copy.excludes, strings(&["*.md", "x"]));
    let Kind::Copy(copy) = kind("COPY <<A b <<-\"C\" /d/\n1\nA\n\t2 $x\n\tC\n") else { panic!() };
    assert_eq!(copy.sources, strings(&["b"]));
    let docs: Vec<_> = copy.heredocs.iter().map(|d| (d.name.as_str(), d.expand, d.content.as_str())).collect();
    assert_eq!(docs, [("A", true, "1\n"), ("C", false, "2 $x\n")]);
}

#[test]
fn runs_are_typed() {
    let Kind::Run(run) =
        kind("RUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=ca,required --network=none pip x")
    else {
        panic!()
    };
    assert_eq!((run.mounts[0].kind.as_str(), run.mounts[0].target.as_deref()), ("cache", Some("/c")));
    assert_eq!((run.mounts[1].id.as_deref(), run.mounts[1].required), (Some("ca"), true));
    assert_eq!((run.network.as_deref(), run.command), (Some("none"), Command::Shell("pip x".into())));
    let Kind::Run(run) = kind("RUN python3 - <<EOF > /x && cat <<'B'\nFROM here\nEOF\nCOPY $b\nB\n") else { panic!() };
    assert_eq!(run.heredocs.iter().map(|d| d.content.as_str()).collect::<Vec<_>>(), ["FROM here\n", "COPY $b\n"]);
    let Kind::Run(run) = kind("RUN cat <<<word; x=$((1<<2))") else { panic!() };
    assert_eq!(run.heredocs, []);
}

#[test]
fn errors_have_place_line_caret_and_hint() {
    refused(
        "FROM scratch\n\tCOPY --chwon=1 a b",
        expect![[r#"
        Dockerfile:2:7: unknown flag `--chwon` of `COPY`
          |
        2 | 	COPY --chwon=1 a b
          | 	     ^

        hint: did you mean `--chown`?"#]],
    );
    refused(
        "FORM scratch",
        expect![[r#"
        Dockerfile:1:1: unknown instruction `FORM`
          |
        1 | FORM scratch
          | ^

        hint: did you mean `FROM`?"#]],
    );
    refused(
        "COPY a b\nFROM scratch",
        expect![[r#"
        Dockerfile:1:1: `COPY` is before the first `FROM`
          |
        1 | COPY a b
          | ^"#]],
    );
    refused(
        "FROM scratch\nRUN --mount=type=bnd x",
        expect![[r#"
        Dockerfile:2:13: `bnd` is not a type of mount
          |
        2 | RUN --mount=type=bnd x
          |             ^

        hint: one of bind, cache, tmpfs, secret, ssh"#]],
    );
}

#[track_caller]
fn says(text: &str, why: &str) {
    let fault = Dockerfile::parse("Dockerfile", text).unwrap_err().to_string();
    assert!(fault.contains(why), "{fault}");
}

#[test]
fn what_buildkit_refuses_is_refused() {
    says("", "the file has no `FROM`");
    says("ARG a", "the file has no `FROM`");
    says("FROM a b", "`FROM` takes an image");
    says("FROM a AS 1x", "cannot name a stage");
    says("FROM a AS x\nFROM b AS X", "two stages are named `x` (the other is on line 1)");
    says("FROM a\nCOPY x", "needs a source and a destination");
    says("FROM a\nCOPY --link=maybe x y", "`true` or `false`");
    says("FROM a\nCOPY --chown x y", "needs a value");
    says("FROM a\nCOPY --from=a --from=b x y", "is set twice");
    says("FROM a\nCOPY --keep-git-dir x y", "unknown flag");
    says("FROM a\nWORKDIR --x /", "takes no flags");
    says("FROM a\nENV a=1 b", "`b` has no `=`");
    says("FROM a\nENV a", "needs a name and a value");
    says("FROM a\nRUN", "needs an argument");
    says("FROM a\nONBUILD FROM b", "is not allowed");
    says("FROM a\nSHELL sh", "takes a JSON list");
    says("FROM a\nRUN <<E\nx", "here-document `E` has no end");
    says("FROM a\nRUN --mount=form=x y", "did you mean `from`?");
    says("FROM a\nRUN --mount=from=$x y", "replaces no variables");
    says("# escape=x\nFROM a", "escape character");
    says("FROM a\nHEALTHCHECK x", "is not a health check");
}

#[track_caller]
fn word(text: &str, expected: &str) {
    let values = given(&[("a", "1"), ("e", ""), ("p", "foo.tar.gz"), ("s", "/x/y/z"), ("m", "a*b")]);
    let expanded = expand(text, '\\', Quoting::default(), &Budget::default(), &|name| values.get(name).cloned());
    assert_eq!(expanded.map_or_else(|why| format!("error: {why}"), |expanded| expanded.text), expected, "{text}");
}

#[test]
fn variables_are_replaced_as_buildkit_does() {
    word("$a ${a} x${a}y $ab", "1 1 x1y ");
    word("'$a' \"$a\" \\$a \"\\$a\"", "$a 1 $a $a");
    word("a\\b 'a\\b' \"a\\b\"", "ab a\\b a\\b");
    word("${u-d} ${e-d} ${u:-d} ${e:-d} ${a:-d}", "d  d d 1");
    word("${u+d}|${e+d}|${u:+d}|${e:+d}|${a:+d}", "|d|||d");
    word("${u:-${a}}${u:-x${u:-y}}", "1xy");
    word("${a:?no}${a?}", "11");
    word("${e?no}", "");
    word("${e:?no}", "error: `e`: no");
    word("${u?}", "error: `u` must be set");
    word("${p#*.} ${p##*.} ${p%.*} ${p%%.*}", "tar.gz gz foo.tar foo");
    word("${p#f?o} ${p#x} ${p#} ${p%gz}", ".tar.gz foo.tar.gz foo.tar.gz foo.tar.");
    word("${s/x/Q} ${s//\\//_} ${s/\\/?/}", "/Q/y/z _x_y_z /y/z");
    word("${m#a\\*} ${m/\\*/-}", "b a-b");
    word("${p/t*r/-}", "foo.-.gz");
    word("${s//}", "error: `/` is missing at the end of a substitution");
    word("${p///}", "foo.tar.gz");
    word("${a", "error: `}` is missing at the end of a substitution");
    word("${}", "error: a substitution has no name");
    word("${a=b}", "error: `=` is not a modifier of a substitution");
    word("$ $/ a$", "$ $/ a$");
    word("'x", "error: a single quote has no end");
    word("\"x", "error: a double quote has no end");
    word("한국어${a}", "한국어1");
}

#[track_caller]
fn built(text: &str, args: &[(&str, &str)], expected: &[&str]) {
    let expanded = parsed(text).expand(&given(args), &"linux/arm/v7".parse().unwrap()).unwrap();
    let shown: Vec<String> = expanded
        .stages
        .iter()
        .flat_map(|stage| {
            std::iter::once(format!("FROM {}", stage.base)).chain(stage.instructions.iter().filter_map(user))
        })
        .collect();
    assert_eq!(shown, expected);
}

fn user(instruction: &Instruction) -> Option<String> {
    match &instruction.kind {
        Kind::User(user) => Some(user.clone()),
        _ => None,
    }
}

#[test]
fn arguments_have_scopes() {
    built("ARG v=1\nFROM a:$v\nUSER [$v]\nARG v\nUSER $v", &[], &["FROM a:1", "[]", "1"]);
    built("ARG v=1\nFROM a:$v\nARG v\nUSER $v", &[("v", "2")], &["FROM a:2", "2"]);
    built("ARG v=1\nFROM a\nARG v=3\nUSER $v", &[], &["FROM a", "3"]);
    built("FROM a\nARG v=1\nARG v=2\nUSER $v", &[], &["FROM a", "2"]);
    built("FROM a\nUSER [$v]", &[("v", "2")], &["FROM a", "[]"]);
    built("FROM a\nENV v=e\nARG v=1\nUSER $v", &[("v", "2")], &["FROM a", "2"]);
    built("FROM a\nARG v=1\nENV v=e\nARG v\nUSER $v", &[], &["FROM a", "e"]);
    built("FROM a\nARG v=1\nENV v=${v}x w=$v\nUSER $v$w", &[], &["FROM a", "1x1"]);
    built("FROM a AS x\nARG v=1\nENV e=2\nFROM x\nUSER $v$e", &[], &["FROM a", "FROM x", "12"]);
    built("FROM a AS x\nARG v=1\nFROM b\nCOPY --from=x /a /\nUSER [$v]", &[], &["FROM a", "FROM b", "[]"]);
    built("ARG a=1\nARG b=${a}2\nFROM x:$b", &[], &["FROM x:12"]);
    built(
        "FROM a:$TARGETARCH\nUSER [$TARGETARCH]\nARG TARGETARCH TARGETVARIANT\nUSER $TARGETARCH$TARGETVARIANT",
        &[],
        &["FROM a:arm", "[]", "armv7"],
    );
    built(
        "FROM a\nARG TARGETPLATFORM HTTP_PROXY\nUSER $TARGETPLATFORM$HTTP_PROXY",
        &[("HTTP_PROXY", "p")],
        &["FROM a", "linux/arm/v7p"],
    );
    built("FROM a AS dead\nUSER ${x:?no}\nFROM b", &[], &["FROM b"]);
    built("FROM a AS x\nONBUILD USER $v\nFROM x\nUSER y", &[], &["FROM a", "FROM x", "", "y"]);
    let fault = parsed("FROM $x").expand(&given(&[]), &amd64()).unwrap_err().to_string();
    assert!(fault.contains("Dockerfile:1:1: `FROM $x` does not name an image"), "{fault}");
}

#[track_caller]
fn reads(text: &str, expected: &[&str]) {
    let sources = parsed(text).sources(&given(&[("d", "dir")]), &amd64()).unwrap_or_else(|fault| panic!("{fault}"));
    let shown = |source: &Source| match &source.reads {
        Reads::Glob(path) => format!("{} {path}", source.line),
        Reads::Path(path) => format!("{} mount {path}", source.line),
        Reads::Parents { pivot, pattern } => format!("{} {pivot} ./ {pattern}", source.line),
    };
    assert_eq!(sources.iter().map(shown).collect::<Vec<_>>(), expected);
}

#[test]
fn sources_are_what_reached_stages_read_from_the_context() {
    reads("FROM a\nCOPY ./x /y/ ../z /", &["2 x", "2 y", "2 z"]);
    reads("FROM a\nCOPY . /", &["2 "]);
    reads("FROM a\nARG d\nCOPY $d/*.py /", &["3 dir/*.py"]);
    reads("FROM a\nADD https://x/y git@h:x/y.git z /", &["2 z"]);
    reads("FROM a\nCOPY https://x /", &["2 https:/x"]);
    reads("FROM a\nCOPY <<E /x\nE\n", &[]);
    reads("FROM a AS dead\nCOPY x /\nFROM b\nCOPY y /", &["4 y"]);
    reads("FROM a AS s\nCOPY x /\nFROM b\nCOPY --from=s y /", &["2 x"]);
    reads("FROM a\nCOPY x /\nFROM b\nCOPY --from=0 y /", &["2 x"]);
    reads("FROM a AS s\nCOPY x /\nFROM b\nRUN --mount=from=S,target=/t y", &["2 x"]);
    reads("FROM a AS s\nCOPY x /\nFROM s", &["2 x"]);
    reads("FROM a AS s\nONBUILD COPY x /\nFROM s", &["2 x"]);
    reads("FROM a\nRUN --mount=type=bind,source=x,target=/t --mount=type=cache,target=/c y", &["2 mount x"]);
    reads("FROM a\nRUN --mount=target=/t y", &["2 mount "]);
    reads("FROM a\nCOPY --parents src/./a/*.py b /", &["2  ./ b", "2 src ./ a/*.py"]);
    reads("FROM scratch\nCOPY x$u /", &["2 x"]);
    let fault = parsed("FROM a\nCOPY $u /").sources(&given(&[]), &amd64()).unwrap_err().to_string();
    assert!(fault.contains("nothing in this file sets `u`"), "{fault}");
    let fault = parsed("FROM a\nCOPY --from=$u x /").sources(&given(&[]), &amd64()).unwrap_err().to_string();
    assert!(fault.contains("`--from` replaces no variables"), "{fault}");
}

#[test]
fn a_default_that_is_not_used_may_fail() {
    let text = "FROM scratch\nARG FOO\nARG BAR=${FOO:?\"foo missing\"}\nUSER $BAR";
    built(text, &[("BAR", "given")], &["FROM scratch", "given"]);
    let fault = parsed(text).expand(&given(&[]), &amd64()).unwrap_err().to_string();
    assert!(fault.contains("`FOO`: foo missing"), "{fault}");
}

/// BuildKit's own cases: `parser_heredoc_test.go` and `parse_heredoc_test.go` of its frontend.
#[test]
fn here_documents_are_announced_as_buildkit_reads_them() {
    let name = |word: &str| lines::heredoc(word).map(|doc| (doc.name, doc.expand));
    for valid in ["<<EOF", "<<-EOF", "<<EO\\F", "<< EOF", "<<- EOF", "<<\\EOF"] {
        assert_eq!(name(valid), Some(("EOF".to_owned(), true)), "{valid}");
    }
    for quoted in ["<<'EOF'", "<<\"EOF\"", "<<-'EOF'", "<<-\"EOF\"", "<<EO\"F\""] {
        assert_eq!(name(quoted), Some(("EOF".to_owned(), false)), "{quoted}");
    }
    for none in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "<<'EOF", "<<EOF\""] {
        assert_eq!(name(none), None, "{none}");
    }
    let contents = |text: &str| match kind(text) {
        Kind::Run(run) => run.heredocs.into_iter().map(|doc| doc.name).collect::<Vec<_>>(),
        Kind::Copy(copy) => copy.heredocs.into_iter().map(|doc| doc.name).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(contents("RUN <<  EOF\nx\nEOF"), ["EOF"]);
    assert_eq!(contents("RUN <<  EOF  > foo\nx\nEOF"), ["EOF"]);
    assert_eq!(contents("RUN '<<EOF'"), [""; 0]);
    assert_eq!(contents("COPY [\"<<EOF\", \"/x\"]"), ["EOF"], "in a list it has no contents");
    let Kind::Copy(twice) = kind("COPY <<A <<A /x/\none\nA\ntwo\nA\n") else { panic!() };
    assert_eq!(twice.heredocs.iter().map(|doc| doc.content.as_str()).collect::<Vec<_>>(), ["two\n"; 2]);
}

/// Each made another image than BuildKit does, or failed with a message of something else.
#[test]
fn what_current_buildkit_refuses_is_refused() {
    for (text, what, hint) in [
        ("COPY /foo <<EOF\nEOF", "a here-document cannot be the destination of `COPY`", "in front of the destination"),
        ("ADD [\"a\", \"<<EOF\"]", "a here-document cannot be the destination of `ADD`", "in front of the destination"),
        ("COPY << EOF /x\na\nEOF", "`<< EOF` does not start a here-document of `COPY`", "`<<EOF`"),
        ("RUN <<- EOF\na\nEOF", "`<<-` does not start a here-document of `RUN`", "`<<-EOF`"),
        ("CMD [\"a\", 1]", "`1` in the list of `CMD` is not a string", "quote it: `\"1\"`"),
        ("ENTRYPOINT [[\"a\"]]", "`[\"a\"]` in the list of `ENTRYPOINT` is not a string", "quote it"),
        ("RUN [\"a\", null]", "`null` in the list of `RUN` is not a string", "quote it"),
        ("VOLUME [true]", "`true` in the list of `VOLUME` is not a string", "quote it"),
        ("COPY [\"a\", {\"b\": 1}]", "in the list of `COPY` is not a string", "quote it"),
        ("HEALTHCHECK CMD [1]", "`1` in the list of `HEALTHCHECK` is not a string", "quote it"),
        ("SHELL [\"a\", 1]", "`1` in the list of `SHELL` is not a string", "quote it"),
    ] {
        let fault = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{text}")).unwrap_err();
        assert!(fault.what.starts_with("Dockerfile:2:") && fault.what.contains(what), "{text}: {fault}");
        assert!(fault.hints.iter().any(|found| found.contains(hint)), "{text}: {fault}");
    }
    for text in ["ENV A=${FOO:#}", "ENV A=${FOO:%x}", "ENV A=${FOO:#x}"] {
        let fault = parsed(&format!("FROM scratch\n{text}")).expand(&given(&[]), &amd64()).unwrap_err();
        assert!(fault.what.contains("is not a modifier of a substitution"), "{text}: {fault}");
    }
    assert_eq!(kind("ENTRYPOINT []"), Kind::Entrypoint(Command::Exec(Vec::new())));
    assert_eq!(kind("ENTRYPOINT"), Kind::Entrypoint(Command::Shell(String::new())));
    assert_eq!(kind("CMD [\"a\", ]"), Kind::Cmd(Command::Shell("[\"a\", ]".into())), "other text is for the shell");
}

#[test]
fn a_blank_that_only_unicode_knows_is_part_of_a_name() {
    let Kind::Copy(copy) = kind("COPY a\u{a0}b /x") else { panic!() };
    assert_eq!(copy.sources, ["a\u{a0}b"]);
}

#[track_caller]
fn limited(text: &str, limit: &str) {
    let began = std::time::Instant::now();
    let file = Dockerfile::parse("Dockerfile", text);
    let fault = file.and_then(|file| file.expand(&given(&[]), &amd64()).map(drop)).unwrap_err();
    assert!(fault.what.contains(limit), "{}", fault.what);
    assert!(fault.what.len() < 200_000, "a message of {} bytes", fault.what.len());
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{limit}: {:?}", began.elapsed());
}

/// A hostile file ends in an error that names the limit, within seconds even unoptimised.
#[test]
fn a_file_that_grows_beyond_reason_ends_with_its_limit() {
    let times = |line: &str, count: usize| format!("FROM scratch\n{}", line.repeat(count));
    limited(&format!("FROM scratch\nENV A=aaaaaaaa\n{}", "ENV A=$A$A\n".repeat(24)), "more than 16000000 bytes");
    limited(&format!("ARG A=aaaaaaaa\n{}FROM scratch\n", "ARG A=$A$A\n".repeat(24)), "more than 16000000 bytes");
    limited(&times("FROM scratch\n", 100_000), "more than 5000 instructions");
    limited(&times("FROM scratch\n", 600), "more than 500 stages");
    limited(&times("ENV A=b\n", 100_000), "more than 5000 instructions");
    limited(&times(&format!("ENV {}\n", "A=b ".repeat(2_000)), 6), "more than 10000 variables, labels and paths");
    limited(&times(&format!("COPY {}/x\n", "a ".repeat(2_000)), 6), "more than 10000 variables, labels and paths");
    limited(&format!("FROM scratch\nRUN {}\n", "x".repeat(70_000)), "more than 65535 bytes");
    limited(&times(&format!("# {}\n", "x".repeat(1_000)), 5_000), "4000000 is the limit");
    let long = format!("FROM scratch\nENV A={0}\nENV A=$A$A$A$A\n", "ab".repeat(30_000));
    limited(&format!("{long}ENV B=${{A//{}c/x}}\n", "a*b".repeat(100)), "more than 50000000 steps");
    limited(&format!("{long}{}", "ENV B=${A//a/bbbbbbbbbb}\n".repeat(15)), "more than 16000000 bytes");
    let chain: String = (1..500).map(|n| format!("FROM s{} AS s{n}\n", n - 1)).collect();
    limited(&format!("FROM scratch AS s0\nENV A={}\n{chain}", "x".repeat(60_000)), "more than 16000000 bytes");
}

/// Time grows linearly with size up to the limits.
#[test]
fn a_file_within_its_limits_takes_time_by_its_size() {
    // Of processor time: other tests run at the same time.
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split(' ').next().and_then(|text| text.parse::<f64>().ok()).map(|nanoseconds| nanoseconds / 1e9)
    };
    let seconds = |count: usize| {
        let lines: String = (0..count).map(|n| format!("ENV A{n}=${{A{}:-x}}\n", n.max(1) - 1)).collect();
        let stages: String =
            (0..count / 11).map(|n| format!("FROM scratch AS s{n}\nCOPY --from=s{} a b\n", n.max(1) - 1)).collect();
        let text = format!("{stages}FROM scratch\n{lines}");
        let before = spent().unwrap_or_default();
        parsed(&text).expand(&given(&[]), &amd64()).unwrap();
        spent().unwrap_or_default() - before
    };
    let best = |count: usize| (0..5).map(|_| seconds(count)).fold(f64::INFINITY, f64::min);
    let (small, large) = (best(1_000), best(4_000));
    assert!(large < 10.0 * small.max(0.002), "1,000: {small} s, 4,000: {large} s");
}

#[test]
fn another_target_reads_other_files() {
    let file = parsed("FROM a AS one\nCOPY x /\nFROM b AS two\nCOPY y /");
    let sources = file.clone().with_target("ONE").unwrap().sources(&given(&[]), &amd64()).unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0].line, 2);
    assert!(file.with_target("tow").unwrap_err().to_string().contains("did you mean `two`?"));
}

#[test]
fn lint_tells_what_this_project_does_not_want() {
    let file = parsed(
        "# syntax=docker/dockerfile:1\nARG V\nFROM python:latest AS p\nRUN x\nFROM p AS q\nFROM host:5000/a\nARG API_TOKEN\nENV DB_PASSWORD=x KEYBOARD=de\nRUN y\nFROM b:$V\nCOPY a b\nCMD x\nRUN z",
    );
    let shown: Vec<String> = file.lint().into_iter().map(|finding| finding.what).collect();
    expect![[r#"
        Dockerfile:1: `# syntax=docker/dockerfile:1` pulls a frontend before anything is built
        Dockerfile:3: `FROM python:latest` can change from one build to the next
        Dockerfile:6: `FROM host:5000/a` can change from one build to the next
        Dockerfile:7: `ARG` `API_TOKEN` remains readable in the image's history
        Dockerfile:8: `ENV` `DB_PASSWORD` remains readable in the image's history
        Dockerfile:13: `RUN` in the last stage: it may only copy and describe"#]]
    .assert_eq(&shown.join("\n"));
    assert_eq!(parsed("FROM python:3.12-slim\nCOPY a b\nUSER x").lint(), []);
}

#[test]
fn lint_reports_links_that_damage_a_root_or_have_no_effect() {
    let linted = |line: &str| {
        let findings = parsed(&format!("FROM python:3.12-slim\n{line}")).lint();
        findings.into_iter().map(|finding| (finding.what, finding.hint)).collect::<Vec<_>>()
    };
    for fine in [
        "COPY --link a /usr/bin/a",
        "COPY a /bin/a",
        "COPY --link a /binary/a",
        "COPY --chmod=755 a /x",
        "COPY --link a bin/a",
    ] {
        assert_eq!(linted(fine), [], "{fine}");
    }
    let [(what, hint)] = linted("COPY --link templates/tool /bin/tool").try_into().unwrap();
    assert!(what.starts_with("Dockerfile:2: `COPY --link` to `/bin/tool` makes a folder of `/bin`"), "{what}");
    assert_eq!(hint, "write `/usr/bin/tool`");
    let [(what, _)] = linted("COPY --link --chmod=0755 templates/tool /bin/tool").try_into().unwrap();
    assert!(what.starts_with("Dockerfile:2: `COPY --link --chmod` is not linked"), "{what}");
}

/// Text made of what Dockerfiles are made of, so that it goes deep before it fails.
fn dockerish() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "FROM ",
        "scratch",
        " AS a",
        "\n",
        "\r\n",
        "\\\n",
        "COPY ",
        "ADD ",
        "RUN ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "--from=a ",
        "--mount=type=bind,source=",
        "<<E",
        "<<-'E'",
        "E\n",
        "[\"a\"",
        "]",
        ", ",
        "$",
        "${",
        "x",
        ":-",
        "#",
        "%",
        "/",
        "}",
        "\"",
        "'",
        "\\",
        "`",
        "# escape=`\n",
        "=",
        " ",
        "\t",
        "é",
        "HEALTHCHECK ",
        "CMD ",
        "LABEL ",
        "*",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| format!("FROM scratch\n{}", tokens.concat()))
}

fn try_everything(text: &str) {
    if let Ok(file) = Dockerfile::parse("x", text) {
        assert_eq!(file.meaning().len(), file.meaning_lines().len());
        let _ = file.expand(&BTreeMap::new(), &amd64());
        let _ = file.sources(&BTreeMap::new(), &amd64());
        file.lint();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        try_everything(&text);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
        try_everything(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn anything_like_a_dockerfile_is_read_or_refused(text in dockerish()) {
        try_everything(&text);
    }

    #[test]
    fn any_word_is_replaced_or_refused(word in "[ab${}:#%/?*+'\" \\\\-]{0,30}") {
        let _ = expand(&word, '\\', Quoting::default(), &Budget::default(), &|name| (name == "a").then(|| "a/b*c".to_owned()));
    }

    /// Comments and blank lines between instructions mean nothing.
    #[test]
    fn comments_mean_nothing(text in dockerish().prop_filter("parses", |t| !t.contains("<<") && Dockerfile::parse("x", t).is_ok())) {
        let file = Dockerfile::parse("x", &text).unwrap();
        let commented: String = text.split_inclusive('\n').map(|line| format!("{line}{}", if line.ends_with('\n') { "# note\n\n" } else { "" })).collect();
        if text.starts_with("FROM") {
            prop_assert_eq!(Dockerfile::parse("x", &commented).unwrap().meaning(), file.meaning());
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_not_fatal() {
    let word = format!("{}x{}", "${a:-".repeat(50_000), "}".repeat(50_000));
    assert!(expand(&word, '\\', Quoting::default(), &Budget::default(), &|_| None).is_err());
}

/// An independent reader of the syntax agrees about which instructions there are and where they begin.
#[test]
fn parse_dockerfile_agrees() {
    for text in [
        "FROM a\nRUN x \\\n  y\n# c\nCOPY [\"a\", \"b\"]\nENV a=b \\\n# c\n c=d\nUSER x",
        "# escape=`\r\nFROM a\r\nRUN x `\r\n y\r\nCMD [\"x\"]\r\n",
        "\u{feff}ARG v=1\nFROM a:$v AS b\nCOPY <<E /x\nFROM no\nE\nRUN <<-E\n\tx\n\tE\nLABEL a=b\nHEALTHCHECK --interval=1s CMD x",
    ] {
        let stages = parsed(text);
        let mut ours: Vec<usize> = stages.globals().iter().map(|i| i.line).collect();
        for stage in stages.stages() {
            ours.push(stage.line);
            ours.extend(stage.instructions.iter().map(|i| i.line));
        }
        let text = text.trim_start_matches('\u{feff}');
        let theirs = parse_dockerfile::parse(text).unwrap();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        assert_eq!(ours, theirs.instructions.iter().map(|i| line(start(i))).collect::<Vec<_>>(), "{text}");
    }
}

fn start(instruction: &parse_dockerfile::Instruction<'_>) -> usize {
    use parse_dockerfile::Instruction as I;
    match instruction {
        I::Arg(i) => i.arg.span.start,
        I::From(i) => i.from.span.start,
        I::Run(i) => i.run.span.start,
        I::Copy(i) => i.copy.span.start,
        I::Env(i) => i.env.span.start,
        I::User(i) => i.user.span.start,
        I::Cmd(i) => i.cmd.span.start,
        I::Label(i) => i.label.span.start,
        I::Healthcheck(i) => i.healthcheck.span.start,
        other => panic!("{other:?} is in no sample"),
    }
}
