//! The table `[traces]`, the same in both configurations.

use std::fmt;

use http::Uri;
use serde::Deserialize;

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The collector.
    pub otlp: Collector,
    /// The share of requests that are traced. Who is believed and has decided for itself is followed.
    #[serde(default)]
    pub ratio: Ratio,
}

/// A collector's base URL. `http` alone: a collector is near, and speaks TLS to what is far.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Collector(Uri);

impl TryFrom<String> for Collector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hint = || format!("{text:?} is no collector: write http://, a host and a port, for instance \"http://127.0.0.1:4318\"");
        let uri: Uri = text.parse().map_err(|_| hint())?;
        let authority = uri.authority().ok_or_else(hint)?;
        let is_named = !authority.host().is_empty() && !text.contains('@');
        // A port that is no number is none to this type.
        let has_good_port = authority.as_str() == authority.host() || authority.port_u16().is_some_and(|port| port != 0);
        let is_base = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        if is_base && is_named && has_good_port { Ok(Self(uri)) } else { Err(hint()) }
    }
}

impl fmt::Display for Collector {
    /// Without a slash at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// A share: from 0, none, to 1, all.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Ratio(f64);

impl Default for Ratio {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&ratio) { Ok(Self(ratio)) } else { Err(format!("{ratio} is no share: write a number from 0 to 1")) }
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_collector_is_a_base_url() {
        for (url, base) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("http://collector/", "http://collector"),
            ("http://[::1]:4318", "http://[::1]:4318"),
        ] {
            assert_eq!(Collector::try_from(url.to_owned()).map(|url| url.to_string()), Ok(base.to_owned()));
        }
        for bad in [
            "",
            "127.0.0.1:4318",
            "collector",
            "https://a:4318",
            "http://a/v1/traces",
            "http://a?x",
            "http://me:pw@a",
            "http://:4318",
            "http://a:0",
            "http://a:70000",
            "grpc://a",
        ] {
            assert!(Collector::try_from(bad.to_owned()).is_err_and(|error| error.contains("is no collector")), "{bad}");
        }
    }

    #[test]
    fn everything_is_traced_unless_a_share_is_named() {
        let ratio = |text: &str| read(&format!("otlp = \"http://a:1\"\n{text}")).map(|settings| f64::from(settings.ratio));
        assert_eq!(ratio(""), Ok(1.0));
        assert_eq!(ratio("ratio = 0.25"), Ok(0.25));
        assert_eq!(ratio("ratio = 1"), Ok(1.0));
        for bad in ["1.5", "-0.1", "nan", "10"] {
            assert!(ratio(&format!("ratio = {bad}")).is_err_and(|error| error.contains("from 0 to 1")), "{bad}");
        }
        assert!(read("oltp = \"http://a:1\"").is_err_and(|error| error.starts_with("unknown field `oltp`")));
        assert!(read("ratio = 1.0").is_err_and(|error| error.contains("missing field `otlp`")));
    }
}
