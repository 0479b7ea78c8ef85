//! What a client says about who it is.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use berth_registry::access::TOKEN_PREFIX;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longest `Authorization` header that is looked at, in bytes: a signed token with many scopes has a few kilobytes.
const HEADER_BYTES_MAX: usize = 12 << 10;

/// The header in which scripts made for Artifactory send a key instead of a password.
const API_KEY: &str = "x-jfrog-art-api";

/// Hand-written configuration files leave the padding away.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A password or token on its way to being checked. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an access token rather than a signed one.
    pub(crate) fn is_access_token(&self) -> bool {
        self.0.starts_with(TOKEN_PREFIX)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who a request claims to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// No claim: no header, an empty user name (docker sends `Og==` when it knows none), or an empty V1 token.
    None,
    /// A user name and a password or access token.
    Basic(String, Secret),
    /// An access token alone, or a signed token.
    Bearer(Secret),
    /// The signed token within what `X-Docker-Token` told a V1 client.
    V1Token(Secret),
    /// The header can't be read, or there are two.
    Invalid,
}

impl Credentials {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => match headers.get(API_KEY).map(|key| key.to_str()) {
                Some(Ok(key)) if key.len() <= HEADER_BYTES_MAX => Self::Bearer(Secret::new(key)),
                Some(_) => Self::Invalid,
                None => Self::None,
            },
            (Some(value), None) if value.len() <= HEADER_BYTES_MAX => value.to_str().map_or(Self::Invalid, Self::parse),
            _ => Self::Invalid,
        }
    }

    fn parse(value: &str) -> Self {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("token") {
            return Self::v1_token(rest);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return if rest.trim().is_empty() { Self::Invalid } else { Self::Bearer(Secret::new(rest.trim())) };
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Invalid;
        }
        let decoded = BASE64.decode(rest.trim()).ok().map(text_of);
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some(("", _)) => Self::None,
            Some((user, password)) => Self::Basic(user.to_owned(), Secret::new(password)),
            None => Self::Invalid,
        }
    }

    /// `signature=<token>,repository="…",access=…`, with a second `Token` in front if an old client took it for a part of
    /// the value. Only the signature counts: the rest is what the signed token says, too.
    fn v1_token(text: &str) -> Self {
        let text = text.trim();
        let text = text.strip_prefix("Token").map_or(text, str::trim_start);
        if text.is_empty() {
            return Self::None;
        }
        let signature = text.split(',').find_map(|part| part.trim().strip_prefix("signature="));
        signature.map_or(Self::Invalid, |signature| Self::V1Token(Secret::new(signature.trim_matches('"'))))
    }
}

/// The text that a client means: UTF-8, or Latin-1 as older ones and browsers send it. Bytes of Latin-1 with a letter beyond
/// ASCII are hardly ever UTF-8, and no character has two meanings.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_a_user_and_a_password_that_may_hold_colons() {
        for (header, user, password) in [("Basic YTpiOmM=", "a", "b:c"), ("basic YTpiOmM", "a", "b:c"), ("Basic YTo=", "a", "")] {
            assert_eq!(Credentials::parse(header), Credentials::Basic(user.to_owned(), Secret::new(password)), "{header}");
        }
    }

    #[test]
    fn a_name_and_a_password_may_come_in_utf_8_or_latin_1() {
        for bytes in ["grün:Straße".as_bytes(), b"gr\xfcn:Stra\xdfe"] {
            let header = format!("Basic {}", BASE64.encode(bytes));
            assert_eq!(Credentials::parse(&header), Credentials::Basic("grün".to_owned(), Secret::new("Straße")), "{header}");
        }
    }

    #[test]
    fn an_empty_user_and_an_empty_token_claim_nothing() {
        for header in ["Basic Og==", "Basic OnB3", "Token ", "Token", "Token Token "] {
            assert_eq!(Credentials::parse(header), Credentials::None, "{header}");
        }
    }

    #[test]
    fn a_v1_token_is_found_as_every_docker_sends_it() {
        for header in [
            "Token signature=abc,repository=\"team/app\",access=write",
            "Token Token signature=abc,repository=\"team/app\",access=write",
            "token repository=\"team/app\", signature=\"abc\"",
        ] {
            assert_eq!(Credentials::parse(header), Credentials::V1Token(Secret::new("abc")), "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_invalid() {
        for header in ["Basic", "Basic !", "Basic YQ==", "Basic /w==", "Digest x", "", "Bearer", "Bearer  ", "Token x"] {
            assert_eq!(Credentials::parse(header), Credentials::Invalid, "{header}");
        }
    }

    #[test]
    fn a_secret_never_prints_itself() {
        for header in ["Basic YTpzZWNyZXQ=", "Bearer secret", "Token signature=secret"] {
            assert!(!format!("{:?}", Credentials::parse(header)).contains("secret"), "{header}");
        }
    }
}
