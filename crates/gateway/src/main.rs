//! `berth-gateway`: see [`Command`] for what it can be asked to do.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::anyhow;
use berth_gateway::cert;
use berth_gateway::config::{Config, Problem};
use berth_gateway::convert::{self, Kind, Objection, Site, Verdict};
use berth_gateway::doctor;
use berth_gateway::handover::Predecessor;
use berth_gateway::overview;
use berth_gateway::serve::Bound;
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::crypto::aws_lc_rs;
use tracing_subscriber::EnvFilter;

/// Names the environment variable that replaces [`LOG_DEFAULT`], in the form `info,access=off,berth_gateway=debug`.
const LOG_VARIABLE: &str = "BERTH_LOG";

const LOG_DEFAULT: &str = "info";

/// Holds under any setting: Pingora reports every client that breaks off as an error, and at its lower levels prints
/// whole heads, with their `Authorization`. What matters of it is in our own lines.
const LOG_ALWAYS: [&str; 2] = ["pingora_core=error", "pingora_proxy=off"];

/// The gateway of a Berth registry.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT. SIGHUP reads the configuration again, as does a change of a file; SIGUSR2 starts
    /// the program anew and hands its sockets over.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration, with the certificates it names, and say what is wrong with it.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Print what a configuration makes reachable: address, host, repository, certificate, and what clients write.
    Bindings {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Read NGINX's or Apache's configuration and print the gateway's that does the same. What is to be said of the other
    /// lines goes to standard error.
    Import {
        /// The main file, or those of some sites; what they include is read too.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print what NGINX or Apache must be told to stand where the gateway stands.
    Export {
        /// For whom.
        kind: Other,
        /// The gateway's configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// From a client's machine: say what is wrong on the way to a gateway, at which hop, and what to change there.
    Doctor(doctor::Options),
    /// Certificates.
    #[command(subcommand)]
    Cert(CertCommand),
}

/// The other proxies.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Other {
    /// NGINX, 1.19.4 or newer.
    Nginx,
    /// Apache's HTTP server, 2.4.
    Apache,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Make an authority of your own and a server certificate signed by it; existing files are kept.
    SelfSigned {
        /// Where ca.pem, ca.key, server.pem and server.key are or will be.
        #[arg(long)]
        dir: PathBuf,
        /// A host name that clients use; may be repeated.
        #[arg(long = "name")]
        names: Vec<String>,
        /// An IP address that clients use; may be repeated.
        #[arg(long = "ip")]
        addresses: Vec<IpAddr>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            // For a person at a terminal, hence not a log line.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // First of all: Pingora would install its own choice otherwise.
    aws_lc_rs::default_provider().install_default().map_err(|_| anyhow!("a cryptographic provider is installed already"))?;
    match command {
        Command::Serve { config } => serve(&config)?,
        Command::Check { config } => check(&config)?,
        Command::Bindings { config } => bindings(&config)?,
        // What is wrong has been printed.
        Command::Import { files } => return Ok(if import(&files)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Export { kind, config } => export(kind, &config)?,
        Command::Cert(CertCommand::SelfSigned { dir, names, addresses }) => make_certificates(&dir, &names, &addresses)?,
        Command::Doctor(options) => return Ok(if doctor::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(path: &Path) -> anyhow::Result<()> {
    // Keys and state are made for the owner alone, and say so themselves; whatever else is made is at least for nobody else.
    rustix::process::umask(rustix::fs::Mode::RWXO | rustix::fs::Mode::WGRP);
    let predecessor = Predecessor::find()?;
    let config = Config::load(path)?;
    raise_descriptor_limit();
    let gateway = Bound::new(path, config, predecessor)?;
    gateway.run(|| say("berth-gateway ready"))
}

fn bindings(config: &Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let table = overview::table(&overview::rows(&config.listeners), SystemTime::now());
    table.lines().for_each(say);
    Ok(())
}

/// Prints what was imported. What needs somebody's attention goes to standard error; the status says whether `check` takes it,
/// but for certificates and keys, which may lie on another machine.
fn import(files: &[PathBuf]) -> anyhow::Result<bool> {
    let imported = convert::import(files)?;
    imported.toml.lines().for_each(say);
    // For whoever reads: the configuration itself may go into a file.
    for note in &imported.notes {
        let _ = writeln!(io::stderr(), "{note}");
    }
    let open = |verdict| imported.notes.iter().filter(|note| note.verdict == verdict).count();
    let (unneeded, decide, unknown) = (open(Verdict::Unneeded), open(Verdict::Decide), open(Verdict::NotUnderstood));
    let _ = writeln!(
        io::stderr(),
        "{}: {} directives translated, {unneeded} not needed, {decide} to decide on, {unknown} not understood",
        imported.kind,
        imported.translated
    );
    for Objection { problem: Problem { line, column, message }, .. } in &imported.objections {
        let _ = writeln!(io::stderr(), "check: gateway.toml:{line}:{column}: {message}");
    }
    Ok(imported.objections.iter().all(|objection| objection.is_about_file))
}

fn export(kind: Other, config: &Path) -> anyhow::Result<()> {
    let kind = match kind {
        Other::Nginx => Kind::Nginx,
        Other::Apache => Kind::Apache,
    };
    convert::export(&Site::load(config)?, kind).lines().for_each(say);
    Ok(())
}

fn check(config: &Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    say(&format!("configuration ok: {} binding{}", config.bindings, if config.bindings == 1 { "" } else { "s" }));
    if !config.trusted_proxies.is_empty() {
        let believed: Vec<_> = config.trusted_proxies.iter().map(ToString::to_string).collect();
        say(&format!("believed about clients: {}", believed.join(", ")));
    }
    // To standard error: whoever only looks whether it is ok is not disturbed.
    for warning in overview::warnings(&config.listeners, SystemTime::now()) {
        eprintln!("berth-gateway: warning: {warning}");
    }
    Ok(())
}

fn make_certificates(directory: &Path, names: &[String], addresses: &[IpAddr]) -> anyhow::Result<()> {
    let made = cert::self_signed(directory, names, addresses)?;
    say(if made.issued { "server certificate: issued" } else { "server certificate: kept" });
    say(&format!("authority: {}", made.authority.display()));
    say(&format!("authority SHA-256: {}", made.fingerprint));
    Ok(())
}

fn start_logging() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let filter = LOG_ALWAYS.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).init();
}

/// A connection needs two descriptors; the usual soft limit of 1024 is meant for programs that use `select`.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// To standard output, whoever may have closed it.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
