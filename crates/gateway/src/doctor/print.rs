//! What was found, for people and for programs.

use std::fmt::Write as _;

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
            let _ = writeln!(text, "  {} {check:WIDTH$} {said}", mark(*level));
        }
        text.push('\n');
    }
    for finding in findings {
        let remedy = finding.verdict.fault.map(remedy::of);
        let _ = writeln!(text, "{} {}", mark(finding.verdict.level), finding.verdict.said);
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
