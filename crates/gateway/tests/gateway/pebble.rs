//! Pebble, the ACME server that Let's Encrypt tests with, and a DNS server for it that leads every name to 127.0.0.1.
//! Both are programs of Debian's package `pebble`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_gateway::cert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{Client, free_port, within};

/// What a test wants of its ACME server.
pub(crate) struct Options {
    /// The port that http-01 asks, on every name's address.
    pub(crate) http_port: u16,
    /// The port that tls-alpn-01 asks.
    pub(crate) tls_port: u16,
    /// How long certificates are valid, in seconds.
    pub(crate) certificate_life_s: u64,
    /// How many of a hundred good nonces are refused.
    pub(crate) nonces_refused: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { http_port: free_port(), tls_port: free_port(), certificate_life_s: 90 * 24 * 3600, nonces_refused: 0 }
    }
}

/// An ACME server that has validated and issued nothing yet. Killed when dropped.
pub(crate) struct Pebble {
    pub(crate) options: Options,
    directory: TempDir,
    port: u16,
    management_port: u16,
    dns_port: u16,
    dns_management_port: u16,
    server: Process,
    _dns: Process,
}

impl Pebble {
    pub(crate) async fn start(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        cert::self_signed(directory.path(), &["localhost".to_owned()], &["127.0.0.1".parse().unwrap()]).unwrap();
        let (port, management_port, dns_port, dns_management_port) = (free_port(), free_port(), free_port(), free_port());
        let path = |file: &str| directory.path().join(file);
        let configuration = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": path("server.pem"),
            "privateKey": path("server.key"),
            "httpPort": options.http_port,
            "tlsPort": options.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": options.certificate_life_s,
            // The same for releases after Debian 12's, and how soon they want to be asked again, in seconds.
            "profiles": {"default": {"description": "for tests", "validityPeriod": options.certificate_life_s}},
            "retryAfter": {"authz": 1, "order": 1},
        }});
        fs::write(path("pebble.json"), configuration.to_string()).unwrap();
        let dns = Process::start(
            Command::new("pebble-challtestsrv")
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
                .args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-management", &format!("127.0.0.1:{dns_management_port}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        listening(dns_port).await;
        listening(dns_management_port).await;
        let server = start_server(&directory, &options, dns_port);
        listening(port).await;
        listening(management_port).await;
        Self { options, directory, port, management_port, dns_port, dns_management_port, server, _dns: dns }
    }

    /// Ends it and starts it anew, on the same port and with the same certificate. It knows nobody any more.
    pub(crate) async fn restart(&mut self) {
        self.server.kill();
        self.server = start_server(&self.directory, &self.options, self.dns_port);
        listening(self.port).await;
        listening(self.management_port).await;
    }

    pub(crate) fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The authority by which the server itself identifies.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The authority of the certificates that it issues.
    pub(crate) async fn issuing_root(&self) -> CertificateDer<'static> {
        let ca = CertificateDer::from_pem_file(self.ca()).unwrap();
        let mut client = Client::connect_tls_offering(self.management_port, "127.0.0.1", &ca, &["http/1.1"]).await.unwrap();
        let answer = client.get("/roots/0", "127.0.0.1").await;
        CertificateDer::from_pem_slice(&answer.body).unwrap()
    }

    /// From now on `name` leads to an address on which nobody listens.
    pub(crate) async fn lead_astray(&self, name: &str) {
        let record = json!({"host": format!("{name}."), "addresses": ["127.0.0.3"]}).to_string();
        let length = record.len();
        let request = format!("POST /add-a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{record}");
        assert_eq!(Client::connect(self.dns_management_port).await.ask(request).await.status, 200);
    }

    /// What it has logged since it was last started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// How many lines of the log contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// How many orders were placed.
    pub(crate) fn orders(&self) -> usize {
        self.logged("Added order ")
    }

    /// How many certificates were issued.
    pub(crate) fn issued(&self) -> usize {
        self.logged("Issued certificate serial ")
    }

    /// How many requests of an order were repeated: each is made once, unless its nonce was refused.
    pub(crate) fn repeated(&self) -> usize {
        let requests: usize =
            ["order-plz", "authZ", "chalZ", "finalize-order", "certZ"].map(|path| self.logged(&format!("POST /{path}"))).iter().sum();
        requests - 5 * self.orders()
    }
}

fn start_server(directory: &TempDir, options: &Options, dns_port: u16) -> Process {
    let log = File::create(directory.path().join("log")).unwrap();
    Process::start(
        Command::new("pebble")
            .args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns_port}")])
            .arg("-config")
            .arg(directory.path().join("pebble.json"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", options.nonces_refused.to_string())
            .stdout(log.try_clone().unwrap())
            .stderr(log),
    )
}

async fn listening(port: u16) {
    within(async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("{} is not installed: it is in Debian's package pebble", command.get_program().display()),
            _ => panic!("{}: {error}", command.get_program().display()),
        }))
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
