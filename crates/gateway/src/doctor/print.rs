//! What was found, for people and for programs.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::json;

use super::blame::{Examined, Finding};
use super::front::Product;
use super::judge::{Level, Verdict};
use super::remedy;

/// Column in which explanations begin.
const WIDTH: usize = 12;

/// For people: each hop's checks, then what to do.
pub(super) fn lines(hops: &[Examined], findings: &[Finding]) -> String {
    let mut text = String::new();
    for hop in hops {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}{}", hop.url, described(hop.front()));
        for Verdict { check, level, said, .. } in &hop.verdicts {
            let _ = writeln!(text, "  {} {check:WIDTH$} {}", mark(*level), Plain(said));
        }
        text.push('\n');
    }
    for finding in findings {
        let remedy = finding.verdict.fault.map(remedy::of);
        let _ = writeln!(text, "{} {}", mark(finding.verdict.level), Plain(&finding.verdict.said));
        let _ = writeln!(text, "    where: {}", finding.place);
        let Some(remedy) = remedy else { continue };
        let _ = writeln!(text, "    do: {}", remedy.general);
        for (product, line) in remedy.lines_for(finding.product) {
            let _ = writeln!(text, "      {product}: {line}");
        }
    }
    let wrong = findings.iter().filter(|finding| finding.verdict.level == Level::Wrong).count();
    let costly = findings.len() - wrong;
    let _ = match (wrong, costly) {
        (0, 0) => writeln!(text, "Nothing is wrong."),
        (0, costly) => writeln!(text, "Nothing is wrong; {costly} to be improved."),
        (wrong, 0) => writeln!(text, "{wrong} wrong."),
        (wrong, costly) => writeln!(text, "{wrong} wrong, {costly} to be improved."),
    };
    text
}

/// Text that may hold what a server said, without what a terminal would obey.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            // Those that turn the direction of writing show something other than what is there.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => write!(f, "{}", char.escape_unicode()),
            char if char.is_control() => write!(f, "{}", char.escape_default()),
            char => f.write_char(char),
        })
    }
}

const fn mark(level: Level) -> char {
    match level {
        Level::Fine => '✓',
        Level::Costly => '!',
        Level::Wrong => '✗',
    }
}

fn described(product: Product) -> String {
    match product {
        Product::Unknown => String::new(),
        product => format!(" ({product})"),
    }
}

/// For programs.
pub(super) fn json(hops: &[Examined], findings: &[Finding]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Full<'a> {
        #[serde(flatten)]
        finding: &'a Finding,
        remedy: Vec<String>,
    }
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            let remedy = finding.verdict.fault.map(remedy::of);
            let lines = remedy.iter().flat_map(|remedy| {
                let lines = remedy.lines_for(finding.product).into_iter().map(|(product, line)| format!("{product}: {line}"));
                std::iter::once(remedy.general.to_owned()).chain(lines)
            });
            Full { finding, remedy: lines.collect() }
        })
        .collect();
    let hops: Vec<_> = hops.iter().map(|hop| json!({ "url": hop.url, "product": hop.front(), "checks": hop.verdicts })).collect();
    let is_well = !findings.iter().any(|full| full.finding.verdict.level == Level::Wrong);
    Ok(format!("{:#}\n", json!({ "ok": is_well, "hops": hops, "findings": findings })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        let said = "nginx\u{1b}]0;title\u{7}\n✓ all well\u{202e}\u{9b}31m – für";
        assert_eq!(Plain(said).to_string(), "nginx\\u{1b}]0;title\\u{7}\\n✓ all well\\u{202e}\\u{9b}31m – für");
    }
}
