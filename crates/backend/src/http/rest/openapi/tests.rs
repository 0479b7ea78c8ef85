use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Every operation of the document: its path, its method, and what it is.
fn described(document: &Value) -> Vec<(&str, &str, &Value)> {
    let items = document["paths"].as_object().unwrap().iter();
    items
        .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, one)| (path.as_str(), method.as_str(), one)))
        .filter(|(_, method, _)| *method != "servers")
        .collect()
}

#[test]
fn every_way_leads_to_the_operation_that_it_describes() {
    let mut schemas = Schemas::new();
    let mut ways = 0;
    for name in OperationName::ALL {
        for way in &name.operation(&mut schemas).ways {
            let found = leads_to(way).map(|route| OperationName::of(&route));
            assert_eq!(found, Some(*name), "{} {}", way.method, way.path);
            ways += 1;
        }
    }
    let document = document();
    let ids: BTreeSet<&str> = described(&document).iter().map(|(.., one)| one["operationId"].as_str().unwrap()).collect();
    // Fewer ids than ways: two have the same id, or the same method and path.
    assert_eq!(ids.len(), ways);
    for name in OperationName::ALL {
        assert!(ids.contains(name.id().as_str()), "{name:?}");
    }
}

#[test]
fn what_is_found_under_the_context_path_is_found_without_it() {
    for name in OperationName::ALL {
        for way in &name.operation(&mut Schemas::new()).ways {
            let Some(short) = way.path.strip_prefix(CONTEXT).filter(|path| path.starts_with("/api/")) else { continue };
            let short = Way { method: way.method.clone(), path: short, suffix: way.suffix };
            assert_eq!(leads_to(&short), leads_to(way), "{}", way.path);
        }
    }
}

fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(values) => values.iter().for_each(|one| references(one, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    for kind in ["schemas", "responses", "parameters"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(found.contains(format!("#/components/{kind}/{name}").as_str()), "{kind} {name}");
        }
    }
}

#[test]
fn every_operation_says_who_may_call_it() {
    let document = document();
    for (path, method, one) in described(&document) {
        let demand = one["x-berth-demand"].as_str().unwrap();
        let anonymous = one["security"].as_array().unwrap().contains(&json!({}));
        assert_eq!(anonymous, ["nothing", "operator"].contains(&demand), "{method} {path}");
        if ["admin", "operator"].contains(&demand) {
            assert!(one["responses"]["403"].is_object() && one["description"].as_str().unwrap().contains("may do this"), "{method} {path}");
        }
    }
}

#[test]
fn the_description_in_docs_is_that_of_the_code() {
    // Asked at run time: a target directory may be shared between checkouts.
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/api/openapi.json");
    let made = document();
    if std::env::var_os("BERTH_RENEW_API").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let kept: Value = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    assert!(kept == made, "docs/api/openapi.json is out of date: BERTH_RENEW_API=1 cargo test --workspace --lib openapi renews it");
}
