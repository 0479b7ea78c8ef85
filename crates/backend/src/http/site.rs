//! Whether a request was made by a page of another site, in a browser that remembers somebody's password.
//!
//! Such a page can't read what we answer, so what only reads is left alone: links lead here from everywhere. What changes
//! something is refused, but for pages that the operator has listed ([`super::cors`]), and those of docker's API only. No client
//! but a browser sends these headers, and a page can't choose them.

use berth_names::Origin;
use http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method};

/// How the page that makes a request stands to us, in the words of the browser (W3C Fetch Metadata). Browsers send it over
/// TLS and to localhost.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request may change something, and comes from a page that is not ours. `ours` is what the client used.
pub(super) fn is_foreign(method: &Method, headers: &HeaderMap, ours: &Origin) -> bool {
    if method.is_safe() {
        return false;
    }
    let sites: Vec<_> = headers.get_all(SEC_FETCH_SITE).iter().map(HeaderValue::as_bytes).collect();
    // `none` is a person at the address bar. Another host of the same site is another host.
    let (says_ours, is_known) = (sites == [b"same-origin"], sites.is_empty() || sites == [b"none"]);
    if !says_ours && !is_known {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => false,
        // A front that hides that it speaks TLS must not keep our own pages out; the browser knows better than we then.
        (Some(origin), None) => {
            !parse(origin).is_some_and(|origin| origin.authority() == ours.authority() && (says_ours || origin.scheme() == ours.scheme()))
        }
        (Some(_), Some(_)) => true,
    }
}

/// An origin as browsers write it. `null`, which stands for pages that have none to show, is nobody's.
pub(super) fn parse(origin: &HeaderValue) -> Option<Origin> {
    origin.to_str().ok()?.parse().ok()
}

/// Whether the body is said to be JSON: `application/json`, or anything that is written in it, as Artifactory's own media
/// types are (`application/vnd.org.jfrog.artifactory.security.User+json`). Forms of other sites' pages can't say so.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/").is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn ours(text: &str) -> Origin {
        let (scheme, authority) = text.split_once("://").unwrap();
        Origin::new(scheme.parse().unwrap(), authority.parse().unwrap())
    }

    #[test]
    fn a_page_is_ours_if_scheme_host_and_port_are() {
        for (origins, at, foreign) in [
            (&[][..], "https://r.example", false),
            (&["https://r.example"], "https://r.example", false),
            (&["https://R.example:443"], "https://r.example", false),
            (&["https://r.example:8443"], "https://r.example:8443", false),
            (&["http://[::1]:81"], "http://[::1]:81", false),
            (&["https://evil.example"], "https://r.example", true),
            (&["https://r.example"], "https://r.example:8443", true),
            (&["http://r.example"], "https://r.example", true),
            (&["https://r.example.evil.example"], "https://r.example", true),
            (&["https://r.example/"], "https://r.example", true),
            (&["null"], "https://r.example", true),
            (&[""], "https://r.example", true),
            (&["file://"], "https://r.example", true),
            (&["https://r.example", "https://r.example"], "https://r.example", true),
        ] {
            let headers = headers("origin", origins);
            assert_eq!(is_foreign(&Method::POST, &headers, &ours(at)), foreign, "{origins:?} at {at}");
            assert!(!is_foreign(&Method::GET, &headers, &ours(at)), "{origins:?}: a link may lead here");
        }
    }

    #[test]
    fn what_the_browser_says_of_the_page_counts() {
        for (sites, foreign) in [
            (&["same-origin"][..], false),
            (&["none"], false),
            (&["same-site"], true),
            (&["cross-site"], true),
            (&["anything"], true),
            (&["same-origin", "cross-site"], true),
        ] {
            assert_eq!(is_foreign(&Method::DELETE, &headers("sec-fetch-site", sites), &ours("https://r.example")), foreign, "{sites:?}");
        }
        let both = |site, origin| {
            let mut both = headers("sec-fetch-site", &[site]);
            both.insert(ORIGIN, HeaderValue::from_static(origin));
            is_foreign(&Method::POST, &both, &ours("http://r.example"))
        };
        assert!(!both("same-origin", "https://r.example"), "TLS ended in front of us");
        assert!(both("none", "https://r.example"));
        assert!(both("same-origin", "https://evil.example"));
    }

    #[test]
    fn json_is_what_no_form_can_send() {
        for (kinds, json) in [
            (&["application/json"][..], true),
            (&["Application/JSON; charset=utf-8"], true),
            (&["application/vnd.org.jfrog.artifactory.security.User+json"], true),
            (&["application/vnd.org.jfrog.artifactory.repositories.LocalRepositoryConfiguration+json"], true),
            (&[], false),
            (&[""], false),
            (&["text/plain"], false),
            (&["text/plain; application/json"], false),
            (&["multipart/form-data; boundary=application/json"], false),
            (&["application/x-www-form-urlencoded"], false),
            (&["application/xml"], false),
            (&["text/plain", "application/json"], false),
        ] {
            assert_eq!(is_json(&headers("content-type", kinds)), json, "{kinds:?}");
        }
    }
}
