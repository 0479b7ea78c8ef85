//! The schemas of the texts that have a type of their own: a field says `#[schemars(with = "names::…")]`.
//!
//! The types' parsers decide what is accepted; a property test holds every pattern against its parser.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A kind of text: its name in the description, what it is, its pattern and how many characters it may have.
macro_rules! text {
    ($kind:ident, $description:literal, $pattern:expr, $length_max:literal) => {
        #[doc = $description]
        pub(in crate::http::rest) enum $kind {}

        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description, "pattern": $pattern, "maxLength": $length_max })
            }
        }
    };
}

text!(AccountName, "The name of a user, group or permission target.", "^[a-z0-9][a-z0-9._@-]*$", 64);
text!(RepositoryKey, "The key of a repository.", "^[A-Za-z0-9][A-Za-z0-9._-]*$", 63);
text!(
    ImageName,
    "What a docker client pushes to and pulls from within a repository.",
    r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$",
    255
);
text!(TagName, "The name of a tag.", "^[A-Za-z0-9_][A-Za-z0-9._-]*$", 128);
text!(Digest, "The name of bytes by their content.", "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$", 135);
text!(V1ImageId, "The id of a V1 image.", "^[0-9a-f]{64}$", 64);
text!(JobId, "The id of a job.", "^[0-9a-f]{32}$", 32);

/// Which Docker registry protocol a repository speaks.
pub(in crate::http::rest) enum ApiVersion {}

impl JsonSchema for ApiVersion {
    fn schema_name() -> Cow<'static, str> {
        "ApiVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "enum": ["V1", "V2"],
            "description": "Which Docker registry protocol a repository speaks: V1 (docker 0.6 to 1.12) or V2 (docker 1.6 and later, OCI).",
        })
    }
}

/// A moment, as text.
pub(in crate::http::rest) enum Time {}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "RFC 3339 with milliseconds, UTC." })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn agree<Kind: JsonSchema, Parsed: FromStr>(text: &str) {
        let schema = serde_json::Value::from(Kind::json_schema(&mut SchemaGenerator::default()));
        let described = jsonschema::is_valid(&schema, &text.into());
        assert_eq!(described, text.parse::<Parsed>().is_ok(), "{} {text:?}", Kind::schema_name());
    }

    fn all_agree(text: &str) {
        agree::<AccountName, berth_names::AccountName>(text);
        agree::<RepositoryKey, berth_names::RepositoryKey>(text);
        agree::<ImageName, berth_names::ImageName>(text);
        agree::<TagName, berth_names::Tag>(text);
        agree::<Digest, berth_names::Digest>(text);
        agree::<V1ImageId, berth_registry::v1::ImageId>(text);
        agree::<JobId, berth_registry::v1::migration::JobId>(text);
    }

    #[test]
    fn what_is_described_is_what_is_read() {
        for length in [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 254, 255, 256] {
            all_agree(&"a".repeat(length));
            all_agree(&format!("sha256:{}", "0".repeat(length)));
            all_agree(&format!("sha512:{}", "0".repeat(length)));
        }
        for text in ["a..b", "a__b", "a___b", "a---b", "a/b/", "/a", "library/ubuntu", "12.04", "Z", "a@b", "\n", "a\n"] {
            all_agree(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_described_as_it_is_read(text in "[a-zA-Z0-9._/@-]{0,12}", wild in "\\PC{0,8}", hex in "(sha256:)?[0-9a-fA]{30,66}") {
            for text in [text, wild, hex] {
                all_agree(&text);
            }
        }
    }
}
