//! What is wrong with a configuration file, where, and what to write instead.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// The problems of a file, as text: one line each, in the form that editors jump to.
pub(super) fn list(path: &Path, problems: &[Problem]) -> String {
    let mut text = String::new();
    for (at, Problem { line, column, message }) in problems.iter().enumerate() {
        let separator = if at == 0 { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{}:{line}:{column}: {message}", path.display());
    }
    text
}

/// Collects the problems of one text.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        let problem = self.at(span, message.into());
        self.found.push(problem);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found
    }

    /// What the TOML parser objects to, with the name that was probably meant.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> Problem {
        let message = match suggestion(error.message()) {
            Some(name) => format!("{}; did you mean `{name}`?", error.message()),
            None => error.message().to_owned(),
        };
        self.at(error.span().unwrap_or_default(), message)
    }

    fn at(&self, span: Range<usize>, message: String) -> Problem {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    }
}

/// The expected name that is nearest to the unknown one, if the message is about an unknown name and one is near.
fn suggestion(message: &str) -> Option<&str> {
    message.strip_prefix("unknown ")?;
    // The unknown name and the expected ones are between backticks.
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let (distance, nearest) = names.map(|name| (edit_distance(unknown, name), name)).min()?;
    (distance <= 1 + unknown.len() / 3).then_some(nearest)
}

/// Levenshtein's: how many characters must be added, removed or replaced.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
            ("sever_name", "server_name", 1),
            ("port", "key", 4),
        ] {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (distance, distance), "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let message = |name: &str| {
            format!("unknown field `{name}`, expected one of `listen`, `repository`, `server_name`, `certificate`, `key`, `plain_http`")
        };
        for (name, meant) in [
            ("servername", Some("server_name")),
            ("lsiten", Some("listen")),
            ("cert", None),
            ("ssl_certificate", Some("certificate")),
            ("workers", None),
        ] {
            assert_eq!(suggestion(&message(name)), meant, "{name}");
        }
        assert_eq!(suggestion("missing field `listen`"), None);
    }
}
