//! Both services, started as an operator would, in a temporary directory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;

/// The password of `admin` in every test.
pub const PASSWORD: &str = "correct-horse-battery";

/// How long a service may take to say that it is ready.
const START_MAX: Duration = Duration::from_secs(30);

/// How long it may take to stop when asked.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A gateway and a backend with four repositories, each on a port of its own.
pub struct Registry {
    directory: tempfile::TempDir,
    backend: Option<Child>,
    gateway: Option<Child>,
    /// V2.
    pub first: u16,
    /// V2, another repository: `docker-local2`.
    pub second: u16,
    /// V1: `docker-local`.
    pub v1: u16,
    /// V2, pulled by anybody.
    pub open: u16,
    /// The backend itself, without TLS.
    pub direct: u16,
    /// Management.
    pub console: u16,
}

/// A gateway besides the registry's own; it ends with its value.
pub struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody uses, nor will: below the range from which the kernel takes ports of outgoing connections, and
/// each once in this process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 97).unwrap() * 80;
    loop {
        let port = 12_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 7_760;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A binary of ours, built into the directory above the test's own.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first, as `make test` does", path.display());
    path
}

impl Registry {
    /// Starts both.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts both; the backend's configuration has this in it too.
    pub fn start_with(backend: &str) -> Self {
        let [first, second, v1, open, direct, console] = std::array::from_fn(|_| free_port());
        let mut registry =
            Self { directory: tempfile::tempdir().unwrap(), backend: None, gateway: None, first, second, v1, open, direct, console };
        registry.configure(backend);
        registry.restart();
        registry
    }

    fn configure(&self, backend: &str) {
        let backend = format!(
            "data_dir = \"data\"\n[listen]\nunix = \"b.sock\"\ntcp = \"127.0.0.1:{}\"\n{backend}\
             [[repository]]\nkey = \"first\"\napi_version = \"V2\"\n[[repository]]\nkey = \"docker-local2\"\napi_version = \"V2\"\n\
             [[repository]]\nkey = \"docker-local\"\napi_version = \"V1\"\n\
             [[repository]]\nkey = \"open\"\napi_version = \"V2\"\nanonymous_pull = true\n",
            self.direct
        );
        let mut gateway = "[upstream]\nunix = \"b.sock\"\n".to_owned();
        for (port, key) in [(self.first, "first"), (self.second, "docker-local2"), (self.v1, "docker-local"), (self.open, "open")] {
            gateway += &format!(
                "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"{key}\"\ncertificate = \"certs/server.pem\"\nkey = \"certs/server.key\"\n"
            );
        }
        gateway += &format!(
            "[[binding]]\nlisten = \"127.0.0.1:{}\"\nconsole = true\ncertificate = \"certs/server.pem\"\nkey = \"certs/server.key\"\n",
            self.console
        );
        fs::write(self.path("backend.toml"), backend).unwrap();
        fs::write(self.path("gateway.toml"), gateway).unwrap();
        fs::write(self.path("password"), PASSWORD).unwrap();
        let made = Command::new(binary("berth-gateway"))
            .args(["cert", "self-signed", "--dir", "certs", "--name", "localhost", "--ip", "127.0.0.1"])
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// A file of this registry.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The authority that signed the gateway's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("certs/ca.pem")
    }

    /// A client that speaks TLS to one of the ports, as `admin`.
    pub fn client(&self, port: u16) -> Client {
        Client::tls(port, &self.ca()).with_basic("admin", PASSWORD)
    }

    /// Runs an operator's command (`user add alice`) and returns what it prints; `Err` is what it complains about.
    pub fn operate(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary("berth-backend"));
        command.args(arguments).args(["--config", "backend.toml"]);
        let output = command.current_dir(self.directory.path()).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Creates a user and returns the password that was made up for it.
    pub fn add_user(&self, name: &str, more: &[&str]) -> String {
        let said = self.operate(&[&["user", "add", name], more].concat()).unwrap();
        let password = said.lines().find_map(|line| line.strip_prefix("password: ")).unwrap_or_else(|| panic!("{said}"));
        password.split(' ').next().unwrap().to_owned()
    }

    /// Makes an access token and returns it.
    pub fn add_token(&self, user: &str, more: &[&str]) -> String {
        let said = self.operate(&[&["token", "add", user], more].concat()).unwrap();
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["token"].as_str().unwrap().to_owned()
    }

    /// Starts both again after [`Registry::stop`].
    pub fn restart(&mut self) {
        self.start_backend();
        self.gateway = Some(self.spawn("berth-gateway", &["serve", "--config", "gateway.toml"]));
    }

    /// Adds this to the gateway's configuration, and waits until the running gateway follows it.
    pub fn add_to_gateway(&self, text: &str) {
        self.set_gateway(&(fs::read_to_string(self.path("gateway.toml")).unwrap() + text));
    }

    /// Makes this the gateway's configuration, and waits until the running gateway follows it.
    pub fn set_gateway(&self, text: &str) {
        let log = || fs::read_to_string(self.path("berth-gateway.log")).unwrap().matches("configuration reloaded").count();
        let before = log();
        fs::write(self.path("gateway.toml"), text).unwrap();
        let begun = Instant::now();
        while log() == before {
            assert!(begun.elapsed() < START_MAX, "the gateway does not follow");
            sleep(Duration::from_millis(20));
        }
    }

    /// Starts the backend (again).
    pub fn start_backend(&mut self) {
        let arguments = ["serve", "--config", "backend.toml", "--admin-password-file", "password"];
        self.backend = Some(self.spawn("berth-backend", &arguments));
    }

    /// Starts a service and waits until it says that it is ready.
    fn spawn(&self, name: &str, arguments: &[&str]) -> Child {
        let (out, log) = (self.path(&format!("{name}.out")), self.path(&format!("{name}.log")));
        let append = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        File::create(&out).unwrap();
        let mut child = Command::new(binary(name))
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(append(&out))
            .stderr(append(&log))
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(&out).unwrap().contains(&format!("{name} ready")) {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < START_MAX, "{name} did not start: {ended:?}\n{}", tail(&log));
            sleep(Duration::from_millis(10));
        }
        child
    }

    /// Starts a second gateway with a configuration beside the first one's.
    pub fn start_gateway(&self, configuration: &str) -> Gateway {
        Gateway(self.spawn("berth-gateway", &["serve", "--config", configuration]))
    }

    /// Ends the backend as a power cut would end the process.
    pub fn kill_backend(&mut self) {
        let mut backend = self.backend.take().unwrap();
        backend.kill().unwrap();
        backend.wait().unwrap();
    }

    /// The backend's process, for a test that ends it while others use the registry.
    pub fn take_backend(&mut self) -> Child {
        self.backend.take().unwrap()
    }

    /// Stops both as an operator would, and checks that both end well.
    pub fn stop(&mut self) {
        for (name, child) in [("gateway", self.gateway.take()), ("backend", self.backend.take())] {
            let Some(mut child) = child else { continue };
            let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
            assert!(told.success());
            let begun = Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                assert!(begun.elapsed() < STOP_MAX, "the {name} does not stop");
                sleep(Duration::from_millis(20));
            };
            assert!(status.success(), "the {name} ended with {status}");
        }
    }

    /// Runs `curl` as a person would, with this registry's authority.
    pub fn curl(&self, arguments: &[&str]) -> String {
        let output = Command::new("curl").args(["--silent", "--show-error", "--cacert"]).arg(self.ca()).args(arguments).output();
        let output = output.expect("curl is needed: scripts/deps test installs it");
        crate::engine::finished(arguments, output)
    }

    /// The bytes of the files that hold larger blobs.
    pub fn data_bytes(&self) -> u64 {
        fn walk(directory: &Path) -> u64 {
            let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
            // What is being deleted while we look does not count.
            entries
                .map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { entry.metadata().map_or(0, |file| file.len()) })
                .sum()
        }
        walk(&self.path("data/data"))
    }

    /// Runs `berth-backend check` on the stopped registry's store; returns what it prints.
    pub fn check(&self) -> String {
        self.run_stopped(&["check"])
    }

    /// Runs a command on the stopped registry's store, which must succeed; returns what it prints.
    pub fn run_stopped(&self, arguments: &[&str]) -> String {
        assert!(self.backend.is_none());
        let mut command = Command::new(binary("berth-backend"));
        command.args(arguments).args(["--config", "backend.toml"]);
        crate::engine::finished(arguments, command.current_dir(self.directory.path()).output().unwrap())
    }

    /// From now on the most memory is counted anew; returns what the backend has resident, in KiB.
    pub fn reset_peak_memory(&self) -> u64 {
        for child in [&self.gateway, &self.backend] {
            fs::write(format!("/proc/{}/clear_refs", child.as_ref().unwrap().id()), "5").unwrap();
        }
        self.peak_memory_kib()[1]
    }

    /// The most memory that gateway and backend have had resident, in KiB.
    pub fn peak_memory_kib(&self) -> [u64; 2] {
        [&self.gateway, &self.backend].map(|child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.as_ref().unwrap().id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A failed test shows what the services had to say.
impl Drop for Registry {
    fn drop(&mut self) {
        for mut child in [self.gateway.take(), self.backend.take()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["berth-gateway", "berth-backend"] {
                eprintln!("--- {name}\n{}", tail(&self.path(&format!("{name}.log"))));
            }
        }
    }
}
