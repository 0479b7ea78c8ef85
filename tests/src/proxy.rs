//! Debian's nginx and Apache, started in a temporary directory.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long either may take to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// What Apache's exported configuration needs beyond what Debian compiles in.
const MODULES: &[&str] = &[
    "mpm_event",
    "authz_core",
    "authz_host",
    "alias",
    "env",
    "headers",
    "http2",
    "lbmethod_bybusyness",
    "proxy",
    "proxy_http",
    "proxy_balancer",
    "remoteip",
    "reqtimeout",
    "rewrite",
    "setenvif",
    "slotmem_shm",
    "socache_shmcb",
    "ssl",
];

/// A running proxy.
pub struct Proxy {
    directory: tempfile::TempDir,
    process: Child,
}

impl Proxy {
    /// nginx with this within `http { … }`.
    pub fn nginx(configuration: &str, ports: &[u16]) -> Self {
        let directory = directory(configuration);
        let root = directory.path().display().to_string();
        let temporary: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].iter().map(|kind| format!(" {kind}_temp_path {root}/{kind};\n")).collect();
        let main = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\nevents {{ }}\n\
             http {{\n access_log off;\n{temporary} include {root}/site.conf;\n}}\n"
        );
        Self::start(directory, "/usr/sbin/nginx", "nginx-light", &["-c"], &main, ports)
    }

    /// Apache with this.
    pub fn apache(configuration: &str, ports: &[u16]) -> Self {
        let directory = directory(configuration);
        let root = directory.path().display().to_string();
        let modules: String =
            MODULES.iter().map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")).collect();
        let main = format!(
            "ServerRoot {root}\nServerName localhost\nPidFile {root}/pid\nDefaultRuntimeDir {root}\nErrorLog {root}/error.log\n{modules}\
             User www-data\nGroup www-data\nInclude {root}/site.conf\n"
        );
        Self::start(directory, "/usr/sbin/apache2", "apache2-bin", &["-D", "FOREGROUND", "-f"], &main, ports)
    }

    fn start(directory: tempfile::TempDir, binary: &str, package: &str, arguments: &[&str], main: &str, ports: &[u16]) -> Self {
        let file = directory.path().join("main.conf");
        fs::write(&file, main).unwrap();
        let mut command = Command::new(binary);
        command.args(arguments).arg(&file).stdin(Stdio::null());
        let process = command.spawn().unwrap_or_else(|_| panic!("the Debian package {package} is needed: scripts/deps test installs it"));
        let mut proxy = Self { directory, process };
        let begun = Instant::now();
        while !ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
            let ended = proxy.process.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < START_MAX, "{binary} does not listen: {ended:?}\n{}", proxy.errors());
            sleep(Duration::from_millis(25));
        }
        proxy
    }

    /// What it has complained about.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.path("error.log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Both give up root's rights, and have to get at what lies there all the same.
fn directory(configuration: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.path().join("site.conf"), configuration).unwrap();
    directory
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- proxy\n{}", self.errors());
        }
    }
}
