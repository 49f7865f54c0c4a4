//! URLs without the part before their `@`: a password or token is neither meaning nor for show.
//!
//! Pure. Nothing that leaves this project's readers carries a URL that did not pass here.

/// The byte ranges of the user information in every URL of a text.
fn user_infos(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    // The end of the word that is read, and its last `@`: looked for once a word, however many URLs are in it.
    let (mut from, mut end, mut last) = (0, 0, None);
    while let Some(slashes) = text[from..].find("://") {
        let begin = from + slashes + 3;
        if begin >= end {
            end = begin + upto(&text[begin..], |c| c.is_whitespace() || "'\"`".contains(c)).len();
            last = text[begin..end].rfind('@').map(|at| begin + at);
        }
        let last = last.and_then(|at: usize| at.checked_sub(begin));
        let length = last.and_then(|last| user_info(&text[begin..end], last));
        found.extend(length.map(|length| begin..begin + length));
        from = begin + length.unwrap_or(0);
    }
    found
}

/// Length of the user information at the start of this word, without its `@`; `last` is the word's last `@`.
fn user_info(word: &str, last: usize) -> Option<usize> {
    let authority = upto(word, |c| "/?#".contains(c));
    match authority.rfind('@') {
        Some(at) if at + 1 < authority.len() => Some(at),
        // A password with a raw `/` or `?` is invalid by RFC 3986, but people write it: what cannot be a port is a password.
        _ if authority.contains('@') || has_no_port(authority) => Some(last),
        _ => None,
    }
}

fn upto(text: &str, end: impl Fn(char) -> bool) -> &str {
    &text[..text.find(end).unwrap_or(text.len())]
}

/// True if `user:word` cannot be a host with a port.
fn has_no_port(authority: &str) -> bool {
    let port = authority.rsplit_once(':').filter(|_| !authority.starts_with('[')).map(|(_, port)| port);
    port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
}

/// The text with `***` for all user information.
pub fn redacted(text: &str) -> String {
    redacted_at(text, 0).0
}

/// The text with `***` for all user information, and where byte `at` has gone.
pub(crate) fn redacted_at(text: &str, at: usize) -> (String, usize) {
    let (mut shown, mut from, mut moved) = (String::new(), 0, None);
    for range in user_infos(text) {
        shown.push_str(&text[from..range.start]);
        if at < range.end {
            moved.get_or_insert(if at >= range.start { shown.len() } else { shown.len() - (range.start - at) });
        }
        shown.push_str("***");
        from = range.end;
    }
    let moved = moved.unwrap_or(shown.len() + at.saturating_sub(from));
    shown.push_str(&text[from..]);
    (shown, moved)
}

/// A URL as part of a meaning: without user information, but for the user name of ssh, which is no secret.
pub fn without_user(url: &str) -> String {
    if url.split("://").next().is_some_and(|scheme| scheme.ends_with("ssh")) {
        return redacted(url);
    }
    let (mut text, mut from) = (String::new(), 0);
    for range in user_infos(url) {
        text.push_str(&url[from..range.start]);
        from = range.end + 1;
    }
    text + &url[from..]
}

/// True if a URL of the text has user information that is written out, rather than `${NAME}` of the environment.
pub fn has_password(text: &str) -> bool {
    user_infos(text).into_iter().any(|range| {
        let parts = text[range].split(':');
        !parts.into_iter().all(|part| part.is_empty() || (part.starts_with("${") && part.ends_with('}')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, meaning: &str) {
        assert_eq!(redacted(text), shown);
        assert_eq!(without_user(text), meaning);
    }

    #[test]
    fn user_information_is_found() {
        check("https://u:p@h/simple", "https://***@h/simple", "https://h/simple");
        check("https://token@h:8/x@y", "https://***@h:8/x@y", "https://h:8/x@y");
        check("https://u:p@q@h/", "https://***@h/", "https://h/");
        check("https://u:p/q@h/", "https://***@h/", "https://h/");
        check("https://h/a@b", "https://h/a@b", "https://h/a@b");
        check("https://h:80/a:b@c", "https://h:80/a:b@c", "https://h:80/a:b@c");
        check("a https://u:p@h b https://v@i", "a https://***@h b https://***@i", "a https://h b https://i");
        check("", "", "");
    }

    #[test]
    fn a_password_is_distinguished_from_a_variable() {
        for (text, yes) in [
            ("https://u:p@h/", true),
            ("https://${U}:${P}@h/", false),
            ("https://${T}@h", false),
            ("https://h/", false),
            ("https://${U}:p@h/", true),
        ] {
            assert_eq!(has_password(text), yes, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_and_no_place_end_it(text in "[a:/@?é ${}']{0,24}", at in 0..30usize) {
            let text = format!("x://{text}");
            let (shown, at) = redacted_at(&text, at);
            proptest::prop_assert!(at <= shown.len() + 30);
            proptest::prop_assert!(!has_password(&without_user(&text)) || without_user(&text).contains("//"));
        }

        #[test]
        fn a_password_never_shows(user in "[a-z]{0,5}", word in "[A-Z][A-Z/?:]{3,8}", path in "(|/|/x@y|/x:1@y)") {
            let shown = redacted(&format!("https://{user}:{word}@host{path}"));
            proptest::prop_assert!(!shown.contains(&word), "{}", shown);
        }
    }

    #[test]
    fn a_place_in_the_text_moves_with_it() {
        let text = "-i https://u:secret@h/ --oops";
        let (shown, at) = redacted_at(text, text.find("--oops").unwrap());
        assert_eq!(&shown[at..], "--oops");
        assert_eq!(redacted_at(text, 1).1, 1);
        assert_eq!(redacted_at(text, 13).1, 11);
    }
}
