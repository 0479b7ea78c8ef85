//! The account of every directive that was read: what has become of it.
//!
//! What must stay true: a directive is entered when it is parsed, and leaves as exactly one of translated, part of a block
//! that was judged as a whole, or noted. What nobody has spoken for is noted as not understood.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Note, Verdict};

/// Longest source line that a note repeats, in characters.
const LINE_CHARS_MAX: usize = 160;

/// Most reasons that are given for one directive: a server may have a thousand names.
const REASONS_MAX: usize = 8;

/// A directive's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(usize);

/// One directive with its arguments, and its block if it has one.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) id: Id,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    pub(super) fn argument(&self, at: usize) -> &str {
        self.arguments.get(at).map_or("", String::as_str)
    }

    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Covered,
    Translated,
    Noted(Verdict, Vec<String>),
}

impl Fate {
    /// Which of two judgements on one directive stays: whoever made something of it has looked more closely than the list
    /// of what is not needed, what a person must decide outweighs that, and nothing outweighs what was not understood.
    fn rank(&self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Covered => 1,
            Self::Noted(Verdict::Unneeded, _) => 2,
            Self::Translated => 3,
            Self::Noted(Verdict::Decide, _) => 4,
            Self::Noted(Verdict::NotUnderstood, _) => 5,
        }
    }
}

#[derive(Debug)]
struct Entry {
    file: Arc<Path>,
    line: usize,
    source: String,
    fate: Fate,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Enters a directive.
    pub(super) fn enter(&mut self, file: &Arc<Path>, line: usize, source: &str) -> Id {
        let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
        let source = match source.char_indices().nth(LINE_CHARS_MAX) {
            Some((end, _)) => format!("{} …", &source[..end]),
            None => source,
        };
        self.entries.push(Entry { file: Arc::clone(file), line, source, fate: Fate::Open });
        Id(self.entries.len() - 1)
    }

    pub(super) fn translated(&mut self, id: Id) {
        self.judge(id, Fate::Translated);
    }

    pub(super) fn note(&mut self, id: Id, verdict: Verdict, reason: impl Into<String>) {
        self.judge(id, Fate::Noted(verdict, vec![reason.into()]));
    }

    pub(super) fn unneeded(&mut self, id: Id, reason: impl Into<String>) {
        self.note(id, Verdict::Unneeded, reason);
    }

    pub(super) fn decide(&mut self, id: Id, reason: impl Into<String>) {
        self.note(id, Verdict::Decide, reason);
    }

    /// The blocks' contents have been judged with the block.
    pub(super) fn cover(&mut self, directives: &[Directive]) {
        for directive in directives {
            self.judge(directive.id, Fate::Covered);
            self.cover(directive.children());
        }
    }

    pub(super) fn is_open(&self, id: Id) -> bool {
        self.entries.get(id.0).is_some_and(|entry| entry.fate == Fate::Open)
    }

    fn judge(&mut self, id: Id, fate: Fate) {
        let Some(entry) = self.entries.get_mut(id.0) else { return };
        let needs_somebody = |verdict: Verdict| matches!(verdict, Verdict::Decide | Verdict::NotUnderstood);
        match (&mut entry.fate, fate) {
            // Who looks at a line is told everything that there is to it.
            (Fate::Noted(verdict, reasons), Fate::Noted(other, more)) if needs_somebody(*verdict) && needs_somebody(other) => {
                *verdict = (*verdict).max(other);
                let is_new = |reason: &String| !reasons.contains(reason);
                let more: Vec<String> = more.into_iter().filter(is_new).collect();
                reasons.extend(more);
                reasons.truncate(REASONS_MAX);
            }
            (earlier, fate) if fate.rank() > earlier.rank() => *earlier = fate,
            _ => {}
        }
    }

    /// How many directives have been translated, and a note for each that leaves something to say, in order of reading.
    /// A file that is included several times is noted once.
    pub(super) fn close(self) -> (usize, Vec<Note>) {
        let mut translated = 0;
        let mut notes = Vec::new();
        let mut seen = HashSet::new();
        for Entry { file, line, source, fate } in self.entries {
            let (verdict, reason) = match fate {
                Fate::Translated => {
                    translated += 1;
                    continue;
                }
                Fate::Covered => continue,
                Fate::Open => (Verdict::NotUnderstood, "not known here: look at what it does".to_owned()),
                Fate::Noted(verdict, reasons) => (verdict, reasons.join("; ")),
            };
            if seen.insert((Arc::clone(&file), line, source.clone(), reason.clone())) {
                notes.push(Note { file: PathBuf::from(&*file), line, source, verdict, reason });
            }
        }
        (translated, notes)
    }
}
