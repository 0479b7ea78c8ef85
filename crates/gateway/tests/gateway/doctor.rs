//! `berth-gateway doctor` in front of the real gateway, with Debian's nginx in between that is set up badly in one way.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::Value;

use crate::support::{Body, Client, Gateway, Site, command, free_port, full, plain_binding, terminate, within};

/// What nginx is to say where nothing is wrong.
const CLEAN_SERVER: &str = "client_max_body_size 0;";
const CLEAN_LOCATION: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
     proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
     proxy_request_buffering off; proxy_buffering off;";

/// Answers as a backend does to what docker asks first.
async fn registry(request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let id = header("x-request-id");
    let answer = match request.uri().path().rsplit_once("/docker-local").map(|(_, path)| path) {
        Some("/v2/") => Response::builder()
            .status(401)
            .header("docker-distribution-api-version", "registry/2.0")
            .header("www-authenticate", format!("Bearer realm=\"{}://{}/v2/token\"", header("x-forwarded-proto"), header("host")))
            .body(full("{}")),
        Some("/v1/_ping") => Response::builder().header("x-docker-registry-version", "0.9.1").body(full("true")),
        None if request.uri().path().contains("/docker-old/") => match request.uri().path().ends_with("/_ping") {
            true => Response::builder().header("x-docker-registry-version", "0.9.1").body(full("true")),
            false => Response::builder().status(404).header("x-request-id", id).body(full("404 page not found\n")),
        },
        _ => Response::builder()
            .status(404)
            .header("x-request-id", id)
            .body(full("{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"no such repository\"}]}")),
    };
    answer.unwrap()
}

/// A gateway at 127.0.0.2, with as many nginx before it as are started.
struct Way {
    site: Site,
    port: u16,
    scheme: &'static str,
    _gateway: Option<Gateway>,
    fronts: Vec<Nginx>,
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        terminate(&self.0);
        let _ = self.0.wait();
    }
}

impl Way {
    /// All of it listens on the same port of different addresses, so that the gateway knows its public one.
    async fn to_gateway(scheme: &'static str) -> Self {
        Self::to_binding(scheme, "").await
    }

    /// To a binding that says this too.
    async fn to_binding(scheme: &'static str, more: &str) -> Self {
        let site = Site::new(registry);
        site.certificate("localhost");
        // nginx's workers have another user.
        fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let way = Self { site, port, scheme, _gateway: None, fronts: Vec::new() };
        let gateway = way.site.start(&(way.binding(port) + more)).await;
        Self { _gateway: Some(gateway), ..way }
    }

    fn binding(&self, port: u16) -> String {
        let tls = if self.scheme == "https" { "certificate = \"localhost.pem\"\nkey = \"localhost.key\"" } else { "plain_http = true" };
        format!("[[binding]]\nlisten = \"127.0.0.2:{port}\"\nrepository = \"docker-local\"\n{tls}\n")
    }

    /// Puts nginx in front of `127.0.0.<behind>`, at `127.0.0.<at>`.
    async fn with_nginx(mut self, at: u8, behind: u8, server: &str, location: &str) -> Self {
        let (port, root) = (self.port, self.site.path(&format!("nginx-{at}")));
        self.fronts.push(start_nginx(&root, &self.site, (at, port), (self.scheme_behind(behind), behind, port), server, location).await);
        self
    }

    fn scheme_behind(&self, behind: u8) -> &'static str {
        if behind == 2 { self.scheme } else { "https" }
    }

    /// With nginx as it should be, except for what comes after.
    async fn with_fault(self, server: &str, location: &str) -> Self {
        self.with_nginx(1, 2, &format!("{CLEAN_SERVER} {server}"), &format!("{CLEAN_LOCATION} {location}")).await
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn via(&self, at: u8) -> String {
        format!("{}://127.0.0.{at}:{}", self.scheme_behind(at), self.port)
    }

    /// What doctor says, and whether it says that all is well.
    async fn ask(&self, arguments: &[&str]) -> Outcome {
        let ca = self.site.path("localhost/ca.pem");
        let mut all = vec!["--body-mib", "3"];
        if !arguments.contains(&"--ca") {
            all.extend(["--ca", ca.to_str().unwrap()]);
        }
        all.extend(arguments);
        ask(&all).await
    }
}

/// What doctor says for these arguments.
async fn ask(arguments: &[&str]) -> Outcome {
    let mut doctor = command(&[&["doctor", "--json"], arguments].concat());
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(said["ok"].as_bool(), Some(output.status.success()), "{text}");
    Outcome { said }
}

async fn start_nginx(
    root: &std::path::Path,
    site: &Site,
    (at, port): (u8, u16),
    (scheme, behind, port_behind): (&str, u8, u16),
    server: &str,
    location: &str,
) -> Nginx {
    fs::create_dir(root).unwrap();
    let (root, certificate, key) = (root.display(), site.path("localhost.pem"), site.path("localhost.key"));
    // A location with a path of its own comes with its own proxy_pass.
    let pass =
        if location.contains("proxy_pass") { String::new() } else { format!("proxy_pass {scheme}://127.0.0.{behind}:{port_behind};") };
    let configuration = format!(
        "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\nevents {{ }}\n\
         http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
         server {{ listen 127.0.0.{at}:{port} ssl; server_name localhost; ssl_certificate {}; ssl_certificate_key {};\n{server}\n\
         location / {{ {location}\n{pass} }} }} }}\n",
        certificate.display(),
        key.display(),
    );
    let file = format!("{root}/nginx.conf");
    // The last word of two: faults are appended to what is clean.
    fs::write(&file, last_of_each(&configuration)).unwrap();
    let child = Command::new("/usr/sbin/nginx")
        .args(["-c", &file, "-e", &format!("{root}/start.log")])
        .stdin(Stdio::null())
        .spawn()
        .expect("the Debian package nginx-light is needed: scripts/deps test installs it");
    let nginx = Nginx(child);
    within(async {
        while tokio::net::TcpStream::connect(format!("127.0.0.{at}:{port}")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    nginx
}

/// nginx refuses a directive that is given twice: the first of two goes, unless it is one that may be repeated.
fn last_of_each(configuration: &str) -> String {
    let mut text = configuration.to_owned();
    for directive in ["client_max_body_size", "proxy_http_version", "proxy_request_buffering", "proxy_buffering"] {
        drop_first_of_two(&mut text, directive);
    }
    for header in ["Host", "X-Forwarded-Proto", "X-Forwarded-For"] {
        drop_first_of_two(&mut text, &format!("proxy_set_header {header}"));
    }
    text
}

fn drop_first_of_two(text: &mut String, directive: &str) {
    let needle = format!("{directive} ");
    if text.matches(&needle).count() == 2 {
        let start = text.find(&needle).unwrap();
        let end = start + text[start..].find(';').unwrap() + 1;
        text.replace_range(start..end, "");
    }
}

#[derive(Debug)]
struct Outcome {
    said: Value,
}

impl Outcome {
    /// Each fault with its level, in the order in which they are told.
    fn faults(&self) -> Vec<(&str, &str)> {
        let findings = self.said["findings"].as_array().unwrap().iter();
        findings.map(|finding| (finding["fault"].as_str().unwrap(), finding["level"].as_str().unwrap())).collect()
    }

    fn text(&self, fault: &str) -> String {
        let finding = self.said["findings"].as_array().unwrap().iter().find(|finding| finding["fault"] == fault);
        finding.unwrap_or_else(|| panic!("no {fault}: {:#}", self.said)).to_string()
    }

    #[track_caller]
    fn is(&self, faults: &[(&str, &str)]) {
        assert_eq!(self.faults(), faults, "{:#}", self.said);
    }

    #[track_caller]
    fn says(&self, fault: &str, words: &[&str]) {
        let text = self.text(fault);
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }
}

#[tokio::test]
async fn the_gateway_alone_is_well() {
    let way = Way::to_gateway("https").await;
    let outcome = way.ask(&[&way.url(), "--address", &format!("127.0.0.2:{}", way.port)]).await;
    outcome.is(&[]);
}

#[tokio::test]
async fn a_repository_for_v1_alone_is_well_and_nobody_elses() {
    let site = Site::new(registry);
    let port = free_port();
    let _gateway = site.start(&plain_binding(port).replace("docker-local", "docker-old")).await;
    let outcome = ask(&["--body-mib", "1", &format!("http://127.0.0.1:{port}")]).await;
    outcome.is(&[]);
    assert_eq!(outcome.said["hops"][0]["product"], "gateway", "{:#}", outcome.said);
}

#[tokio::test]
async fn a_console_is_well_and_said_to_be_one() {
    let site = Site::new(registry);
    let port = free_port();
    let _gateway = site.start(&plain_binding(port).replace("repository = \"docker-local\"", "console = true")).await;
    let outcome = ask(&["--body-mib", "1", &format!("http://127.0.0.1:{port}")]).await;
    outcome.is(&[]);
    assert!(outcome.said.to_string().contains("management only"), "{:#}", outcome.said);
}

#[tokio::test]
async fn an_address_without_a_repository_is_found() {
    let site = Site::new(registry);
    let (redirects, absent) = (free_port(), free_port());
    let bindings = plain_binding(redirects).replace("repository = \"docker-local\"", "redirect = \"https://registry.example\"")
        + &plain_binding(absent).replace("docker-local", "docker-none");
    let _gateway = site.start(&bindings).await;
    for (port, reason) in [(redirects, "only redirects browsers"), (absent, "no such repository")] {
        let outcome = ask(&["--body-mib", "1", &format!("http://127.0.0.1:{port}")]).await;
        outcome.is(&[("no-repository", "wrong")]);
        outcome.says("no-repository", &[reason, "berth-gateway bindings"]);
    }
}

#[tokio::test]
async fn nginx_that_is_set_up_well_is_well() {
    let way = Way::to_gateway("https").await.with_fault("", "").await;
    way.ask(&[&way.url()]).await.is(&[]);
}

#[tokio::test]
async fn a_body_limit_is_found_with_its_size() {
    let way = Way::to_gateway("https").await.with_fault("client_max_body_size 1m;", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    assert!(outcome.faults().iter().all(|(fault, level)| (*fault, *level) == ("body-limit", "wrong")), "{:#}", outcome.said);
    outcome.says("body-limit", &["limited to 1 MiB", "nginx/1", "413", "client_max_body_size 0;"]);
}

#[tokio::test]
async fn a_lost_port_is_found() {
    // The gateway listens on another port than nginx: what docker is told has neither.
    let way = Way::to_gateway("https").await;
    let (outer, root) = (free_port(), way.site.path("nginx"));
    let location = format!("{CLEAN_LOCATION} proxy_set_header Host $host;");
    let _nginx = start_nginx(&root, &way.site, (1, outer), ("https", 2, way.port), CLEAN_SERVER, &location).await;
    let outcome = way.ask(&[&format!("https://localhost:{outer}")]).await;
    outcome.is(&[("host", "wrong")]);
    outcome.says("host", &["loses its port", &format!("docker will be sent to https://localhost:{}", way.port), "Host $http_host;"]);
}

#[tokio::test]
async fn a_port_of_which_the_gateway_knows_nothing_is_found() {
    let way = Way::to_gateway("https").await;
    let (outer, root) = (free_port(), way.site.path("nginx"));
    let _nginx = start_nginx(&root, &way.site, (1, outer), ("https", 2, way.port), CLEAN_SERVER, CLEAN_LOCATION).await;
    let outcome = way.ask(&[&format!("https://localhost:{outer}")]).await;
    outcome.is(&[("public-address", "wrong")]);
    outcome.says("public-address", &["public_port", "at the gateway itself"]);
}

#[tokio::test]
async fn a_lost_scheme_is_found() {
    let way = Way::to_gateway("http").await.with_fault("", "proxy_set_header X-Forwarded-Proto \"\";").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("scheme", "wrong")]);
    outcome.says("scheme", &["no X-Forwarded-Proto says so", "proxy_set_header X-Forwarded-Proto $scheme;", "trusted_proxies"]);
}

#[tokio::test]
async fn a_scheme_that_is_told_but_not_believed_is_found() {
    let way = Way::to_gateway("http").await.with_fault("", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("not-trusted", "wrong")]);
    outcome.says("not-trusted", &["127.0.0.1 is not a trusted proxy"]);
}

#[tokio::test]
async fn buffered_requests_are_found() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_request_buffering on;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("request-buffered", "costly")]);
    outcome.says("request-buffered", &["proxy_request_buffering off;"]);
}

#[tokio::test]
async fn buffered_answers_are_found() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_buffering on;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("answer-buffered", "costly")]);
    outcome.says("answer-buffered", &["proxy_buffering off;"]);
}

#[tokio::test]
async fn http_1_0_is_found_with_what_follows_from_it() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_http_version 1.0;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("http-version", "costly"), ("request-buffered", "costly")]);
    outcome.says("http-version", &["proxy_http_version 1.1;"]);
}

#[tokio::test]
async fn blocked_methods_are_found() {
    let way = Way::to_gateway("https").await.with_fault("", "limit_except GET POST PUT { deny all; }").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("method", "wrong")]);
    outcome.says("method", &["PATCH (403 from nginx", "DELETE (403 from nginx", "limit_except"]);
    assert!(!outcome.text("method").contains("PUT (403"));
}

#[tokio::test]
async fn merged_slashes_are_found() {
    // With a path behind proxy_pass, nginx hands its own reading of the path on.
    let way = Way::to_gateway("https").await;
    let pass = format!("proxy_pass https://127.0.0.2:{}/;", way.port);
    let way = way.with_fault("merge_slashes on;", &pass).await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("path", "costly")]);
    outcome.says("path", &["a double slash", "/a/b", "an encoded slash", "without a path or slash behind it"]);
}

#[tokio::test]
async fn a_trailing_slash_that_is_lost_is_found() {
    let way = Way::to_gateway("https").await.with_fault("rewrite ^(.*)/$ $1;", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    assert!(outcome.faults().contains(&("path", "wrong")), "{:#}", outcome.said);
    outcome.says("path", &["a slash at the end"]);
}

#[tokio::test]
async fn compression_is_found() {
    let gzip = "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;";
    let way = Way::to_gateway("https").await.with_fault(gzip, "").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("compressed", "wrong")]);
    outcome.says("compressed", &["gzip off;", "layers are compressed once more"]);

    let json = "gzip on; gzip_types application/json; gzip_proxied any; gzip_min_length 1;";
    let way = Way::to_gateway("https").await.with_fault(json, "").await;
    way.ask(&[&way.url()]).await.is(&[("compressed", "costly")]);
}

#[tokio::test]
async fn stripped_headers_are_found() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_set_header Authorization \"\"; proxy_set_header Range \"\";").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("header-lost", "wrong")]);
    outcome.says("header-lost", &["authorization, range", "proxy_set_header Authorization $http_authorization;"]);

    let way = Way::to_gateway("https").await.with_fault("", "proxy_hide_header X-Docker-Endpoints;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("answer-header-lost", "wrong")]);
    outcome.says("answer-header-lost", &["x-docker-endpoints", "proxy_hide_header"]);
}

#[tokio::test]
async fn redirects_are_found() {
    let way = Way::to_gateway("https").await.with_fault("location /v2 { return 301 https://elsewhere.example$request_uri; }", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("redirect", "wrong")]);
    outcome.says("redirect", &["nginx/1", "301", "https://elsewhere.example/v2/_berth/probe", "return 301"]);

    let way = Way::to_gateway("https").await.with_fault("location = /v2/ { return 301 /ui; }", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("redirect", "wrong")]);
    outcome.says("redirect", &["/v2/ is redirected"]);
}

#[tokio::test]
async fn a_rewritten_location_is_found() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_redirect https://localhost https://inner.example;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("location", "wrong")]);
    outcome.says("location", &["inner.example", "proxy_redirect off;"]);
}

#[tokio::test]
async fn a_gateway_that_nobody_leads_to_is_found() {
    let way = Way::to_gateway("https").await.with_fault("location /v2 { return 404; }", "").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("not-forwarded", "wrong")]);
    outcome.says("not-forwarded", &["/v2/ is answered 404 by nginx/1"]);
}

#[tokio::test]
async fn the_hop_that_makes_a_fault_is_named() {
    let limited = format!("{CLEAN_SERVER} client_max_body_size 2m;");
    for (outer, inner, guilty, innocent) in [(limited.as_str(), CLEAN_SERVER, 1, 3), (CLEAN_SERVER, limited.as_str(), 3, 2)] {
        let way =
            Way::to_gateway("https").await.with_nginx(3, 2, inner, CLEAN_LOCATION).await.with_nginx(1, 3, outer, CLEAN_LOCATION).await;
        let outcome = way.ask(&[&way.url(), "--via", &way.via(3), "--via", &way.via(2)]).await;
        assert!(!outcome.faults().is_empty());
        let (guilty, innocent) = (if guilty == 1 { way.url() } else { way.via(guilty) }, way.via(innocent));
        for fault in outcome.faults() {
            assert_eq!(fault, ("body-limit", "wrong"), "{:#}", outcome.said);
        }
        outcome.says(
            "body-limit",
            &["2 MiB", &format!("between {guilty} and {innocent}: the fault is made by what listens at {guilty} (nginx)")],
        );
    }
}

#[tokio::test]
async fn a_certificate_that_clients_refuse_is_found() {
    let way = Way::to_gateway("https").await.with_fault("", "").await;
    let url = format!("https://registry.example:{}", way.port);
    let outcome = way.ask(&[&url, "--address", &format!("127.0.0.1:{}", way.port)]).await;
    outcome.is(&[("certificate-name", "wrong")]);
    outcome.says("certificate-name", &["is for localhost, 127.0.0.1, not for registry.example"]);

    let other = tempfile::tempdir().unwrap();
    berth_gateway::cert::self_signed(other.path(), &["localhost".to_owned()], &[]).unwrap();
    let outcome = way.ask(&[&way.url(), "--ca", other.path().join("ca.pem").to_str().unwrap()]).await;
    outcome.is(&[("certificate-untrusted", "wrong")]);
    outcome.says("certificate-untrusted", &["does not know the authority", "certs.d"]);
}

#[tokio::test]
async fn the_wrong_scheme_in_the_address_is_found() {
    let way = Way::to_gateway("https").await.with_fault("", "").await;
    for address in ["127.0.0.1", "127.0.0.2"] {
        let outcome = way.ask(&[&format!("http://{address}:{}", way.port)]).await;
        outcome.is(&[("https-only", "wrong")]);
    }
    let way = Way::to_gateway("http").await;
    let outcome = way.ask(&[&format!("https://127.0.0.2:{}", way.port)]).await;
    outcome.is(&[("plain-http", "wrong")]);
}

#[tokio::test]
async fn nobody_there_is_found() {
    let way = Way::to_gateway("https").await;
    let outcome = way.ask(&[&format!("https://127.0.0.1:{}", free_port())]).await;
    outcome.is(&[("unreachable", "wrong")]);
    outcome.says("unreachable", &["refused"]);
}

#[tokio::test]
async fn hops_that_do_not_endure_a_pause_are_found() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_read_timeout 2s;").await;
    let outcome = way.ask(&[&way.url(), "--slow", "4"]).await;
    assert!(outcome.faults().iter().all(|fault| *fault == ("idle", "wrong")) && !outcome.faults().is_empty(), "{:#}", outcome.said);
    outcome.says("idle", &["an answer that takes 4 s", "504", "nginx", "proxy_read_timeout 900s"]);

    let way = Way::to_gateway("https").await.with_fault("client_body_timeout 2s;", "").await;
    let outcome = way.ask(&[&way.url(), "--slow", "4"]).await;
    outcome.is(&[("idle", "wrong")]);
    outcome.says("idle", &["an upload that pauses for 4 s", "client_body_timeout 900s"]);
    let way = Way::to_gateway("https").await.with_fault("", "").await;
    way.ask(&[&way.url(), "--slow", "4"]).await.is(&[]);
}

/// A front of the kind that wants a length: it refuses chunked bodies, and hands nothing else on either.
#[tokio::test]
async fn a_hop_that_wants_a_length_is_found() {
    let wants_length = "if ($http_transfer_encoding = chunked) { return 411; }";
    let way = Way::to_gateway("https").await.with_fault(wants_length, "").await;
    let outcome = way.ask(&[&way.url()]).await;
    assert!(outcome.faults().contains(&("chunked", "wrong")), "{:#}", outcome.said);
    outcome.says("chunked", &["nginx/1", "answers 411 to a chunked body, as docker sends its layers"]);
}

#[tokio::test]
async fn a_host_that_is_changed_on_the_way_is_found_where_bindings_have_names() {
    let way = Way::to_binding("https", "server_name = \"localhost\"\n").await;
    let way = way.with_fault("", "proxy_set_header Host inner.example;").await;
    let outcome = way.ask(&[&way.url()]).await;
    assert!(outcome.faults().contains(&("host", "wrong")), "{:#}", outcome.said);
    outcome.says("host", &["inner.example", "no binding", "proxy_set_header Host $http_host;"]);
}

#[tokio::test]
async fn probes_are_answered_only_while_the_configuration_says_so() {
    let site = Site::new(registry);
    let (_gateway, port) = site.start_plain().await;
    assert_eq!(Client::connect(port).await.get("/v2/_berth/probe", "localhost").await.status, 200);
    let site = Site::new(registry);
    let port = free_port();
    let binding = crate::support::plain_binding(port) + "[doctor]\nenabled = false\n";
    let _gateway = site.start(&binding).await;
    assert_eq!(Client::connect(port).await.get("/v2/_berth/probe", "localhost").await.status, 404);
    ask(&[&format!("http://127.0.0.1:{port}")]).await.is(&[("no-probe", "wrong")]);
}

#[tokio::test]
async fn a_probe_for_an_unknown_host_is_under_the_rules_of_the_address() {
    let site = Site::new(registry);
    let (denied, rate) = (free_port(), free_port());
    let bindings = format!(
        "{}server_name = \"a.example\"\ndeny = [\"127.0.0.1\"]\n{}server_name = \"a.example\"\n\
         [binding.limits]\nrequests_per_second_per_client = 5\nheader_bytes = 1024\n",
        plain_binding(denied),
        plain_binding(rate)
    );
    let _gateway = site.start(&bindings).await;
    assert_eq!(Client::connect(denied).await.get("/v2/_berth/probe", "b.example").await.status, 403);
    let mut client = Client::connect(rate).await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(client.get("/v2/_berth/probe?announce", "b.example").await.status);
    }
    assert!(statuses.contains(&200) && statuses.iter().filter(|status| **status == 429).count() >= 15, "{statuses:?}");
    let long = format!("GET /v2/_berth/probe HTTP/1.1\r\nHost: b.example\r\nX: {}\r\n\r\n", "a".repeat(1024));
    assert_eq!(Client::connect(rate).await.ask(long).await.status, 431);
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let site = Site::new(registry);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    client.send("GET /v2/_berth/probe?bytes=2000&halves HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let (status, headers) = client.head().await;
    assert_eq!((status, headers.get("transfer-encoding")), (200, None));
    assert_eq!(client.rest().await.len(), 2000);
}

#[tokio::test]
async fn people_are_told_what_to_do() {
    let way = Way::to_gateway("https").await.with_fault("", "proxy_request_buffering on; proxy_set_header Authorization \"\";").await;
    let ca = way.site.path("localhost/ca.pem");
    let mut doctor = command(&["doctor", &way.url(), "--body-mib", "1", "--ca", ca.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "✓ certificate  trusted, for localhost, 127.0.0.1,",
        "✗ header       what clients send in authorization does not arrive",
        "      nginx: no `proxy_set_header NAME \"\"`; for Authorization: proxy_set_header Authorization $http_authorization;",
        "! upload       bodies are kept until they have ended",
        "\n1 wrong, 1 to be improved.\n",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

/// The answer to a probe is for whoever asks, so it must not be of use to anybody else.
#[tokio::test]
async fn a_probe_tells_no_secret_and_costs_little() {
    let site = Site::new(registry);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    let head =
        "GET /v2/_berth/probe HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer S3CRET\r\nCookie: a=S3CRET\r\nX-Secret: S3CRET\r\n\r\n";
    let answer = client.ask(head).await;
    assert_eq!((answer.status, answer.headers["cache-control"].as_str()), (200, "no-store"));
    assert!(!answer.text().contains("S3CRET") && answer.headers.keys().all(|name| !name.starts_with("access-control")));
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&report["origin"], &report["client"]), (&Value::from(format!("http://localhost:{port}")), &Value::from("127.0.0.1")));

    // The connection goes on, and a download has a bound.
    let answer = client.get("/v2/_berth/probe?bytes=1000000000", "localhost").await;
    assert_eq!(answer.body.len(), 64 << 10);

    // What is too long is not read.
    let mut client = Client::connect(port).await;
    let answer = client.ask("PUT /v2/_berth/probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n").await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &report["body"]["end"], answer.headers["connection"].as_str()), (200, &Value::from("unread"), "close"));

    // Nothing else under the name is a probe.
    assert_eq!(Client::connect(port).await.get("/v2/_berth/probes", "localhost").await.status, 404);
}

#[tokio::test]
async fn the_number_of_probes_at_a_time_has_a_bound() {
    let site = Site::new(registry);
    let (_gateway, port) = site.start_plain().await;
    let silence = "GET /v2/_berth/probe?silence=30 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = async |client: u8| {
        within(async {
            loop {
                let answer = Client::connect_from(client, port).await.get("/v2/_berth/probe", "localhost").await;
                if answer.status == 503 {
                    return answer;
                }
            }
        })
        .await
    };
    let mut waiting = Vec::new();
    for client in 1..=8 {
        for _ in 0..4 {
            let mut connection = Client::connect_from(client, port).await;
            connection.send(silence).await;
            waiting.push(connection);
        }
        if client == 1 {
            // One client has its share, and the others have theirs.
            assert!(refused(1).await.text().contains("too many probes"));
            assert_eq!(Client::connect_from(2, port).await.get("/v2/_berth/probe", "localhost").await.status, 200);
        }
    }
    assert_eq!(refused(9).await.headers["retry-after"], "1");
    assert_eq!(Client::connect(port).await.get("/v2/", "localhost").await.status, 401, "others are not concerned");
    drop(waiting);
    within(async { while Client::connect(port).await.get("/v2/_berth/probe", "localhost").await.status != 200 {} }).await;
}

#[tokio::test]
async fn limits_that_a_patient_client_keeps_are_no_fault() {
    let way = Way::to_binding("https", "[binding.limits]\nrequests_per_second_per_client = 8\nrequests_in_flight_per_client = 2\n").await;
    way.ask(&[&way.url(), "--address", &format!("127.0.0.2:{}", way.port)]).await.is(&[]);
}

#[tokio::test]
async fn who_is_not_admitted_is_told_so() {
    for scheme in ["http", "https"] {
        let way = Way::to_binding(scheme, "deny = [\"127.0.0.0/8\"]\n").await;
        let outcome = way.ask(&[&way.via(2)]).await;
        outcome.is(&[("denied", "wrong")]);
        outcome.says("denied", &["at the gateway itself", "allow and deny"]);
    }
}

#[tokio::test]
async fn who_refuses_too_many_requests_is_named() {
    let way = Way::to_gateway("http").await.with_fault("", "add_header Retry-After 1 always; return 503;").await;
    let outcome = way.ask(&[&way.url()]).await;
    outcome.is(&[("limited", "wrong")]);
    outcome.says("limited", &["nginx", "limit_req"]);
}
