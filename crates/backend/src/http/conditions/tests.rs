//! RFC 9110, 13 as tables.

use super::*;
use crate::http::respond::whole;

const TAG: &str = "\"a,b\"";
const THEN: &str = "Tue, 15 Nov 1994 12:45:26 GMT";
const BEFORE: &str = "Tue, 15 Nov 1994 12:45:25 GMT";
const AFTER: &str = "Tuesday, 15-Nov-94 12:45:27 GMT";

fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// What a request with these fields for some content is answered with.
fn status(method: &Method, fields: &[(HeaderName, &str)], content: &[(HeaderName, &str)]) -> u16 {
    let mut answer = whole(StatusCode::OK, "text/plain", "hello".into());
    answer.headers_mut().extend(headers(content));
    let conditions = Conditions::read(method, &headers(fields));
    let answer = match conditions {
        Some(conditions) => conditions.apply(answer, || empty(StatusCode::PRECONDITION_FAILED)),
        None => answer,
    };
    answer.status().as_u16()
}

#[test]
fn the_conditions_count_in_the_order_of_the_standard() {
    let content = [(ETAG, TAG), (LAST_MODIFIED, THEN)];
    for (fields, expected) in [
        (&[][..], 200),
        (&[(IF_MATCH, TAG)], 200),
        (&[(IF_MATCH, "*")], 200),
        (&[(IF_MATCH, "\"x\", \"a,b\"")], 200),
        (&[(IF_MATCH, "\"x\""), (IF_MATCH, TAG)], 200),
        (&[(IF_MATCH, "\"a\"")], 412),
        (&[(IF_MATCH, "")], 412),
        (&[(IF_MATCH, "a,b")], 412),
        (&[(IF_MATCH, "W/\"a,b\"")], 412),
        (&[(IF_NONE_MATCH, TAG)], 304),
        (&[(IF_NONE_MATCH, "W/\"a,b\"")], 304),
        (&[(IF_NONE_MATCH, "*")], 304),
        (&[(IF_NONE_MATCH, " * ")], 304),
        (&[(IF_NONE_MATCH, "\"x\",,\"a,b\"")], 304),
        (&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, TAG)], 304),
        (&[(IF_NONE_MATCH, "oops, \"a,b\"")], 304),
        (&[(IF_NONE_MATCH, "\"a\"")], 200),
        (&[(IF_NONE_MATCH, "\"a,b")], 200),
        (&[(IF_MODIFIED_SINCE, THEN)], 304),
        (&[(IF_MODIFIED_SINCE, AFTER)], 304),
        (&[(IF_MODIFIED_SINCE, BEFORE)], 200),
        (&[(IF_MODIFIED_SINCE, "yesterday")], 200),
        (&[(IF_MODIFIED_SINCE, THEN), (IF_MODIFIED_SINCE, THEN)], 200),
        (&[(IF_UNMODIFIED_SINCE, THEN)], 200),
        (&[(IF_UNMODIFIED_SINCE, AFTER)], 200),
        (&[(IF_UNMODIFIED_SINCE, BEFORE)], 412),
        (&[(IF_UNMODIFIED_SINCE, "yesterday")], 200),
        // A tag says more than a date.
        (&[(IF_MATCH, TAG), (IF_UNMODIFIED_SINCE, BEFORE)], 200),
        (&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, AFTER)], 200),
        // What must be comes before what is known.
        (&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, TAG)], 412),
        (&[(IF_MATCH, TAG), (IF_NONE_MATCH, TAG)], 304),
        (&[(IF_UNMODIFIED_SINCE, BEFORE), (IF_MODIFIED_SINCE, AFTER)], 412),
    ] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(status(&method, fields, &content), expected, "{method} {fields:?}");
        }
        assert_eq!(status(&Method::PUT, fields, &content), 200, "{fields:?}");
    }
}

#[test]
fn a_weak_tag_is_good_for_what_is_known_and_not_for_what_must_be() {
    let content = [(ETAG, "W/\"a\"")];
    for (fields, expected) in [
        (&[(IF_NONE_MATCH, "\"a\"")], 304),
        (&[(IF_NONE_MATCH, "W/\"a\"")], 304),
        (&[(IF_MATCH, "\"a\"")], 412),
        (&[(IF_MATCH, "W/\"a\"")], 412),
        (&[(IF_MATCH, "*")], 200),
    ] {
        assert_eq!(status(&Method::GET, fields, &content), expected, "{fields:?}");
    }
}

#[test]
fn what_is_recognised_by_a_date_only_fits_no_tag_and_what_is_recognised_by_nothing_is_sent() {
    let dated = [(LAST_MODIFIED, THEN)];
    assert_eq!(status(&Method::GET, &[(IF_MATCH, TAG)], &dated), 412);
    assert_eq!(status(&Method::GET, &[(IF_NONE_MATCH, TAG)], &dated), 200);
    assert_eq!(status(&Method::GET, &[(IF_NONE_MATCH, "*")], &dated), 304);
    let tagged = [(ETAG, TAG)];
    assert_eq!(status(&Method::GET, &[(IF_MODIFIED_SINCE, AFTER)], &tagged), 200);
    assert_eq!(status(&Method::GET, &[(IF_UNMODIFIED_SINCE, BEFORE)], &tagged), 200);
    assert_eq!(status(&Method::GET, &[(IF_MATCH, TAG), (IF_NONE_MATCH, "*")], &[]), 200);
}

#[test]
fn a_refusal_stays_what_it_is() {
    let mut answer = empty(StatusCode::NOT_FOUND);
    answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"a\""));
    let conditions = Conditions::read(&Method::GET, &headers(&[(IF_NONE_MATCH, "*")])).unwrap();
    assert_eq!(conditions.apply(answer, || unreachable!()).status(), StatusCode::NOT_FOUND);
}
