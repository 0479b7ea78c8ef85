//! `berth-backend check` and `salvage`: what is wrong with a store, and what is left of one.

use std::process::ExitCode;

use anyhow::Context as _;
use berth_registry::{Clock, Registry, Report};
use berth_storage::rocksdb;

use crate::config::Config;

/// Problems that are printed before they are only counted.
pub(crate) const PROBLEMS_SHOWN_MAX: usize = 100;

/// Reads everything once and says what is wrong.
pub(crate) async fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let (_stores, registry) = crate::open(config)?;
    Ok(tell(&registry.check().await?))
}

/// Opens a store whose write-ahead log is damaged with what can be read of it, and says what is missing.
pub(crate) async fn salvage(config: &Config) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let aside = config.data_dir.join(format!("damaged-log-{}", clock.now_ms()));
    let (stores, salvaged) = rocksdb::salvage(&config.data_dir, rocksdb::Memory::default(), &aside)
        .with_context(|| format!("can't salvage the store in {}", config.data_dir.display()))?;
    match &salvaged.kept {
        Some(kept) => println!("the damaged logs are kept in {}; remove them when you need them no longer", kept.display()),
        None => println!("all of the write-ahead log can be read"),
    }
    if salvaged.changes_lost > 0 {
        let (changes, holes) = (salvaged.changes_lost, salvaged.holes);
        println!("{changes} changes of rows that were acknowledged are lost, in {holes} places; what they leave dangling follows");
    }
    let registry = Registry::new(&stores, config.cleanup.into(), clock);
    let code = tell(&registry.check().await?);
    Ok(if salvaged.changes_lost > 0 { ExitCode::FAILURE } else { code })
}

fn tell(report: &Report) -> ExitCode {
    for problem in report.problems.iter().take(PROBLEMS_SHOWN_MAX) {
        println!("problem: {problem}");
    }
    let seen =
        format!("{} blobs with {} bytes hashed, {} names followed, {} rows read", report.blobs, report.bytes, report.names, report.rows);
    if report.problems.is_empty() {
        println!("{seen}: no problems found");
        ExitCode::SUCCESS
    } else {
        println!("{seen}: {} problems found", report.problems.len());
        ExitCode::FAILURE
    }
}
