//! What is refused in the protocol's own form (byte for byte in corpus.rs); and Debian's nginx in the gateway's place.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::image::{Layer, SCHEMA2, schema2};
use e2e::registry::{PASSWORD, binary, free_port};
use e2e::v1::{Docker, Version, chain};
use e2e::{Body, Client, Registry};

#[test]
fn a_host_that_the_client_makes_up_appears_nowhere_but_as_its_own_and_a_forwarded_one_not_at_all() {
    let registry = Registry::start();
    let client = registry
        .client(registry.v1)
        .with("X-Forwarded-Host", "evil.example")
        .with("X-Forwarded-Port", "1")
        .with("X-Forwarded-Proto", "http");
    let begun =
        client.send("PUT", "/v1/repositories/a/b/", &[("X-Artifactory-Override-Base-Url", "http://evil.example")], Body::Bytes(b"[]"));
    assert_eq!(begun.header("X-Docker-Endpoints"), Some(format!("localhost:{}", registry.v1).as_str()));
    let client = registry.client(registry.first).with("X-Forwarded-Host", "evil.example").with("User-Agent", "docker/1.6.2");
    let begun = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::None);
    assert!(begun.header("Location").unwrap().starts_with(&format!("https://localhost:{}/v2/a/blobs/uploads/", registry.first)));
}

/// Ends with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_password_is_made_up_for_each_store_and_no_other_is_good() {
    let first_start = || {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let configuration =
            format!("data_dir = \"data\"\n[listen]\ntcp = \"127.0.0.1:{port}\"\n[[repository]]\nkey = \"first\"\napi_version = \"V2\"\n");
        fs::write(directory.path().join("backend.toml"), configuration).unwrap();
        let out = directory.path().join("out");
        let mut command = Command::new(binary("berth-backend"));
        command.args(["serve", "--config", "backend.toml"]).current_dir(directory.path()).stdin(Stdio::null());
        let _backend = Ended(command.stdout(File::create(&out).unwrap()).stderr(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while !fs::read_to_string(&out).unwrap().contains("ready") {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not start");
            sleep(Duration::from_millis(20));
        }
        let said = fs::read_to_string(&out).unwrap();
        let password = said.lines().find_map(|line| line.strip_prefix("admin password: ")).unwrap_or_else(|| panic!("{said}"));
        let password = password.split(' ').next().unwrap().to_owned();
        let log_in = |password: &str| {
            let client = Client::plain(port).with_basic("admin", password);
            client.get("/artifactory/api/docker/first/v2/token?service=x").status
        };
        assert_eq!(log_in(&password), 200);
        for guess in ["admin", "password", ""] {
            assert_eq!(log_in(guess), 401, "{guess:?}");
        }
        password
    };
    let (one, other) = (first_start(), first_start());
    assert!(one.len() >= 16 && other.len() >= 16 && one != other, "{one} {other}");
}

#[test]
fn a_health_check_that_passes_is_no_line_of_the_log() {
    let registry = Registry::start();
    let client = Client::plain(registry.direct);
    for path in ["/healthz", "/healthz/live", "/healthz/no-such"] {
        client.get(path);
    }
    let log = std::fs::read_to_string(registry.path("berth-backend.log")).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("/healthz")).collect();
    assert!(lines.len() == 1 && lines[0].contains("/healthz/no-such"), "{lines:?}");
}

#[test]
fn bad_input_is_refused_in_the_protocols_own_form_and_leaves_nothing() {
    let registry = Registry::start();
    let client = registry.client(registry.first);
    let layer = Layer::of_package("busybox-static");
    let (config, manifest) = schema2(std::slice::from_ref(&layer));
    client.push_blob("a", config.as_bytes()).unwrap();
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let manifests = |reference: &str| format!("/v2/a/manifests/{reference}");
    let large = vec![b' '; (4 << 20) + 1];
    let negative = manifest.replace(&format!("\"size\":{}", layer.packed.len()), "\"size\":-1");
    for (method, path, body, expected) in [
        ("POST", format!("/v2/a/blobs/uploads/?digest={nowhere}"), &b"x"[..], (400, "DIGEST_INVALID")),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:0".into(), b"x", (400, "DIGEST_INVALID")),
        ("PUT", manifests("1"), manifest.as_bytes(), (400, "MANIFEST_BLOB_UNKNOWN")),
        ("PUT", manifests("1"), negative.as_bytes(), (400, "MANIFEST_INVALID")),
        ("PUT", manifests("1"), b"{", (400, "MANIFEST_INVALID")),
        ("PUT", manifests("1"), &large, (413, "MANIFEST_INVALID")),
        ("PUT", manifests("-1"), manifest.as_bytes(), (400, "TAG_INVALID")),
        ("PUT", manifests(&nowhere), manifest.as_bytes(), (400, "DIGEST_INVALID")),
        ("PUT", "/v2/A/manifests/1".into(), manifest.as_bytes(), (400, "NAME_INVALID")),
        ("GET", "/v2/_catalog?n=-1".into(), b"", (400, "UNSUPPORTED")),
        ("GET", "/v2/a/tags/list?n=many".into(), b"", (400, "UNSUPPORTED")),
        ("GET", "/v2/nowhere/tags/list".into(), b"", (404, "NAME_UNKNOWN")),
        ("GET", manifests("nowhere"), b"", (404, "MANIFEST_UNKNOWN")),
        ("GET", format!("/v2/a/blobs/{nowhere}"), b"", (404, "BLOB_UNKNOWN")),
        ("GET", "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".into(), b"", (404, "BLOB_UPLOAD_UNKNOWN")),
        ("POST", manifests("1"), b"", (405, "UNSUPPORTED")),
        ("GET", "/v2/nothing".into(), b"", (404, "UNSUPPORTED")),
    ] {
        let reply = client.send(method, &path, &[("Content-Type", SCHEMA2)], Body::Bytes(body));
        let status = reply.status;
        let answer = reply.json();
        assert_eq!((status, answer["errors"][0]["code"].as_str()), (expected.0, Some(expected.1)), "{method} {path}: {answer}");
        assert!(answer["errors"][0]["message"].is_string());
    }
    let wrong = registry.client(registry.first).with_basic("admin", "wrong").get("/v2/");
    assert_eq!((wrong.status, wrong.json()["errors"][0]["code"].as_str()), (401, Some("UNAUTHORIZED")));
    // Nothing has got a name: the image is not there.
    let tags = client.get("/v2/a/tags/list");
    assert_eq!((tags.status, tags.json()["errors"][0]["code"].as_str()), (404, Some("NAME_UNKNOWN")));
    for path in ["/v1/images/x/json", "/v1/repositories/A/tags", "/v1/repositories/a/tags/-x", "/v1/nothing"] {
        let reply = registry.client(registry.v1).get(path);
        assert!((400..500).contains(&reply.status), "{path}");
        let answer = reply.json();
        assert!(answer["error"].is_string() && answer.as_object().unwrap().len() == 1, "{path}: {answer}");
    }
}

/// Debian's nginx with the reverse proxy configuration that Artifactory's users have.
struct Nginx {
    directory: tempfile::TempDir,
    process: Child,
}

impl Nginx {
    fn start(registry: &Registry, ports: &[(u16, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let servers: String = ports
            .iter()
            .map(|(port, key)| {
                format!(
                    "server {{\n listen 127.0.0.1:{port} ssl; server_name localhost;\n ssl_certificate {certs}/server.pem; ssl_certificate_key {certs}/server.key;\n\
                     client_max_body_size 0; chunked_transfer_encoding on;\n\
                     rewrite ^/(v1|v2)/(.*)$ /artifactory/api/docker/{key}/$1/$2;\n\
                     location /artifactory/ {{\n  proxy_read_timeout 900; proxy_pass_header Server; proxy_cookie_path ~*^/.* /;\n\
                     proxy_pass http://127.0.0.1:{backend}/artifactory/;\n  proxy_set_header Host $host:{port};\n\
                     proxy_set_header X-Artifactory-Override-Base-Url $scheme://$host:{port}/artifactory;\n\
                     proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;\n\
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n }}\n}}\n",
                    certs = registry.path("certs").display(),
                    backend = registry.direct,
                )
            })
            .collect();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\nevents {{ }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n{servers}}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("the Debian package nginx-light is needed: scripts/deps test installs it");
        let nginx = Self { directory, process };
        for _ in 0..200 {
            if ports.iter().all(|(port, _)| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
                return nginx;
            }
            sleep(Duration::from_millis(25));
        }
        panic!("nginx does not listen: {}", std::fs::read_to_string(nginx.directory.path().join("error.log")).unwrap_or_default());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

#[test]
fn nginx_with_the_published_configuration_can_stand_where_the_gateway_stands() {
    let registry = Registry::start();
    let (v2, v1) = (free_port(), free_port());
    let _nginx = Nginx::start(&registry, &[(v2, "first"), (v1, "docker-local")]);
    let client = |port: u16| Client::tls(port, &registry.ca()).with_basic("admin", PASSWORD);
    let layers = [Layer::of_package("busybox-static"), Layer::of_oddities("gnu")];

    let docker = Docker::new(Version::V1_9, client(v1), v1);
    docker.login().unwrap();
    let chain = chain(Version::V1_9, &layers, "nginx");
    docker.push("jfrog/ubuntu", "12.04", &chain).unwrap();
    let pulled = docker.pull("jfrog/ubuntu", "12.04").unwrap();
    assert!(
        chain.iter().zip(&pulled).all(|(image, (id, json, layer))| image.id == *id && image.json == *json && image.layer.packed == *layer)
    );

    let (config, manifest) = schema2(&layers);
    for blob in [config.as_bytes(), &layers[0].packed, &layers[1].packed] {
        client(v2).push_blob("team/app", blob).unwrap();
    }
    client(v2).push_manifest("team/app", "1", SCHEMA2, &manifest).unwrap();
    assert_eq!(client(v2).get("/v2/team/app/manifests/1").text(), manifest);
    assert!(client(v2).get(&format!("/v2/team/app/blobs/{}", layers[0].digest())).bytes() == layers[0].packed);
}
