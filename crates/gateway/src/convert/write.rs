//! A site as `gateway.toml`, in the words of the annotated example.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Kind;
use super::site::{Binding, Certificate, Endpoint, Limits, Public, Server, Site, Target};

/// The text of a configuration that does what `files` of another proxy did.
pub(super) fn toml(site: &Site, kind: Kind, files: &[PathBuf]) -> String {
    let mut text = format!("# The gateway's configuration, imported from {kind}:\n");
    for file in files {
        line(&mut text, format_args!("#   {}", file.display().to_string().replace(char::is_control, "?")));
    }
    text.push_str("# Check it before use: berth-gateway check --config gateway.toml\n\n");
    if !site.trusted_proxies.is_empty() {
        text.push_str("# Who may say where a request came from.\n");
        line(&mut text, format_args!("trusted_proxies = {}\n", list(&site.trusted_proxies)));
    }
    upstream(&mut text, &site.upstream);
    if site.bindings.is_empty() {
        text.push_str("\n# No server was found that leads to a repository: add a [[binding]] with `listen` and `repository`.\n");
    }
    for one in &site.bindings {
        binding(&mut text, one);
    }
    text
}

fn upstream(text: &mut String, servers: &[Server]) {
    text.push_str("# Where the backend listens.\n");
    if let [Server { endpoint, tls: None }] = servers {
        text.push_str("[upstream]\n");
        return address(text, endpoint);
    }
    if servers.is_empty() {
        text.push_str("# No server passes anything on, so this is a guess.\n[upstream]\ntcp = \"127.0.0.1:8081\"\n");
    }
    for (at, Server { endpoint, tls }) in servers.iter().enumerate() {
        text.push_str(if at == 0 { "[[upstream.server]]\n" } else { "\n[[upstream.server]]\n" });
        address(text, endpoint);
        let Some(tls) = tls else { continue };
        text.push_str("tls = true\n");
        if let Some(name) = &tls.server_name {
            line(text, format_args!("server_name = {}", quoted(name)));
        }
        if let Some(ca) = &tls.ca {
            line(text, format_args!("ca = {}", path(ca)));
        }
    }
}

fn address(text: &mut String, endpoint: &Endpoint) {
    match endpoint {
        Endpoint::Unix(socket) => line(text, format_args!("unix = {}", path(socket))),
        Endpoint::Tcp(address) if address.parse::<std::net::SocketAddr>().is_ok() => line(text, format_args!("tcp = {}", quoted(address))),
        Endpoint::Tcp(address) => line(text, format_args!("tcp = {}    # to be replaced by its IP address", quoted(address))),
    }
}

fn binding(text: &mut String, binding: &Binding) {
    text.push_str("\n[[binding]]\n");
    line(text, format_args!("listen = {}", quoted(&binding.listen.to_string())));
    if let Some(name) = &binding.server_name {
        line(text, format_args!("server_name = {}", quoted(name)));
    }
    match &binding.target {
        Target::Repository(key) => line(text, format_args!("repository = {}", quoted(key.as_str()))),
        Target::RepositoryFromHost => text.push_str("repository_from = \"host\"\n"),
        Target::RepositoryFromPath => text.push_str("repository_from = \"path\"\n"),
        Target::Console => text.push_str("console = true\n"),
        Target::Nothing => {}
    }
    match &binding.tls {
        None => text.push_str("plain_http = true\n"),
        Some(tls) => {
            match &tls.certificate {
                Certificate::Files { certificate, key, separate_chain } => {
                    match separate_chain {
                        Some(chain) => line(
                            text,
                            format_args!(
                                "certificate = {}    # append {} to it",
                                path(certificate),
                                chain.display().to_string().replace(char::is_control, "?")
                            ),
                        ),
                        None => line(text, format_args!("certificate = {}", path(certificate))),
                    }
                    line(text, format_args!("key = {}", path(key)));
                }
                Certificate::Acme => text.push_str("acme = true\n"),
            }
            if let Some(ca) = &tls.client_ca {
                line(text, format_args!("client_ca = {}", path(ca)));
            }
        }
    }
    rest(text, binding);
    limits(text, binding.limits);
}

fn rest(text: &mut String, binding: &Binding) {
    if let Some(origin) = &binding.redirect {
        line(text, format_args!("redirect = {}", quoted(origin)));
    }
    match &binding.public {
        Public::AsListened => {}
        Public::Port(port) => line(text, format_args!("public_port = {port}")),
        Public::Url(url) => line(text, format_args!("public_url = {}", quoted(url))),
    }
    for (name, networks) in [("allow", &binding.allow), ("deny", &binding.deny)] {
        if !networks.is_empty() {
            line(text, format_args!("{name} = {}", list(networks)));
        }
    }
    for (name, is_set) in [("proxy_protocol", binding.proxy_protocol), ("read_only", binding.read_only)] {
        if is_set {
            line(text, format_args!("{name} = true"));
        }
    }
}

fn limits(text: &mut String, limits: Limits) {
    if limits == Limits::default() {
        return;
    }
    text.push_str("[binding.limits]\n");
    let fields = [
        ("requests_per_second_per_client", limits.requests_per_second_per_client),
        ("requests_per_second", limits.requests_per_second),
        ("connections_per_client", limits.connections_per_client),
        ("requests_in_flight", limits.requests_in_flight),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            line(text, format_args!("{name} = {value}"));
        }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}
