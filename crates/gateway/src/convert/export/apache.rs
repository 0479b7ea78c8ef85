//! Sites for Apache.

use std::fmt::Write as _;

use berth_names::wire::ALL_REPOSITORIES;

use super::super::site::{Binding, Certificate, Endpoint, Limits, Server, Site, Target};
use super::{
    CIPHERS, CLAIMS, KEY_IN_HOST, Origin, PATH_CHARS, PREFIX, by_address, file, head, missing, origin, pattern, port_suffix, word,
};

pub(super) fn text(site: &Site) -> String {
    let mut text = head(
        site.bindings.len(),
        "# Include it outside every virtual host, in Debian by putting it into /etc/apache2/sites-enabled/. Apache 2.4.41 or newer, with\n\
         #   a2enmod ssl headers rewrite remoteip proxy proxy_http proxy_balancer lbmethod_bybusyness slotmem_shm\n\
         # Remove each `Listen` that Debian's ports.conf has already.\n",
    );
    balancer(&mut text, site);
    for (address, bindings) in by_address(site) {
        line!(text, 0, "\nListen {address}");
        let takes_all = bindings.iter().any(|binding| binding.server_name.is_none());
        if let (Some(first), false) = (bindings.first(), takes_all) {
            strangers(&mut text, first);
        }
        // The first virtual host of an address has every host that no other names.
        let (any, named): (Vec<&Binding>, Vec<&Binding>) = bindings.into_iter().partition(|binding| binding.server_name.is_none());
        any.into_iter().chain(named).for_each(|binding| host(&mut text, site, binding));
    }
    text
}

/// The address of a backend up to its path.
fn url(server: &Server) -> String {
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    match &server.endpoint {
        Endpoint::Unix(path) => format!("unix:{}|{scheme}://localhost", file(path)),
        Endpoint::Tcp(address) => format!("{scheme}://{}", word(address)),
    }
}

/// What is passed on goes to this, up to the path.
fn backend(site: &Site) -> String {
    match site.upstream.as_slice() {
        [only] => url(only),
        _ => "balancer://berth".to_owned(),
    }
}

fn balancer(text: &mut String, site: &Site) {
    // Answers are handed on as they come; the backend has 30 min to begin one.
    const WORKER: &str = "connectiontimeout=2 timeout=1800 flushpackets=on keepalive=on";
    if let [only] = site.upstream.as_slice() {
        line!(text, 0, "\n<Proxy \"{}/\">", url(only));
        line!(text, 1, "ProxySet {WORKER}");
        line!(text, 0, "</Proxy>");
        return;
    }
    text.push_str("\n<Proxy \"balancer://berth\">\n");
    for server in &site.upstream {
        line!(text, 1, "BalancerMember \"{}\" {WORKER}", url(server));
    }
    line!(text, 1, "ProxySet lbmethod=bybusyness");
    line!(text, 0, "</Proxy>");
}

/// A host for names that no binding has; it must be the first of its address.
fn strangers(text: &mut String, first: &Binding) {
    line!(text, 0, "# Hosts that no binding has.");
    line!(text, 0, "<VirtualHost {}>", first.listen);
    line!(text, 1, "ServerName strangers.invalid");
    tls(text, first);
    line!(text, 1, "RewriteEngine on");
    line!(text, 1, "RewriteRule ^ - [R=421,L]");
    line!(text, 0, "</VirtualHost>");
}

fn tls(text: &mut String, binding: &Binding) {
    let Some(tls) = &binding.tls else { return };
    line!(text, 1, "SSLEngine on");
    match &tls.certificate {
        Certificate::Files { certificate, key, .. } => {
            line!(text, 1, "SSLCertificateFile \"{}\"", file(certificate));
            line!(text, 1, "SSLCertificateKeyFile \"{}\"", file(key));
        }
        Certificate::Acme => {
            let name = word(binding.server_name.as_deref().unwrap_or("registry"));
            line!(text, 1, "SSLCertificateFile /etc/letsencrypt/live/{name}/fullchain.pem");
            line!(text, 1, "SSLCertificateKeyFile /etc/letsencrypt/live/{name}/privkey.pem");
        }
    }
    if let Some(ca) = &tls.client_ca {
        line!(text, 1, "SSLCACertificateFile \"{}\"", file(ca));
        line!(text, 1, "SSLVerifyClient require");
        line!(text, 1, "SSLVerifyDepth 10");
    }
    line!(text, 1, "SSLProtocol -all +TLSv1.2 +TLSv1.3");
    line!(text, 1, "SSLCipherSuite {CIPHERS}");
}

fn host(text: &mut String, site: &Site, binding: &Binding) {
    text.push('\n');
    missing(binding).iter().for_each(|sentence| line!(text, 0, "# {sentence}"));
    if binding.limits != Limits::default() {
        line!(text, 0, "# Apache has no counterpart to the limits of this binding.");
    }
    line!(text, 0, "<VirtualHost {}>", binding.listen);
    match binding.server_name.as_deref() {
        Some(name) if name.starts_with("*.") => {
            line!(text, 1, "ServerName any{}", word(&name[1..]));
            line!(text, 1, "ServerAlias {}", word(name));
        }
        Some(name) => line!(text, 1, "ServerName {}", word(name)),
        None => line!(text, 1, "ServerName any.invalid"),
    }
    tls(text, binding);
    line!(text, 1, "Protocols http/1.1");
    access(text, site, binding);
    passing(text, site, binding);
    rules(text, site, binding);
    line!(text, 0, "</VirtualHost>");
}

fn access(text: &mut String, site: &Site, binding: &Binding) {
    if binding.proxy_protocol {
        line!(text, 1, "RemoteIPProxyProtocol On");
    } else if !site.trusted_proxies.is_empty() {
        line!(text, 1, "RemoteIPHeader X-Forwarded-For");
        site.trusted_proxies.iter().for_each(|network| line!(text, 1, "RemoteIPInternalProxy {}", word(network)));
    }
    line!(text, 1, "<Location \"/\">");
    line!(text, 2, "<RequireAll>");
    match binding.allow.is_empty() {
        true => line!(text, 3, "Require all granted"),
        false => line!(text, 3, "Require ip {}", binding.allow.iter().map(|network| word(network)).collect::<Vec<_>>().join(" ")),
    }
    binding.deny.iter().for_each(|network| line!(text, 3, "Require not ip {}", word(network)));
    line!(text, 2, "</RequireAll>");
    line!(text, 1, "</Location>");
}

/// How requests are passed on: bodies of any length as they come, and who the client is.
fn passing(text: &mut String, site: &Site, binding: &Binding) {
    text.push_str("\n    # Bodies of any length, as they come; a transfer may last as long as bytes move.\n");
    for fixed in [
        "LimitRequestBody 0",
        "Timeout 300",
        "<IfModule mod_reqtimeout.c>",
        "    RequestReadTimeout header=10 body=0",
        "</IfModule>",
        "SetEnv no-gzip 1",
        "AllowEncodedSlashes NoDecode",
        "ProxyRequests Off",
        "ProxyPreserveHost On",
        "ProxyAddHeaders Off",
    ] {
        line!(text, 1, "{fixed}");
    }
    if let Some(tls) = site.upstream.first().and_then(|server| server.tls.as_ref()) {
        line!(text, 1, "SSLProxyEngine on");
        line!(text, 1, "SSLProxyVerify require");
        let ca = tls.ca.as_deref().map_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned(), file);
        line!(text, 1, "SSLProxyCACertificateFile \"{ca}\"");
        // The name in the certificate is compared with the client's host, which is passed on.
        line!(text, 1, "SSLProxyCheckPeerName off");
    }
    text.push_str("\n    # Where the client is; nothing that it says itself about that.\n");
    let (host, scheme, port) = match origin(site, binding) {
        Origin::Port(port) => {
            (format!("%{{BERTH_HOST}}e{}", port_suffix(binding, port)), binding.scheme().as_str().to_owned(), port.to_string())
        }
        Origin::Fixed { scheme, authority, port } => (authority, scheme, port.to_string()),
        Origin::Told => ("%{BERTH_HOST}e".to_owned(), "%{BERTH_SCHEME}e".to_owned(), "%{BERTH_PORT}e".to_owned()),
    };
    for (name, value) in [("Host", &host), ("X-Forwarded-Host", &host), ("X-Forwarded-Proto", &scheme), ("X-Forwarded-Port", &port)] {
        line!(text, 1, "RequestHeader set {name} \"{value}\"");
    }
    for name in ["X-Forwarded-For", "X-Real-IP"] {
        line!(text, 1, "RequestHeader set {name} \"expr=%{{REMOTE_ADDR}}\"");
    }
    CLAIMS.iter().chain(&["Upgrade", "X-Request-Id"]).for_each(|name| line!(text, 1, "RequestHeader unset {name}"));
}

fn rules(text: &mut String, site: &Site, binding: &Binding) {
    let backend = backend(site);
    text.push_str("\n    RewriteEngine on\n    # Paths that two servers could read differently, and requests without a host.\n");
    line!(text, 1, "RewriteCond %{{THE_REQUEST}} \"^[^ ]+ (?:https?://[^/? ]*)?/(?:/|\\.\\.?[/ ?])\" [OR]");
    line!(text, 1, "RewriteCond %{{THE_REQUEST}} \"^[^ ]+ (?:https?://[^/? ]*)?/[^ ?]*(?://|/\\.\\.?[/ ?]|[^ ?{PATH_CHARS}])\" [OR]");
    line!(text, 1, "RewriteCond %{{HTTP_HOST}} \"^$\"");
    line!(text, 1, "RewriteRule ^ - [R=400,L]");
    line!(text, 1, "RewriteCond %{{HTTP_HOST}} \"^(\\[[0-9A-Fa-f:.]+\\]|[^:]+)\"");
    line!(text, 1, "RewriteRule ^ - [E=BERTH_HOST:%1]");
    if matches!(origin(site, binding), Origin::Told) {
        told(text, site);
    }
    if binding.read_only {
        line!(text, 1, "RewriteCond %{{REQUEST_METHOD}} \"!^(GET|HEAD|OPTIONS)$\"");
        line!(text, 1, "RewriteRule ^ - [R=405,L]");
    }
    let registry = |text: &mut String, key: &str| {
        line!(text, 1, "RewriteRule \"^/_ping$\" \"{backend}{PREFIX}/{key}/v1/_ping\" [P,L]");
        line!(text, 1, "RewriteRule \"^/(v[12](?:/.*)?)$\" \"{backend}{PREFIX}/{key}/$1\" [P,L]");
    };
    match &binding.target {
        Target::Repository(key) => registry(text, key.as_str()),
        Target::RepositoryFromHost => {
            let domain = binding.server_name.as_deref().map(|name| pattern(name.strip_prefix("*.").unwrap_or(name)));
            let domain = domain.map_or_else(|| "\\.".to_owned(), |domain| format!("\\.{domain}(?::[0-9]+)?$"));
            line!(text, 1, "RewriteCond %{{HTTP_HOST}} \"!^{KEY_IN_HOST}{domain}\" [NC]");
            line!(text, 1, "RewriteRule ^ - [R=421,L]");
            line!(text, 1, "RewriteMap berth_lower int:tolower");
            line!(text, 1, "RewriteCond %{{HTTP_HOST}} \"^({KEY_IN_HOST})\\.\" [NC]");
            line!(text, 1, "RewriteRule ^ - [E=BERTH_KEY:${{berth_lower:%1}}]");
            registry(text, "%{ENV:BERTH_KEY}");
        }
        Target::RepositoryFromPath => registry(text, ALL_REPOSITORIES),
        Target::Console => line!(text, 1, "RewriteRule \"^/((?:artifactory|api)/.*)$\" \"{backend}/$1\" [P,L]"),
        Target::Nothing => {}
    }
    if let Some(origin) = &binding.redirect {
        line!(text, 1, "RewriteCond %{{REQUEST_METHOD}} \"^(GET|HEAD)$\"");
        line!(text, 1, "RewriteRule ^ \"{}%{{REQUEST_URI}}\" [R=302,L]", word(origin));
    }
    line!(text, 1, "RewriteRule ^ - [R=404,L]");
}

/// What proxies in front say counts if the connection comes from one of them.
fn told(text: &mut String, site: &Site) {
    line!(text, 1, "RewriteRule ^ - [E=BERTH_SCHEME:%{{REQUEST_SCHEME}},E=BERTH_PORT:%{{SERVER_PORT}}]");
    for network in &site.trusted_proxies {
        let is_from = format!("RewriteCond expr \"%{{CONN_REMOTE_ADDR}} -ipmatch '{}'\"", word(network));
        line!(text, 1, "{is_from}");
        line!(text, 1, "RewriteCond %{{HTTP:X-Forwarded-Proto}} \"^(https?)$\"");
        line!(text, 1, "RewriteRule ^ - [E=BERTH_SCHEME:%1]");
        line!(text, 1, "{is_from}");
        line!(text, 1, "RewriteCond %{{HTTP:X-Forwarded-Port}} \"^([1-9][0-9]{{0,4}})$\"");
        line!(text, 1, "RewriteRule ^ - [E=BERTH_PORT:%1]");
    }
}
