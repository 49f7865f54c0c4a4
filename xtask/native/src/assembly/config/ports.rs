//! Ports of `EXPOSE`, in the form of an image configuration.
//!
//! Pure. Of `8080:80` only the container's port counts.

use std::collections::BTreeSet;

/// Limit of one instruction: all ports of the three protocols.
const MOST: usize = 3 * 65_536;

/// `80/tcp` for each port in these words; the error is one lowercase phrase.
pub(super) fn exposed(words: &[String]) -> Result<BTreeSet<String>, String> {
    let (mut ports, mut named) = (BTreeSet::new(), 0);
    for word in words {
        let wrong = || format!("`{word}` is not a port such as `80`, `53/udp` or `8000-8010`");
        let (range, protocol) = match word.split_once('/') {
            Some((range, protocol)) => (range, protocol.to_ascii_lowercase()),
            None => (word.as_str(), "tcp".to_owned()),
        };
        if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(wrong());
        }
        let mut places = range.rsplit(':');
        let (first, last) = range_of(places.next().unwrap_or_default()).ok_or_else(wrong)?;
        if let Some(host) = places.next().filter(|host| !host.is_empty()) {
            let (low, high) = range_of(host).ok_or_else(wrong)?;
            // One container port may map to a range of host ports.
            if high - low != last - first && first != last {
                return Err(wrong());
            }
        }
        named += usize::from(last - first) + 1;
        if named > MOST {
            return Err(format!("`EXPOSE` names more than {MOST} ports, the limit of an instruction"));
        }
        ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(ports)
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(word: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|port| (*port).to_owned()).collect();
        assert_eq!(exposed(&[word.to_owned()]).unwrap(), expected, "{word}");
    }

    #[test]
    fn ports_and_protocols() {
        is("80", &["80/tcp"]);
        is("53/UDP", &["53/udp"]);
        is("90-92/sctp", &["90/sctp", "91/sctp", "92/sctp"]);
        is("8080:80", &["80/tcp"]);
        is("127.0.0.1:8080:80/udp", &["80/udp"]);
        is("8080-8081:80-81", &["80/tcp", "81/tcp"]);
        is("8080-8090:80", &["80/tcp"]);
        is("127.0.0.1::80", &["80/tcp"]);
    }

    #[test]
    fn repeated_ranges_of_all_ports_are_rejected() {
        let all = vec!["0-65535".to_owned(); 1_000];
        assert_eq!(exposed(&all[..3]).unwrap().len(), 65_536);
        assert!(exposed(&all).unwrap_err().contains("more than 196608 ports"));
    }

    #[test]
    fn invalid_ports_are_reported() {
        for word in ["", "x", "80/icmp", "70000", "9-8", "80-", "-80", "+80", "1-2:3-5", "80/"] {
            assert!(exposed(&[word.to_owned()]).is_err(), "{word}");
        }
    }
}
