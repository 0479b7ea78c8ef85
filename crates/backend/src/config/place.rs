//! Where in the file a mistake is, and what was probably meant.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// A place in a file, in the form that editors jump to: `file:line:column`.
pub(super) struct Place<'f> {
    file: &'f Path,
    /// From 1, the column in characters. Absent if the parser knows no place.
    line_and_column: Option<(usize, usize)>,
}

impl<'f> Place<'f> {
    pub(super) fn of(file: &'f Path, text: &str, span: Option<Range<usize>>) -> Self {
        let before = span.and_then(|span| text.get(..span.start));
        let line_and_column = before.map(|before| {
            let line = before.rsplit('\n').next().unwrap_or_default();
            (before.matches('\n').count() + 1, line.chars().count() + 1)
        });
        Self { file, line_and_column }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line_and_column {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.file.display()),
            None => self.file.display().fmt(f),
        }
    }
}

/// What the parser objects to, with the known name that is nearest to an unknown one.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let message = error.message();
    match nearest_name(message) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

/// The parser writes "unknown field `a`, expected one of `b`, `c`".
fn nearest_name(message: &str) -> Option<&str> {
    let mut names = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let (edits, name) = names.map(|name| (edit_distance(unknown, name), name)).min()?;
    // More than a third of it wrong is another word, not a slip.
    (edits <= unknown.chars().count().div_ceil(3)).then_some(name)
}

/// How many characters must be put in, left out or replaced (Levenshtein). Both are short: fields of ours, and what
/// stands for one in the file.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = above[column] + usize::from(a != *b);
            current.push(replaced.min(above[column + 1] + 1).min(current[column] + 1));
        }
        above = current;
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a = 1\nä = 2\n";
        for (at, expected) in [(0, "f:1:1"), (6, "f:2:1"), (9, "f:2:3"), (text.len(), "f:3:1")] {
            assert_eq!(Place::of(Path::new("f"), text, Some(at..at)).to_string(), expected);
        }
        assert_eq!(Place::of(Path::new("f"), text, None).to_string(), "f");
        assert_eq!(Place::of(Path::new("f"), text, Some(99..99)).to_string(), "f");
    }

    #[test]
    fn distances_are_the_fewest_edits() {
        for (from, to, edits) in
            [("", "", 0), ("", "key", 3), ("key", "key", 0), ("keys", "key", 1), ("datadir", "data_dir", 1), ("unix", "tcp", 4)]
        {
            assert_eq!((edit_distance(from, to), edit_distance(to, from)), (edits, edits), "{from} {to}");
        }
    }

    #[test]
    fn only_a_slip_has_a_suggestion() {
        let message = |name: &str| format!("unknown field `{name}`, expected one of `data_dir`, `listen`, `trusted_proxies`, `repository`");
        for (name, meant) in [
            ("lsiten", Some("listen")),
            ("trusted_proxy", Some("trusted_proxies")),
            ("repositories", Some("repository")),
            ("workers", None),
        ] {
            assert_eq!(nearest_name(&message(name)), meant, "{name}");
        }
        assert_eq!(nearest_name("missing field `listen`"), None);
    }
}
