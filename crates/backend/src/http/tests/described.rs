//! The description of the REST API is true: every answer that any test here gets is held against it.

use std::sync::OnceLock;

use http::Method;
use serde_json::{Map, Value, json};

use super::*;
use crate::http::rest::{self, OperationName};

/// The description, in which objects have only the fields that it names.
fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = rest::document();
        close(&mut document);
        document
    })
}

fn close(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object) && fields.get("type") == Some(&json!("object")) {
                fields.entry("additionalProperties").or_insert(false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

fn operation(name: OperationName) -> &'static Value {
    let items = document()["paths"].as_object().unwrap().values();
    let mut all = items.flat_map(|item| item.as_object().unwrap().values());
    all.find(|one| one["operationId"] == name.id()).unwrap_or_else(|| panic!("{name:?} is not described"))
}

/// Why the value is not what the schema says, if it is not.
fn contradiction(schema: &Value, value: &Value) -> Option<String> {
    let mut whole: Map<String, Value> = schema.as_object().cloned().unwrap_or_default();
    whole.insert("components".into(), document()["components"].clone());
    let validator = jsonschema::draft202012::new(&whole.into()).unwrap();
    validator.validate(value).err().map(|error| format!("{error} at {}", error.instance_path()))
}

/// Panics if an answer of the REST API is not as described.
pub(super) fn check(method: &str, path_and_query: &str, body: &[u8], reply: &Reply) {
    if let Some(problem) = problem(method, path_and_query, body, reply) {
        panic!("{method} {path_and_query} answered {}, which is not as described: {problem}: {}", reply.status, reply.text());
    }
}

/// What is not as described, if anything is. Paths that lead nowhere and those of docker are none of ours.
fn problem(method: &str, path_and_query: &str, body: &[u8], reply: &Reply) -> Option<String> {
    let target = route::target(path_and_query.split('?').next().unwrap_or_default()).ok()?;
    let method: Method = method.parse().unwrap();
    let operation = operation(OperationName::of(&rest::find(&target, &method).ok()?));

    let described = &operation["responses"][reply.status.to_string()];
    if !described.is_object() {
        return Some("the status".to_owned());
    }
    let described = described["$ref"].as_str().map_or(described, |place| document().pointer(&place[1..]).unwrap());
    if let Some(asked) = operation.pointer("/requestBody/content/application~1json/schema").filter(|_| reply.status < 300)
        && let Some(why) = contradiction(asked, &serde_json::from_slice(body).unwrap())
    {
        return Some(format!("the body that was accepted: {why}"));
    }
    if method == Method::HEAD || reply.body.is_empty() {
        return None;
    }
    let kind = reply.header("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
    let Some(content) = described["content"].get(kind).or(described["content"].get("*/*")) else {
        return Some("the media type".to_owned());
    };
    if kind == "application/json" { contradiction(&content["schema"], &reply.json()) } else { None }
}

/// Panics if what the operator got over its own socket, with status 200, is not as described.
pub(super) fn check_json(method: Method, path: &str, answer: &Value) {
    let Ok(target) = route::target(path) else { panic!("{path} leads nowhere") };
    let operation = operation(OperationName::of(&rest::find(&target, &method).unwrap()));
    assert_eq!(contradiction(&operation["responses"]["200"]["content"]["application/json"]["schema"], answer), None, "{method} {path}");
}

#[test]
fn what_is_not_described_is_found() {
    let reply = |status, kind: &str, body: &str| Reply {
        status,
        headers: vec![("content-type".to_owned(), kind.to_owned())],
        body: body.as_bytes().to_vec(),
    };
    let good = r#"{"product":"Berth","version":"1","addons":[]}"#;
    for (expected, status, kind, body) in [
        (None, 200, "application/json", good),
        (Some("'edition' was unexpected"), 200, "application/json", r#"{"product":"Berth","version":"1","addons":[],"edition":"free"}"#),
        (Some("not of type"), 200, "application/json", r#"{"product":"Berth","version":1,"addons":[]}"#),
        (Some("required"), 200, "application/json", r#"{"product":"Berth","version":"1"}"#),
        (Some("the media type"), 200, "text/html", good),
        (Some("the status"), 201, "application/json", good),
        (Some("'error' was unexpected"), 400, "application/json", r#"{"error":"in the form of V1"}"#),
    ] {
        let found = problem("GET", "/api/system/version", b"", &reply(status, kind, body));
        assert!(found.as_deref().unwrap_or("nothing").contains(expected.unwrap_or("nothing")), "{status} {body}: {found:?}");
    }
    for (expected, body) in [("nothing", r#"{"admin":true}"#), ("the body that was accepted", r#"{"administrator":true}"#)] {
        let found = problem("PUT", "/api/security/users/alice", body.as_bytes(), &reply(201, "text/plain", ""));
        assert!(found.as_deref().unwrap_or("nothing").contains(expected), "{body}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_the_description() {
    let backend = Backend::start().await;
    for path in ["/artifactory/api/openapi.json", "/api/openapi.json"] {
        let reply = backend.send("GET", path, &[("Authorization", "")], b"").await;
        assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("application/json")));
        assert_eq!(reply.json(), rest::document());
    }
    assert_eq!(backend.send("PUT", "/artifactory/api/openapi.json", &[], b"").await.status, 405);
}
