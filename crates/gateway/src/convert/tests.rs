use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;

use super::*;

mod posted;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn imported(name: &str) -> Imported {
    import(&[fixture(name)]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn import_text(text: &str) -> Result<Imported, ImportError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("site.conf");
    fs::write(&file, text).unwrap();
    import(&[file])
}

/// What an imported text says below its first lines, with paths beside the fixture shortened.
fn body(imported: &Imported) -> String {
    let (_, body) = imported.toml.split_once("\n\n").unwrap();
    body.replace(fixture("").to_str().unwrap(), "./")
}

/// `line: what was written` of all notes with this verdict.
fn noted(imported: &Imported, verdict: Verdict) -> Vec<String> {
    imported.notes.iter().filter(|note| note.verdict == verdict).map(|note| format!("{}: {}", note.line, note.source)).collect()
}

fn reason<'i>(imported: &'i Imported, source: &str) -> &'i str {
    let note = imported.notes.iter().find(|note| note.source.starts_with(source));
    &note.unwrap_or_else(|| panic!("no note of {source}: {:?}", imported.notes)).reason
}

#[test]
fn nginx_with_a_port_for_each_repository() {
    let imported = imported("nginx/ports.conf");
    assert_eq!(
        body(&imported),
        r#"# Where the backend listens.
[upstream]
tcp = "127.0.0.1:8081"

[[binding]]
listen = "0.0.0.0:443"
repository = "docker-local2"
certificate = "/etc/ssl/certs/artprod.company.com.pem"
key = "/etc/ssl/private/artprod.company.com.key"

[[binding]]
listen = "0.0.0.0:444"
repository = "docker-local"
certificate = "/etc/ssl/certs/artprod.company.com.pem"
key = "/etc/ssl/private/artprod.company.com.key"

[[binding]]
listen = "[::]:444"
repository = "docker-local"
certificate = "/etc/ssl/certs/artprod.company.com.pem"
key = "/etc/ssl/private/artprod.company.com.key"

[[binding]]
listen = "0.0.0.0:80"
plain_http = true
redirect = "https://artprod.company.com"
"#
    );
    assert_eq!(noted(&imported, Verdict::Decide), [""; 0]);
    assert_eq!(noted(&imported, Verdict::NotUnderstood), ["22: proxy_set_header X-Team containers;"]);
    assert_eq!(reason(&imported, "client_max_body_size 0"), "bodies are never limited");
    assert_eq!(
        reason(&imported, "proxy_set_header Host $host:444"),
        "host and port are passed as the client used them; the port is kept by itself"
    );
    let shown = imported.notes[0].to_string();
    assert!(shown.ends_with("ports.conf:4: server_name artprod.company.com;\n    not needed: the server has every host of its address that no other server names, and so has the binding"), "{shown}");
}

#[test]
fn nginx_with_a_host_for_each_repository() {
    let imported = imported("nginx/subdomains.conf");
    assert_eq!(
        body(&imported),
        r#"# Where the backend listens.
[[upstream.server]]
tcp = "10.0.0.5:8081"

[[upstream.server]]
tcp = "10.0.0.6:8081"

[[binding]]
listen = "0.0.0.0:443"
server_name = "*.docker.company.com"
repository_from = "host"
certificate = "/etc/nginx/ssl/wildcard.pem"
key = "/etc/nginx/ssl/wildcard.key"

[[binding]]
listen = "0.0.0.0:443"
server_name = "docker.company.com"
console = true
certificate = "/etc/nginx/ssl/wildcard.pem"
key = "/etc/nginx/ssl/wildcard.key"

[[binding]]
listen = "0.0.0.0:80"
server_name = "*.docker.company.com"
repository_from = "host"
plain_http = true

[[binding]]
listen = "0.0.0.0:80"
server_name = "docker.company.com"
console = true
plain_http = true
"#
    );
    assert_eq!(
        noted(&imported, Verdict::Decide),
        [
            "11: server 10.0.0.6:8081 max_fails=2;",
            "17: listen 80;",
            r"18: server_name ~(?<repo>.+)\.docker.company.com docker.company.com;",
            "39: location /health { … }"
        ]
    );
    assert_eq!(noted(&imported, Verdict::NotUnderstood), [""; 0]);
    assert_eq!(reason(&imported, "ssl_protocols"), "TLS 1.2 and 1.3 only");
}

#[test]
fn a_whole_nginx_conf_with_pieces_in_other_files() {
    let imported = imported("nginx/main.conf");
    assert_eq!(
        body(&imported),
        r#"# Who may say where a request came from.
trusted_proxies = ["10.0.0.0/8"]

# Where the backend listens.
[upstream]
tcp = "127.0.0.1:8081"

[[binding]]
listen = "0.0.0.0:5000"
repository = "docker-local"
certificate = "./nginx/certs/company.pem"
key = "./nginx/certs/company.key"
allow = ["10.0.0.0/8"]
proxy_protocol = true
[binding.limits]
requests_per_second_per_client = 50
connections_per_client = 30

[[binding]]
listen = "0.0.0.0:5001"
repository = "docker-dev"
certificate = "./nginx/certs/company.pem"
key = "./nginx/certs/company.key"
allow = ["10.0.0.0/8"]
proxy_protocol = true
[binding.limits]
requests_per_second_per_client = 50
connections_per_client = 30

[[binding]]
listen = "0.0.0.0:8443"
server_name = "console.company.com"
console = true
certificate = "./nginx/certs/company.pem"
key = "./nginx/certs/company.key"
client_ca = "./nginx/staff.pem"
"#
    );
    assert_eq!(
        noted(&imported, Verdict::Decide),
        [
            "16: location / { … }",
            "2: listen 8443 ssl;",
            "7: auth_basic staff;",
            "9: proxy_pass http://127.0.0.1:8081;",
            "11: add_header Strict-Transport-Security max-age=31536000;",
            "15: server { … }",
        ]
    );
    assert_eq!(noted(&imported, Verdict::NotUnderstood), ["27: include conf.d/missing.conf;"]);
}

#[test]
fn nginx_with_the_repository_in_the_path_and_other_shapes() {
    let imported = imported("nginx/paths.conf");
    assert_eq!(
        body(&imported),
        r#"# Where the backend listens.
[upstream]
tcp = "artifactory:8081"    # to be replaced by its IP address

[[binding]]
listen = "0.0.0.0:443"
repository_from = "path"
certificate = "/etc/ssl/registry.pem"
key = "/etc/ssl/registry.key"

[[binding]]
listen = "0.0.0.0:5000"
repository = "docker-local"
certificate = "/etc/ssl/registry.pem"
key = "/etc/ssl/registry.key"

[[binding]]
listen = "0.0.0.0:8080"
repository = "docker-local"
plain_http = true
public_url = "https://registry.company.com"
"#
    );
    assert!(
        reason(&imported, "proxy_pass http://artifactory:8081/artifactory/api/docker/docker-v1-local").starts_with("V1 goes to another")
    );
    assert!(reason(&imported, "listen 8080").starts_with("TLS ends in front"));
    assert!(reason(&imported, "proxy_pass http://artifactory:8081/artifactory/;").contains("IP addresses"));
}

#[test]
fn apache_with_a_port_for_each_repository() {
    let imported = imported("apache/ports.conf");
    assert_eq!(imported.kind, Kind::Apache);
    assert_eq!(
        body(&imported),
        r#"# Where the backend listens.
[upstream]
tcp = "127.0.0.1:8081"

[[binding]]
listen = "0.0.0.0:443"
repository = "docker-local2"
certificate = "/etc/pki/tls/certs/artprod.company.com.crt"    # append /etc/pki/tls/certs/company-ca.crt to it
key = "/etc/pki/tls/private/artprod.company.com.key"

[[binding]]
listen = "0.0.0.0:444"
repository = "docker-local"
certificate = "/etc/pki/tls/certs/artprod.company.com.crt"
key = "/etc/pki/tls/private/artprod.company.com.key"

[[binding]]
listen = "0.0.0.0:80"
plain_http = true
redirect = "https://artprod.company.com"
"#
    );
    assert_eq!(
        noted(&imported, Verdict::Decide),
        [
            "2: Listen 444",
            "11: SSLCertificateChainFile /etc/pki/tls/certs/company-ca.crt",
            "49: Header always set Strict-Transport-Security \"max-age=63072000\"",
        ]
    );
    assert_eq!(noted(&imported, Verdict::NotUnderstood), [""; 0]);
}

#[test]
fn apache_with_a_host_for_each_repository() {
    let imported = imported("apache/subdomains.conf");
    let common = "certificate = \"./apache/conf/wildcard.crt\"\nkey = \"./apache/conf/wildcard.key\"\nclient_ca = \"./apache/conf/clients.crt\"\nallow = [\"10.0.0.0/8\", \"192.168.0.0/16\"]\n";
    assert_eq!(
        body(&imported),
        format!(
            "# Where the backend listens.\n[[upstream.server]]\ntcp = \"10.0.0.5:8081\"\n\n[[upstream.server]]\ntcp = \"10.0.0.6:8081\"\n\
             \n[[binding]]\nlisten = \"0.0.0.0:443\"\nserver_name = \"docker.company.com\"\nconsole = true\n{common}\
             \n[[binding]]\nlisten = \"0.0.0.0:443\"\nserver_name = \"*.docker.company.com\"\nrepository_from = \"host\"\n{common}"
        )
    );
}

#[test]
fn a_whole_httpd_conf_without_virtual_hosts() {
    let imported = imported("apache/httpd.conf");
    assert_eq!(
        body(&imported),
        r#"# Who may say where a request came from.
trusted_proxies = ["10.0.0.9/32"]

# Where the backend listens.
[upstream]
tcp = "registry-backend:8081"    # to be replaced by its IP address

[[binding]]
listen = "0.0.0.0:5000"
repository = "docker-dev"
plain_http = true
"#
    );
    assert_eq!(noted(&imported, Verdict::NotUnderstood), ["21: LocationMatch-of-nobody yes"]);
    assert!(reason(&imported, "<If ").starts_with("conditions are not evaluated"));
    assert!(imported.notes.iter().any(|note| note.file.ends_with("conf.d/timeouts.conf") && note.source == "Timeout 2400"));
}

/// What becomes of single lines within a server that is otherwise plain.
#[test]
fn lines_of_nginx_and_what_becomes_of_them() {
    for (lines, expected) in [
        ("listen 5000; proxy_set_header Host $host:444;", "public_port = 444"),
        ("listen 8443 ssl; proxy_set_header X-Forwarded-Port 443;", "public_port = 443"),
        ("listen 8443 ssl; proxy_set_header Host registry.company.com;", "public_url = \"https://registry.company.com\""),
        ("listen 5000; limit_except GET { deny all; }", "plain_http = true"),
        ("listen 5000; if ($request_method !~ ^(GET|HEAD)$) { return 403; }", "read_only = true"),
        ("listen 5000; deny 10.6.6.6; allow 10.0.0.0/8; deny all;", "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.6.6.6/32\"]"),
        ("listen 5000; deny all;", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("listen 5000 http2;", "plain_http = true"),
        ("listen [::1]:5000;", "listen = \"[::1]:5000\""),
        ("listen localhost:5000;", "listen = \"127.0.0.1:5000\""),
        ("", "listen = \"0.0.0.0:80\""),
    ] {
        let text = format!("server {{ {lines} location /v2/ {{ proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; }} }}");
        let imported = import_text(&text).unwrap();
        assert!(imported.toml.contains(expected), "{lines}\n{}", imported.toml);
        toml::from_str::<toml::Table>(&imported.toml).unwrap();
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    assert!(matches!(import(&[]), Err(ImportError::Nothing)));
    assert!(matches!(import(&["/nowhere/nginx.conf".into()]), Err(ImportError::Unreadable { .. })));
    assert!(matches!(import(&[fixture("nginx/ports.conf"), fixture("apache/ports.conf")]), Err(ImportError::Mixed)));
    assert!(matches!(import_text("hello world\n"), Err(ImportError::UnknownKind(_))));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("self.conf");
    fs::write(&file, "include self.conf;\n").unwrap();
    assert!(matches!(import(&[file]), Err(ImportError::TooLarge { .. })));
}

/// A site without the names of the directories that each import of a text has for itself.
fn shape(site: &Site) -> String {
    let (text, prefix) = (format!("{site:?}"), format!("{}/.tmp", std::env::temp_dir().display()));
    let mut parts = text.split(prefix.as_str());
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('/').unwrap().1)
}

/// No line of a configuration is dropped: a directive that nobody knows is noted wherever it stands, unless the block that
/// it stands in is.
#[test]
fn a_line_that_nobody_knows_is_noted_wherever_it_stands() {
    let unknown =
        [("nginx/ports.conf", "zz_unknown on;"), ("nginx/subdomains.conf", "zz_unknown on;"), ("nginx/paths.conf", "zz_unknown on;")];
    for (name, line) in unknown.into_iter().chain([("apache/ports.conf", "ZzUnknown on"), ("apache/subdomains.conf", "ZzUnknown on")]) {
        let text = fs::read_to_string(fixture(name)).unwrap();
        let plain = import_text(&text).unwrap();
        for at in 0..text.lines().count() {
            let before: Vec<&str> = text.lines().take(at).collect();
            if before.last().is_some_and(|last| last.ends_with('\\')) {
                continue;
            }
            let with: Vec<&str> = before.iter().copied().chain([line]).chain(text.lines().skip(at)).collect();
            let imported = import_text(&with.join("\n")).unwrap();
            assert_eq!(shape(&imported.site), shape(&plain.site), "{name}:{at}");
            let is_noted = imported.notes.iter().any(|note| note.line == at + 1 && note.verdict == Verdict::NotUnderstood);
            let is_in_noted_block =
                imported.notes.iter().any(|note| note.line <= at && note.source.contains(['{', '<']) && note.verdict != Verdict::Unneeded);
            assert!(is_noted || is_in_noted_block, "{name}:{}: {:?}", at + 1, imported.notes);
        }
    }
}

fn label() -> impl Strategy<Value = String> {
    "[a-y][a-y0-9-]{0,8}[a-y0-9]"
}

fn binding(port: u16) -> impl Strategy<Value = Binding> {
    let target = prop_oneof![
        label().prop_map(|key| Target::Repository(key.parse().unwrap())),
        Just(Target::RepositoryFromPath),
        Just(Target::RepositoryFromHost),
        Just(Target::Console),
        Just(Target::Nothing),
    ];
    let tls = prop_oneof![
        Just(None),
        (label(), any::<bool>()).prop_map(|(name, asks)| {
            let path = |kind: &str| PathBuf::from(format!("/etc/ssl/{name} {kind}.pem"));
            let certificate = Certificate::Files { certificate: path("certificate"), key: path("key"), separate_chain: None };
            Some(Tls { certificate, client_ca: asks.then(|| path("clients")) })
        })
    ];
    let public = prop_oneof![Just(Public::AsListened), (1_u16..1000).prop_map(Public::Port), label().prop_map(Public::Url)];
    let name = prop_oneof![
        Just(None),
        label().prop_map(|label| Some(format!("{label}.company.com"))),
        label().prop_map(|label| Some(format!("*.{label}.company.com")))
    ];
    let networks = || prop::collection::vec((0_u8..=255).prop_map(|part| format!("10.{part}.0.0/16")), 0..2);
    (target, tls, public, name, networks(), networks(), any::<[bool; 2]>()).prop_map(
        move |(target, tls, public, name, allow, deny, [read_only, v6])| {
            let address = if v6 { "::1".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
            let mut binding = Binding::new(SocketAddr::new(address, port), target);
            binding.tls = tls.filter(|_| binding.target != Target::Nothing);
            let scheme = binding.scheme().as_str();
            binding.redirect = (binding.target == Target::Nothing).then(|| "https://registry.company.com:444".to_owned());
            let passes = binding.target != Target::Nothing;
            binding.public = match public {
                Public::Url(label) if passes && binding.target != Target::RepositoryFromHost => {
                    Public::Url(format!("{scheme}://{label}.company.com:4444"))
                }
                Public::Port(port) if passes => Public::Port(port),
                _ => Public::AsListened,
            };
            binding.read_only = read_only && !matches!(binding.target, Target::Nothing | Target::Console);
            let is_wild = name.as_ref().is_some_and(|name| name.starts_with('*'));
            binding.server_name = match binding.target {
                Target::RepositoryFromHost if !is_wild => Some("*.docker.company.com".to_owned()),
                _ => name,
            };
            binding.deny = deny.into_iter().filter(|network| !allow.contains(network)).collect();
            binding.allow = allow;
            binding
        },
    )
}

fn site() -> impl Strategy<Value = Site> {
    let bindings = (1_usize..5).prop_flat_map(|count| (0..count).map(|at| binding(1000 + u16::try_from(at).unwrap())).collect::<Vec<_>>());
    let upstream = prop_oneof![
        Just(vec![Endpoint::Unix("/run/berth/backend.sock".into())]),
        Just(vec![Endpoint::Tcp("127.0.0.1:8081".into())]),
        Just(vec![Endpoint::Tcp("10.0.0.5:8081".into()), Endpoint::Tcp("[2001:db8::5]:8081".into())]),
    ];
    (bindings, upstream, any::<bool>()).prop_map(|(bindings, upstream, is_tls)| {
        let tls = |endpoint: &Endpoint| {
            let tls = is_tls && matches!(endpoint, Endpoint::Tcp(_));
            tls.then(|| ServerTls { server_name: None, ca: Some("/etc/ssl/backend.pem".into()) })
        };
        let upstream = upstream.into_iter().map(|endpoint| Server { tls: tls(&endpoint), endpoint }).collect();
        Site { trusted_proxies: Vec::new(), upstream, bindings }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// What is exported for either is read back as what it was.
    #[test]
    fn what_is_exported_is_imported_again(site in site()) {
        for kind in [Kind::Nginx, Kind::Apache] {
            let text = export(&site, kind);
            let imported = import_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            prop_assert_eq!(imported.kind, kind);
            let mut expected = site.clone();
            if !expected.bindings.iter().any(|binding| binding.target != Target::Nothing) {
                expected.upstream.clear();
            }
            // A server that only redirects says nothing of who may connect.
            prop_assert_eq!(&imported.site, &expected, "{}\n{:#?}", text, imported.notes);
            let unknown: Vec<&Note> = imported.notes.iter().filter(|note| note.verdict == Verdict::NotUnderstood).collect();
            prop_assert!(unknown.is_empty(), "{:?}", unknown);
            toml::from_str::<toml::Table>(&imported.toml).unwrap();
        }
    }

    #[test]
    fn any_text_is_imported_or_refused(text in "(server|location|listen|rewrite|proxy_pass|if|[{};$~ /a-z0-9]|\n){0,60}|(<VirtualHost|</VirtualHost>|RewriteRule|ProxyPass|[<>%{}\\[\\]$^ /a-zA-Z0-9]|\n){0,60}") {
        if let Ok(imported) = import_text(&text) {
            toml::from_str::<toml::Table>(&imported.toml).unwrap();
        }
    }
}
