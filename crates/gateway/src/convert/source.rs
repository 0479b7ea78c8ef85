//! Reading the files of a configuration and those that they include, within bounds.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ImportError;
use super::ledger::{Directive, Id, Ledger};

/// Most bytes of all files together. A thousand servers are about a megabyte.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most files, with what is included.
const FILES_MAX: usize = 2_000;

/// Files that include files that include files …: most of them in a row.
const INCLUDE_DEPTH_MAX: usize = 16;

/// Most directives of all files together.
const DIRECTIVES_MAX: usize = 200_000;

/// Blocks within blocks: deepest.
pub(super) const NESTING_MAX: usize = 32;

/// What is said of a line that was copied from where typesetters had been at it.
pub(super) const MENDED: &str = "quotes, dashes or blanks as web pages set them were read as the plain ones that must have been meant; the other proxy takes them literally";

/// A blank that is none in a configuration.
pub(super) fn is_wide_blank(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{2000}'..='\u{200b}' | '\u{202f}' | '\u{3000}')
}

/// The plain quote that a typographic one was made out of.
pub(super) fn typeset_quote(c: char) -> Option<char> {
    match c {
        '“' | '”' | '„' | '‟' => Some('"'),
        '‘' | '’' | '‚' | '‛' => Some('\''),
        _ => None,
    }
}

/// The files of one configuration.
pub(super) struct Source {
    pub(super) ledger: Ledger,
    /// Where relative paths start: the directory of the first file, or what the configuration says.
    pub(super) root: PathBuf,
    read: HashSet<PathBuf>,
    bytes: u64,
    depth: usize,
}

impl Source {
    pub(super) fn new(first: &Path) -> Self {
        // Paths in the result are relative to that, which may lie elsewhere.
        let first = std::path::absolute(first).unwrap_or_else(|_| first.to_owned());
        let root = first.parent().unwrap_or(Path::new("")).to_owned();
        Self { ledger: Ledger::default(), root, read: HashSet::new(), bytes: 0, depth: 0 }
    }

    /// The text of a file; invalid UTF-8 becomes a replacement character, which no directive has.
    pub(super) fn read(&mut self, path: &Path) -> Result<String, ImportError> {
        let unreadable = |source| ImportError::Unreadable { path: path.to_owned(), source };
        if self.read.len() >= FILES_MAX {
            return Err(ImportError::TooLarge { what: "files", most: FILES_MAX as u64 });
        }
        self.read.insert(fs::canonicalize(path).map_err(unreadable)?);
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(BYTES_MAX + 1 - self.bytes).read_to_end(&mut bytes)).map_err(unreadable)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > BYTES_MAX {
            return Err(ImportError::TooLarge { what: "bytes", most: BYTES_MAX });
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a file has been read: one that is named on the command line and included besides counts once.
    pub(super) fn has_read(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|path| self.read.contains(&path))
    }

    /// Whether there may be more.
    pub(super) fn check_bounds(&self) -> Result<(), ImportError> {
        if self.ledger.len() > DIRECTIVES_MAX {
            return Err(ImportError::TooLarge { what: "directives", most: DIRECTIVES_MAX as u64 });
        }
        Ok(())
    }

    /// The path of a file that a directive names.
    pub(super) fn path(&mut self, named_by: Id, text: &str) -> PathBuf {
        let is_drive = matches!(text.as_bytes(), [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic());
        if is_drive {
            self.ledger.decide(named_by, "a path of Windows: copy the file to this machine and write its path");
            return PathBuf::from(text);
        }
        self.root.join(text)
    }

    /// Parses what `pattern` (a path, with `*` and `?`) means in a file, by `parse`. None: there is no such file.
    pub(super) fn include(
        &mut self,
        pattern: &str,
        from: &Arc<Path>,
        mut parse: impl FnMut(&mut Self, &Arc<Path>) -> Result<Vec<Directive>, ImportError>,
    ) -> Result<Option<Vec<Directive>>, ImportError> {
        if self.depth >= INCLUDE_DEPTH_MAX {
            return Err(ImportError::TooLarge { what: "files that include each other", most: INCLUDE_DEPTH_MAX as u64 });
        }
        let files = self.files(pattern, from);
        if files.is_empty() {
            return Ok(None);
        }
        self.depth += 1;
        let mut directives = Vec::new();
        for file in files {
            directives.extend(parse(self, &Arc::from(file))?);
        }
        self.depth -= 1;
        Ok(Some(directives))
    }

    /// Whether no file here is meant by `pattern`.
    pub(super) fn include_is_absent(&self, pattern: &str, from: &Arc<Path>) -> bool {
        self.files(pattern, from).is_empty()
    }

    /// NGINX and Apache start from their own root; a copied tree has it elsewhere, and then a file that stands beside the
    /// one that names it is meant.
    fn files(&self, pattern: &str, from: &Arc<Path>) -> Vec<PathBuf> {
        let beside = from.parent().unwrap_or(Path::new(""));
        [&*self.root, beside]
            .into_iter()
            .map(|directory| matching(&directory.join(pattern)))
            .find(|files| !files.is_empty())
            .unwrap_or_default()
    }
}

/// The files of a pattern, sorted; a directory means what is in it.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let pattern = if pattern.is_dir() { pattern.join("*") } else { pattern.to_owned() };
    let Some(text) = pattern.to_str() else { return Vec::new() };
    let found = glob::glob(text).into_iter().flatten().filter_map(Result::ok).take(FILES_MAX + 1);
    let mut files: Vec<PathBuf> = found.filter(|path| path.is_file()).collect();
    files.sort();
    files
}
