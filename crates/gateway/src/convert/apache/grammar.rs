//! Apache's grammar: one directive a line, lines that go on, quotes, sections in angle brackets, `Define` and `Include`.
//!
//! Names are kept in lower case, and a section has its opening bracket in front (`<virtualhost`). Sections that only ask
//! whether a module is there are taken apart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::ImportError;
use super::super::Verdict;
use super::super::ledger::Directive;
use super::super::source::{MENDED, NESTING_MAX, Source, is_wide_blank, typeset_quote};

/// Longest value of a `${name}`, in bytes; it may consist of others.
const VALUE_BYTES_MAX: usize = 4096;

/// What `Define` and `ServerRoot` have said so far.
#[derive(Debug, Default)]
pub(in super::super) struct Definitions(HashMap<String, String>);

/// Parses a file, with the files that it includes in their places.
pub(in super::super) fn parse(source: &mut Source, definitions: &mut Definitions, file: &Arc<Path>) -> Result<Vec<Directive>, ImportError> {
    let text = source.read(file)?;
    parse_text(source, definitions, file, &text)
}

fn parse_text(source: &mut Source, definitions: &mut Definitions, file: &Arc<Path>, text: &str) -> Result<Vec<Directive>, ImportError> {
    let mut parser = Parser { lines: lines(text), at: 0, file, source, definitions };
    parser.directives(None, 0)
}

/// Logical lines with the numbers of their first physical ones, without comments and empty ones.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut logical = Vec::new();
    let mut going_on: Option<(usize, String)> = None;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, mut whole) = going_on.take().unwrap_or((at + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(beginning) => {
                whole.push_str(beginning);
                going_on = Some((number, whole));
            }
            None => {
                whole.push_str(line);
                logical.push((number, whole));
            }
        }
    }
    logical.extend(going_on);
    logical.retain(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    logical
}

/// The words of a line, and whether some of it was read as what a web page has made it out of. `None`: a quote is not closed.
fn words(line: &str) -> Option<(Vec<String>, bool)> {
    let mut words = Vec::new();
    let mut is_mended = line.contains(is_wide_blank);
    let is_blank = |c: char| c.is_whitespace() || is_wide_blank(c);
    let mut rest = line.trim_start_matches(is_blank);
    while let Some(first) = rest.chars().next() {
        let mut word = String::new();
        let typeset = typeset_quote(first);
        let quote = typeset.or(matches!(first, '"' | '\'').then_some(first));
        is_mended |= typeset.is_some();
        let is_end = |c: char| Some(c) == quote || (typeset.is_some() && typeset_quote(c) == typeset);
        let mut chars = rest.char_indices().skip(usize::from(quote.is_some())).peekable();
        let mut end = None;
        while let Some((at, c)) = chars.next() {
            match quote {
                Some(_) if is_end(c) => {
                    end = Some(at + c.len_utf8());
                    break;
                }
                // Only the quote itself and the backslash are escaped; a pattern's backslashes stay.
                Some(quote) if c == '\\' => match chars.peek() {
                    Some((_, next)) if *next == quote || *next == '\\' => {
                        word.push(*next);
                        chars.next();
                    }
                    _ => word.push(c),
                },
                None if is_blank(c) => {
                    end = Some(at);
                    break;
                }
                _ => word.push(c),
            }
        }
        // A hyphen between blanks.
        if quote.is_none() && matches!(word.as_str(), "–" | "—" | "‐" | "−") {
            (word, is_mended) = ("-".to_owned(), true);
        }
        words.push(word);
        match end {
            Some(end) => rest = rest[end..].trim_start_matches(is_blank),
            None if quote.is_some() => return None,
            None => break,
        }
    }
    Some((words, is_mended))
}

struct Parser<'s> {
    lines: Vec<(usize, String)>,
    at: usize,
    file: &'s Arc<Path>,
    source: &'s mut Source,
    definitions: &'s mut Definitions,
}

impl Parser<'_> {
    /// Up to the end of the section `within`, or of the file.
    fn directives(&mut self, within: Option<(&str, usize)>, depth: usize) -> Result<Vec<Directive>, ImportError> {
        let mut directives = Vec::new();
        while let Some((number, line)) = self.lines.get(self.at).cloned() {
            self.at += 1;
            let line = line.trim();
            if let Some(name) = line.strip_prefix("</") {
                let name = name.trim_end().trim_end_matches('>').trim_end().to_ascii_lowercase();
                return match within {
                    Some((open, _)) if open == name => Ok(directives),
                    _ => self.fail(number, &format!("`</{name}>` closes nothing that is open here")),
                };
            }
            match line.strip_prefix('<') {
                Some(section) => self.section(number, line, section, depth, &mut directives)?,
                None => self.directive(number, line, &mut directives)?,
            }
        }
        match within {
            Some((name, number)) => self.fail(number, &format!("the section `<{name}>` does not end: `</{name}>` is missing")),
            None => Ok(directives),
        }
    }

    fn section(&mut self, number: usize, line: &str, section: &str, depth: usize, into: &mut Vec<Directive>) -> Result<(), ImportError> {
        if depth >= NESTING_MAX {
            return self.fail(number, &format!("sections within sections: more than {NESTING_MAX}"));
        }
        let Some(inner) = section.trim_end().strip_suffix('>') else {
            return self.fail(number, "a section's line ends in `>`");
        };
        let (mut arguments, is_mended) = self.words(number, inner)?;
        if arguments.is_empty() {
            return self.fail(number, "a section needs a name");
        }
        let name = arguments.remove(0).to_ascii_lowercase();
        self.source.check_bounds()?;
        let id = self.source.ledger.enter(self.file, number, line);
        if is_mended {
            self.source.ledger.decide(id, MENDED);
        }
        let block = self.directives(Some((&name, number)), depth + 1)?;
        let is_negated = arguments.first().is_some_and(|argument| argument.starts_with('!'));
        match name.as_str() {
            "ifmodule" | "ifversion" | "iffile" | "ifdirective" | "ifsection" if !is_negated => {
                self.source.ledger.unneeded(id, "taken to hold");
                into.extend(block);
            }
            "ifdefine"
                if self.definitions.0.contains_key(arguments.first().map_or("", |name| name.trim_start_matches('!'))) != is_negated =>
            {
                self.source.ledger.unneeded(id, "holds");
                into.extend(block);
            }
            "ifdefine" if !is_negated => {
                self.source.ledger.decide(id, "taken to hold: Apache's command line may define it or not");
                into.extend(block);
            }
            "ifmodule" | "ifversion" | "iffile" | "ifdirective" | "ifsection" | "ifdefine" => {
                self.source.ledger.unneeded(id, "taken not to hold");
                self.source.ledger.cover(&block);
            }
            _ => into.push(Directive { id, name: format!("<{name}"), arguments, block: Some(block) }),
        }
        Ok(())
    }

    fn directive(&mut self, number: usize, line: &str, into: &mut Vec<Directive>) -> Result<(), ImportError> {
        let (mut arguments, is_mended) = self.words(number, line)?;
        if arguments.is_empty() {
            return Ok(());
        }
        let name = arguments.remove(0).to_ascii_lowercase();
        self.source.check_bounds()?;
        let id = self.source.ledger.enter(self.file, number, line);
        if is_mended {
            self.source.ledger.decide(id, MENDED);
        }
        let directive = Directive { id, name, arguments, block: None };
        match directive.name.as_str() {
            "include" | "includeoptional" => return self.include(&directive, into),
            "define" => {
                let value = directive.argument(1).to_owned();
                self.definitions.0.insert(directive.argument(0).to_owned(), value);
                self.source.ledger.translated(id);
            }
            "undefine" => {
                self.definitions.0.remove(directive.argument(0));
                self.source.ledger.translated(id);
            }
            "serverroot" => {
                self.source.ledger.translated(id);
                let root = PathBuf::from(directive.argument(0));
                // A copied tree lies elsewhere, and its own root means nothing here.
                if root.is_dir() {
                    self.source.root = root;
                }
            }
            _ => into.push(directive),
        }
        Ok(())
    }

    fn include(&mut self, directive: &Directive, into: &mut Vec<Directive>) -> Result<(), ImportError> {
        let pattern = directive.argument(0).to_owned();
        let is_system = ["mods-enabled/", "conf-enabled/", "mods-available/"].iter().any(|part| pattern.contains(part));
        if is_system && self.source.include_is_absent(&pattern, self.file) {
            self.source.ledger.unneeded(directive.id, "Debian's own settings of Apache's modules");
            return Ok(());
        }
        let definitions = &mut *self.definitions;
        match self.source.include(&pattern, self.file, |source, file| parse(source, definitions, file))? {
            Some(included) => {
                self.source.ledger.translated(directive.id);
                into.extend(included);
            }
            None if directive.is("includeoptional") || pattern.contains(['*', '?', '[']) => {
                self.source.ledger.unneeded(directive.id, "no file has such a name");
            }
            None => {
                let reason = "there is no such file here: what it says is missing from the result";
                self.source.ledger.note(directive.id, Verdict::NotUnderstood, reason);
            }
        }
        Ok(())
    }

    fn words(&self, number: usize, line: &str) -> Result<(Vec<String>, bool), ImportError> {
        match words(line) {
            Some((words, is_mended)) => Ok((words.into_iter().map(|word| self.defined(word)).collect(), is_mended)),
            None => self.fail(number, "a quote that is opened here is not closed"),
        }
    }

    /// The word with the values of what has been defined. What has not stays as it is.
    fn defined(&self, word: String) -> String {
        if !word.contains("${") {
            return word;
        }
        let mut value = String::new();
        let mut rest = word.as_str();
        while let Some((before, behind)) = rest.split_once("${") {
            value.push_str(before);
            match behind.split_once('}') {
                Some((name, after)) if self.definitions.0.contains_key(name) => {
                    value.push_str(&self.definitions.0[name]);
                    rest = after;
                }
                _ => {
                    value.push_str("${");
                    rest = behind;
                }
            }
        }
        value.push_str(rest);
        if value.len() > VALUE_BYTES_MAX { word } else { value }
    }

    fn fail<T>(&self, line: usize, message: &str) -> Result<T, ImportError> {
        Err(ImportError::Syntax { file: self.file.to_path_buf(), line, message: message.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, ImportError> {
        let file: Arc<Path> = Arc::from(Path::new("httpd.conf"));
        parse_text(&mut Source::new(&file), &mut Definitions::default(), &file, text)
    }

    fn show(directives: &[Directive]) -> String {
        let one = |d: &Directive| match &d.block {
            Some(block) => format!("{}{:?}{{{}}}", d.name, d.arguments, show(block)),
            None => format!("{}{:?};", d.name, d.arguments),
        };
        directives.iter().map(one).collect()
    }

    #[test]
    fn lines_words_and_sections() {
        for (text, expected) in [
            ("", ""),
            ("  # a comment \\\nListen 1", ""),
            ("Listen 443", "listen[\"443\"];"),
            ("RewriteRule \"^/(v1|v2)/(.*)$\" \\\n   '/a b/$1' [PT]", "rewriterule[\"^/(v1|v2)/(.*)$\", \"/a b/$1\", \"[PT]\"];"),
            (r#"A "\.x \"y\" \\" \.z"#, r#"a["\\.x \"y\" \\", "\\.z"];"#),
            ("<VirtualHost *:443>\nSSLEngine on\n</virtualhost>", "<virtualhost[\"*:443\"]{sslengine[\"on\"];}"),
            ("<IfModule mod_ssl.c>\nListen 1\n</IfModule>\n<IfModule !a>\nListen 2\n</IfModule>", "listen[\"1\"];"),
            ("Define port 444\nListen ${port}\nListen ${other}", "listen[\"444\"];listen[\"${other}\"];"),
            ("Define x\n<IfDefine x>\nA\n</IfDefine>\n<IfDefine !x>\nB\n</IfDefine>", "a[];"),
            ("Listen 1 \\", "listen[\"1\"];"),
            ("Listen 1\r\nA b \\\r\n c\r\n", "listen[\"1\"];a[\"b\", \"c\"];"),
            ("RewriteRule\u{a0}(.*) – [E=a:%1]\nB “x y” ‘z’ a–b", "rewriterule[\"(.*)\", \"-\", \"[E=a:%1]\"];b[\"x y\", \"z\", \"a–b\"];"),
        ] {
            assert_eq!(show(&read(text).unwrap_or_else(|error| panic!("{text}: {error}"))), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, part) in [
            ("\n</VirtualHost>", 2, "closes nothing"),
            ("<A x>\nB\n\n", 1, "`</a>` is missing"),
            ("<A>\n</B>", 2, "closes nothing"),
            ("<A\n", 1, "ends in `>`"),
            ("<>", 1, "needs a name"),
            ("A 'b", 1, "not closed"),
        ] {
            match read(text) {
                Err(ImportError::Syntax { line: found, message, .. }) => {
                    assert_eq!(found, line, "{text:?}: {message}");
                    assert!(message.contains(part), "{text:?}: {message}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn sections_within_sections_are_bounded() {
        assert!(read(&format!("{}{}", "<A>\n".repeat(NESTING_MAX), "</A>\n".repeat(NESTING_MAX))).is_ok());
        assert!(read(&"<A>\n".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-zA-Z<>/!${}'\"\\\\# \n]{0,200}|\\PC{0,100}") {
            let _ = read(&text);
        }
    }
}
