//! URLs without what stands before their `@`: a password or token is neither meaning nor for show.
//!
//! Pure. Nothing that leaves this project's readers carries a URL that did not pass here.

/// The byte ranges of the user information in every URL of a text.
fn user_infos(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(slashes) = text[from..].find("://") {
        let begin = from + slashes + 3;
        let end =
            text[begin..].find(|c: char| c.is_whitespace() || "/?#'\"`".contains(c)).map_or(text.len(), |n| begin + n);
        // A password may hold a raw `/` or `?`; up to the end of the word, the last `@` before a host decides.
        let word =
            text[begin..].find(|c: char| c.is_whitespace() || "'\"`".contains(c)).map_or(text.len(), |n| begin + n);
        if let Some(at) = text[begin..end].rfind('@') {
            found.push(begin..begin + at);
        } else if let Some(at) =
            text[begin..word].rfind('@').filter(|at| text[begin..begin + at].contains(':') && end < begin + at)
            && port_is_no_port(&text[begin..end])
        {
            found.push(begin..begin + at);
        }
        from = end.max(found.last().map_or(0, |range: &std::ops::Range<usize>| range.end));
    }
    found
}

/// Whether `host:rest` has a rest that cannot be a port, so that it is the start of `user:pass/word@host`.
fn port_is_no_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.bytes().all(|b| b.is_ascii_digit()))
}

/// The text with `***` for all user information.
pub(crate) fn hidden(text: &str) -> String {
    hidden_to(text, 0).0
}

/// The text with `***` for all user information, and where byte `at` has gone.
pub(crate) fn hidden_to(text: &str, at: usize) -> (String, usize) {
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
pub(crate) fn without_user(url: &str) -> String {
    if url.split("://").next().is_some_and(|scheme| scheme.ends_with("ssh")) {
        return hidden(url);
    }
    let (mut text, mut from) = (String::new(), 0);
    for range in user_infos(url) {
        text.push_str(&url[from..range.start]);
        from = range.end + 1;
    }
    text + &url[from..]
}

/// Whether a URL of the text has user information that is written out, rather than `${NAME}` of the environment.
pub(crate) fn holds_one(text: &str) -> bool {
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
        assert_eq!(hidden(text), shown);
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
    fn a_password_is_told_from_a_variable() {
        for (text, yes) in [
            ("https://u:p@h/", true),
            ("https://${U}:${P}@h/", false),
            ("https://${T}@h", false),
            ("https://h/", false),
            ("https://${U}:p@h/", true),
        ] {
            assert_eq!(holds_one(text), yes, "{text}");
        }
    }

    #[test]
    fn a_place_in_the_text_moves_with_it() {
        let text = "-i https://u:secret@h/ --oops";
        let (shown, at) = hidden_to(text, text.find("--oops").unwrap());
        assert_eq!(&shown[at..], "--oops");
        assert_eq!(hidden_to(text, 1).1, 1);
        assert_eq!(hidden_to(text, 13).1, 11);
    }
}
