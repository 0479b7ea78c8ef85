//! Which passwords are too easy to guess.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use berth_names::AccountName;
use sha1::{Digest as _, Sha1};

use super::error::{Error, Result};
use super::tokens::TOKEN_PREFIX;

/// Longest password, in bytes: a longer one is never looked at.
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;

/// What guessers try first, apart from names, runs and repetitions, which are refused by rule.
const COMMON: &str = include_str!("common-passwords.txt");

/// Fewest characters that a password must have besides the user's name, if it contains that.
const BESIDES_NAME_CHARS_MIN: usize = 6;

/// The longest line in a file of breached passwords: 40 digits, a colon, a count, a line end.
const BREACHED_LINE_BYTES_MAX: u64 = 128;

/// What a password must be like.
#[derive(Clone, Debug)]
pub struct PasswordPolicy {
    /// Fewest characters.
    pub chars_min: usize,
    /// A file of breached passwords: lines of `SHA1-in-hex[:count]`, sorted, as breach collections are published.
    pub breached: Option<Arc<PathBuf>>,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self { chars_min: 8, breached: None }
    }
}

impl PasswordPolicy {
    /// Whether `password` may become the user's.
    ///
    /// # Errors
    /// [`Error::WeakPassword`] with the reason; [`Error::Invalid`] if the file of breached passwords can't be read, because
    /// a check that was asked for must not be left out silently.
    pub fn check(&self, name: &AccountName, password: &str) -> Result<()> {
        let weak = |why: String| Err(Error::WeakPassword(why));
        let chars: Vec<char> = password.chars().collect();
        let lower = password.to_lowercase();
        if chars.len() < self.chars_min {
            return weak(format!("needs {} characters or more", self.chars_min));
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return weak(format!("may have {PASSWORD_BYTES_MAX} bytes"));
        }
        if chars.iter().any(|c| c.is_control()) {
            return weak("has control characters, which clients lose".into());
        }
        if password.starts_with(TOKEN_PREFIX) || password.starts_with("$argon2") {
            return weak("looks like a token or a hash".into());
        }
        // A person's own part of a mail address counts as the name, too.
        let own = name.as_str().split('@').next().unwrap_or_default();
        if [name.as_str(), own]
            .into_iter()
            .any(|name| lower.contains(name) && lower.replace(name, "").chars().count() < BESIDES_NAME_CHARS_MIN)
        {
            return weak("is little more than the user's name".into());
        }
        if is_run(&chars) {
            return weak("is a run or a repetition of characters".into());
        }
        if COMMON.lines().any(|common| common == lower) {
            return weak("is among the most common ones".into());
        }
        match &self.breached {
            Some(path) if is_listed(path, password).map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))? => {
                weak("is in the list of breached passwords".into())
            }
            _ => Ok(()),
        }
    }
}

/// `aaaaaaaa`, `12345678`, `hgfedcba`: every character follows from the one before in the same way.
fn is_run(chars: &[char]) -> bool {
    let step = |pair: &[char]| i64::from(u32::from(pair[1])) - i64::from(u32::from(pair[0]));
    let mut steps = chars.windows(2).map(step);
    steps.next().is_some_and(|first| first.abs() <= 1 && steps.all(|step| step == first))
}

/// Whether the sorted file has a line that begins with the password's SHA-1: a binary search over byte positions.
fn is_listed(path: &PathBuf, password: &str) -> io::Result<bool> {
    let wanted: String = Sha1::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect();
    let mut file = File::open(path)?;
    let (mut low, mut high) = (0, file.metadata()?.len());
    // The line that is looked for begins in `low..high`.
    while low < high {
        let middle = low.midpoint(high);
        let Some((start, line)) = line_from(&mut file, middle, high)? else {
            high = middle;
            continue;
        };
        match line.get(..wanted.len()).map(|hash| hash.to_ascii_uppercase().cmp(&wanted)) {
            Some(std::cmp::Ordering::Equal) => return Ok(true),
            Some(std::cmp::Ordering::Less) => low = start + 1,
            Some(std::cmp::Ordering::Greater) => high = middle,
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is no SHA-1 in hexadecimal")),
        }
    }
    Ok(false)
}

/// The first line that begins at or behind `position`, before `end`, and where it begins.
fn line_from(file: &mut File, position: u64, end: u64) -> io::Result<Option<(u64, String)>> {
    // Two lines' worth of bytes from just before: the rest of one line, and the whole of the next.
    let from = position.saturating_sub(1);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(2 * BREACHED_LINE_BYTES_MAX).read_to_end(&mut bytes)?;
    let skipped = if position == 0 { 0 } else { bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1) };
    let start = from + skipped as u64;
    if start >= end || skipped >= bytes.len() {
        return Ok(None);
    }
    let line = bytes[skipped..].split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(Some((start, String::from_utf8_lossy(line).trim_end().to_owned())))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn why(policy: &PasswordPolicy, name: &str, password: &str) -> Option<String> {
        policy.check(&name.parse().unwrap(), password).err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_easy_to_guess_is_refused_with_a_reason() {
        let policy = PasswordPolicy::default();
        for (password, reason) in [
            ("short", "8 characters"),
            ("password", "common"),
            ("PASSWORD1", "common"),
            ("aaaaaaaaaa", "run"),
            ("12345678", "run"),
            ("hgfedcba", "run"),
            ("alice-2026", "name"),
            ("Alicealice1", "name"),
            ("$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA", "hash"),
            ("line\nfeed-long", "control"),
            (&"x1".repeat(600), "1024"),
        ] {
            let refused = why(&policy, "alice", password);
            assert!(refused.as_ref().is_some_and(|why| why.contains(reason)), "{password}: {refused:?}");
        }
        for good in ["correct horse", "alices own horse", "secret-pass", "Tr0ub4dor&3", "жаркоеЛето"] {
            assert_eq!(why(&policy, "alice", good), None);
        }
    }

    #[test]
    fn a_breached_password_is_found_wherever_it_stands_in_the_list() {
        let digest = |text: &str| Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let words: Vec<String> = (0..500).map(|i| format!("breached-{i}")).collect();
        let mut lines: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("{}:{i}", digest(word))).collect();
        lines.sort();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.join("\r\n").as_bytes()).unwrap();
        let policy = PasswordPolicy { breached: Some(Arc::new(file.path().to_owned())), ..PasswordPolicy::default() };
        for word in &words {
            assert!(why(&policy, "alice", word).is_some_and(|why| why.contains("breached")), "{word}");
        }
        for i in 0..200 {
            assert_eq!(why(&policy, "alice", &format!("unheard-of-{i}")), None);
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_lets_nothing_through() {
        let policy = PasswordPolicy { breached: Some(Arc::new("/nonexistent".into())), ..PasswordPolicy::default() };
        assert!(why(&policy, "alice", "correct horse").is_some());
    }
}
