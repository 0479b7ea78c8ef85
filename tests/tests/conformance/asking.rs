//! The suite's client: it asks without credentials first, follows the challenge, and keeps each token for the image and for
//! whether it reads, writes or deletes.

use std::collections::HashMap;

use e2e::{Body, Client, Reply};

use crate::{Outcome, Trouble, failed};

/// What goes with a request.
#[derive(Clone, Copy)]
pub enum Sent<'b> {
    Nothing,
    /// With its length.
    Sized(&'b [u8]),
    /// In chunks: a Go client that is given a reader knows no length.
    Streamed(&'b [u8]),
}

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Asker {
    /// Nobody, until a token says otherwise.
    client: Client,
    /// Sends the password, to the token service alone.
    login: Client,
    origin: String,
    tokens: HashMap<(String, String), String>,
}

impl Asker {
    /// A client for one port; `login` has the password.
    pub fn new(login: Client, port: u16) -> Self {
        Self { client: login.clone().without("Authorization"), login, origin: format!("https://localhost:{port}"), tokens: HashMap::new() }
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[], Sent::Nothing)
    }

    /// Sends a request to a path, or to where a `Location` leads.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: Sent<'_>) -> Answer {
        let path = target.strip_prefix(&self.origin).unwrap_or(target);
        assert!(path.starts_with('/'), "{target} leads away from {}", self.origin);
        let key = key(method, path);
        let kept = self.tokens.get(&key).cloned();
        let first = self.send(method, path, headers, body, kept.as_deref());
        if first.status != 401 {
            return first;
        }
        match self.follow(&first) {
            Some(token) => {
                self.tokens.insert(key, token.clone());
                self.send(method, path, headers, body, Some(&token))
            }
            None => first,
        }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Sent<'_>, authorization: Option<&str>) -> Answer {
        let mut all = vec![("User-Agent", "Go-http-client/1.1"), ("Accept-Encoding", "gzip")];
        all.extend(authorization.map(|authorization| ("Authorization", authorization)));
        all.extend(headers);
        Answer::of(match body {
            Sent::Nothing => self.client.send(method, path, &all, Body::None),
            Sent::Sized(bytes) => self.client.send(method, path, &all, Body::Bytes(bytes)),
            Sent::Streamed(mut bytes) => self.client.send(method, path, &all, Body::Chunked(&mut bytes)),
        })
    }

    /// Goes where a challenge leads, and comes back with what it gives.
    fn follow(&self, refused: &Answer) -> Option<String> {
        let challenge = refused.header("WWW-Authenticate")?;
        let of = |name: &str| {
            let value = challenge.split_once(&format!("{name}=\""))?.1;
            value.split('"').next().map(str::to_owned)
        };
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        let realm = of("realm")?;
        let mut query = format!("service={}", escaped(&of("service")?));
        if let Some(scope) = of("scope") {
            query = format!("scope={}&{query}", escaped(&scope));
        }
        let path = format!("{}?{query}", realm.strip_prefix(&self.origin).unwrap_or(&realm));
        let given = self.login.send("GET", &path, &[("Accept", "application/json")], Body::None);
        (given.status == 200).then(|| {
            let token = given.json();
            let text = token["access_token"].as_str().or(token["token"].as_str()).expect("a token");
            format!("Bearer {text}")
        })
    }
}

/// Image and kind of request, as the suite keeps its tokens.
fn key(method: &str, path: &str) -> (String, String) {
    let path = path.split('?').next().unwrap_or_default();
    let name =
        ["/blobs/", "/manifests/", "/tags/", "/referrers/"].iter().find_map(|part| path.split_once(part)).map_or("", |(name, _)| name);
    let kind = match method {
        "GET" | "HEAD" => "pull",
        "POST" | "PATCH" | "PUT" => "push",
        other => other,
    };
    (name.to_owned(), kind.to_owned())
}

/// A value in a query, as Go writes it.
pub fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// A URL with one more parameter.
pub fn with_query(url: &str, name: &str, value: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={}", escaped(value))
}

impl Answer {
    fn of(reply: Reply) -> Self {
        Self { status: reply.status, headers: reply.headers.clone(), body: reply.bytes() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Where it leads.
    pub fn location(&self) -> Result<String, Trouble> {
        self.header("Location").filter(|location| !location.is_empty()).map(str::to_owned).ok_or_else(|| failed("no Location"))
    }

    /// That the status is one of these.
    pub fn expect(&self, statuses: &[u16]) -> Outcome {
        if statuses.contains(&self.status) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(failed(format!("{} instead of {statuses:?}: {}", self.status, text.chars().take(200).collect::<String>())))
    }

    /// That a header says this.
    pub fn expect_header(&self, name: &str, value: &str) -> Outcome {
        if self.headers.iter().any(|(seen, said)| seen.eq_ignore_ascii_case(name) && said == value) {
            return Ok(());
        }
        Err(failed(format!("{name} is {:?} instead of {value:?}", self.header(name))))
    }

    /// That this is all of the body.
    pub fn expect_body(&self, bytes: &[u8]) -> Outcome {
        if self.body == bytes {
            Ok(())
        } else {
            Err(failed(format!("a body of {} bytes is not the {} that it should be", self.body.len(), bytes.len())))
        }
    }
}
