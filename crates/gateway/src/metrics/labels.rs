//! The words that labels are made of: each a closed set.

use http::Method;

/// The API that a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Docker Registry V1.
    V1,
    /// Docker Registry V2 and OCI distribution.
    V2,
    /// Management.
    Rest,
    /// The user interface.
    Console,
    /// Anything else.
    Other,
}

impl Api {
    /// In the order of their values.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::Rest, Self::Console, Self::Other];

    /// The API of a request target, which need not be valid, on a console binding or another.
    pub fn of(target: &[u8], is_console: bool) -> Self {
        let starts_with =
            |segment: &[u8]| target.strip_prefix(segment).is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?')));
        if starts_with(b"/v2") {
            Self::V2
        } else if starts_with(b"/v1") || starts_with(b"/_ping") {
            Self::V1
        } else if starts_with(b"/api") || starts_with(b"/artifactory") {
            Self::Rest
        } else if is_console {
            Self::Console
        } else {
            Self::Other
        }
    }

    /// The label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Rest => "rest",
            Self::Console => "console",
            Self::Other => "other",
        }
    }
}

/// Labels of methods; what is none of them is the last.
pub(super) const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "other"];

/// The place of a method in [`METHODS`].
pub(super) fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::PUT => 2,
        Method::POST => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        _ => 7,
    }
}

/// The status of a request whose client went away before an answer: NGINX's, for the sake of everything that reads its logs.
pub const CLIENT_GONE: u16 = 499;

/// Statuses that are counted one by one. Any other has the label `other`.
pub(super) const STATUSES: [u16; 43] = [
    200,
    201,
    202,
    203,
    204,
    205,
    206,
    301,
    302,
    303,
    304,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    406,
    408,
    409,
    410,
    411,
    412,
    413,
    414,
    415,
    416,
    417,
    421,
    422,
    426,
    429,
    431,
    CLIENT_GONE,
    500,
    501,
    502,
    503,
    504,
    505,
    507,
];

/// The place of each status in [`STATUSES`]; behind its end for what is not in it.
static STATUS_INDEX: [u8; 600] = status_index_table();

const fn status_index_table() -> [u8; 600] {
    let mut table = [STATUSES.len() as u8; 600];
    let mut at = 0;
    while at < STATUSES.len() {
        table[STATUSES[at] as usize] = at as u8;
        at += 1;
    }
    table
}

/// The place of a status among [`STATUSES`], or their number.
pub(super) fn status_index(status: u16) -> usize {
    STATUS_INDEX.get(usize::from(status)).map_or(STATUSES.len(), |index| usize::from(*index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_told_by_whole_segments() {
        for (target, api) in [
            ("/v1/_ping", Api::V1),
            ("/_ping", Api::V1),
            ("/v2", Api::V2),
            ("/v2?n=1", Api::V2),
            ("/v2x/", Api::Other),
            ("/api/v1/system/ping", Api::Rest),
            ("/artifactory/api/docker/r/v2/", Api::Rest),
            ("/", Api::Other),
            ("", Api::Other),
            ("*", Api::Other),
        ] {
            assert_eq!(Api::of(target.as_bytes(), false), api, "{target:?}");
        }
        assert_eq!(Api::of(b"/ui/", true), Api::Console);
        assert_eq!(Api::of(b"/api/security", true), Api::Rest);
        assert!(Api::ALL.iter().enumerate().all(|(at, api)| *api as usize == at));
    }

    #[test]
    fn every_status_and_method_has_its_own_place() {
        for (at, status) in STATUSES.iter().enumerate() {
            assert_eq!(status_index(*status), at);
        }
        for unknown in [0, 99, 218, 599, 600, u16::MAX] {
            assert_eq!(status_index(unknown), STATUSES.len(), "{unknown}");
        }
        for (at, method) in METHODS[..7].iter().enumerate() {
            assert_eq!(method_index(&method.parse().unwrap()), at);
        }
        assert_eq!(METHODS[method_index(&"PROPFIND".parse().unwrap())], "other");
    }
}
