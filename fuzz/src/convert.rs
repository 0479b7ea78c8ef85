//! Configurations of NGINX and Apache: what is imported is a configuration of ours.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use berth_gateway::cert::self_signed;
use berth_gateway::config::Config;
use berth_gateway::convert::{Certificate, Endpoint, Imported, Kind, Site, export, import};
use berth_gateway::fuzzing::toml;

/// Most bytes of one configuration.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Where configurations are written to, and certificates that every configuration may name.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let directory = parent.join(format!("berth-fuzz-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    self_signed(&directory, &["localhost".to_owned()], &[]).unwrap();
    directory
});

fn import_text(text: &str) -> Option<Imported> {
    let file = DIRECTORY.join("site.conf");
    fs::write(&file, text).unwrap();
    import(&[file]).ok()
}

/// A text is refused, or becomes a configuration that `check` accepts but for what it names outside: files, and hosts that
/// are to be looked up. Of every directive something is said.
pub fn imported(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    // What includes other files would read those of this machine.
    if text.len() > TEXT_BYTES_MAX || text.to_ascii_lowercase().contains("include") {
        return;
    }
    let Some(found) = import_text(text) else { return };
    ::toml::from_str::<::toml::Table>(&found.toml).unwrap_or_else(|error| panic!("no TOML: {error}\n{}", found.toml));
    for note in &found.notes {
        assert!(note.line > 0 && note.line <= text.lines().count().max(1), "a note of no line: {note}");
        assert!(!note.reason.is_empty());
    }
    let mut site = found.site.clone();
    stand_in(&mut site);
    if !site.bindings.is_empty() {
        let text = toml(&site, found.kind);
        let config = Config::parse(&text, &DIRECTORY)
            .unwrap_or_else(|problems| panic!("`check` refuses what was imported: {problems:?}\n{text}\nnotes: {:#?}", found.notes));
        assert_eq!(config.bindings, site.bindings.len());
    }
    for kind in [Kind::Nginx, Kind::Apache] {
        let exported = export(&found.site, kind);
        if !found.site.bindings.is_empty() {
            let _ = import_text(&exported);
        }
    }
}

/// Puts what there is in the place of what is only named.
fn stand_in(site: &mut Site) {
    let file = |name: &str| DIRECTORY.join(name);
    for server in &mut site.upstream {
        if let Endpoint::Tcp(address) = &mut server.endpoint
            && address.parse::<SocketAddr>().is_err()
        {
            *address = "127.0.0.1:8081".to_owned();
        }
        server.tls.iter_mut().for_each(|tls| tls.ca = Some(file("ca.pem")));
    }
    // Who that is can't be read anywhere: there is a note that says so.
    if site.trusted_proxies.is_empty() && site.bindings.iter().any(|binding| binding.proxy_protocol) {
        site.trusted_proxies.push("127.0.0.1/32".to_owned());
    }
    for binding in &mut site.bindings {
        let Some(tls) = &mut binding.tls else { continue };
        if matches!(tls.certificate, Certificate::Files { .. }) {
            tls.certificate = Certificate::Files { certificate: file("server.pem"), key: file("server.key"), separate_chain: None };
        }
        tls.client_ca.iter_mut().for_each(|ca| *ca = file("ca.pem"));
    }
}
