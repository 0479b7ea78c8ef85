//! The command line, and the examples that are shipped.

use std::fs;
use std::path::Path;
use std::process::Output;

use berth_gateway::config::Config;

use crate::support::{Site, command, echo, free_port, plain_binding};

fn run(arguments: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let site = Site::without_backend();
    let good = site.configuration(&(plain_binding(5000) + &plain_binding(5001)));
    assert_eq!(run(&["check", "--config", good.to_str().unwrap()]), (true, "configuration ok: 2 bindings\n".to_owned(), String::new()));

    let bad = site.configuration("[[binding]]\nlisten = \"127.0.0.1:5000\"\nrepositry = \"r\"\n");
    let (ok, stdout, stderr) = run(&["check", "--config", bad.to_str().unwrap()]);
    assert!(!ok && stdout.is_empty());
    assert!(stderr.starts_with(&format!("{}:5:1: unknown field `repositry`", bad.display())), "{stderr}");
    assert!(stderr.ends_with("did you mean `repository`?\n"), "{stderr}");
}

#[test]
fn check_warns_of_a_certificate_that_has_expired() {
    let site = Site::without_backend();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["r.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    fs::write(site.path("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(site.path("c.key"), key.serialize_pem()).unwrap();
    let binding = "[[binding]]\nlisten = \"127.0.0.1:8443\"\nrepository = \"r\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n";
    let (ok, stdout, stderr) = run(&["check", "--config", site.configuration(binding).to_str().unwrap()]);
    assert!(ok && stdout == "configuration ok: 1 binding\n", "{stdout}");
    assert!(stderr.starts_with("berth-gateway: warning: the certificate of https 127.0.0.1:8443 (any) expired "), "{stderr}");
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start() {
    let site = Site::new(echo);
    let (_gateway, taken) = site.start_plain().await;
    let configuration = site.configuration(&(plain_binding(free_port()) + &plain_binding(taken)));
    let (ok, stdout, stderr) = run(&["serve", "--config", configuration.to_str().unwrap()]);
    assert!(!ok && stdout.is_empty());
    assert!(stderr.contains(&format!("cannot listen on 127.0.0.1:{taken}: Address already in use")), "{stderr}");
}

#[test]
fn self_signed_prints_the_fingerprint_and_keeps_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        ["cert", "self-signed", "--dir", directory.path().to_str().unwrap(), "--name", "localhost", "--ip", "127.0.0.1", "--ip", "::1"];
    let (ok, first, _) = run(&arguments);
    assert!(ok && first.starts_with("server certificate: issued\n"), "{first}");
    let (ok, second, _) = run(&arguments);
    assert!(ok && second.starts_with("server certificate: kept\n"), "{second}");
    let fingerprint = |text: &str| text.lines().last().unwrap().to_owned();
    assert_eq!(fingerprint(&first), fingerprint(&second));
    assert_eq!(fingerprint(&first).split(':').count(), 33);
}

/// Each example is checked in a directory that has the certificates it names.
#[test]
fn every_example_is_a_good_configuration() {
    // Asked at run time: a target directory shared between checkouts keeps a test compiled in another one.
    let examples = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../proxy-config");
    let mut checked = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let example = entry.unwrap().path();
        if example.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        // The systemd unit makes this one.
        let logs = format!("{}/", directory.path().display());
        let text = fs::read_to_string(&example).unwrap().replace("/var/log/berth/", &logs);
        let certificates = directory.path().join("made");
        berth_gateway::cert::self_signed(&certificates, &["localhost".to_owned()], &[]).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let servers = table["upstream"].get("server").and_then(|servers| servers.as_array());
        for part in table["binding"].as_array().unwrap().iter().chain(servers.into_iter().flatten()) {
            for (field, made) in [("certificate", "server.pem"), ("key", "server.key"), ("ca", "ca.pem")] {
                let Some(file) = part.get(field) else { continue };
                let file = directory.path().join(file.as_str().unwrap());
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::copy(certificates.join(made), file).unwrap();
            }
        }
        let configuration = directory.path().join("gateway.toml");
        fs::write(&configuration, text).unwrap();
        let (ok, stdout, stderr) = run(&["check", "--config", configuration.to_str().unwrap()]);
        assert!(ok && stdout.starts_with("configuration ok"), "{}: {stderr}", example.display());
        checked += 1;
    }
    assert!(checked >= 9, "{checked} examples");
}

/// What is commented out in the annotated file can be written as it stands there.
#[test]
fn every_field_of_the_annotated_file_exists() {
    let file = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../proxy-config/gateway.toml");
    let text = fs::read_to_string(file).unwrap();
    let mut fields = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        let Some((name, rest)) = line.split_once(" = ") else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            continue;
        }
        fields += 1;
        // In whichever table it belongs: what is unknown there is said to be unknown, and nothing else counts here.
        let tables =
            ["", "[upstream]\n", "[places]\n", "[limits]\n", "[access_log]\n", "[metrics]\n", "[traces]\n", "[acme]\n", "[[binding]]\n"];
        let is_known = |table: &&str| {
            let problems = Config::parse(&format!("{table}{name} = {rest}\n"), Path::new("")).unwrap_err();
            !problems.iter().any(|problem| problem.message.starts_with("unknown field"))
        };
        assert!(tables.iter().any(is_known), "{line}");
    }
    assert!(fields >= 30, "{fields} fields");
}

#[test]
fn what_is_imported_is_checked_exported_and_imported_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    assert!(run(&["cert", "self-signed", "--dir", &path("certs"), "--name", "registry.company.com"]).0);
    // The published block, a second port, and lines that mean nothing here.
    let server = |port: u16, key: &str| {
        format!(
            "server {{\n    listen {port} ssl;\n    server_name registry.company.com;\n    ssl_certificate {0}/server.pem;\n    \
             ssl_certificate_key {0}/server.key;\n    client_max_body_size 0;\n    chunked_transfer_encoding on;\n    \
             rewrite ^/(v1|v2)/(.*) /artifactory/api/docker/{key}/$1/$2;\n    location /artifactory/ {{\n        proxy_read_timeout 900;\n        \
             proxy_pass http://127.0.0.1:8081/artifactory/;\n        proxy_set_header Host $host:{port};\n        expires 7d;\n    }}\n}}\n",
            path("certs")
        )
    };
    fs::write(path("site.conf"), server(443, "docker-prod") + &server(444, "docker-dev")).unwrap();
    let (ok, imported, said) = run(&["import", &path("site.conf")]);
    assert!(ok, "{said}");
    assert!(said.contains(&format!("{}:13: ", path("site.conf"))) && said.contains("expires"), "{said}");
    fs::write(path("gateway.toml"), &imported).unwrap();
    assert_eq!(run(&["check", "--config", &path("gateway.toml")]), (true, "configuration ok: 2 bindings\n".to_owned(), String::new()));
    for (kind, file) in [("nginx", "exported.conf"), ("apache", "exported-httpd.conf")] {
        let (ok, exported, said) = run(&["export", kind, "--config", &path("gateway.toml")]);
        assert!(ok && exported.contains("/artifactory/api/docker/docker-dev"), "{exported}{said}");
        fs::write(path(file), exported).unwrap();
        let (ok, again, said) = run(&["import", &path(file)]);
        assert!(ok, "{kind}: {said}");
        let bindings = |text: &str| text.lines().filter(|line| line.starts_with("listen") || line.starts_with("repository")).count();
        assert_eq!((bindings(&imported), bindings(&again)), (4, 4), "{kind}: {again}");
    }
    let (ok, stdout, stderr) = run(&["import", &path("absent.conf")]);
    assert!(!ok && stdout.is_empty() && stderr.contains("absent.conf"), "{stderr}");
}
