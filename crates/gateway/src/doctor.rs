//! `berth-gateway doctor`: what is wrong between a client and the gateway, at which hop, and what to change there.
//!
//! It runs on a client's machine, sends probes to the address that clients use, and compares what it sent with what the
//! gateway says arrived ([`crate::probe`]). `observe` sends, `judge` decides what it means, `blame` where it happens,
//! `remedy` what to do.
//!
//! What must stay true: it changes nothing at the other end, sends no secret (it has none), and every wait has a bound.

mod answer;
mod blame;
mod client;
mod front;
mod judge;
mod observe;
mod print;
mod remedy;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use berth_names::{Authority, Origin, Scheme};
use clap::Args;
use tokio::time::timeout;

use blame::Examined;
use client::CONNECT_MAX;
use judge::Level;
use observe::Examination;

use crate::probe::SILENCE_S_MAX;

/// Most addresses that `--via` takes. Nobody has that many proxies in a row.
const VIA_MAX: usize = 16;

/// What `doctor` is asked.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The address that clients use: https://registry.company.com:444
    pub url: Url,
    /// An address on the way to the gateway, from outside to inside; may be repeated. Each is examined like the first.
    #[arg(long, value_name = "URL")]
    pub via: Vec<Url>,
    /// A file with certificates of authorities that clients trust beside those of this machine.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Connect to this address instead of asking DNS.
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<SocketAddr>,
    /// How much to upload, in MiB, once with a length and once in chunks.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub body_mib: u64,
    /// See too whether pauses of that many seconds are endured: most proxies give up after 60.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "65", value_parser = clap::value_parser!(u64).range(1..=SILENCE_S_MAX))]
    pub slow: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    origin: Origin,
}

impl Url {
    fn is_https(&self) -> bool {
        self.origin.scheme() == Scheme::Https
    }

    fn port(&self) -> u16 {
        self.origin.authority().port().unwrap_or(self.origin.scheme().default_port())
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "an address is like https://registry.company.com:444, without a path";
        let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
        let scheme: Scheme = scheme.to_ascii_lowercase().parse().map_err(|()| FORM)?;
        let authority: Authority = authority.strip_suffix('/').unwrap_or(authority).parse().map_err(|_| FORM)?;
        Ok(Self { origin: Origin::new(scheme, authority) })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// Examines, and prints what was found to standard output. Gives back whether nothing is wrong.
///
/// # Errors
/// If it could not begin.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    if options.via.len() > VIA_MAX {
        anyhow::bail!("--via takes at most {VIA_MAX} addresses");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hops = runtime.block_on(examine(options))?;
    let findings = blame::findings(&hops);
    let text = if options.json { print::json(&hops, &findings)? } else { print::lines(&hops, &findings) };
    io::Write::write_all(&mut io::stdout(), text.as_bytes()).context("cannot print")?;
    Ok(!findings.iter().any(|finding| finding.verdict.level == Level::Wrong))
}

async fn examine(options: &Options) -> anyhow::Result<Vec<Examined>> {
    let examination = Examination {
        expected: options.url.origin.clone(),
        roots: tls::roots(options.ca.as_deref())?,
        body_bytes: options.body_mib << 20,
        slow_s: options.slow,
    };
    let mut hops = Vec::new();
    for (at, url) in std::iter::once(&options.url).chain(&options.via).enumerate() {
        let address = match options.address.filter(|_| at == 0) {
            Some(address) => reach(&[address]).await,
            None => resolve(url).await,
        };
        let seen = observe::observe(&examination, url, address, at > 0).await;
        hops.push(Examined { url: url.to_string(), verdicts: judge::judge(&seen), seen });
    }
    Ok(hops)
}

/// The first address of a host that takes a connection.
async fn resolve(url: &Url) -> Result<SocketAddr, String> {
    let host = url.origin.authority().host().trim_matches(['[', ']']);
    let found = timeout(CONNECT_MAX, tokio::net::lookup_host((host, url.port()))).await;
    match found {
        Ok(Ok(addresses)) => reach(&addresses.take(ADDRESSES_MAX).collect::<Vec<_>>()).await,
        Ok(Err(error)) => Err(format!("the name {host} cannot be resolved ({error})")),
        Err(_) => Err(format!("the name {host} was not resolved in {} s", CONNECT_MAX.as_secs())),
    }
}

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

async fn reach(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    let mut errors = Vec::new();
    for address in addresses {
        match client::connect(*address).await {
            Ok(_) => return Ok(*address),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    Err(if errors.is_empty() { "the name has no address".to_owned() } else { errors.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_and_no_path() {
        for (text, printed) in [
            ("https://registry.company.com:444", "https://registry.company.com:444"),
            ("HTTPS://R.example/", "https://r.example"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), printed);
        }
        for bad in ["", "registry.company.com", "ftp://a", "https://", "https://a/v2", "https://a:0", "https://u@a", "https://a?b"] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }
}
