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
    let path = path_and_query.split('?').next().unwrap_or_default();
    let method: Method = method.parse().unwrap();
    let Ok(target) = route::target(path) else { return };
    let Ok(route) = rest::find(&target, &method) else { return };
    let name = OperationName::of(&route);
    let operation = operation(name);
    let heading = format!("{method} {path_and_query} ({name:?}) answered {}: {}", reply.status, reply.text());

    let described = &operation["responses"][reply.status.to_string()];
    assert!(described.is_object(), "a status that is not described: {heading}");
    let described = described["$ref"].as_str().map_or(described, |place| document().pointer(&place[1..]).unwrap());
    if let Some(asked) = operation.pointer("/requestBody/content/application~1json/schema").filter(|_| reply.status < 300) {
        let asked_for = serde_json::from_slice(body).unwrap();
        assert_eq!(contradiction(asked, &asked_for), None, "a body that should have been refused: {heading} {asked_for}");
    }
    if method == Method::HEAD || reply.body.is_empty() {
        return;
    }
    let kind = reply.header("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
    let content = &described["content"];
    let described =
        content.get(kind).or(content.get("*/*")).unwrap_or_else(|| panic!("a media type that is not described: {kind}: {heading}"));
    if kind == "application/json" {
        assert_eq!(contradiction(&described["schema"], &serde_json::from_slice(&reply.body).unwrap()), None, "{heading}");
    }
}

/// Panics if what the operator got over its own socket, with status 200, is not as described.
pub(super) fn check_json(method: Method, path: &str, answer: &Value) {
    let Ok(target) = route::target(path) else { panic!("{path} leads nowhere") };
    let operation = operation(OperationName::of(&rest::find(&target, &method).unwrap()));
    assert_eq!(contradiction(&operation["responses"]["200"]["content"]["application/json"]["schema"], answer), None, "{method} {path}");
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
