//! `berth-backend import-v1` and `import-archive`: images from other storage, through the same operations that a push takes.
//!
//! An import opens the store itself, so the backend must be stopped. It may be interrupted at any time: what is there whole
//! is not read again by the next one. What can't be imported is said and does not keep the rest from being imported.

mod archive;
mod beneath;
mod chain;
mod docker;
mod feed;
mod names;
mod oci;
mod python;
mod tar;
mod unpack;

#[cfg(any(test, fuzzing))]
pub(crate) use tar::fuzzing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_names::{ApiVersion, ImageName, RepositoryKey, Tag};
use berth_registry::v1::Viewer;
use berth_registry::{Client, ExistingTag, Push, Registry, Repository};
use clap::Args;

use crate::config::Config;
use crate::progress::{self, Progress};
use feed::Meter;

/// For whose push things are kept while an import runs.
const HOLDER: &str = "import";

/// The operator sees everything.
const VIEWER: Viewer<'static> = Viewer { user: None, sees_all: true, sees: &|_| true };

/// Imports are nobody's in particular.
const CLIENT: Client<'static> = Client { owner: None, holder: HOLDER };

/// The operator may move tags.
const PUSH: Push<'static> = Push { existing: ExistingTag::Moves, holder: HOLDER };

/// What the age of a tag is counted in: two that are set further apart are never of the same age.
const TAG_AGE_STEP: Duration = Duration::from_millis(1);

#[derive(Args)]
pub(crate) struct DirectoryArguments {
    /// The repository to import into; it must speak V1.
    #[arg(long)]
    repository: RepositoryKey,
    /// The registry's storage: the directory with `images` and `repositories` in it.
    directory: PathBuf,
}

#[derive(Args)]
pub(crate) struct ArchiveArguments {
    /// The repository to import into. V2 takes images of docker 1.10 and later, V1 those with the files of older dockers.
    #[arg(long)]
    repository: RepositoryKey,
    /// What to call the archive's only image, whatever it says itself.
    #[arg(long, value_name = "NAME:TAG")]
    image: Option<String>,
    /// What `docker save` wrote, as it is or packed with gzip, bzip2, xz or zstd.
    file: PathBuf,
}

/// Imports the storage of the original V1 registry.
pub(crate) async fn directory(config: &Config, arguments: &DirectoryArguments) -> anyhow::Result<ExitCode> {
    with_store(config, &arguments.repository, async |import| python::import(import, &arguments.directory).await).await
}

/// Imports what `docker save` wrote.
pub(crate) async fn archive(config: &Config, arguments: &ArchiveArguments) -> anyhow::Result<ExitCode> {
    let ArchiveArguments { repository, image, file } = arguments;
    with_store(config, repository, async |import| archive::import(import, file, image.as_deref()).await).await
}

async fn with_store(
    config: &Config,
    key: &RepositoryKey,
    work: impl AsyncFnOnce(&mut Import) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let (_stores, registry) = crate::open(config).context("an import needs the store to itself: stop the backend")?;
    crate::adopt_repositories(config, &registry).await?;
    let repository = registry.repository(key).await?;
    let (line, meter, report) = (Progress::on_stderr(), Meter::default(), Report::default());
    let mut import = Import { registry, repository, scratch: config.data_dir.clone(), line, meter, report };
    work(&mut import).await?;
    Ok(import.finish())
}

/// What an import has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    /// Tags that point to what they should.
    tags: u64,
    /// V1 images, or V2 manifests, that were imported.
    imported: u64,
    /// Those that were there already.
    present: u64,
    /// What could not be imported.
    problems: u64,
}

/// Why something is not imported.
#[derive(Debug)]
enum Trouble {
    /// It can't be; the rest can.
    Skip(String),
    /// Nothing more can be.
    Fatal(berth_registry::Error),
}

impl From<berth_registry::Error> for Trouble {
    fn from(error: berth_registry::Error) -> Self {
        match error {
            berth_registry::Error::Storage(_) | berth_registry::Error::Internal(_) => Self::Fatal(error),
            refusal => Self::Skip(refusal.to_string()),
        }
    }
}

/// An import under way.
struct Import {
    registry: Registry,
    repository: Arc<Repository>,
    /// Where a file without a name may lie meanwhile: on the disk that the images go to.
    scratch: PathBuf,
    line: Progress,
    meter: Meter,
    report: Report,
}

impl Import {
    /// Counts what was done, or says why it was not. What is fatal ends the import.
    fn settle(&mut self, what: &str, outcome: Result<(), Trouble>) -> anyhow::Result<()> {
        match outcome {
            Ok(()) => self.report.tags += 1,
            Err(Trouble::Skip(why)) => self.problem(what, &why),
            Err(Trouble::Fatal(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn problem(&mut self, what: &str, why: &str) {
        self.report.problems += 1;
        self.line.say(&format!("not imported: {what}: {why}"));
    }

    /// Whether images of this name may be stored.
    fn require_taken(&self, image: &ImageName) -> Result<(), Trouble> {
        if self.repository.takes(image) { Ok(()) } else { Err(berth_registry::Error::ImageNotTaken(image.clone()).into()) }
    }

    /// The image and tag that a name in an archive means in this repository.
    fn name(&self, text: &str) -> Result<(ImageName, Tag), Trouble> {
        let (image, tag) = names::parse(text, self.repository.api_version).map_err(|invalid| Trouble::Skip(invalid.to_string()))?;
        self.require_taken(&image)?;
        Ok((image, tag))
    }

    /// After a tag was set: the image keeps as many as its repository allows.
    async fn keep_newest(&self, image: &ImageName, tag: &Tag) -> Result<(), Trouble> {
        self.registry.keep_newest_tags(&self.repository, image, tag).await?;
        if self.repository.max_unique_tags != 0 {
            // Tags are told apart by the millisecond in which they were set, and small ones come in faster than that.
            tokio::time::sleep(TAG_AGE_STEP).await;
        }
        Ok(())
    }

    fn show(&self, now: &str) {
        let (bytes, Report { imported, present, .. }) = (self.meter.bytes(), &self.report);
        self.line.show(|elapsed| {
            let (read, rate) = (progress::bytes(bytes), progress::rate(bytes, elapsed));
            format!("{now}: {imported} images imported, {present} were there; {read} read, {rate}")
        });
    }

    /// Polls `work` and shows how it goes on.
    async fn watch<T>(&self, now: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(progress::INTERVAL, work.as_mut()).await {
                Ok(outcome) => return outcome,
                Err(_) => self.show(now),
            }
        }
    }

    fn finish(self) -> ExitCode {
        let Report { tags, imported, present, problems } = self.report;
        let (read, rate) = (progress::bytes(self.meter.bytes()), progress::rate(self.meter.bytes(), self.line.elapsed()));
        self.line.clear();
        let wrong = if problems == 0 { String::new() } else { format!("; {problems} could not be imported") };
        println!("{tags} tags, {imported} images imported, {present} were there already, {read} read, {rate}{wrong}");
        if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The repository must speak the protocol that what is imported was made for.
fn require_version(import: &Import, version: ApiVersion) -> anyhow::Result<()> {
    let Repository { key, api_version, .. } = import.repository.as_ref();
    anyhow::ensure!(
        *api_version == version,
        "repository {key} speaks {api_version:?}; this can only be imported into one that speaks {version:?}"
    );
    Ok(())
}

/// The file's name for messages.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[cfg(test)]
mod fixture;
