//! Whom the gateway takes the client for, and what it takes for the address that the client used.

use berth_names::Scheme;

use super::super::front::{self, Product};
use super::super::observe::{FORGED, Observations};
use super::{Fault, Verdict, report_of};
use crate::probe::{PATHS, Report};

const CHECK: &str = "address";

pub(super) fn judge(seen: &Observations, report: &Report) -> Vec<Verdict> {
    let mut verdicts = judge_origin(seen, report);
    verdicts.extend(judge_location(seen));
    verdicts.extend(judge_client(seen, report));
    verdicts
}

/// Compares the origin that the gateway will hand out with the one that clients use.
fn judge_origin(seen: &Observations, report: &Report) -> Vec<Verdict> {
    let expected = seen.expected.to_string();
    let sent = seen.expected.authority().to_string();
    let arrived = report.header("host").unwrap_or_default();
    let Some(origin) = &report.origin else {
        return vec![if arrived == sent {
            Verdict::wrong(
                CHECK,
                Fault::UnknownHost,
                format!("the gateway's listener on port {} has no binding for {sent}", report.listener_port),
            )
        } else {
            Verdict::wrong(
                CHECK,
                Fault::Host,
                format!("the Host header arrives as {arrived:?} instead of {sent:?}, for which there is no binding"),
            )
        }];
    };
    let mut verdicts = Vec::new();
    let (scheme, authority) = origin.split_once("://").unwrap_or_default();
    if arrived != sent {
        let lost_port = arrived.split_once(':').is_none() && sent.starts_with(&arrived) && !arrived.is_empty();
        let what = if lost_port { "loses its port: it arrives" } else { "arrives" };
        let said = format!("the Host header {what} as {arrived:?} instead of {sent:?}");
        verdicts.push(if authority == sent {
            Verdict::costly(CHECK, Fault::Host, format!("{said}; the gateway knows its public address nevertheless"))
        } else {
            Verdict::wrong(CHECK, Fault::Host, format!("{said}, and docker will be sent to {origin}"))
        });
    } else if authority != sent {
        let said = format!(
            "docker will be sent to {origin}: the gateway listens on port {} and does not know what is before it",
            report.listener_port
        );
        verdicts.push(Verdict::wrong(CHECK, Fault::PublicAddress, said));
    }
    if scheme != seen.expected.scheme().as_str() {
        verdicts.push(judge_scheme(seen, report, origin));
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::fine(CHECK, format!("docker is sent to {expected}, the address that it used")));
    }
    verdicts
}

fn judge_scheme(seen: &Observations, report: &Report, origin: &str) -> Verdict {
    let expected = seen.expected.scheme().as_str();
    let consequence = match seen.expected.scheme() {
        Scheme::Https => format!("docker will be sent to {origin}, without TLS, and gives no password there"),
        Scheme::Http => format!("docker will be sent to {origin}"),
    };
    match report.header("x-forwarded-proto") {
        None => Verdict::wrong(
            CHECK,
            Fault::Scheme,
            format!(
                "the scheme is lost: clients speak {expected}, what arrives is {}, and no X-Forwarded-Proto says so; {consequence}",
                report.listener_scheme
            ),
        ),
        Some(proto) if proto == expected => Verdict::wrong(
            CHECK,
            Fault::NotTrusted,
            format!("X-Forwarded-Proto: {proto} arrives, but {} is not a trusted proxy; {consequence}", report.peer.ip()),
        ),
        Some(proto) => {
            Verdict::wrong(CHECK, Fault::Scheme, format!("the scheme is changed: X-Forwarded-Proto arrives as {proto:?}; {consequence}"))
        }
    }
}

/// Whether the `Location` of an upload comes back as the gateway gave it.
fn judge_location(seen: &Observations) -> Option<Verdict> {
    let (_, exchange) = seen.details.as_ref()?.methods.iter().find(|(method, _)| *method == "POST")?;
    let given = format!("{}{}", report_of(exchange)?.origin.as_ref()?, PATHS[0]);
    let came = exchange.answer.as_ref().ok()?.header("location");
    if came == Some(given.as_str()) || came.is_some_and(|came| came.starts_with('/') || came == format!("{}{}", seen.expected, PATHS[0])) {
        return None;
    }
    let came = came.map_or("nothing".to_owned(), |came| format!("{came:?}"));
    Some(Verdict::wrong(CHECK, Fault::Location, format!("the gateway answers with Location {given:?}, and {came} comes back")))
}

/// Whether the realm, where clients get their tokens, is where they asked.
pub(super) fn judge_realm(seen: &Observations) -> Option<Verdict> {
    let challenge = seen.v2.answer.as_ref().ok()?.header("www-authenticate")?;
    let realm = challenge.split("realm=\"").nth(1)?.split('"').next()?;
    let (scheme, rest) = realm.split_once("://")?;
    let origin = format!("{scheme}://{}", rest.split('/').next().unwrap_or_default());
    if origin == seen.expected.to_string() {
        return None;
    }
    let is_explained = report_of(&seen.base)?.origin.as_ref() == Some(&origin);
    let said = format!("the realm of WWW-Authenticate is at {origin}: docker asks for its token there, not at {}", seen.expected);
    // What the gateway is wrong about has been said.
    (!is_explained).then(|| Verdict::wrong(CHECK, Fault::Realm, said))
}

/// Who is taken for the client. We have claimed to be somebody else.
fn judge_client(seen: &Observations, report: &Report) -> Option<Verdict> {
    const CHECK: &str = "client";
    let forwarded = report.header("x-forwarded-for");
    if report.client.to_string() == FORGED {
        let said =
            format!("X-Forwarded-For: {FORGED}, which this machine made up, is believed: anybody can pass for anybody in limits and logs");
        return Some(Verdict::wrong(CHECK, Fault::ForgedAddress, said));
    }
    let has_front = Some(report.peer) != seen.base.local
        && (["via", "x-real-ip", "cf-ray", "forwarded", "x-forwarded-proto"].iter().any(|name| report.has(name) && !seen.inner)
            || seen.base.answer.as_ref().is_ok_and(|answer| !matches!(front::product(answer), Product::Gateway | Product::Unknown)));
    if has_front && forwarded.as_deref() == Some(FORGED) {
        let said =
            format!("X-Forwarded-For arrives as this machine made it up, with nothing added: all clients look like {}", report.peer.ip());
        return Some(Verdict::costly(CHECK, Fault::ForgedAddress, said));
    }
    Some(Verdict::fine(CHECK, format!("is taken for {}; a forged X-Forwarded-For is not believed", report.client)))
}
