//! Manifests: pushed, listed, looked at, pulled, found by their subject, and deleted.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::asking::{Answer, Sent, with_query};
use crate::content::{Content, INDEX, MANIFEST};
use crate::{FIRST, Outcome, Suite, Trouble, failed};

const ACCEPT: [(&str, &str); 2] = [("Accept", INDEX), ("Accept", MANIFEST)];

impl Suite {
    /// One set of content from the push to its deletion.
    pub fn content(&mut self, content: &Content) {
        content.name.clone_into(&mut self.place);
        for (digest, bytes) in &content.blobs {
            self.push_blob(FIRST, digest, bytes);
        }
        for (digest, bytes) in &content.manifests {
            let outcome = self.put(digest, digest, bytes, content.is_wrong);
            self.note("a manifest is pushed by its digest", &outcome);
        }
        for (tag, digest) in &content.tags {
            let outcome = self.put(tag, digest, content.manifest(digest), false);
            self.note("a manifest is pushed by a tag", &outcome);
        }
        let listed = self.list(content);
        self.note("tags are listed", &listed);
        if !content.is_wrong {
            self.look(content);
        }
        for (digest, bytes) in &content.blobs {
            self.head_blob(FIRST, digest, bytes);
            self.pull_blob(FIRST, digest, bytes);
        }
        for (subject, expected) in &content.referrers {
            let found = self.find(subject, expected);
            self.note("referrers are found", &found);
        }
        self.delete(content);
    }

    fn look(&mut self, content: &Content) {
        let by_digest = content.manifests.iter().map(|(digest, _)| (digest, digest));
        for (reference, digest) in content.tags.iter().chain(by_digest) {
            let bytes = content.manifest(digest);
            let path = format!("/v2/{FIRST}/manifests/{reference}");
            let head = self.asker.ask("HEAD", &path, &ACCEPT, Sent::Nothing);
            let outcome = is_manifest(&head, digest, bytes).and_then(|()| head.expect_body(b""));
            self.note("HEAD of a manifest", &outcome);
            let got = self.asker.ask("GET", &path, &ACCEPT, Sent::Nothing);
            let outcome = is_manifest(&got, digest, bytes).and_then(|()| got.expect_body(bytes));
            self.note("GET of a manifest", &outcome);
        }
    }

    fn put(&mut self, reference: &str, digest: &str, bytes: &[u8], is_wrong: bool) -> Outcome {
        let path = format!("/v2/{FIRST}/manifests/{reference}");
        let done = self.asker.ask("PUT", &path, &[("Content-Type", media_type(bytes))], Sent::Streamed(bytes));
        if is_wrong {
            return done.expect(&[400]);
        }
        done.expect(&[201])?;
        done.expect_header("Docker-Content-Digest", digest)?;
        let document: Value = serde_json::from_slice(bytes).unwrap();
        if let Some(subject) = document["subject"]["digest"].as_str() {
            done.expect_header("OCI-Subject", subject)?;
        }
        let found = self.asker.ask("GET", &done.location()?, &ACCEPT, Sent::Nothing);
        is_manifest(&found, digest, bytes)?;
        found.expect_body(bytes)
    }

    fn tags(&mut self, last: Option<&str>) -> Result<Vec<String>, Trouble> {
        let path = format!("/v2/{FIRST}/tags/list");
        let answer = self.asker.get(&last.map_or_else(|| path.clone(), |last| with_query(&path, "last", last)));
        answer.expect(&[200, 404])?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        let list: Value = serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
        serde_json::from_value(list["tags"].clone()).map_err(|error| failed(error.to_string()))
    }

    fn list(&mut self, content: &Content) -> Outcome {
        let all = self.tags(None)?;
        if let Some(tag) = content.tags.keys().find(|tag| !all.contains(tag)) {
            return Err(failed(format!("{tag} is not in {all:?}")));
        }
        let mut sorted = all.clone();
        sorted.sort();
        if all != sorted {
            return Err(failed(format!("{all:?} are not in order")));
        }
        let half = sorted.len() / 2;
        let Some(last) = half.checked_sub(1) else { return Ok(()) };
        let rest = self.tags(Some(&sorted[last]))?;
        if rest == sorted[half..] { Ok(()) } else { Err(failed(format!("behind {} are {rest:?}", sorted[last]))) }
    }

    /// The list of referrers, if it is an index.
    pub fn referrers(&mut self, image: &str, subject: &str, artifact_type: Option<&str>) -> Result<(Answer, Vec<Value>), Trouble> {
        let path = format!("/v2/{image}/referrers/{subject}");
        let answer = self.asker.get(&artifact_type.map_or_else(|| path.clone(), |wanted| with_query(&path, "artifactType", wanted)));
        answer.expect(&[200])?;
        answer.expect_header("Content-Type", INDEX)?;
        let index: Value = serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
        if index["mediaType"] != INDEX || index["schemaVersion"] != 2 {
            return Err(failed(format!("{index} is no index")));
        }
        let manifests = index["manifests"].as_array().ok_or_else(|| failed("no manifests"))?.clone();
        Ok((answer, manifests))
    }

    fn find(&mut self, subject: &str, expected: &[Value]) -> Outcome {
        let has_all = |found: &[Value], wanted: Option<&Value>| {
            let mut all = expected.iter().filter(|one| wanted.is_none_or(|wanted| one["artifactType"] == *wanted));
            match all.find(|one| !found.iter().any(|seen| describes(seen, one))) {
                Some(one) => Err(failed(format!("{one} is not in {found:?}"))),
                None => Ok(()),
            }
        };
        let (_, found) = self.referrers(FIRST, subject, None)?;
        has_all(&found, None)?;
        let types: BTreeSet<&str> = expected.iter().filter_map(|one| one["artifactType"].as_str()).collect();
        for wanted in types {
            let (answer, found) = self.referrers(FIRST, subject, Some(wanted))?;
            answer.expect_header("OCI-Filters-Applied", "artifactType")?;
            has_all(&found, Some(&wanted.into()))?;
            if let Some(other) = found.iter().find(|one| one["artifactType"] != wanted) {
                return Err(failed(format!("{other} is not {wanted}")));
            }
        }
        Ok(())
    }

    fn delete(&mut self, content: &Content) {
        let digests = content.manifests.iter().rev().map(|(digest, _)| digest);
        for reference in content.tags.keys().chain(digests) {
            let path = format!("/v2/{FIRST}/manifests/{reference}");
            let deleted = self.asker.ask("DELETE", &path, &[], Sent::Nothing).expect(&[202, 404]);
            self.note("DELETE of a manifest or tag", &deleted);
            let gone = self.asker.ask("HEAD", &path, &ACCEPT, Sent::Nothing).expect(&[404]);
            self.note("what was deleted is gone", &gone);
        }
        for digest in content.blobs.keys() {
            self.delete_blob(FIRST, digest);
        }
    }

    /// What is asked for or pushed by mistake.
    pub fn mistakes(&mut self) {
        "mistakes".clone_into(&mut self.place);
        let absent = format!("sha256:{}", e2e::hex(&self.random.bytes(32)));
        for reference in [absent.as_str(), "missing-4fz2qk7w"] {
            let outcome = self.asker.ask("GET", &format!("/v2/{FIRST}/manifests/{reference}"), &ACCEPT, Sent::Nothing).expect(&[404]);
            self.note("a manifest that is not there", &outcome);
        }
        let content = Content::image("no digest", &mut self.random);
        for (digest, bytes) in &content.blobs {
            self.push_blob(FIRST, digest, bytes);
        }
        let path = format!("/v2/{FIRST}/manifests/sha256:baddigeststring");
        let (_, bytes) = &content.manifests[0];
        let outcome = self.asker.ask("PUT", &path, &[("Content-Type", media_type(bytes))], Sent::Streamed(bytes)).expect(&[400]);
        self.note("PUT by what is no digest", &outcome);
        let outcome = self.asker.ask("GET", &path, &ACCEPT, Sent::Nothing).expect(&[400, 404]);
        self.note("GET by what is no digest", &outcome);
        self.delete(&content);
    }
}

fn media_type(bytes: &[u8]) -> &'static str {
    let document: Value = serde_json::from_slice(bytes).unwrap();
    if document["mediaType"] == INDEX { INDEX } else { MANIFEST }
}

fn is_manifest(answer: &Answer, digest: &str, bytes: &[u8]) -> Outcome {
    answer.expect(&[200])?;
    answer.expect_header("Content-Type", media_type(bytes))?;
    answer.expect_header("Content-Length", &bytes.len().to_string())?;
    answer.expect_header("Docker-Content-Digest", digest)
}

/// Whether a descriptor says all that is expected of it.
fn describes(seen: &Value, expected: &Value) -> bool {
    let is_same = ["mediaType", "digest", "size", "artifactType"].iter().all(|field| seen.get(field) == expected.get(field));
    let mut annotations = expected["annotations"].as_object().into_iter().flatten();
    is_same && annotations.all(|(name, value)| seen["annotations"].get(name) == Some(value))
}
