//! What a client says about who it is.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longest `Authorization` header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// Hand-written configuration files leave the padding away.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A password on its way to being checked. It does not print itself.
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Who a request claims to come from.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// No claim: no header, an empty user name (docker sends `Og==` when it knows none), or a token, which V1 clients
    /// replay and which grants nothing.
    None,
    /// A user name and a password.
    Basic(String, Password),
    /// The header can't be read, or there are two.
    Invalid,
}

impl Credentials {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) if value.len() <= HEADER_BYTES_MAX => value.to_str().map_or(Self::Invalid, Self::parse),
            _ => Self::Invalid,
        }
    }

    fn parse(value: &str) -> Self {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer") {
            return Self::None;
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Invalid;
        }
        let decoded = BASE64.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some(("", _)) => Self::None,
            Some((user, password)) => Self::Basic(user.to_owned(), Password(password.to_owned())),
            None => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_a_user_and_a_password_that_may_hold_colons() {
        for (header, user, password) in [("Basic YTpiOmM=", "a", "b:c"), ("basic YTpiOmM", "a", "b:c"), ("Basic YTo=", "a", "")] {
            match Credentials::parse(header) {
                Credentials::Basic(seen, secret) => assert_eq!((seen.as_str(), secret.as_str()), (user, password)),
                other => panic!("{header}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_user_and_a_v1_token_claim_nothing() {
        for header in ["Basic Og==", "Basic OnB3", "Token signature=x", "Token ", "Token", "Bearer x"] {
            assert!(matches!(Credentials::parse(header), Credentials::None), "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_invalid() {
        for header in ["Basic", "Basic !", "Basic YQ==", "Basic /w==", "Digest x", ""] {
            assert!(matches!(Credentials::parse(header), Credentials::Invalid), "{header}");
        }
    }

    #[test]
    fn a_password_never_prints_itself() {
        assert!(!format!("{:?}", Credentials::parse("Basic YTpzZWNyZXQ=")).contains("secret"));
    }
}
