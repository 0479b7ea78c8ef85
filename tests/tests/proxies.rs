//! nginx and Apache in the gateway's place: with the configuration that is exported for them, and what their own
//! configurations become when they are imported.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use berth_gateway::convert::{self, Binding, Certificate, Endpoint, Kind, Server, Site, Target, Tls};
use e2e::image::{Layer, SCHEMA2, schema2};
use e2e::proxy::Proxy;
use e2e::registry::{PASSWORD, free_port};
use e2e::v1::{Docker, Version, chain};
use e2e::{Body, Client, Registry};

fn files(registry: &Registry) -> Tls {
    let certificate =
        Certificate::Files { certificate: registry.path("certs/server.pem"), key: registry.path("certs/server.key"), separate_chain: None };
    Tls { certificate, client_ca: None }
}

fn binding(registry: &Registry, port: u16, target: Target) -> Binding {
    Binding { tls: Some(files(registry)), ..Binding::new(SocketAddr::from(([127, 0, 0, 1], port)), target) }
}

fn site(registry: &Registry, bindings: Vec<Binding>) -> Site {
    let backend = Server { endpoint: Endpoint::Tcp(format!("127.0.0.1:{}", registry.direct)), tls: None };
    Site { trusted_proxies: Vec::new(), upstream: vec![backend], bindings }
}

fn repository(key: &str) -> Target {
    Target::Repository(key.parse().unwrap())
}

fn start(kind: Kind, site: &Site) -> Proxy {
    let mut ports: Vec<u16> = site.bindings.iter().map(|binding| binding.listen.port()).collect();
    ports.dedup();
    match kind {
        Kind::Nginx => Proxy::nginx(&convert::export(site, kind), &ports),
        Kind::Apache => Proxy::apache(&convert::export(site, kind), &ports),
    }
}

fn push_and_pull_v1(client: Client, port: u16, image: &str) {
    let layers = [Layer::of_package("busybox-static"), Layer::of_oddities("gnu")];
    let docker = Docker::new(Version::V1_9, client, port);
    docker.login().unwrap();
    let chain = chain(Version::V1_9, &layers, image);
    docker.push(image, "12.04", &chain).unwrap();
    let pulled = docker.pull(image, "12.04").unwrap();
    assert!(
        chain.iter().zip(&pulled).all(|(image, (id, json, layer))| image.id == *id && image.json == *json && image.layer.packed == *layer)
    );
}

fn push_and_pull_v2(client: &Client, image: &str) {
    let layers = [Layer::of_package("busybox-static"), Layer::of_package("coreutils")];
    let (config, manifest) = schema2(&layers);
    for blob in [config.as_bytes(), &layers[0].packed, &layers[1].packed] {
        client.push_blob(image, blob).unwrap();
    }
    client.push_manifest(image, "1", SCHEMA2, &manifest).unwrap();
    assert_eq!(client.get(&format!("/v2/{image}/manifests/1")).text(), manifest);
    assert!(client.get(&format!("/v2/{image}/blobs/{}", layers[1].digest())).bytes() == layers[1].packed);
}

#[test]
fn what_is_exported_serves_both_protocols_on_any_port() {
    let registry = Registry::start();
    for kind in [Kind::Nginx, Kind::Apache] {
        let [v1, v2, console] = std::array::from_fn(|_| free_port());
        let bindings = [(v1, repository("docker-local")), (v2, repository("first")), (console, Target::Console)];
        let site = site(&registry, bindings.map(|(port, target)| binding(&registry, port, target)).into());
        let _proxy = start(kind, &site);
        let client = |port: u16| Client::tls(port, &registry.ca()).with_basic("admin", PASSWORD);
        push_and_pull_v1(client(v1), v1, &format!("jfrog/{kind}").to_lowercase());
        push_and_pull_v2(&client(v2), &format!("team/{kind}").to_lowercase());

        // docker up to 1.7 takes a Location literally: it must have scheme, host and port.
        let begun = client(v2).with("User-Agent", "docker/1.6.2").send("POST", "/v2/a/blobs/uploads/", &[], Body::None);
        assert_eq!(begun.status, 202, "{kind}");
        assert!(begun.header("Location").unwrap().starts_with(&format!("https://localhost:{v2}/v2/a/blobs/uploads/")), "{kind}");
        // What a client says about itself is dropped.
        let spoofed = client(v1).with("X-Forwarded-Host", "evil.example").with("X-Forwarded-Port", "1").with("X-Forwarded-Proto", "http");
        let begun =
            spoofed.send("PUT", "/v1/repositories/a/b/", &[("X-Artifactory-Override-Base-Url", "http://evil.example")], Body::Bytes(b"[]"));
        assert_eq!(begun.header("X-Docker-Endpoints"), Some(format!("localhost:{v1}").as_str()), "{kind}");

        assert_eq!(client(console).get("/artifactory/api/repositories").status, 200, "{kind}");
        assert_eq!(client(console).get("/v2/").status, 404, "{kind}");
        for (path, status) in [
            ("/_ping", 200),
            ("/artifactory/api/repositories", 404),
            ("/", 404),
            ("/v2x", 404),
            ("/v2/%2e%2e/x", 400),
            ("/v2//a", 400),
            ("/v2/a/../b/tags/list", 400),
            ("/artifactory/../v2/", 400),
            ("/v2/a%2fb/tags/list", 400),
            ("/v2/a\\b/tags/list", 400),
            ("/v2/a;b/tags/list", 400),
        ] {
            assert_eq!(client(v1).get(path).status, status, "{kind} {path}");
        }
    }
}

#[test]
fn what_is_exported_streams_bodies_of_any_length() {
    const LENGTH: u64 = 96 << 20;
    let registry = Registry::start();
    for kind in [Kind::Nginx, Kind::Apache] {
        let port = free_port();
        let _proxy = start(kind, &site(&registry, vec![binding(&registry, port, repository("first"))]));
        let client = Client::tls(port, &registry.ca()).with_basic("admin", PASSWORD);
        let begun = client.send("POST", "/v2/large/blobs/uploads/", &[], Body::None);
        let location = begun.header("Location").unwrap().to_owned();
        let mut zeros = std::io::Read::take(std::io::repeat(0), LENGTH);
        client.send("PATCH", &location, &[], Body::Chunked(&mut zeros)).expect(202).unwrap();
        let mut zeros = std::io::Read::take(std::io::repeat(0), LENGTH);
        let range = format!("{LENGTH}-{}", 2 * LENGTH - 1);
        let sent = client.send("PATCH", &location, &[("Content-Range", &range)], Body::Sized(LENGTH, &mut zeros));
        let sent = sent.expect(202).unwrap();
        assert_eq!(sent.header("Range"), Some(format!("0-{}", 2 * LENGTH - 1).as_str()), "{kind}");
        client.send("DELETE", &location, &[], Body::None).expect(204).unwrap();
    }
}

#[test]
fn what_is_exported_finds_repositories_by_host_and_path_and_refuses_strangers() {
    let registry = Registry::start();
    let made = std::process::Command::new(e2e::registry::binary("berth-gateway"))
        .args(["cert", "self-signed", "--dir"])
        .arg(registry.path("names"))
        .args(
            ["first.docker.example", "docker-local.docker.example", "b.docker.example", "outside.example"]
                .iter()
                .flat_map(|name| ["--name", name]),
        )
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate =
        Certificate::Files { certificate: registry.path("names/server.pem"), key: registry.path("names/server.key"), separate_chain: None };
    for kind in [Kind::Nginx, Kind::Apache] {
        let (by_host, by_path, plain) = (free_port(), free_port(), free_port());
        let named = |port: u16, name: Option<&str>, target: Target| Binding {
            server_name: name.map(str::to_owned),
            tls: Some(Tls { certificate: certificate.clone(), client_ca: None }),
            ..binding(&registry, port, target)
        };
        let mut redirect = Binding::new(SocketAddr::from(([127, 0, 0, 1], plain)), repository("first"));
        redirect.redirect = Some("https://registry.example:444".to_owned());
        let bindings = vec![
            named(by_host, Some("*.docker.example"), Target::RepositoryFromHost),
            named(by_host, Some("b.docker.example"), repository("open")),
            named(by_path, None, Target::RepositoryFromPath),
            redirect,
        ];
        let mut site = site(&registry, bindings);
        // A backend that is not there: the other one has to be asked.
        site.upstream.insert(0, Server { endpoint: Endpoint::Tcp(format!("127.0.0.1:{}", free_port())), tls: None });
        let _proxy = start(kind, &site);
        let client = |port: u16, host: &str| Client::tls(port, &registry.path("names/ca.pem")).with_basic("admin", PASSWORD).named(host);

        push_and_pull_v2(&client(by_host, "first.docker.example"), &format!("by-host/{kind}").to_lowercase());
        let begun = client(by_host, "docker-local.docker.example").send("PUT", "/v1/repositories/a/b/", &[], Body::Bytes(b"[]"));
        assert_eq!(begun.header("X-Docker-Endpoints"), Some(format!("docker-local.docker.example:{by_host}").as_str()), "{kind}");
        assert_eq!(client(by_host, "outside.example").get("/v2/").status, 421, "{kind}");
        let image = format!("by-host/{kind}").to_lowercase();
        assert_eq!(client(by_host, "b.docker.example").get(&format!("/v2/{image}/tags/list")).status, 404, "{kind}: another repository");
        assert_eq!(client(by_host, "first.docker.example").get(&format!("/v2/{image}/tags/list")).status, 200, "{kind}");

        let image = format!("first/by-path/{kind}").to_lowercase();
        push_and_pull_v2(&client(by_path, "b.docker.example"), &image);
        assert_eq!(client(by_path, "b.docker.example").get("/v2/").status, 200, "{kind}");
        let challenge = format!("Bearer realm=\"https://b.docker.example:{by_path}/v2/token\",service=\"b.docker.example:{by_path}\"");
        let anonymous = Client::tls(by_path, &registry.path("names/ca.pem")).named("b.docker.example").get("/v2/");
        assert_eq!((anonymous.status, anonymous.header("WWW-Authenticate")), (401, Some(challenge.as_str())), "{kind}");

        let moved = Client::plain(plain).get("/ui/");
        assert_eq!((moved.status, moved.header("Location")), (302, Some("https://registry.example:444/ui/")), "{kind}");
        assert_eq!(Client::plain(plain).with_basic("admin", PASSWORD).get("/v2/").status, 200, "{kind}: never for docker");
    }
}

/// The published shape, with the ports and files of this test.
fn published(registry: &Registry, ports: [(u16, &str); 2]) -> String {
    let server = |(port, key): (u16, &str)| {
        format!(
            "server {{\n    listen 127.0.0.1:{port} ssl;\n    server_name localhost;\n    ssl_certificate {certs}/server.pem;\n    ssl_certificate_key {certs}/server.key;\n\
             \n    client_max_body_size 0;\n    chunked_transfer_encoding on;\n    rewrite ^/(v1|v2)/(.*)$ /artifactory/api/docker/{key}/$1/$2;\n\
             \n    location /artifactory/ {{\n        proxy_read_timeout 900;\n        proxy_pass_header Server;\n        proxy_cookie_path ~*^/.* /;\n\
             \x20       proxy_pass http://localhost:{backend}/artifactory/;\n        proxy_set_header Host $host:{port};\n\
             \x20       proxy_set_header X-Forwarded-Port $server_port;\n        proxy_set_header X-Forwarded-Proto $scheme;\n\
             \x20       proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n}}\n",
            certs = registry.path("certs").display(),
            backend = registry.direct,
        )
    };
    ports.map(server).concat()
}

/// What docker looks at in an answer.
fn seen(client: &Client, port: u16) -> Vec<(u16, Vec<Option<String>>)> {
    let docker = client.clone().with("User-Agent", "docker/1.6.2");
    let requests: [(&str, &str, &[u8]); 9] = [
        ("GET", "/v1/_ping", b""),
        ("GET", "/v2/", b""),
        ("PUT", "/v1/repositories/jfrog/ubuntu/", b"[]"),
        ("GET", "/v1/repositories/jfrog/ubuntu/images", b""),
        ("GET", "/v1/users/", b""),
        ("POST", "/v2/team/app/blobs/uploads/", b""),
        ("GET", "/v2/team/app/tags/list", b""),
        ("GET", "/v2/team/app/manifests/latest", b""),
        ("GET", "/v2/_catalog", b""),
    ];
    requests
        .map(|(method, path, body)| {
            let reply =
                docker.send(method, path, &[("X-Docker-Token", "true")], if body.is_empty() { Body::None } else { Body::Bytes(body) });
            let names = [
                "X-Docker-Endpoints",
                "X-Docker-Registry-Version",
                "X-Docker-Registry-Standalone",
                "Docker-Distribution-Api-Version",
                "WWW-Authenticate",
                "Content-Type",
            ];
            let mut headers: Vec<Option<String>> =
                names.map(|name| reply.header(name).map(|value| without_signature(&value.replace(&port.to_string(), "PORT")))).into();
            // The id of an upload is new every time.
            let location = reply.header("Location").map(|value| value.replace(&port.to_string(), "PORT"));
            headers.push(location.map(|location| location.rsplit_once('/').unwrap().0.to_owned()));
            (reply.status, headers)
        })
        .into()
}

/// A token is another one each time.
fn without_signature(value: &str) -> String {
    match value.split_once("signature=") {
        Some((before, rest)) => format!("{before}signature=…{}", rest.split_once(',').map_or("", |(_, rest)| rest)),
        None => value.to_owned(),
    }
}

#[test]
fn an_imported_configuration_answers_as_nginx_did() {
    let registry = Registry::start();
    let with_nginx = [free_port(), free_port()];
    let keys = ["docker-local", "first"];
    let nginx_text = published(&registry, [(with_nginx[0], keys[0]), (with_nginx[1], keys[1])]);
    let _nginx = Proxy::nginx(&nginx_text, &with_nginx);

    let with_gateway = [free_port(), free_port()];
    let file: PathBuf = registry.path("nginx.conf");
    fs::write(&file, published(&registry, [(with_gateway[0], keys[0]), (with_gateway[1], keys[1])])).unwrap();
    let imported = convert::import(&[file]).unwrap();
    assert!(imported.notes.iter().all(|note| note.verdict == convert::Verdict::Unneeded), "{:?}", imported.notes);
    fs::write(registry.path("imported.toml"), &imported.toml).unwrap();
    let _gateway = registry.start_gateway("imported.toml");

    for at in 0..2 {
        let client = |port: u16| Client::tls(port, &registry.ca()).with_basic("admin", PASSWORD);
        let (nginx, gateway) = (seen(&client(with_nginx[at]), with_nginx[at]), seen(&client(with_gateway[at]), with_gateway[at]));
        assert_eq!(nginx, gateway, "{}", keys[at]);
    }
    push_and_pull_v1(Client::tls(with_gateway[0], &registry.ca()).with_basic("admin", PASSWORD), with_gateway[0], "jfrog/imported");
}
