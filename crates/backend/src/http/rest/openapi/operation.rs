//! One operation of the API, put together word by word and written down as OpenAPI has it.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::super::Demand;

/// What an operation is about, for whoever leafs through the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Repositories,
    Storage,
    Search,
    Docker,
    Security,
    System,
}

impl Tag {
    pub(super) const ALL: [(Self, &str); 6] = [
        (Self::Repositories, "Local Docker repositories."),
        (Self::Storage, "What is stored, as a tree of folders and files, and the properties of what is in it."),
        (Self::Search, "Finding images, tags and V1 images by their properties or names."),
        (Self::Docker, "Promotion, migration from V1 to V2, and images as docker shows them."),
        (Self::Security, "Users, groups, permission targets, access tokens and the audit log."),
        (Self::System, "The service itself."),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Repositories => "repositories",
            Self::Storage => "storage",
            Self::Search => "search",
            Self::Docker => "docker",
            Self::Security => "security",
            Self::System => "system",
        }
    }
}

/// A method and a path that lead to an operation. A path's parameters are those of [`super::PATH_PARAMETERS`].
pub(super) struct Way {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What tells the operation's other names from its first one.
    pub(super) suffix: &'static str,
}

pub(super) struct Operation {
    pub(super) ways: Vec<Way>,
    tag: Tag,
    summary: String,
    notes: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    refusals: Vec<StatusCode>,
}

impl Operation {
    pub(super) fn new(tag: Tag, method: Method, path: &'static str, summary: impl Into<String>) -> Self {
        Self {
            ways: vec![Way { method, path, suffix: "" }],
            tag,
            summary: summary.into(),
            notes: String::new(),
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            refusals: Vec::new(),
        }
    }

    /// Another way to the same.
    pub(super) fn also(mut self, suffix: &'static str, method: Method, path: &'static str) -> Self {
        self.ways.push(Way { method, path, suffix });
        self
    }

    /// What a reader should know beyond the summary.
    pub(super) fn notes(mut self, notes: impl Into<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// A parameter of the query that may be left out.
    pub(super) fn query(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter(name, "query", false, schema, description)
    }

    /// A parameter of the query without which nothing can be answered.
    pub(super) fn required_query(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter(name, "query", true, schema, description)
    }

    pub(super) fn header(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter(name, "header", false, schema, description)
    }

    fn parameter(mut self, name: &str, place: &str, required: bool, schema: Value, description: &str) -> Self {
        let described = json!({ "name": name, "in": place, "required": required, "schema": schema, "description": description });
        self.parameters.push(described);
        self
    }

    /// Parameters whose names are the client's to choose.
    pub(super) fn any_query(mut self, name: &str, description: &str) -> Self {
        let schema = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        self.parameters.push(json!({
            "name": name, "in": "query", "style": "form", "explode": true, "schema": schema, "description": description,
        }));
        self
    }

    /// A JSON body.
    pub(super) fn takes(mut self, schema: Value) -> Self {
        self.body = Some(schema);
        self
    }

    pub(super) fn answers_json(self, status: StatusCode, schema: Value, description: &str) -> Self {
        self.answers_as(status, "application/json", schema, description)
    }

    /// A sentence for a person.
    pub(super) fn answers_text(self, status: StatusCode, description: &str) -> Self {
        self.answers_as(status, "text/plain", json!({ "type": "string" }), description)
    }

    /// An answer of a media type; several for one status are the client's choice.
    pub(super) fn answers_as(mut self, status: StatusCode, media_type: &str, schema: Value, description: &str) -> Self {
        let answer = self.answers.entry(status.as_u16()).or_insert_with(|| json!({ "description": description }));
        let mut content = Map::new();
        content.insert("schema".to_owned(), schema);
        answer["content"][media_type] = content.into();
        self
    }

    pub(super) fn answers_nothing(mut self, status: StatusCode, description: &str) -> Self {
        self.answers.insert(status.as_u16(), json!({ "description": description }));
        self
    }

    /// Where an answer says that something is.
    pub(super) fn with_location(mut self, description: &str) -> Self {
        let header = json!({ "description": description, "schema": { "type": "string", "format": "uri" } });
        for answer in self.answers.values_mut() {
            answer["headers"]["Location"] = header.clone();
        }
        self
    }

    /// Refusals of its own, in the form of all refusals.
    pub(super) fn refuses(mut self, statuses: &[StatusCode]) -> Self {
        self.refusals.extend(statuses);
        self
    }

    /// The operation on one of its ways, as OpenAPI has it.
    pub(super) fn describe(&self, id: &str, way: &Way, path_parameters: Vec<Value>, demand: Demand) -> Value {
        let mut responses = Map::new();
        for status in self.refusals.iter().copied().chain(refusals(demand, way.method != Method::GET, self.body.is_some())) {
            responses.insert(status.as_str().to_owned(), json!({ "$ref": format!("#/components/responses/{}", refusal_name(status)) }));
        }
        for (status, answer) in &self.answers {
            let mut answer = answer.clone();
            if responses.contains_key(&status.to_string()) {
                // The same status is a refusal at other times.
                let schema = &mut answer["content"]["application/json"]["schema"];
                let of_answer = schema.take();
                let of_refusal = json!({ "$ref": "#/components/schemas/Errors" });
                *schema = if of_answer.is_null() { of_refusal } else { json!({ "anyOf": [of_answer, of_refusal] }) };
            }
            responses.insert(status.to_string(), answer);
        }
        let mut described = json!({
            "operationId": format!("{id}{}", way.suffix),
            "tags": [self.tag.name()],
            "summary": self.summary,
            "security": security(demand),
            "x-berth-demand": demand_name(demand),
            "responses": responses,
        });
        let notes = [self.notes.as_str(), demand_notes(demand)].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        if !notes.is_empty() {
            described["description"] = notes.into();
        }
        let parameters: Vec<Value> = path_parameters.into_iter().chain(self.parameters.iter().cloned()).collect();
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if let Some(schema) = &self.body {
            described["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        described
    }
}

fn demand_name(demand: Demand) -> &'static str {
    match demand {
        Demand::Nothing => "nothing",
        Demand::User => "user",
        Demand::Admin => "admin",
        Demand::Operator => "operator",
    }
}

fn demand_notes(demand: Demand) -> &'static str {
    match demand {
        Demand::Nothing | Demand::User => "",
        Demand::Admin => "Only an admin may do this, with a password or a token without limits.",
        Demand::Operator => "Only `berth-backend` itself may do this, over a socket on the machine that the backend runs on.",
    }
}

/// Who may call: without credentials only what demands none.
fn security(demand: Demand) -> Value {
    let logged_in = [json!({ "basic": [] }), json!({ "accessToken": [] })];
    match demand {
        Demand::Nothing => std::iter::once(json!({})).chain(logged_in).collect(),
        // No credentials help: it is the socket that counts.
        Demand::Operator => json!([{}]),
        Demand::User | Demand::Admin => logged_in.into_iter().collect(),
    }
}

/// What every operation may refuse: a head or body that can't be read, wrong credentials, too many of them, pages of other
/// sites, what is nobody's fault outside, and where it writes, a full disk.
fn refusals(demand: Demand, writes: bool, has_body: bool) -> impl Iterator<Item = StatusCode> {
    let always = [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::URI_TOO_LONG,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    let of_disk = writes.then_some(StatusCode::INSUFFICIENT_STORAGE);
    let of_caller = (writes || matches!(demand, Demand::Admin | Demand::Operator)).then_some(StatusCode::FORBIDDEN);
    let of_body = has_body.then_some([StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE]);
    always.into_iter().chain(of_disk).chain(of_caller).chain(of_body.into_iter().flatten())
}

/// Every refusal, with its name and what it means.
pub(super) const REFUSALS: [(StatusCode, &str, &str); 13] = [
    (StatusCode::BAD_REQUEST, "BadRequest", "What was asked can't be done, or not be read; the message says why."),
    (StatusCode::UNAUTHORIZED, "Unauthorized", "Credentials are needed, or those that were sent are wrong."),
    (StatusCode::FORBIDDEN, "Forbidden", "The caller may not do this, or it is a page of another site in the caller's browser."),
    (StatusCode::NOT_FOUND, "NotFound", "It is not there, or the caller may not know that it is."),
    (StatusCode::CONFLICT, "Conflict", "What is there already, or is going on, does not allow it."),
    (StatusCode::PRECONDITION_FAILED, "NotWhatItDependsOn", "What is there is not what the request depends on."),
    (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", "The body is too large."),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "NotJson", "The body is not said to be JSON: `Content-Type: application/json`."),
    (StatusCode::URI_TOO_LONG, "PathTooLong", "The path is too long."),
    (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "Too much at once, or too many wrong passwords; `Retry-After` says when."),
    (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "The service failed. Its log says why."),
    (StatusCode::SERVICE_UNAVAILABLE, "Unavailable", "Too much contention for one thing; `Retry-After` says when."),
    (StatusCode::INSUFFICIENT_STORAGE, "DiskFull", "The disk has no room left for this; deletions still work, and make some."),
];

fn refusal_name(status: StatusCode) -> &'static str {
    // A refusal without a name fails the test that follows every reference.
    REFUSALS.iter().find(|(known, ..)| *known == status).map_or("Unknown", |(_, name, _)| name)
}
