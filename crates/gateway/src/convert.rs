//! From and to the two other proxies that people have in front of a registry.
//!
//! [`import`] reads what NGINX or Apache was told and writes the `gateway.toml` that does the same; [`export`] writes what
//! either must be told to send the backend exactly what the gateway would. Between them stands [`Site`].
//!
//! What must stay true: of every directive that is imported something is said. It has been translated, or there is a note
//! with its line; none is dropped in silence, and what was not understood is never called needless. What `check` has against
//! the result is said with it.

mod apache;
mod assembly;
mod backend;
mod checked;
mod export;
mod faces;
mod ledger;
mod nginx;
mod pattern;
mod probe;
mod site;
mod source;
mod write;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use source::Source;

use crate::config::Problem;

pub use export::export;
pub use site::{Binding, Certificate, Endpoint, Limits, Public, Server, ServerTls, Site, Target, Tls};

/// The other proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NGINX, 1.19.4 or newer for what is exported.
    Nginx,
    /// Apache's HTTP server, 2.4.
    Apache,
}

/// What has been read.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Whose configuration it was.
    pub kind: Kind,
    /// The text of a `gateway.toml`.
    pub toml: String,
    /// The same as a value.
    pub site: Site,
    /// How many directives it holds the meaning of.
    pub translated: usize,
    /// What is to be said of all the others, in order of reading.
    pub notes: Vec<Note>,
    /// What `check` has against the text, by its lines.
    pub objections: Vec<Objection>,
}

/// Something that `check` has against what was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Where, and what.
    pub problem: Problem,
    /// Only because a certificate or key is not on this machine, or can't be used.
    pub is_about_file: bool,
}

/// What has become of one directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file that it is in.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// What is written there.
    pub source: String,
    /// What to do about it.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

/// What to do about a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing: it has no meaning here, and nothing is lost without it.
    Unneeded,
    /// Look and decide: it can't be said in the same way, or not at all.
    Decide,
    /// Find out what it does: it is not known here.
    NotUnderstood,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file breaks the grammar.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is more than any proxy is configured with.
    #[error("too many {what}: at most {most} are read")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// A file is neither NGINX's nor Apache's.
    #[error("{}: this looks like neither NGINX's nor Apache's configuration", .0.display())]
    UnknownKind(PathBuf),
    /// Files of both.
    #[error("one file is NGINX's and another Apache's: import them one by one")]
    Mixed,
    /// No file was named.
    #[error("name at least one file")]
    Nothing,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, source, verdict, reason } = self;
        let verdict = match verdict {
            Verdict::Unneeded => "not needed",
            Verdict::Decide => "DECIDE",
            Verdict::NotUnderstood => "NOT UNDERSTOOD",
        };
        write!(f, "{}:{line}: {source}\n    {verdict}: {reason}", file.display())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "NGINX",
            Self::Apache => "Apache",
        })
    }
}

/// Reads the configuration of another proxy: its main file, or the files of some of its sites, with all that they include.
///
/// # Errors
/// [`ImportError`]: a file can't be read at all. Whatever is only unusual becomes a [`Note`].
pub fn import(paths: &[PathBuf]) -> Result<Imported, ImportError> {
    let Some(first) = paths.first() else { return Err(ImportError::Nothing) };
    let mut source = Source::new(first);
    let kinds = paths.iter().map(|path| kind(path)).collect::<Result<HashSet<bool>, _>>()?;
    let kind = match (kinds.contains(&true), kinds.contains(&false)) {
        (true, true) => return Err(ImportError::Mixed),
        (true, false) => Kind::Nginx,
        _ => Kind::Apache,
    };
    let mut definitions = apache::Definitions::default();
    let mut directives = Vec::new();
    for path in paths {
        // A file that another one includes is in its place already.
        if !source.has_read(path) {
            let file: Arc<Path> = Arc::from(path.as_path());
            directives.extend(match kind {
                Kind::Nginx => nginx::parse(&mut source, &file)?,
                Kind::Apache => apache::parse(&mut source, &mut definitions, &file)?,
            });
        }
    }
    let site = match kind {
        Kind::Nginx => nginx::site(&mut source, &directives),
        Kind::Apache => apache::site(&mut source, &directives),
    };
    let (translated, notes) = source.ledger.close();
    let toml = write::toml(&site, kind, paths);
    let objections = checked::objections(&site, kind, paths);
    Ok(Imported { kind, toml, site, translated, notes, objections })
}

/// Whether a file is NGINX's. Its directives end in semicolons or braces, Apache's with the line, and its blocks have
/// angle brackets.
fn kind(path: &Path) -> Result<bool, ImportError> {
    let text = std::fs::read(path).map_err(|source| ImportError::Unreadable { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&text);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines().any(|line| line.starts_with('<')) {
        return Ok(false);
    }
    let code = |line: &str| line.split(" #").next().unwrap_or_default().trim_end().to_owned();
    if lines().any(|line| code(line).ends_with([';', '{', '}'])) {
        return Ok(true);
    }
    match lines().any(|line| line.starts_with(|c: char| c.is_ascii_uppercase())) {
        true => Ok(false),
        false => Err(ImportError::UnknownKind(path.to_owned())),
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
