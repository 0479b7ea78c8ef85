//! NGINX's grammar: words, quotes, comments, blocks, and `include`.

use std::path::Path;
use std::sync::Arc;

use super::super::ImportError;
use super::super::ledger::Directive;
use super::super::source::{MENDED, NESTING_MAX, Source, is_wide_blank, typeset_quote};
use super::lua;

/// Parses a file, with the files that it includes in their places.
pub(in super::super) fn parse(source: &mut Source, file: &Arc<Path>) -> Result<Vec<Directive>, ImportError> {
    let text = source.read(file)?;
    Parser { words: Words { text: &text, at: 0, line: 1, begun: 1, is_mended: false }, file, source }.directives(0)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Words<'t> {
    text: &'t str,
    /// In bytes.
    at: usize,
    line: usize,
    /// The line that the last token began on.
    begun: usize,
    /// Whether something was read as what a web page has made it out of.
    is_mended: bool,
}

impl Words<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        self.line += usize::from(next == '\n');
        Some(next)
    }

    /// The next token. `Err`: what is wrong.
    fn token(&mut self) -> Result<Token, &'static str> {
        loop {
            self.begun = self.line;
            match self.peek() {
                None => return Ok(Token::End),
                Some('#') => self.skip_line(),
                // A byte order mark, as some editors put in front.
                Some(c) if c.is_ascii_whitespace() || c == '\u{feff}' => {
                    self.bump();
                }
                Some(c) if is_wide_blank(c) => {
                    self.bump();
                    self.is_mended = true;
                }
                Some(c @ (';' | '{' | '}')) => {
                    self.bump();
                    return Ok(match c {
                        ';' => Token::Semicolon,
                        '{' => Token::Open,
                        _ => Token::Close,
                    });
                }
                Some(quote @ ('"' | '\'')) => {
                    self.bump();
                    return self.quoted(|c| c == quote).map(Token::Word);
                }
                Some(quote) if typeset_quote(quote).is_some() => {
                    self.bump();
                    self.is_mended = true;
                    let plain = typeset_quote(quote);
                    return self.quoted(|c| Some(c) == plain || typeset_quote(c) == plain).map(Token::Word);
                }
                Some(_) => return Ok(Token::Word(self.plain())),
            }
        }
    }

    fn quoted(&mut self, ends: impl Fn(char) -> bool) -> Result<String, &'static str> {
        let mut word = String::new();
        loop {
            match self.bump() {
                None => return Err("a quote that is opened here is not closed"),
                Some('\\') => self.escaped(&mut word),
                Some(c) if ends(c) => return Ok(word),
                Some(c) => word.push(c),
            }
        }
    }

    fn plain(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            match c {
                ';' | '}' => break,
                // `${name}` is a variable, any other brace begins a block.
                '{' if !word.ends_with('$') => break,
                c if c.is_ascii_whitespace() || is_wide_blank(c) => break,
                _ => {}
            }
            self.bump();
            match c {
                '{' => self.variable(&mut word),
                '\\' => self.escaped(&mut word),
                c => word.push(c),
            }
        }
        word
    }

    /// The rest of `${name}`, behind its opening brace.
    fn variable(&mut self, word: &mut String) {
        word.push('{');
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '}')) {
            self.bump();
            word.push(c);
            if c == '}' {
                break;
            }
        }
    }

    /// What stands behind a backslash. All but these keep theirs, as regular expressions need it.
    fn escaped(&mut self, word: &mut String) {
        match self.peek() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => word.extend(['\\', c]),
            None => word.push('\\'),
        }
        self.bump();
    }

    /// Passes over a block of Lua, behind its opening brace.
    fn skip_lua(&mut self) -> Result<(), &'static str> {
        let rest = &self.text[self.at..];
        let length = lua::block(rest).ok_or("a block of Lua that is opened here does not end")?;
        self.line += rest[..length].matches('\n').count();
        self.at += length;
        Ok(())
    }

    fn skip_line(&mut self) {
        while self.bump().is_some_and(|c| c != '\n') {}
    }
}

struct Parser<'t, 's> {
    words: Words<'t>,
    file: &'s Arc<Path>,
    source: &'s mut Source,
}

impl Parser<'_, '_> {
    fn directives(&mut self, depth: usize) -> Result<Vec<Directive>, ImportError> {
        let mut directives = Vec::new();
        loop {
            match self.token()? {
                Token::Word(name) => self.directive(name, depth, &mut directives)?,
                Token::End if depth == 0 => return Ok(directives),
                Token::Close if depth > 0 => return Ok(directives),
                Token::End => return self.fail("the file ends within a block: a `}` is missing"),
                Token::Close => return self.fail("this `}` closes nothing"),
                Token::Semicolon | Token::Open => return self.fail("the name of a directive is missing"),
            }
        }
    }

    fn directive(&mut self, name: String, depth: usize, into: &mut Vec<Directive>) -> Result<(), ImportError> {
        let line = self.words.begun;
        let mut arguments: Vec<String> = Vec::new();
        let has_block = loop {
            match self.token()? {
                Token::Word(word) => arguments.push(word),
                Token::Semicolon => break false,
                Token::Open => break true,
                Token::Close | Token::End => return self.fail(&format!("`{name}` does not end: a `;` is missing")),
            }
        };
        self.source.check_bounds()?;
        let shown = format!("{name} {}{}", arguments.join(" "), if has_block { " { … }" } else { ";" });
        let id = self.source.ledger.enter(self.file, line, &shown);
        if std::mem::take(&mut self.words.is_mended) {
            self.source.ledger.decide(id, MENDED);
        }
        if name == "include" && !has_block {
            return self.include(Directive { id, name, arguments, block: None }, into);
        }
        let block = match has_block {
            false => None,
            true if name.ends_with("_by_lua_block") => {
                self.words.skip_lua().map_err(|message| self.syntax(line, message))?;
                Some(Vec::new())
            }
            true if depth >= NESTING_MAX => return self.fail(&format!("blocks within blocks: more than {NESTING_MAX}")),
            true => Some(self.directives(depth + 1)?),
        };
        into.push(Directive { id, name, arguments, block });
        Ok(())
    }

    fn include(&mut self, directive: Directive, into: &mut Vec<Directive>) -> Result<(), ImportError> {
        let pattern = directive.argument(0).to_owned();
        // Maps of media types and parameters of other protocols say nothing about a proxy.
        if let Some(reason) = unneeded_include(&pattern) {
            self.source.ledger.unneeded(directive.id, reason);
            return Ok(());
        }
        match self.source.include(&pattern, self.file, parse)? {
            Some(included) => {
                self.source.ledger.translated(directive.id);
                into.extend(included);
            }
            // A pattern that nothing matches is right in NGINX too.
            None if pattern.contains(['*', '?', '[']) => self.source.ledger.unneeded(directive.id, "no file has such a name"),
            None => self.source.ledger.note(
                directive.id,
                super::super::Verdict::NotUnderstood,
                "there is no such file here: what it says is missing from the result",
            ),
        }
        Ok(())
    }

    fn token(&mut self) -> Result<Token, ImportError> {
        self.words.token().map_err(|message| self.syntax(self.words.begun, message))
    }

    fn fail<T>(&self, message: &str) -> Result<T, ImportError> {
        Err(self.syntax(self.words.begun, message))
    }

    fn syntax(&self, line: usize, message: &str) -> ImportError {
        ImportError::Syntax { file: self.file.to_path_buf(), line, message: message.to_owned() }
    }
}

fn unneeded_include(pattern: &str) -> Option<&'static str> {
    let name = pattern.rsplit('/').next()?;
    match name {
        "mime.types" => Some("media types are the backend's"),
        "fastcgi_params" | "fastcgi.conf" | "uwsgi_params" | "scgi_params" | "koi-utf" | "koi-win" | "win-utf" => {
            Some("nothing of that kind is served here")
        }
        _ if pattern.contains("modules-enabled/") => Some("there are no modules to load"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, ImportError> {
        let file: Arc<Path> = Arc::from(Path::new("nginx.conf"));
        let mut source = Source::new(&file);
        Parser { words: Words { text, at: 0, line: 1, begun: 1, is_mended: false }, file: &file, source: &mut source }.directives(0)
    }

    fn show(directives: &[Directive]) -> String {
        let one = |d: &Directive| match &d.block {
            Some(block) => format!("{}{:?}{{{}}}", d.name, d.arguments, show(block)),
            None => format!("{}{:?};", d.name, d.arguments),
        };
        directives.iter().map(one).collect()
    }

    #[test]
    fn words_quotes_comments_and_blocks() {
        for (text, expected) in [
            ("", ""),
            ("# a comment; with { braces", ""),
            ("\u{feff}a;", "a[];"),
            ("a b;c;", "a[\"b\"];c[];"),
            ("server{listen 80;}", "server[]{listen[\"80\"];}"),
            ("a \"b c\" 'd;e' f#g;", "a[\"b c\", \"d;e\", \"f#g\"];"),
            (r#"a "x\"y" '\'' \;;"#, r#"a["x\"y", "'", "\\;"];"#),
            (r"server_name ~^(?<repo>.+)\.host$;", r#"server_name["~^(?<repo>.+)\\.host$"];"#),
            ("set $a ${b}c;", "set[\"$a\", \"${b}c\"];"),
            ("if ($a = '') { set $b c; }", "if[\"($a\", \"=\", \"\", \")\"]{set[\"$b\", \"c\"];}"),
            ("location ~ \"^/v[12]{1}/\" { }", "location[\"~\", \"^/v[12]{1}/\"]{}"),
            ("content_by_lua_block { if x then t = {} end } b;", "content_by_lua_block[]{}b[];"),
            ("access_by_lua_block {\n local t = { a = 1 } -- a } brace\n} b;", "access_by_lua_block[]{}b[];"),
            ("set_by_lua_block $x { return '{' } b;", "set_by_lua_block[\"$x\"]{}b[];"),
            ("a b;\r\nserver {\r\n\tc d; # e\r\n}\r\n", "a[\"b\"];server[]{c[\"d\"];}"),
            ("rewrite\u{a0}“^/(v1|v2)/”\u{a0}‘a b’ “c\";", "rewrite[\"^/(v1|v2)/\", \"a b\", \"c\"];"),
            ("a # comment\n b;", "a[\"b\"];"),
        ] {
            assert_eq!(show(&read(text).unwrap_or_else(|error| panic!("{text}: {error}"))), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, words) in [
            ("a", 1, "`;` is missing"),
            ("a {\n b;\n", 3, "`}` is missing"),
            ("a;\n}", 2, "closes nothing"),
            ("\n;", 2, "name of a directive"),
            ("a\n 'b;\n", 2, "not closed"),
            ("a { b }", 1, "`b` does not end"),
            ("a;\nb_by_lua_block {\n '}' -- }\n", 2, "Lua"),
        ] {
            match read(text) {
                Err(ImportError::Syntax { line: found, message, .. }) => {
                    assert_eq!(found, line, "{text:?}: {message}");
                    assert!(message.contains(words), "{text:?}: {message}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn blocks_within_blocks_are_bounded() {
        assert!(read(&format!("{}{}", "a {".repeat(NESTING_MAX), "}".repeat(NESTING_MAX))).is_ok());
        assert!(read(&"a {".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z;{}'\"\\\\$# \n]{0,200}|\\PC{0,100}") {
            let _ = read(&text);
        }
    }
}
