//! What `check` has against a configuration that was imported.

use std::path::{Path, PathBuf};

use super::site::{Endpoint, Site};
use super::{Kind, Objection, write};
use crate::config::{Config, Problem};

/// Stands for a backend whose address is still to be looked up.
const STAND_IN: &str = "192.0.2.1:80";

/// Fields that name files of this machine.
const FILES: [&str; 4] = ["certificate = ", "key = ", "client_ca = ", "ca = "];

/// Everything that `check` would say of what is written for `site`, if it lay in this directory. A backend's name would be
/// all that it says, as it is no address: that is said, and the rest is looked at without it.
pub(super) fn objections(site: &Site, kind: Kind, files: &[PathBuf]) -> Vec<Objection> {
    let mut known = site.clone();
    let mut names = Vec::new();
    for server in &mut known.upstream {
        if let Endpoint::Tcp(address) = &mut server.endpoint
            && address.parse::<std::net::SocketAddr>().is_err()
        {
            names.push(std::mem::replace(address, STAND_IN.to_owned()));
        }
    }
    let text = write::toml(&known, kind, files);
    let problems = Config::parse(&text, Path::new("")).err().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let is_about_file = |problem: &Problem| {
        problem.line.checked_sub(1).and_then(|at| lines.get(at)).is_some_and(|line| FILES.iter().any(|field| line.starts_with(field)))
    };
    let mut objections: Vec<Objection> =
        problems.into_iter().map(|problem| Objection { is_about_file: is_about_file(&problem), problem }).collect();
    let mut stand_ins = lines.iter().enumerate().filter(|(_, line)| line.contains(STAND_IN));
    for name in names {
        let Some((at, _)) = stand_ins.next() else { break };
        let message = format!("{name:?} is no IP address and port");
        objections.push(Objection { problem: Problem { line: at + 1, column: "tcp = ".len() + 1, message }, is_about_file: false });
    }
    objections.sort_by(|a, b| a.problem.cmp(&b.problem));
    objections
}
