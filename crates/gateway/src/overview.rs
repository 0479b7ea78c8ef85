//! What a configuration makes reachable, and where: the table of `berth-gateway bindings`, and the names that clients are
//! told to trust.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_names::{Authority, Scheme};

use crate::bindings::{Binding, Bound, Listener};
use crate::metrics::CertificateExpiry;

/// A certificate with less left is worth a warning.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// One binding, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Address and server name.
    pub listener: String,
    /// The host names that it is for.
    pub hosts: String,
    /// What it makes reachable.
    pub target: String,
    /// It speaks TLS.
    pub is_encrypted: bool,
    /// When its certificate expires, in seconds since 1970. `None`: it has none, or one that changes by itself.
    pub expires: Option<i64>,
    /// What clients write, one per host that is known.
    pub urls: Vec<String>,
}

/// The bindings of these listeners, by address and host.
pub fn rows(listeners: &[Listener]) -> Vec<Row> {
    let mut rows: Vec<Row> = listeners.iter().flat_map(|listener| listener.bindings.iter().map(|binding| row(listener, binding))).collect();
    rows.sort_by(|a, b| a.listener.cmp(&b.listener));
    rows
}

fn row(listener: &Listener, binding: &Binding) -> Row {
    let pattern = binding.label.split_once(' ').map(|(_, name)| name.to_owned());
    let identity = binding.tls.as_ref().and_then(|tls| tls.identity());
    Row {
        listener: format!("{} {}", listener.scheme.as_str(), listener.address),
        hosts: pattern.unwrap_or_else(|| "any".to_owned()),
        target: target(binding),
        is_encrypted: binding.tls.is_some(),
        expires: identity.map(|identity| identity.expires),
        urls: hosts(binding).iter().filter_map(|host| url(listener, binding, host)).collect(),
    }
}

fn target(binding: &Binding) -> String {
    match (&binding.bound, &binding.redirect) {
        (Bound::Repository(key), _) => key.to_string(),
        (Bound::RepositoryFromHost, _) => "(first label of the host)".to_owned(),
        (Bound::RepositoryFromPath, _) => "(first element of the path)".to_owned(),
        (Bound::Console(_), _) => "console".to_owned(),
        (Bound::Nothing, Some(to)) => format!("redirect to {to}"),
        (Bound::Nothing, None) => "nothing".to_owned(),
    }
}

/// The hosts that clients are known to use: the one that is configured, or those of the certificate.
fn hosts(binding: &Binding) -> Vec<String> {
    if let Some(host) = &binding.public.host {
        return vec![host.host().to_owned()];
    }
    if let Some((_, name)) = binding.label.split_once(' ') {
        return vec![name.to_owned()];
    }
    binding.tls.as_ref().and_then(|tls| tls.identity()).map(|identity| identity.names.clone()).unwrap_or_default()
}

fn url(listener: &Listener, binding: &Binding, host: &str) -> Option<String> {
    // A pattern is no host, but its port is worth seeing.
    let (prefix, name) = host.strip_prefix("*.").map_or(("", host), |domain| ("*.", domain));
    let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let host: Authority = name.parse().ok()?;
    let origin = binding.public.origin(listener.scheme, &host, listener.address.port());
    Some(format!("{}://{prefix}{}", origin.scheme().as_str(), origin.authority()))
}

/// When the certificates of these listeners expire, as far as they come from files.
pub fn certificates(listeners: &[Listener]) -> Vec<CertificateExpiry> {
    let expiry = |binding: &Arc<Binding>| {
        let identity = binding.tls.as_ref()?.identity()?;
        let server_name = binding.label.split_once(' ').map(|(_, name)| name.to_owned()).unwrap_or_default();
        Some(CertificateExpiry { binding: binding.label.to_string(), server_name, not_after_s: identity.expires })
    };
    listeners.iter().flat_map(|listener| listener.bindings.iter()).filter_map(expiry).collect()
}

/// What an operator should know about the certificates of these listeners: those that have expired, or soon will.
pub fn warnings(listeners: &[Listener], now: SystemTime) -> Vec<String> {
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now_s = i64::try_from(now_s).unwrap_or(i64::MAX);
    let warning = |row: Row| {
        let left_s = row.expires?.saturating_sub(now_s);
        let what = format!("the certificate of {} ({})", row.listener, row.hosts);
        match left_s {
            ..=0 => Some(format!("{what} expired {} ago: clients refuse it", days(-left_s))),
            _ if left_s < EXPIRY_WARNING.as_secs() as i64 => Some(format!("{what} expires in {}", days(left_s))),
            _ => None,
        }
    };
    rows(listeners).into_iter().filter_map(warning).collect()
}

fn days(seconds: i64) -> String {
    match seconds / (24 * 60 * 60) {
        0 => "less than a day".to_owned(),
        1 => "a day".to_owned(),
        days => format!("{days} days"),
    }
}

/// What docker calls the registries of these listeners: `host`, or `host:port`.
pub fn registries(listeners: &[Listener]) -> Vec<String> {
    let mut names: Vec<String> = listeners
        .iter()
        .filter(|listener| listener.scheme == Scheme::Https)
        .flat_map(|listener| listener.bindings.iter().map(move |binding| (listener, binding)))
        .filter(|(_, binding)| matches!(binding.bound, Bound::Repository(_) | Bound::RepositoryFromHost | Bound::RepositoryFromPath))
        .flat_map(|(listener, binding)| hosts(binding).into_iter().filter_map(move |host| url(listener, binding, &host)))
        .filter_map(|url| url.split_once("://").map(|(_, name)| name.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The rows as a table for a terminal.
pub fn table(rows: &[Row], now: SystemTime) -> String {
    let header = ["LISTENER", "HOST", "REPOSITORY", "CERTIFICATE", "CLIENTS USE"].map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let expires = match row.expires {
            Some(at) => expiry(at, now),
            None if row.is_encrypted => "by ACME".to_owned(),
            None => "-".to_owned(),
        };
        let urls = if row.urls.is_empty() { "-".to_owned() } else { row.urls.join(", ") };
        [row.listener.clone(), row.hosts.clone(), row.target.clone(), expires, urls]
    });
    let lines: Vec<[String; 5]> = std::iter::once(header).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In days: what an operator plans with.
fn expiry(at: i64, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let days = (at - now).div_euclid(DAY.as_secs() as i64);
    if at <= now { "EXPIRED".to_owned() } else { format!("{days} days left") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rows_of(bindings: &str) -> Vec<Row> {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["r.example".into(), "10.0.0.1".into()]).unwrap();
        std::fs::write(directory.path().join("c.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.path().join("c.key"), made.signing_key.serialize_pem()).unwrap();
        rows(&Config::parse(&format!("[upstream]\ntcp = \"127.0.0.1:1\"\n{bindings}"), directory.path()).unwrap().listeners)
    }

    const TLS: &str = "certificate = \"c.pem\"\nkey = \"c.key\"\n";

    #[test]
    fn each_binding_shows_what_clients_write() {
        let rows = rows_of(&format!(
            "[[binding]]\nlisten = \"0.0.0.0:8443\"\nrepository = \"a\"\npublic_port = 444\n{TLS}\
             [[binding]]\nlisten = \"0.0.0.0:9443\"\nserver_name = \"*.d.example\"\nrepository_from = \"host\"\n{TLS}\
             [[binding]]\nlisten = \"[::]:80\"\nplain_http = true\nredirect = \"https://r.example\"\n"
        ));
        let shown: Vec<_> =
            rows.iter().map(|row| (row.listener.as_str(), row.hosts.as_str(), row.target.as_str(), row.urls.join(" "))).collect();
        assert_eq!(
            shown,
            [
                ("http [::]:80", "any", "redirect to https://r.example", String::new()),
                ("https 0.0.0.0:8443", "any", "a", "https://r.example:444 https://10.0.0.1:444".to_owned()),
                ("https 0.0.0.0:9443", "*.d.example", "(first label of the host)", "https://*.d.example:9443".to_owned()),
            ]
        );
        let table = table(&rows, SystemTime::now());
        assert!(table.starts_with("LISTENER") && table.lines().count() == 4, "{table}");
    }

    #[test]
    fn certificates_that_have_expired_or_soon_will_are_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let now = SystemTime::UNIX_EPOCH + DAY * 20_000;
        std::fs::write(directory.path().join("c.key"), key.serialize_pem()).unwrap();
        for (days, hours, warned) in [
            (-3, 0, Some("expired 3 days ago: clients refuse it")),
            (0, 0, Some("expired less than a day ago: clients refuse it")),
            (0, 5, Some("expires in less than a day")),
            (1, 1, Some("expires in a day")),
            (13, 23, Some("expires in 13 days")),
            (14, 1, None),
        ] {
            let mut params = rcgen::CertificateParams::new(vec!["r.example".to_owned()]).unwrap();
            params.not_before = SystemTime::UNIX_EPOCH.into();
            let left = DAY * u32::try_from(days + 10).unwrap() + Duration::from_secs(hours * 60 * 60);
            params.not_after = (now - DAY * 10 + left).into();
            std::fs::write(directory.path().join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
            let binding = format!("[[binding]]\nlisten = \"127.0.0.1:8443\"\nrepository = \"a\"\n{TLS}");
            let config = Config::parse(&format!("[upstream]\ntcp = \"127.0.0.1:1\"\n{binding}"), directory.path()).unwrap();
            let expected = warned.map(|warned| format!("the certificate of https 127.0.0.1:8443 (any) {warned}"));
            assert_eq!(warnings(&config.listeners, now), Vec::from_iter(expected));
        }
    }

    #[test]
    fn expiry_is_in_days() {
        let now = SystemTime::UNIX_EPOCH + DAY * 100;
        for (at, text) in [(101, "1 days left"), (190, "90 days left"), (100, "EXPIRED"), (1, "EXPIRED")] {
            assert_eq!(expiry(at * DAY.as_secs() as i64, now), text);
        }
    }
}
