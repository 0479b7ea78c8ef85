use std::borrow::Cow;

/// A path in which what need not have been escaped is read as itself: `%3A` is a colon, `%61` an `a`. Clients and proxies
/// write the same path in several ways, and both services must take it for the same.
///
/// `None` if an escape stands for anything else. A slash, a dot, a backslash, a percent sign or a control character that
/// comes out of an escape could make another path of it, to whoever reads it once more or once less.
pub fn plain_path(path: &str) -> Option<Cow<'_, str>> {
    let Some(first) = path.find('%') else { return Some(Cow::Borrowed(path)) };
    let mut plain = String::with_capacity(path.len());
    plain.push_str(&path[..first]);
    let mut rest = &path[first..];
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|byte| is_harmless(*byte))?;
        plain.push(char::from(byte));
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

/// What may be escaped as well as not: the characters of names, digests and users, but for those that structure a path.
const fn is_harmless(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'~' | b'@' | b'+' | b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_need_not_be_escaped_is_read_as_itself_and_nothing_else_is() {
        for (path, plain) in [
            ("/v2/a/blobs/sha256:00", "/v2/a/blobs/sha256:00"),
            ("/v2/a/blobs/sha256%3A00", "/v2/a/blobs/sha256:00"),
            ("/v2/a/blobs/sha256%3a00", "/v2/a/blobs/sha256:00"),
            ("/%76%32/%78/tags/list", "/v2/x/tags/list"),
            ("/api/security/users/jane.doe%40example.com", "/api/security/users/jane.doe@example.com"),
            ("%5F%2d%7E%2B%3D", "_-~+="),
            ("/a b/ä", "/a b/ä"),
        ] {
            assert_eq!(plain_path(path).as_deref(), Some(plain), "{path}");
        }
        for path in [
            "/a%2Fb", "/a%2fb", "/%2E%2e/", "/a%2E", "/a%5Cb", "/a%25b", "/a%2541", "/a%00", "/a%0d%0a", "/a%20b", "/a%7F", "/a%c3%a4",
            "/a%3Fb", "/a%23b", "/a%3Bb", "/a%", "/a%4", "/a%zz", "/a%+1", "/a%ä1",
        ] {
            assert_eq!(plain_path(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn it_is_read_once_and_keeps_its_segments(path in "[/a.%0-9A-Fx]{0,40}|\\PC{0,40}") {
            if let Some(plain) = plain_path(&path) {
                prop_assert!(!plain.contains('%'));
                prop_assert_eq!(plain_path(&plain), Some(Cow::Borrowed(&*plain)));
                let marks = |text: &str| text.bytes().filter(|byte| b"/.\\?#".contains(byte)).count();
                prop_assert_eq!(marks(&plain), marks(&path));
            }
        }
    }
}
