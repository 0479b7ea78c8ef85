//! What NGINX or Apache must be told to stand where the gateway stands: the same requests to the backend, and the same
//! ones refused before it.
//!
//! What must stay true: nothing from a client gets into a forwarding header, and no path that two servers could read
//! differently passes. Texts of the configuration get into the result only through [`word`] and [`pattern`].

/// Appends a line, with four spaces for each level.
macro_rules! line {
    ($text:expr, $level:expr, $($argument:tt)*) => {{
        $text.push_str(&"    ".repeat($level));
        // Writing to a String cannot fail.
        let _ = writeln!($text, $($argument)*);
    }};
}

mod apache;
mod nginx;

use std::net::SocketAddr;

use super::Kind;
use super::site::{Binding, Public, Site};

/// What stands in front of a registry's paths.
const PREFIX: &str = "/artifactory/api/docker";

/// The characters of registry paths, for within brackets. What else there is, servers disagree on.
const PATH_CHARS: &str = "A-Za-z0-9/._~:@+=-";

/// One label that can be a repository's key.
const KEY_IN_HOST: &str = "[a-z0-9][a-z0-9_-]*";

/// Headers by which a backend can be told where a request came from, that the gateway does not set: a client's are dropped.
const CLAIMS: [&str; 7] = [
    "Forwarded",
    "X-Artifactory-Override-Base-Url",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-JFrog-Override-Base-Url",
];

/// TLS 1.2's authenticated ciphers with forward secrecy; the first is the one that docker 1.6 knows too.
const CIPHERS: &str = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-CHACHA20-POLY1305";

/// The configuration with which another proxy does what the gateway does with `site`: a file to be included, by NGINX
/// within `http`, by Apache anywhere outside a virtual host. Paths in `site` should be absolute.
pub fn export(site: &Site, kind: Kind) -> String {
    match kind {
        Kind::Nginx => nginx::text(site),
        Kind::Apache => apache::text(site),
    }
}

/// The bindings of each address, in order.
fn by_address(site: &Site) -> Vec<(SocketAddr, Vec<&Binding>)> {
    let mut groups: Vec<(SocketAddr, Vec<&Binding>)> = Vec::new();
    for binding in &site.bindings {
        match groups.iter_mut().find(|(address, _)| *address == binding.listen) {
            Some((_, bindings)) => bindings.push(binding),
            None => groups.push((binding.listen, vec![binding])),
        }
    }
    groups
}

/// Where the client is.
enum Origin {
    /// The host that it names, on this port.
    Port(u16),
    /// Exactly there.
    Fixed { scheme: String, authority: String, port: u16 },
    /// Where trusted proxies in front say.
    Told,
}

fn origin(site: &Site, binding: &Binding) -> Origin {
    match &binding.public {
        Public::Port(port) => Origin::Port(*port),
        Public::Url(url) => {
            let (scheme, rest) = url.split_once("://").unwrap_or((binding.scheme().as_str(), url));
            let authority = rest.split('/').next().unwrap_or_default();
            let natural = if scheme == "https" { 443 } else { 80 };
            let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(natural);
            Origin::Fixed { scheme: word(scheme), authority: word(authority), port }
        }
        Public::AsListened if !site.trusted_proxies.is_empty() && !binding.proxy_protocol => Origin::Told,
        Public::AsListened => Origin::Port(binding.listen.port()),
    }
}

/// `:444`, or nothing where the scheme means the port anyway.
fn port_suffix(binding: &Binding, port: u16) -> String {
    if port == binding.scheme().default_port() { String::new() } else { format!(":{port}") }
}

/// A text without anything that could end a word, a quote or a line of either grammar.
fn word(text: &str) -> String {
    text.chars()
        .filter(|c| {
            !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\' | ';' | '{' | '}' | '$' | '%' | '<' | '>' | '#')
        })
        .collect()
}

/// A path of a file, for between double quotes.
fn file(path: &std::path::Path) -> String {
    path.to_string_lossy().chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\' | '$')).collect()
}

/// A host as a regular expression.
fn pattern(host: &str) -> String {
    word(host).replace('.', "\\.")
}

/// What a reader should know first.
fn head(bindings: usize, how: &str) -> String {
    format!(
        "# Made by `berth-gateway export`, from {bindings} binding{}: what the gateway does, for those who must keep another proxy.\n{how}\
         # The backend must have this host's address in its `trusted_proxies`.\n",
        if bindings == 1 { "" } else { "s" }
    )
}

/// What is not said in the other proxy's configuration.
fn missing(binding: &Binding) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if matches!(&binding.tls, Some(tls) if tls.certificate == super::Certificate::Acme) {
        missing.push("The gateway asks an ACME authority for this certificate itself: point the two lines to another client's files.");
    }
    missing
}
