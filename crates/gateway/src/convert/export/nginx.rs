//! Sites for NGINX.

use std::fmt::Write as _;

use berth_names::wire::ALL_REPOSITORIES;

use super::super::site::{Binding, Certificate, Endpoint, Site, Target};
use super::{
    CIPHERS, CLAIMS, KEY_IN_HOST, Origin, PATH_CHARS, PREFIX, by_address, file, head, missing, origin, pattern, port_suffix, word,
};

pub(super) fn text(site: &Site) -> String {
    let mut text = head(
        site.bindings.len(),
        "# Include it within `http { … }`, in Debian by putting it into /etc/nginx/conf.d/. NGINX 1.15.3 or newer.\n",
    );
    upstream(&mut text, site);
    trusted(&mut text, site);
    for (at, binding) in site.bindings.iter().enumerate() {
        zones(&mut text, at, binding);
    }
    for (_, bindings) in by_address(site) {
        let takes_all = bindings.iter().any(|binding| binding.server_name.is_none() && binding.target != Target::RepositoryFromHost);
        if let (Some(first), false) = (bindings.first(), takes_all) {
            strangers(&mut text, first);
        }
        for binding in bindings {
            let number = site.bindings.iter().position(|other| std::ptr::eq(other, binding)).unwrap_or_default();
            server(&mut text, site, binding, number);
        }
    }
    text
}

fn upstream(text: &mut String, site: &Site) {
    text.push_str("\nupstream berth {\n    least_conn;\n");
    for server in &site.upstream {
        match &server.endpoint {
            Endpoint::Unix(path) => line!(text, 1, "server \"unix:{}\";", file(path)),
            Endpoint::Tcp(address) => line!(text, 1, "server {};", word(address)),
        }
    }
    text.push_str("    keepalive 64;\n}\n");
}

/// Whom to believe what stands in front of whoever connects.
fn trusted(text: &mut String, site: &Site) {
    if site.trusted_proxies.is_empty() {
        return;
    }
    text.push_str("\n# What proxies in front say counts if the connection comes from one of them.\ngeo $realip_remote_addr $berth_trusted {\n    default 0;\n");
    for network in &site.trusted_proxies {
        line!(text, 1, "{} 1;", word(network));
    }
    text.push_str(
        "}\nmap $berth_trusted$http_x_forwarded_proto $berth_scheme {\n    default $scheme;\n    1http http;\n    1https https;\n}\n",
    );
    text.push_str("map $berth_trusted$http_x_forwarded_port $berth_port {\n    default $server_port;\n    \"~^1(?<berth_said>[1-9][0-9]{0,4})$\" $berth_said;\n}\n");
}

fn zones(text: &mut String, at: usize, binding: &Binding) {
    let limits = &binding.limits;
    let rates =
        [("client", "$binary_remote_addr", limits.requests_per_second_per_client), ("all", "$server_port", limits.requests_per_second)];
    for (name, key, rate) in rates {
        if let Some(rate) = rate {
            line!(text, 0, "limit_req_zone {key} zone=berth_{at}_{name}:10m rate={rate}r/s;");
        }
    }
    let counts = [("open", "$binary_remote_addr", limits.connections_per_client), ("flight", "$server_port", limits.requests_in_flight)];
    for (name, key, count) in counts {
        if count.is_some() {
            line!(text, 0, "limit_conn_zone {key} zone=berth_{at}_{name}:10m;");
        }
    }
}

/// A server for hosts that no binding has.
fn strangers(text: &mut String, first: &Binding) {
    text.push_str("\n# Hosts that no binding has.\nserver {\n");
    listen(text, first, " default_server");
    line!(text, 1, "server_name _;");
    tls(text, first);
    line!(text, 1, "return 421;\n}}");
}

fn listen(text: &mut String, binding: &Binding, more: &str) {
    let tls = if binding.tls.is_some() { " ssl" } else { "" };
    let proxy = if binding.proxy_protocol { " proxy_protocol" } else { "" };
    line!(text, 1, "listen {}{tls}{proxy}{more};", binding.listen);
}

fn tls(text: &mut String, binding: &Binding) {
    let Some(tls) = &binding.tls else { return };
    match &tls.certificate {
        Certificate::Files { certificate, key, .. } => {
            line!(text, 1, "ssl_certificate \"{}\";", file(certificate));
            line!(text, 1, "ssl_certificate_key \"{}\";", file(key));
        }
        Certificate::Acme => {
            let name = word(binding.server_name.as_deref().unwrap_or("registry"));
            line!(text, 1, "ssl_certificate /etc/letsencrypt/live/{name}/fullchain.pem;");
            line!(text, 1, "ssl_certificate_key /etc/letsencrypt/live/{name}/privkey.pem;");
        }
    }
    if let Some(ca) = &tls.client_ca {
        line!(text, 1, "ssl_client_certificate \"{}\";", file(ca));
        line!(text, 1, "ssl_verify_client on;");
    }
    line!(text, 1, "ssl_protocols TLSv1.2 TLSv1.3;");
    line!(text, 1, "ssl_ciphers {CIPHERS};");
    line!(text, 1, "ssl_session_cache shared:berth:4m;");
}

fn server(text: &mut String, site: &Site, binding: &Binding, number: usize) {
    text.push('\n');
    missing(binding).iter().for_each(|sentence| line!(text, 0, "# {sentence}"));
    text.push_str("server {\n");
    let from_host = binding.target == Target::RepositoryFromHost;
    listen(text, binding, if binding.server_name.is_none() && !from_host { " default_server" } else { "" });
    match (binding.server_name.as_deref(), from_host) {
        (Some(name), true) => {
            let domain = pattern(name.strip_prefix("*.").unwrap_or(name));
            line!(text, 1, "server_name \"~^(?<berth_key>{KEY_IN_HOST})\\.{domain}$\";");
        }
        (None, true) => line!(text, 1, "server_name \"~^(?<berth_key>{KEY_IN_HOST})\\.\";"),
        (Some(name), false) => match name.strip_prefix("*.") {
            Some(domain) => line!(text, 1, "server_name \"~^[^.]+\\.{}$\";", pattern(domain)),
            None => line!(text, 1, "server_name {};", word(name)),
        },
        (None, false) => line!(text, 1, "server_name _;"),
    }
    tls(text, binding);
    access(text, site, binding, number);
    passing(text, site, binding);
    text.push_str("\n    # Paths that two servers could read differently.\n");
    line!(text, 1, "merge_slashes off;");
    line!(text, 1, "if ($request_uri ~ \"^[^?]*(//|/\\.\\.?(/|\\?|$)|[^?{PATH_CHARS}])\") {{ return 400; }}");
    if binding.read_only {
        line!(text, 1, "if ($request_method !~ ^(GET|HEAD|OPTIONS)$) {{ return 405; }}");
    }
    text.push('\n');
    locations(text, site, binding);
    text.push_str("}\n");
}

fn access(text: &mut String, site: &Site, binding: &Binding, number: usize) {
    for network in &site.trusted_proxies {
        line!(text, 1, "set_real_ip_from {};", word(network));
    }
    if binding.proxy_protocol {
        line!(text, 1, "real_ip_header proxy_protocol;");
    } else if !site.trusted_proxies.is_empty() {
        line!(text, 1, "real_ip_header X-Forwarded-For;");
        line!(text, 1, "real_ip_recursive on;");
    }
    binding.deny.iter().for_each(|network| line!(text, 1, "deny {};", word(network)));
    binding.allow.iter().for_each(|network| line!(text, 1, "allow {};", word(network)));
    if !binding.allow.is_empty() {
        line!(text, 1, "deny all;");
    }
    let limits = &binding.limits;
    for (name, rate) in [("client", limits.requests_per_second_per_client), ("all", limits.requests_per_second)] {
        if let Some(rate) = rate {
            line!(text, 1, "limit_req zone=berth_{number}_{name} burst={rate} nodelay;");
        }
    }
    for (name, count) in [("open", limits.connections_per_client), ("flight", limits.requests_in_flight)] {
        if let Some(count) = count {
            line!(text, 1, "limit_conn berth_{number}_{name} {count};");
        }
    }
    line!(text, 1, "limit_req_status 429;");
    line!(text, 1, "limit_conn_status 429;");
}

/// How requests are passed on: bodies of any length as they come, and who the client is.
fn passing(text: &mut String, site: &Site, binding: &Binding) {
    text.push_str("\n    # Bodies of any length, as they come; a transfer may last as long as bytes move.\n");
    for fixed in [
        "client_max_body_size 0;",
        "proxy_http_version 1.1;",
        "proxy_request_buffering off;",
        "proxy_buffering off;",
        // Half of the work: what is not buffered is still read in pieces of this size.
        "proxy_buffer_size 64k;",
        "proxy_buffers 4 64k;",
        "proxy_busy_buffers_size 128k;",
        "client_body_buffer_size 256k;",
        "gzip off;",
        "client_header_timeout 10s;",
        "large_client_header_buffers 4 32k;",
        "client_body_timeout 5m;",
        "send_timeout 5m;",
        "keepalive_timeout 75s;",
        "proxy_connect_timeout 2s;",
        "proxy_send_timeout 5m;",
        "proxy_read_timeout 30m;",
        "proxy_pass_header Server;",
        "proxy_pass_header Date;",
    ] {
        line!(text, 1, "{fixed}");
    }
    if let Some(tls) = site.upstream.first().and_then(|server| server.tls.as_ref()) {
        line!(text, 1, "proxy_ssl_verify on;");
        let ca = tls.ca.as_deref().map_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned(), file);
        line!(text, 1, "proxy_ssl_trusted_certificate \"{ca}\";");
        if let Some(name) = &tls.server_name {
            line!(text, 1, "proxy_ssl_name {};", word(name));
            line!(text, 1, "proxy_ssl_server_name on;");
        }
    }
    text.push_str("\n    # Where the client is; nothing that it says itself about that.\n");
    let (host, scheme, port) = match origin(site, binding) {
        Origin::Port(port) => (format!("$host{}", port_suffix(binding, port)), "$scheme".to_owned(), port.to_string()),
        Origin::Fixed { scheme, authority, port } => (authority, scheme, port.to_string()),
        Origin::Told => ("$host".to_owned(), "$berth_scheme".to_owned(), "$berth_port".to_owned()),
    };
    let set = [
        ("Host", host.as_str()),
        ("X-Forwarded-Host", &host),
        ("X-Forwarded-Proto", &scheme),
        ("X-Forwarded-Port", &port),
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Request-Id", "$request_id"),
        ("Connection", "\"\""),
        ("Upgrade", "\"\""),
    ];
    set.into_iter().chain(CLAIMS.map(|name| (name, "\"\""))).for_each(|(name, value)| line!(text, 1, "proxy_set_header {name} {value};"));
    line!(text, 1, "proxy_hide_header X-Request-Id;");
    line!(text, 1, "add_header X-Request-Id $request_id always;");
}

fn locations(text: &mut String, site: &Site, binding: &Binding) {
    let scheme = if site.upstream.iter().any(|server| server.tls.is_some()) { "https" } else { "http" };
    let registry = |text: &mut String, key: &str| {
        line!(text, 1, "location ~ ^/v[12](/|$) {{");
        line!(text, 2, "proxy_pass {scheme}://berth{PREFIX}/{key}$request_uri;");
        line!(text, 1, "}}");
        line!(text, 1, "location = /_ping {{");
        line!(text, 2, "proxy_pass {scheme}://berth{PREFIX}/{key}/v1/_ping;");
        line!(text, 1, "}}");
    };
    match &binding.target {
        Target::Repository(key) => registry(text, key.as_str()),
        Target::RepositoryFromHost => registry(text, "$berth_key"),
        Target::RepositoryFromPath => registry(text, ALL_REPOSITORIES),
        Target::Console => {
            line!(text, 1, "location ~ ^/(artifactory|api)/ {{");
            line!(text, 2, "proxy_pass {scheme}://berth$request_uri;");
            line!(text, 1, "}}");
        }
        Target::Nothing => {}
    }
    line!(text, 1, "location / {{");
    if let Some(origin) = &binding.redirect {
        line!(text, 2, "if ($request_method !~ ^(GET|HEAD)$) {{ return 404; }}");
        line!(text, 2, "return 302 {}$request_uri;", word(origin));
    } else {
        line!(text, 2, "return 404;");
    }
    line!(text, 1, "}}");
}
