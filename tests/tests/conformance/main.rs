//! What the public conformance suite of the OCI distribution specification asks of a registry, asked of both services as it
//! asks: its order of requests, its tokens, which it keeps and shows again, and its judgement of every answer.
//!
//! It is set as the suite is without further words (version 1.1), and two of its newer demands are made as well: a digest
//! beside all content, and uploads that can be cancelled.

mod asking;
mod blobs;
mod content;
mod manifests;

use asking::Asker;
use e2e::{Random, Registry};

/// The images that the suite uses if it is not told others.
const FIRST: &str = "conformance/repo1";
const SECOND: &str = "conformance/repo2";

/// Why an answer is not what it should be.
#[derive(Debug)]
pub enum Trouble {
    /// The protocol is broken.
    Failed(String),
    /// The protocol allows to leave this out, and the registry does.
    LeftOut(String),
}

/// How something went.
pub type Outcome = Result<(), Trouble>;

/// The suite's own way of counting: each thing that is tried is one.
#[derive(Default)]
struct Report {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

/// The suite, in the middle of its work.
pub struct Suite {
    asker: Asker,
    random: Random,
    /// What is being done, for a person who reads what failed.
    place: String,
    report: Report,
}

impl Suite {
    fn note(&mut self, what: &str, outcome: &Outcome) {
        let place = &self.place;
        match outcome {
            Ok(()) => self.report.passed += 1,
            Err(Trouble::Failed(why)) => self.report.failed.push(format!("{place}: {what}: {why}")),
            Err(Trouble::LeftOut(why)) => self.report.skipped.push(format!("{place}: {what}: {why}")),
        }
    }

    /// Before anything is there.
    fn empty(&mut self) {
        "nothing".clone_into(&mut self.place);
        let base = self.asker.get("/v2/").expect(&[200]);
        self.note("the base", &base);
        let tags = self.asker.get(&format!("/v2/{FIRST}/tags/list")).expect(&[200, 404]);
        self.note("tags of what is not there", &tags);
        let subject = format!("sha256:{}", e2e::hex(&self.random.bytes(32)));
        let referrers = self.referrers(FIRST, &subject, None).map(drop);
        self.note("referrers to what is not there", &referrers);
    }
}

fn failed(why: impl Into<String>) -> Trouble {
    Trouble::Failed(why.into())
}

#[test]
fn what_the_public_suite_demands_is_answered_as_it_demands() {
    let registry = Registry::start();
    let asker = Asker::new(registry.client(registry.first), registry.first);
    let mut suite = Suite { asker, random: Random(0x0c1), place: String::new(), report: Report::default() };
    suite.empty();
    for algorithm in content::ALGORITHMS {
        suite.blobs(algorithm);
    }
    for content in content::all(&mut suite.random) {
        suite.content(&content);
    }
    suite.mistakes();
    let Report { passed, failed, skipped } = suite.report;
    println!("{passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    assert!(failed.is_empty(), "{passed} passed, {} failed:\n{}", failed.len(), failed.join("\n"));
    assert!(skipped.is_empty(), "{} skipped:\n{}", skipped.len(), skipped.join("\n"));
    assert!(passed > 850, "only {passed} were tried");
}
