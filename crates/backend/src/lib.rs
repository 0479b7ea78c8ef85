//! `berth-backend`: the repository API over an embedded store.

mod audit;
mod backup;
mod check;
mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod heap;
mod http;
mod import;
mod operator;
mod owner;
mod progress;
mod server;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_names::{AccountName, RepositoryKey};
use berth_registry::access::{Access, random_password};
use berth_registry::v1::migration::Verified;
use berth_registry::{Clock, Registry, Repository};
use berth_storage::rocksdb::{self, Stores, Tables};
use berth_traces::Traces;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use check::PROBLEMS_SHOWN_MAX;
use config::Config;

/// The configuration file of an installed backend.
const DEFAULT_CONFIG: &str = "/etc/berth/backend.toml";

/// The user that the first start creates.
const ADMIN: &str = "admin";

/// Uploads that nobody has sent bytes to for this long are forgotten, in milliseconds.
const UPLOAD_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// How often that is looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What traces say that they are from.
const SERVICE: &str = "berth-backend";

/// How long the end may wait for traces to be sent.
const FLUSH_MAX: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(name = "berth-backend", version, about = "Berth's repository API: Docker Registry V1 and V2 over an embedded store")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until told to stop.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// On first start, take the password of `admin` from this file instead of making one up.
        #[arg(long)]
        admin_password_file: Option<PathBuf>,
    },
    /// Manage users and robots.
    User {
        /// The configuration file.
        #[arg(long, global = true, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(subcommand)]
        command: operator::UserCommand,
    },
    /// Manage groups of users.
    Group {
        /// The configuration file.
        #[arg(long, global = true, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(subcommand)]
        command: operator::GroupCommand,
    },
    /// Manage permission targets: who may do what with which images.
    Permission {
        /// The configuration file.
        #[arg(long, global = true, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(subcommand)]
        command: operator::PermissionCommand,
    },
    /// Manage access tokens, which stand in for passwords.
    Token {
        /// The configuration file.
        #[arg(long, global = true, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(subcommand)]
        command: operator::TokenCommand,
    },
    /// Check migrated tags again: that each is what its receipt says, down to the unpacked layers. The backend must not be
    /// running.
    VerifyMigration {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Check the tags of this V2 repository only.
        #[arg(long)]
        repository: Option<RepositoryKey>,
    },
    /// Save the whole store while it is in use: `DIRECTORY/<time>/`, whole or not at all.
    ///
    /// A backend that runs is asked to do it, so the directory must be one that it may write to. On the store's own file
    /// system a backup is made of links and takes next to no space; on another one it copies what the last backup there has not.
    Backup {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Where backups are kept.
        directory: PathBuf,
    },
    /// Make the data directory what it was when a backup was made. There must be no store in it.
    Restore {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The backup: a directory with a `backup.json` in it.
        backup: PathBuf,
    },
    /// Import the file storage of the original V1 registry into a V1 repository. The backend must not be running.
    ///
    /// What was imported is not read again, so an interrupted import goes on where it stopped. What can't be imported is
    /// said, and makes the exit status 1.
    ImportV1 {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(flatten)]
        arguments: import::DirectoryArguments,
    },
    /// Import what `docker save` wrote. The backend must not be running.
    ImportArchive {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[command(flatten)]
        arguments: import::ArchiveArguments,
    },
    /// Check the configuration, then every digest and reference in the store. The backend must not be running.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Check the configuration only.
        #[arg(long)]
        config_only: bool,
    },
    /// Open a store whose write-ahead log is damaged with what can be read of it, and say what is missing. The backend must
    /// not be running.
    ///
    /// The damaged logs are kept. What was in the damage is lost: restore a backup instead, if it has more.
    Salvage {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

impl Command {
    /// The configuration file, if the command opens the store that it names.
    fn store(&self) -> Option<&Path> {
        match self {
            Self::Check { config_only: true, .. } => None,
            Self::Serve { config, .. }
            | Self::User { config, .. }
            | Self::Group { config, .. }
            | Self::Permission { config, .. }
            | Self::Token { config, .. }
            | Self::VerifyMigration { config, .. }
            | Self::Backup { config, .. }
            | Self::Restore { config, .. }
            | Self::ImportV1 { config, .. }
            | Self::ImportArchive { config, .. }
            | Self::Check { config, .. }
            | Self::Salvage { config } => Some(config),
        }
    }
}

/// Runs the program with the arguments that it was started with.
pub fn main() -> ExitCode {
    heap::bound();
    owner::keep_private();
    let filter = tracing_subscriber::EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| "info".into());
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("berth-backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Some(config) = command.store() {
        owner::become_owner_of(&Config::load(config)?.data_dir)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("berth-backend").build()?;
    let code = match command {
        Command::Serve { config, admin_password_file } => {
            runtime.block_on(serve(Config::load(&config)?, admin_password_file.as_deref())).map(|()| ExitCode::SUCCESS)
        }
        Command::User { config, command } => manage(&runtime, operator::user(&Config::load(&config)?, command)),
        Command::Group { config, command } => manage(&runtime, operator::group(&Config::load(&config)?, command)),
        Command::Permission { config, command } => manage(&runtime, operator::permission(&Config::load(&config)?, command)),
        Command::Token { config, command } => manage(&runtime, operator::token(&Config::load(&config)?, command)),
        Command::VerifyMigration { config, repository } => runtime.block_on(verify_migration(&Config::load(&config)?, repository.as_ref())),
        Command::Backup { config, directory } => manage(&runtime, backup::backup(&Config::load(&config)?, &directory)),
        Command::Restore { config, backup } => backup::restore(&Config::load(&config)?, &backup).map(|()| ExitCode::SUCCESS),
        Command::ImportV1 { config, arguments } => runtime.block_on(import::directory(&Config::load(&config)?, &arguments)),
        Command::ImportArchive { config, arguments } => runtime.block_on(import::archive(&Config::load(&config)?, &arguments)),
        Command::Salvage { config } => runtime.block_on(check::salvage(&Config::load(&config)?)),
        Command::Check { config, config_only } => {
            let config = Config::load(&config)?;
            println!("configuration ok: {} repositories", config.repositories.len());
            println!("believed about the addresses of clients: {}", config.believed());
            if config_only { Ok(ExitCode::SUCCESS) } else { runtime.block_on(check::check(&config)) }
        }
    };
    // A file read that is still under way must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(5));
    code
}

fn manage(runtime: &tokio::runtime::Runtime, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    runtime.block_on(work).map(|()| ExitCode::SUCCESS)
}

fn open(config: &Config) -> anyhow::Result<(Stores, Registry)> {
    let stores = rocksdb::open_with(&config.data_dir, config.storage.memory())
        .with_context(|| format!("can't open the store in {}", config.data_dir.display()))?;
    let registry = Registry::new(&stores, config.cleanup.into(), Clock::system());
    Ok((stores, registry))
}

/// Creates the repositories that the configuration names and that were never there before.
async fn adopt_repositories(config: &Config, registry: &Registry) -> anyhow::Result<()> {
    for repository in config.repositories.iter().cloned().map(Repository::from) {
        if registry.adopt_repository(&repository).await? {
            tracing::info!(repository = %repository.key, "the repository of the configuration was created");
        }
    }
    Ok(())
}

async fn serve(mut config: Config, admin_password_file: Option<&Path>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    heap::keep_trimmed()?;
    config.places = places(&config);
    let opened = open(&config)?;
    let (service, audit_writer) = http::Service::open(&config, &opened)?;
    let (stores, registry) = opened;
    stores.keep_reserve();
    let traces = config.traces.clone().map(|settings| Traces::open(SERVICE, settings, Arc::default())).transpose()?.map(Arc::new);
    let service = service.traced(traces.clone());
    create_admin(service.access(), admin_password_file).await?;
    adopt_repositories(&config, &registry).await?;
    registry.prepare_signing().await?;

    let listeners = server::bind(&config.listen, Some(&operator::socket(&config.data_dir))).await?;
    let housekeeping = tokio::spawn(keep_house(registry.clone()));
    let collecting = registry.clone();
    let collecting = tokio::spawn(async move { collecting.keep_collecting().await });
    let verifying = registry.clone();
    let verifying = tokio::spawn(async move { verifying.keep_verifying().await });
    let jobs = registry.clone();
    let rewriting = rewrite_tables(stores.tables.clone());
    println!("berth-backend ready");
    std::io::stdout().flush()?;

    drop(registry);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new connections, waiting for transfers under way");
    };
    server::serve(config.places.connections, listeners, move |request| service.clone().answer(request), shutdown).await;
    jobs.stop_jobs();
    for task in [housekeeping, collecting, verifying] {
        task.abort();
        let _ = task.await;
    }
    // Everything that was to be written to the audit log is.
    let _ = tokio::task::spawn_blocking(move || audit_writer.join()).await;
    if let Some(traces) = traces {
        let _ = tokio::task::spawn_blocking(move || traces.flush(FLUSH_MAX)).await;
    }
    stores.tables.stop();
    let _ = rewriting.await;
    // Dropping the stores waits for queued commits and syncs the log.
    drop(stores);
    tracing::info!("stopped");
    Ok(())
}

/// The places that the configuration names, as far as the process may have so many open files.
fn places(config: &Config) -> config::Places {
    let open_files = berth_places::raise_open_files();
    let places = config.places.within(open_files);
    if places.connections < config.places.connections {
        let (wanted, connections) = (config.places.connections, places.connections);
        tracing::info!(
            wanted,
            connections,
            open_files,
            "fewer connections than there could be: the limit of open files (ulimit -n) is lower"
        );
    }
    places
}

/// On first start there must be somebody who can log in, with a password nobody else knows.
async fn create_admin(access: &Access, password_file: Option<&Path>) -> anyhow::Result<()> {
    if access.any_user().await? {
        return Ok(());
    }
    let (password, from_file) = match password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("can't read the admin password from {}", path.display()))?;
            let text = text.trim().to_owned();
            anyhow::ensure!(!text.is_empty(), "the admin password file {} is empty", path.display());
            (text, true)
        }
        None => (random_password()?, false),
    };
    let name: AccountName = ADMIN.parse()?;
    access.create_first_admin(&name, &password).await.context("can't create the first user, `admin`")?;
    if !from_file {
        println!("admin password: {password}   (shown once; user \"{ADMIN}\")");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Brings the table files of an earlier version into the present layout, beside everything else.
fn rewrite_tables(tables: Tables) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = tables.rewrite_old() {
            tracing::error!(%error, "table files of an earlier version could not be rewritten");
        }
    })
}

/// What needs doing beside serving: the sweep after a crash, and forgetting what was begun and never ended.
async fn keep_house(registry: Registry) {
    match registry.sweep_data().await {
        Ok(0) => {}
        Ok(swept) => tracing::info!(swept, "data that a crash had left was deleted"),
        Err(error) => tracing::error!(%error, "the sweep failed"),
    }
    match registry.finish_emptying().await {
        Ok(0) => {}
        Ok(emptied) => tracing::info!(emptied, "repositories that were being deleted are gone"),
        Err(error) => tracing::error!(%error, "a deleted repository could not be emptied"),
    }
    match registry.finish_views().await {
        Ok(0) => {}
        Ok(shown) => tracing::info!(shown, "V1 clients are shown images that were pushed before"),
        Err(error) => tracing::error!(%error, "V1 clients are not shown all images"),
    }
    match registry.resume_jobs().await {
        Ok(0) => {}
        Ok(resumed) => tracing::info!(resumed, "migrations go on where the last run stopped"),
        Err(error) => tracing::error!(%error, "migrations could not be resumed"),
    }
    match registry.index_once().await {
        Ok(0) => {}
        Ok(indexed) => tracing::info!(indexed, "what an earlier version had stored can be searched for now"),
        Err(error) => tracing::error!(%error, "what an earlier version stored could not be indexed"),
    }
    match registry.find_v1_loops().await {
        Ok(0) => {}
        Ok(found) => tracing::info!(found, "V1 images that stand on themselves are looked at; no tag leads to them, or they stay"),
        Err(error) => tracing::error!(%error, "V1 images that stand on themselves could not be looked for"),
    }
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        interval.tick().await;
        match registry.expire_uploads(UPLOAD_AGE_MS_MAX).await {
            Ok(0) => {}
            Ok(expired) => tracing::info!(expired, "abandoned uploads were forgotten"),
            Err(error) => tracing::error!(%error, "abandoned uploads could not be looked at"),
        }
        if let Err(error) = registry.expire_leases().await {
            tracing::error!(%error, "what pushes relied on could not be looked at");
        }
        match registry.bring_candidates_forward().await {
            Ok(0) => {}
            Ok(moved) => tracing::warn!(moved, "the clock was set back: cleanup does not wait for it to catch up"),
            Err(error) => tracing::error!(%error, "what waits for cleanup could not be looked at"),
        }
    }
}

async fn verify_migration(config: &Config, repository: Option<&RepositoryKey>) -> anyhow::Result<ExitCode> {
    let (_stores, registry) = open(config)?;
    let verified = registry.verify_migration(repository).await?;
    for problem in verified.problems.iter().take(PROBLEMS_SHOWN_MAX) {
        println!("problem: {problem}");
    }
    let Verified { tags, moved, layers, .. } = verified;
    println!("{tags} tags are what was migrated, {layers} layers unpacked and hashed; {moved} tags were pushed to since");
    match verified.problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        problems => {
            println!("{problems} problems found");
            Ok(ExitCode::FAILURE)
        }
    }
}
