//! Debian's docker engine, started by hand: no network, no service, everything in a temporary directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the daemon may take to answer.
const START_MAX: Duration = Duration::from_secs(60);

/// A running daemon and a client of the same version.
pub struct Engine {
    directory: tempfile::TempDir,
    daemon: Child,
    trusted: Vec<PathBuf>,
}

impl Engine {
    /// Starts a daemon that trusts `ca` on these ports.
    pub fn start(ca: &Path, ports: &[u16]) -> Self {
        // The daemon reads trusted authorities from here and nowhere else.
        let trusted: Vec<PathBuf> = ports.iter().map(|port| PathBuf::from(format!("/etc/docker/certs.d/localhost:{port}"))).collect();
        for directory in &trusted {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::copy(ca, directory.join("ca.crt")).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let daemon = Command::new("/usr/sbin/dockerd")
            .args([
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "-p",
                &path("pid"),
                "-H",
                &format!("unix://{}", path("sock")),
            ])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"])
            .arg("--storage-driver=overlay2")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the Debian package docker.io is needed: scripts/deps test installs it");
        let engine = Self { directory, daemon, trusted };
        let begun = Instant::now();
        while !engine.run(&["version"]).status.success() {
            let log = || std::fs::read_to_string(engine.directory.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < START_MAX, "dockerd does not answer:\n{}", log());
            sleep(Duration::from_millis(200));
        }
        engine
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.arg("-H").arg(format!("unix://{}", self.directory.path().join("sock").display()));
        command.arg("--config").arg(self.directory.path().join("config")).args(arguments);
        command
    }

    /// What the client has written down about registries.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("config/config.json")).unwrap()
    }

    /// Writes the client's configuration by hand.
    pub fn set_config(&self, text: &str) {
        std::fs::create_dir_all(self.directory.path().join("config")).unwrap();
        std::fs::write(self.directory.path().join("config/config.json"), text).unwrap();
    }

    /// Runs a docker command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a docker command that must succeed; returns what it prints.
    pub fn must(&self, arguments: &[&str]) -> String {
        finished(arguments, self.run(arguments))
    }

    /// The same, with this text or file on its standard input.
    pub fn must_with_input(&self, arguments: &[&str], input: &Path) -> String {
        let input = std::fs::File::open(input).unwrap();
        finished(arguments, self.command(arguments).stdin(input).output().unwrap())
    }
}

/// What a command that had to succeed printed.
pub fn finished(arguments: &[&str], output: Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
        for directory in &self.trusted {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
