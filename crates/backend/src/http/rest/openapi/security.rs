//! Users, groups, permission targets, tokens and the audit log.

use http::{Method, StatusCode};
use serde_json::json;

use super::super::access::Named;
use super::super::forms::{GroupForm, PasswordForm, PermissionForm, ShownGroup, ShownNewToken, ShownToken, ShownUser, TokenForm, UserForm};
use super::super::{AUDIT_PAGE_DEFAULT, Noun};
use super::names::AccountName;
use super::operation::{Operation, Tag};
use super::schemas::{Schemas, list as list_of, object, positive, text};
use crate::audit::PAGE_ENTRIES_MAX;

fn paths(noun: Noun) -> (&'static str, &'static str) {
    match noun {
        Noun::User => ("/artifactory/api/security/users", "/artifactory/api/security/users/{userName}"),
        Noun::Group => ("/artifactory/api/security/groups", "/artifactory/api/security/groups/{groupName}"),
        Noun::Permission => ("/artifactory/api/security/permissions", "/artifactory/api/security/permissions/{permissionName}"),
    }
}

/// One and several.
fn words(noun: Noun) -> (&'static str, &'static str) {
    match noun {
        Noun::User => ("user", "users"),
        Noun::Group => ("group", "groups"),
        Noun::Permission => ("permission target", "permission targets"),
    }
}

pub(super) fn list(schemas: &mut Schemas, noun: Noun) -> Operation {
    let entries = list_of(&schemas.answer::<Named>());
    Operation::new(Tag::Security, Method::GET, paths(noun).0, format!("All {}", words(noun).1)).answers_json(
        StatusCode::OK,
        entries,
        "Their names.",
    )
}

pub(super) fn get(schemas: &mut Schemas, noun: Noun) -> Operation {
    let schema = match noun {
        Noun::User => schemas.answer::<ShownUser<'_>>(),
        Noun::Group => schemas.answer::<ShownGroup<'_>>(),
        Noun::Permission => schemas.answer::<PermissionForm>(),
    };
    Operation::new(Tag::Security, Method::GET, paths(noun).1, format!("One {}", words(noun).0))
        .answers_json(StatusCode::OK, schema, "As it is now.")
        .refuses(&[StatusCode::NOT_FOUND])
}

fn form(schemas: &mut Schemas, noun: Noun) -> serde_json::Value {
    match noun {
        Noun::User => schemas.request::<UserForm>(),
        Noun::Group => schemas.request::<GroupForm>(),
        Noun::Permission => schemas.request::<PermissionForm>(),
    }
}

pub(super) fn put(schemas: &mut Schemas, noun: Noun) -> Operation {
    Operation::new(Tag::Security, Method::PUT, paths(noun).1, format!("Create a {}, or replace it as a whole", words(noun).0))
        .query("create", json!({ "type": "string", "enum": ["true", "false"] }), "`true`: create it, but replace nothing (409).")
        .takes(form(schemas, noun))
        .answers_nothing(StatusCode::CREATED, "It is so now.")
        .refuses(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn update(schemas: &mut Schemas, noun: Noun) -> Operation {
    let notes = match noun {
        Noun::User | Noun::Group => "What is left out stays as it is.",
        Noun::Permission => "A permission target is always given as a whole.",
    };
    Operation::new(Tag::Security, Method::POST, paths(noun).1, format!("Change a {}", words(noun).0))
        .notes(notes)
        .takes(form(schemas, noun))
        .answers_nothing(StatusCode::OK, "It is so now.")
        .refuses(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn delete(noun: Noun) -> Operation {
    Operation::new(Tag::Security, Method::DELETE, paths(noun).1, format!("Delete a {}", words(noun).0))
        .answers_text(StatusCode::OK, "It is gone.")
        .refuses(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn change_password(schemas: &mut Schemas) -> Operation {
    let path = "/artifactory/api/security/users/authorization/changePassword";
    Operation::new(Tag::Security, Method::POST, path, "Change one's own password")
        .also("InShort", Method::PUT, "/artifactory/api/security/password")
        .also("InShortByPost", Method::POST, "/artifactory/api/security/password")
        .notes("All access tokens and logins of the user end.")
        .takes(schemas.request::<PasswordForm>())
        .answers_text(StatusCode::OK, "It is the new one now.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

const WHOSE: &str = "Whose; only an admin may name somebody else.";

pub(super) fn list_tokens(schemas: &mut Schemas) -> Operation {
    let entries = list_of(&schemas.answer::<ShownToken>());
    Operation::new(Tag::Security, Method::GET, "/artifactory/api/security/tokens", "One's own access tokens")
        .query("user", schemas.inline::<AccountName>(), WHOSE)
        .answers_json(StatusCode::OK, entries, "Without what they are used with, which is stored nowhere.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

pub(super) fn create_token(schemas: &mut Schemas) -> Operation {
    let made = schemas.answer::<ShownNewToken<'_>>();
    Operation::new(Tag::Security, Method::POST, "/artifactory/api/security/tokens", "Make an access token")
        .notes("An access token can't make another one.")
        .takes(schemas.request::<TokenForm>())
        .answers_json(StatusCode::CREATED, made, "The only time that the token itself is shown.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn revoke_token(schemas: &mut Schemas) -> Operation {
    Operation::new(Tag::Security, Method::DELETE, "/artifactory/api/security/tokens/{tokenId}", "End an access token")
        .query("user", schemas.inline::<AccountName>(), WHOSE)
        .answers_text(StatusCode::OK, "It has ended.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

pub(super) fn audit(schemas: &mut Schemas) -> Operation {
    let entry = object(
        &["time", "method", "path", "status"],
        json!({
            "time": { "type": "string", "format": "date-time" },
            "since": { "type": "string", "format": "date-time", "description": "Of an entry that stands for several refusals of one kind: when the first of them was." },
            "count": { "type": "integer", "description": "How many it stands for." },
            "left_out": { "type": "integer", "description": "So many entries are missing before this one, because the disk was full. Nothing else is said." },
            "user": { "type": ["string", "null"], "description": "A user, `anonymous`, `operator`; `null` if a login failed." },
            "claimed": { "type": ["string", "null"], "description": "Whom a login claimed to be." },
            "credentials": { "type": ["string", "null"], "enum": ["basic", "bearer", "v1-token", "unreadable", null] },
            "client": { "type": ["string", "null"], "description": "From where: an IP address, of who connected or as a trusted proxy says." },
            "peer": { "type": ["string", "null"], "description": "Who connected over TCP: an IP address, a proxy's if there is one." },
            "repository": { "type": ["string", "null"] },
            "method": text("The method of HTTP."),
            "path": text("The path, cut short if it is long."),
            "status": { "type": "integer" },
            "request_id": text("The same as in the logs."),
        }),
    );
    let entry = schemas.written("AuditEntry", entry);
    let page = object(
        &["entries", "before"],
        json!({
            "entries": list_of(&entry),
            "before": { "type": ["string", "null"], "description": "The parameter `before` of the next, older page, if there is one." },
        }),
    );
    let page = schemas.written("AuditPage", page);
    let limit = format!("How many entries; {PAGE_ENTRIES_MAX} at most are given.");
    Operation::new(Tag::Security, Method::GET, "/artifactory/api/audit", "Who did what, newest first")
        .query("limit", positive(Some(AUDIT_PAGE_DEFAULT)), &limit)
        .query(
            "before",
            json!({ "type": "string", "pattern": "^[0-9]{1,19}-[0-9]{1,19}(\\.[0-9]{1,19}-[0-9]{1,19}){0,4}$" }),
            "What an answer gave as `before`.",
        )
        .answers_json(StatusCode::OK, page, "A page of the audit log.")
}
