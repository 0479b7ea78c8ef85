//! The id that joins what both services write down about one request.

use http::{HeaderName, HeaderValue};

/// The header field that carries it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The same, as answers spell it.
pub(crate) const X_REQUEST_ID_SPELT: &str = "X-Request-Id";

/// Longest id of a proxy in front, in bytes.
const ID_BYTES_MAX: usize = 128;

/// A new id: 128 random bits in hexadecimal.
pub(crate) fn random() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut random = [0_u8; 16];
    // Without randomness the kernel is not up: such an id is still valid, it only joins fewer log lines.
    let _ = getrandom::fill(&mut random);
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// The id that the peer gave the request, if the peer is trusted and it is one that can stand in a log as it is.
pub(crate) fn given(header: Option<&HeaderValue>, is_trusted: bool) -> Option<HeaderValue> {
    let id = header.filter(|_| is_trusted)?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=' | b'@');
    ((1..=ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_plain)).then(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_peer_gives_an_id_and_only_a_plain_one() {
        let header = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(given(Some(&header("Root=1-67891233-abcdef")), true), Some(header("Root=1-67891233-abcdef")));
        assert_eq!(given(Some(&header("a")), false), None);
        assert_eq!(given(None, true), None);
        for bad in ["", "a b", "a\"b", "ü", "a,b", &"a".repeat(129)] {
            assert_eq!(given(Some(&header(bad)), true), None, "{bad}");
        }
    }

    #[test]
    fn ids_differ() {
        let (one, other) = (random(), random());
        assert_ne!(one, other);
        assert!(one.len() == 32 && one.as_bytes().iter().all(u8::is_ascii_hexdigit));
    }
}
