//! What of a request target, or of a `Referer`, may be written down.
//!
//! User names and passwords in an absolute URL go, and the fragment, which is where some logins put tokens. Of the query,
//! parameters that registries know to be harmless stay as they are; of any other the name stays and the value becomes `***`
//! (a parameter without `=` is all value). A list of what is harmless is short and can be complete; one of secrets can't.

/// Parameters of the registry APIs that say what is asked for, and nothing about who asks.
const HARMLESS: [&[u8]; 16] = [
    b"n",
    b"last",
    b"digest",
    b"mount",
    b"from",
    b"ns",
    b"artifactType",
    b"service",
    b"scope",
    b"q",
    b"page",
    b"limit",
    b"offset",
    b"order",
    b"sort",
    b"tag",
];

/// What stands for a value.
const HIDDEN: &[u8] = b"***";

/// The path alone.
pub(super) fn path(target: &[u8]) -> &[u8] {
    let (path, _) = split(after_authority(target).map_or(target, |(_, rest)| rest));
    path
}

/// Path and query.
pub(super) fn path_and_query(target: &[u8]) -> Vec<u8> {
    shown(&[], after_authority(target).map_or(target, |(_, rest)| rest))
}

/// An absolute URL.
pub(super) fn url(url: &[u8]) -> Vec<u8> {
    match after_authority(url) {
        Some((authority, rest)) => shown(&without_user(authority), rest),
        None => shown(&[], url),
    }
}

/// A `Host`: no user belongs into it, and none is written down.
pub(super) fn host(host: &[u8]) -> &[u8] {
    host.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

/// `scheme://authority` and what follows, if that is how the text begins.
fn after_authority(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|byte| !byte.is_ascii_alphanumeric())?;
    let rest = text[colon..].strip_prefix(b"://")?;
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    Some(text.split_at(colon + b"://".len() + length))
}

fn without_user(authority: &[u8]) -> Vec<u8> {
    match (authority.iter().rposition(|byte| *byte == b'@'), authority.iter().position(|byte| *byte == b'/')) {
        (Some(at), Some(slash)) => [&authority[..slash + 2], &authority[at + 1..]].concat(),
        _ => authority.to_vec(),
    }
}

/// Path, and query if there is one, without the fragment.
fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

fn shown(before: &[u8], target: &[u8]) -> Vec<u8> {
    let (path, query) = split(target);
    let mut shown = [before, path].concat();
    for (at, parameter) in query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')).enumerate() {
        shown.push(if at == 0 { b'?' } else { b'&' });
        let equals = parameter.iter().position(|byte| *byte == b'=');
        let (name, value) = parameter.split_at(equals.map_or(0, |at| at + 1));
        if name.strip_suffix(b"=").is_some_and(|name| HARMLESS.contains(&name)) || parameter.is_empty() {
            shown.extend_from_slice(parameter);
        } else {
            shown.extend_from_slice(name);
            shown.extend_from_slice(if value.is_empty() { b"" } else { HIDDEN });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (target, shows) in [
            ("/v2/", "/v2/"),
            ("/v2/_catalog?n=10&last=team/app", "/v2/_catalog?n=10&last=team/app"),
            ("/v2/a/blobs/uploads/?mount=sha256:1&from=b", "/v2/a/blobs/uploads/?mount=sha256:1&from=b"),
            ("/v2/token?service=r&account=me&access_token=abc", "/v2/token?service=r&account=***&access_token=***"),
            ("/v2/?s3cret", "/v2/?***"),
            ("/v2/?a=b=c&&x=", "/v2/?a=***&&x="),
            ("/v2/?", "/v2/?"),
            ("/v2/#access_token=abc", "/v2/"),
            ("http://me:pass@a.example/v2/?n=1", "/v2/?n=1"),
            ("http://a.example?n=1", "?n=1"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8(path_and_query(target.as_bytes())).unwrap(), shows, "{target}");
        }
        for (text, shows) in [
            ("https://me:p@ss@a.example:444/ui/?token=1&n=2#t", "https://a.example:444/ui/?token=***&n=2"),
            ("https://a.example", "https://a.example"),
            ("/ui/?x=1", "/ui/?x=***"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8(url(text.as_bytes())).unwrap(), shows, "{text}");
        }
        assert_eq!(host(b"me:pass@a.example:444"), b"a.example:444");
        assert_eq!(path(b"https://u@a/v2/x?n=1#f"), b"/v2/x");
    }
}
