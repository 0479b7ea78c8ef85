//! Schemas: of what is read they are derived from the types that serde reads; of what is answered, from the types that serde
//! writes, or, where an answer depends on what is found, written down by hand. What is written by hand is held against the
//! answers of every test of the API.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

const PLACE: &str = "/components/schemas";

pub(super) struct Schemas {
    /// Of requests. They stand where they are used: a type that is read and written may have different schemas.
    requests: SchemaGenerator,
    answers: SchemaGenerator,
    written: Map<String, Value>,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let requests = SchemaSettings::draft2020_12().for_deserialize().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let answers = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
            settings.definitions_path = PLACE.into();
            settings.meta_schema = None;
        });
        Self { requests: requests.into_generator(), answers: answers.into_generator(), written: Map::new() }
    }

    /// The schema of a body that is read.
    pub(super) fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().into()
    }

    /// The schema of a parameter or header, which stands where it is used.
    pub(super) fn inline<T: JsonSchema>(&mut self) -> Value {
        self.request::<T>()
    }

    /// The same of a parameter that counts as left out if it is empty.
    pub(super) fn inline_or_empty<T: JsonSchema>(&mut self) -> Value {
        json!({ "anyOf": [self.inline::<T>(), { "const": "" }] })
    }

    /// Where the schema of an answer is.
    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().into()
    }

    /// Where a schema written by hand is.
    pub(super) fn written(&mut self, name: &str, schema: Value) -> Value {
        self.written.insert(name.to_owned(), schema);
        json!({ "$ref": format!("#{PLACE}/{name}") })
    }

    /// Everything that was referred to.
    pub(super) fn into_components(mut self) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        all.extend(self.written);
        all
    }
}

/// An object of which some fields are always there.
pub(super) fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

pub(super) fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

pub(super) fn number(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

pub(super) fn truth(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

pub(super) fn list(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A parameter whose being there says it all; `0` and `false` take it back.
pub(super) fn switch() -> Value {
    json!({ "type": "string", "default": "0" })
}

/// A whole number above zero, in a query.
pub(super) fn positive(default: Option<usize>) -> Value {
    let mut schema = json!({ "type": "integer", "minimum": 1 });
    if let Some(default) = default {
        schema["default"] = default.into();
    }
    schema
}

/// A schema in which fields may have names that serde knows besides those of the type.
pub(in crate::http::rest) fn add_properties(schema: &mut Schema, names: impl IntoIterator<Item = &'static str>, described: &Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(names.into_iter().map(|name| (name.to_owned(), described.clone())));
    }
}
