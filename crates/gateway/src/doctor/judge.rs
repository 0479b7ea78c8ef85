//! What observations mean: pure functions from [`Observations`] to [`Verdict`]s. Here is what concerns the connection, the
//! addresses, the header and the path; bodies are in [`bodies`].
//!
//! What must stay true: a verdict says what was seen in words that need no knowledge of Berth, and a fault is one thing
//! that can be put right in one place. How to do that is in the module `remedy`.

mod address;
mod bodies;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_names::Scheme;
use serde::Serialize;

use super::answer::Answer;
use super::client::{Exchange, Failure};
use super::front::{self, Product};
use super::observe::{ACCEPT, Details, Observations, UPLOAD_ID, retry_after};
use super::tls::Trust;
use crate::probe::{Report, SAMPLES};

/// A certificate with less left is worth a word.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Clocks further apart break tokens and certificates.
const SKEW_MAX: Duration = Duration::from_secs(30);

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) check: &'static str,
    pub(super) level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
    pub(super) said: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    Fine,
    /// Registry clients work, but slower, or with wrong logs.
    Costly,
    /// Registry clients fail, always or at times.
    Wrong,
}

/// A fault by its name in the documentation (docs/operations.md, "doctor").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    Unreachable,
    PlainHttp,
    HttpsOnly,
    CertificateUntrusted,
    CertificateName,
    CertificateExpired,
    OldTls,
    Redirect,
    NotForwarded,
    NoProbe,
    Denied,
    Limited,
    UnknownHost,
    Host,
    Scheme,
    NotTrusted,
    PublicAddress,
    Location,
    Realm,
    ForgedAddress,
    Api,
    HttpVersion,
    NoRepository,
    HeaderLost,
    AnswerHeaderLost,
    Method,
    Path,
    Clock,
    BodyLimit,
    Chunked,
    BodyChanged,
    RequestBuffered,
    AnswerBuffered,
    Compressed,
    AnswerChanged,
    Idle,
    Expect,
}

impl Verdict {
    fn fine(check: &'static str, said: impl Into<String>) -> Self {
        Self { check, level: Level::Fine, fault: None, said: said.into() }
    }

    fn costly(check: &'static str, fault: Fault, said: impl Into<String>) -> Self {
        Self { check, level: Level::Costly, fault: Some(fault), said: said.into() }
    }

    fn wrong(check: &'static str, fault: Fault, said: impl Into<String>) -> Self {
        Self { check, level: Level::Wrong, fault: Some(fault), said: said.into() }
    }
}

/// Judges all that was seen at a hop.
pub(super) fn judge(seen: &Observations) -> Vec<Verdict> {
    let mut verdicts = vec![];
    if seen.inner {
        // Clients never see an inner hop's certificate.
    } else if let Some(certificate) = &seen.certificate {
        verdicts.extend(judge_certificate(seen, certificate, seen.base.begun));
    }
    let report = match &seen.base.answer {
        Ok(Answer { report: Some(report), .. }) => report,
        Ok(answer) => {
            verdicts.push(judge_other_answer(seen, answer));
            return verdicts;
        }
        Err(failure) => {
            verdicts.push(judge_failure(seen, failure));
            return verdicts;
        }
    };
    verdicts.push(Verdict::fine("gateway", format!("answers probes; it sees {} as its peer", report.peer)));
    verdicts.extend(address::judge(seen, report));
    if seen.limited {
        verdicts.push(Verdict::wrong("limits", Fault::Limited, "requests are refused for being too many: the rest could not be examined"));
        return verdicts;
    }
    verdicts.extend(judge_apis(seen, report));
    if let Some(details) = &seen.details {
        verdicts.push(judge_version(report));
        verdicts.extend(judge_headers(seen, report, details));
        verdicts.push(judge_methods(details));
        verdicts.extend(judge_paths(details));
        verdicts.extend(bodies::judge(details));
    }
    verdicts.extend(judge_clock(&seen.base, report));
    verdicts
}

fn judge_certificate(seen: &Observations, certificate: &super::tls::Certificate, now: SystemTime) -> Vec<Verdict> {
    const CHECK: &str = "certificate";
    let host = seen.expected.authority().host();
    let names = certificate.subjects.join(", ");
    let now_unix_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX));
    let left_days = (certificate.not_after_unix_s - now_unix_s) / (24 * 60 * 60);
    let verdict = match &certificate.trust {
        Trust::Trusted if u64::try_from(left_days).unwrap_or(0) * 24 * 60 * 60 < EXPIRY_WARNING.as_secs() => {
            Verdict::costly(CHECK, Fault::CertificateExpired, format!("the certificate ends in {left_days} days"))
        }
        Trust::Trusted => Verdict::fine(CHECK, format!("trusted, for {names}, for another {left_days} days")),
        Trust::Expired => Verdict::wrong(CHECK, Fault::CertificateExpired, format!("the certificate ended {} days ago", -left_days)),
        Trust::NotYetValid => {
            Verdict::wrong(CHECK, Fault::CertificateExpired, "the certificate is not valid yet: is this machine's clock right?")
        }
        Trust::WrongName if names.is_empty() => Verdict::wrong(
            CHECK,
            Fault::CertificateName,
            format!("the certificate has no Subject Alternative Name, which all clients require: it is not good for {host}"),
        ),
        Trust::WrongName => Verdict::wrong(CHECK, Fault::CertificateName, format!("the certificate is for {names}, not for {host}")),
        Trust::UnknownIssuer => {
            let why = if certificate.self_signed {
                "it is signed by itself".to_owned()
            } else if certificate.chain == 1 {
                format!(
                    "the server sent no intermediate certificate, and {:?} is not an authority that this machine knows",
                    certificate.issuer
                )
            } else {
                format!("this machine does not know the authority that signed it ({:?})", certificate.issuer)
            };
            Verdict::wrong(
                CHECK,
                Fault::CertificateUntrusted,
                format!("clients that trust what this machine trusts refuse the certificate: {why}"),
            )
        }
        Trust::Other(error) => Verdict::wrong(CHECK, Fault::CertificateUntrusted, format!("clients refuse the certificate: {error}")),
    };
    let mut verdicts = vec![verdict];
    if seen.tls12 == Some(false) {
        verdicts.push(Verdict::costly("tls", Fault::OldTls, "TLS 1.2 is not spoken: docker before 18.09 speaks nothing newer"));
    } else if seen.http2 == Some(true) {
        verdicts.push(Verdict::fine("tls", "HTTP/2 is offered, and clients will use it: what follows was seen over HTTP/1.1"));
    }
    verdicts
}

/// The first probe was answered by somebody else, or by a gateway that does not answer probes.
fn judge_other_answer(seen: &Observations, answer: &Answer) -> Verdict {
    const CHECK: &str = "gateway";
    let (status, who) = (answer.status, front::name(answer));
    let says_https = String::from_utf8_lossy(&answer.body).to_ascii_lowercase().contains("https");
    if status == 400 && says_https && seen.expected.scheme() == Scheme::Http {
        return Verdict::wrong(CHECK, Fault::HttpsOnly, format!("this port speaks HTTPS, and the address says http:// ({who} said so)"));
    }
    if let (300..=399, Some(location)) = (status, answer.header("location")) {
        let said = format!("{who} redirects /v2 ({status}) to {location}: docker follows that with GET, if at all, and pushes fail");
        return Verdict::wrong(CHECK, Fault::Redirect, said);
    }
    if retry_after(answer).is_some() {
        return Verdict::wrong(CHECK, Fault::Limited, format!("{who} answered {status}, again and again: there are too many requests"));
    }
    if front::product(answer) == Product::Gateway {
        let said = match status {
            403 => return Verdict::wrong(CHECK, Fault::Denied, "the gateway does not admit this machine (403)".to_owned()),
            421 => return Verdict::wrong(CHECK, Fault::UnknownHost, "the gateway has no binding for this host name (421)".to_owned()),
            502..=504 => format!("the gateway, or another behind it, answers {status}"),
            status => {
                format!("a registry answered ({status}), but probes are not: it is no berth-gateway of this version, or [doctor] is off")
            }
        };
        return Verdict::wrong(CHECK, Fault::NoProbe, said);
    }
    Verdict::wrong(CHECK, Fault::NotForwarded, format!("{who} answered {status} itself; the request did not reach the gateway"))
}

fn judge_failure(seen: &Observations, failure: &Failure) -> Verdict {
    const CHECK: &str = "connection";
    match failure {
        Failure::Connect(error) => Verdict::wrong(CHECK, Fault::Unreachable, format!("no connection: {error}")),
        Failure::Tls(_) if seen.is_plain => {
            Verdict::wrong(CHECK, Fault::PlainHttp, "this port speaks plain HTTP, and the address says https://".to_owned())
        }
        Failure::Tls(error) if error.contains("AccessDenied") => {
            Verdict::wrong(CHECK, Fault::Denied, "what is there does not admit this machine (TLS alert: access denied)".to_owned())
        }
        Failure::Tls(error) => Verdict::wrong(CHECK, Fault::Unreachable, format!("no TLS: {error}")),
        Failure::Malformed => {
            Verdict::wrong(CHECK, Fault::HttpsOnly, "what answers is not HTTP/1.1: does this port want https://?".to_owned())
        }
        Failure::Closed => Verdict::wrong(CHECK, Fault::NotForwarded, "the connection was closed without an answer".to_owned()),
        Failure::Silence => Verdict::wrong(CHECK, Fault::NotForwarded, "no answer came".to_owned()),
    }
}

/// What docker asks first of each API.
fn judge_apis(seen: &Observations, report: &Report) -> Vec<Verdict> {
    if report.is_console {
        return vec![Verdict::fine("api", "management only: this is a console, and docker has other addresses")];
    }
    let absent = |exchange: &Exchange| exchange.answer.as_ref().ok().filter(|answer| answer.status == 404).and_then(front::reason);
    if let (Some(v2), Some(_)) = (absent(&seen.v2), absent(&seen.ping)) {
        return vec![Verdict::wrong("api", Fault::NoRepository, format!("neither /v2/ nor /v1/_ping is answered: {v2}"))];
    }
    let mut verdicts = Vec::new();
    for (path, exchange) in [("/v2/", &seen.v2), ("/v1/_ping", &seen.ping)] {
        let verdict = match &exchange.answer {
            Err(_) => Verdict::wrong("api", Fault::Api, format!("{path} was not answered")),
            Ok(answer) => judge_api(path, answer),
        };
        verdicts.push(verdict);
    }
    verdicts.extend(address::judge_realm(seen));
    verdicts
}

fn judge_api(path: &str, answer: &Answer) -> Verdict {
    let (status, who) = (answer.status, front::name(answer));
    let version = if path == "/v2/" { "docker-distribution-api-version" } else { "x-docker-registry-version" };
    match (status, answer.header(version)) {
        (200 | 401, Some(_)) => Verdict::fine("api", format!("{path} answers {status}")),
        (200 | 401, None) => Verdict::wrong(
            "api",
            Fault::AnswerHeaderLost,
            format!("{path} answers {status} without {version}: docker takes it for no registry"),
        ),
        (300..=399, _) => {
            let to = answer.header("location").unwrap_or_default();
            Verdict::wrong("api", Fault::Redirect, format!("{path} is redirected ({status}) to {to}, by {who}: docker does not follow"))
        }
        // A repository has one API.
        (404, _) if front::is_refusal(answer) || front::product(answer) == Product::Unknown || answer.body.is_empty() => {
            Verdict::fine("api", format!("{path} answers 404: this repository has the other API"))
        }
        (502..=504, _) if front::is_refusal(answer) => {
            Verdict::wrong("api", Fault::Api, format!("{path} answers {status}: the gateway does not get an answer from its backend"))
        }
        _ => Verdict::wrong("api", Fault::NotForwarded, format!("{path} is answered {status} by {who}")),
    }
}

fn judge_version(report: &Report) -> Verdict {
    if report.http == "1.0" {
        let said = "the hop speaks HTTP/1.0 to the gateway: it opens a connection for each request, and must keep each chunked body until it has ended";
        return Verdict::costly("http", Fault::HttpVersion, said);
    }
    Verdict::fine("http", format!("HTTP/{} arrives", report.http))
}

fn judge_headers(seen: &Observations, report: &Report, details: &Details) -> Vec<Verdict> {
    let mut lost: Vec<&str> = ["authorization", "accept", "range", "x-docker-token"].into_iter().filter(|name| !report.has(name)).collect();
    if report.header("accept").is_some_and(|accept| accept != ACCEPT) {
        lost.push("accept");
    }
    let patch = details.methods.iter().find(|(method, _)| *method == "PATCH").and_then(|(_, exchange)| report_of(exchange));
    if let Some(patch) = patch {
        lost.extend(["content-range", "content-type"].into_iter().filter(|name| !patch.has(name)));
        if patch.header("docker-upload-uuid").is_none_or(|id| id != UPLOAD_ID) {
            lost.push("docker-upload-uuid");
        }
    }
    let answered = seen.base.answer.as_ref().map(|answer| {
        let came = |name: &str, value: &str| answer.header(name) == Some(value);
        SAMPLES.iter().filter(|(name, value)| !came(name, value)).map(|(name, _)| *name).collect::<Vec<_>>()
    });
    let mut verdicts = vec![match lost.as_slice() {
        [] => Verdict::fine("header", "what clients send arrives"),
        lost => Verdict::wrong("header", Fault::HeaderLost, format!("what clients send in {} does not arrive", lost.join(", "))),
    }];
    if let Ok(lost) = answered
        && !lost.is_empty()
    {
        let said = format!("what the gateway answers in {} does not come back", lost.join(", "));
        verdicts.push(Verdict::wrong("header", Fault::AnswerHeaderLost, said));
    }
    verdicts
}

fn judge_methods(details: &Details) -> Verdict {
    let mut blocked = Vec::new();
    for (method, exchange) in &details.methods {
        let arrives = match (*method, &exchange.answer) {
            ("HEAD", Ok(answer)) => answer.is_gateways(),
            (method, Ok(Answer { report: Some(report), .. })) => report.method == method,
            _ => false,
        };
        if !arrives {
            blocked.push(match &exchange.answer {
                Ok(answer) => format!("{method} ({} from {})", answer.status, front::name(answer)),
                Err(_) => format!("{method} (no answer)"),
            });
        }
    }
    if blocked.is_empty() {
        return Verdict::fine("methods", "HEAD, POST, PUT, PATCH and DELETE arrive");
    }
    Verdict::wrong("methods", Fault::Method, format!("methods that registry clients use do not arrive: {}", blocked.join(", ")))
}

fn judge_paths(details: &Details) -> Vec<Verdict> {
    let (mut needed, mut other) = (Vec::new(), Vec::new());
    for (case, exchange) in &details.paths {
        let list = if case.is_needed { &mut needed } else { &mut other };
        match &exchange.answer {
            Ok(Answer { report: Some(report), .. }) if report.target.ends_with(&format!("/probe{}", case.rest)) => {}
            Ok(Answer { report: Some(report), .. }) => {
                let arrived = report.target.split_once("/probe").map_or("", |(_, rest)| rest);
                list.push(format!("{} ({:?} arrives as {arrived:?})", case.name, case.rest));
            }
            // No registry has such a path: who refuses it does right.
            Ok(answer) if !case.is_needed && answer.status >= 400 => {}
            Ok(answer) => list.push(format!("{} ({:?} is answered {} by {})", case.name, case.rest, answer.status, front::name(answer))),
            Err(_) => list.push(format!("{} ({:?} is not answered)", case.name, case.rest)),
        }
    }
    let mut verdicts = Vec::new();
    if !needed.is_empty() {
        verdicts.push(Verdict::wrong("path", Fault::Path, format!("paths that clients use are changed: {}", needed.join("; "))));
    }
    if !other.is_empty() {
        let said =
            format!("paths are rewritten on their way: {}; a request that the gateway would refuse becomes another one", other.join("; "));
        verdicts.push(Verdict::costly("path", Fault::Path, said));
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::fine("path", "paths arrive as they are sent"));
    }
    verdicts
}

/// Compares the gateway's clock with ours, in the middle of the exchange.
fn judge_clock(exchange: &Exchange, report: &Report) -> Option<Verdict> {
    let ours = exchange.begun.checked_add(exchange.took / 2)?.duration_since(UNIX_EPOCH).ok()?;
    let theirs = Duration::from_millis(report.time_unix_ms);
    let apart = ours.abs_diff(theirs).saturating_sub(exchange.took / 2);
    if apart <= SKEW_MAX {
        return None;
    }
    let which = if theirs > ours { "ahead of" } else { "behind" };
    let said = format!("the gateway's clock is {} s {which} this machine's: tokens expire early or late", apart.as_secs());
    Some(Verdict::costly("clock", Fault::Clock, said))
}

fn report_of(exchange: &Exchange) -> Option<&Report> {
    exchange.answer.as_ref().ok()?.report.as_ref()
}

#[cfg(test)]
mod tests;
