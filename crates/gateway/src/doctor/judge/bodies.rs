//! Bodies, both ways: limits, framing, buffering, compression and time.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::super::answer::Answer;
use super::super::client::{Exchange, Failure};
use super::super::front;
use super::super::observe::{Details, Limit, PAUSE, Slow};
use super::{Fault, Verdict, report_of};
use crate::probe::{DOWNLOAD_BYTES_MAX, End, Noise, hex};

pub(super) fn judge(details: &Details) -> Vec<Verdict> {
    let mut verdicts = judge_limit(details);
    verdicts.extend(judge_expect(&details.announced));
    verdicts.push(judge_chunked(&details.chunked, details.limit.is_some()));
    verdicts.push(judge_request_buffering(&details.paused));
    verdicts.push(judge_answer_buffering(&details.halves));
    verdicts.extend(judge_download(details));
    if let Some(Slow { pause_s, upload, answer }) = &details.slow {
        verdicts.push(judge_slow(&format!("an upload that pauses for {pause_s} s"), upload));
        verdicts.push(judge_slow(&format!("an answer that takes {pause_s} s"), answer));
    }
    verdicts
}

fn judge_limit(details: &Details) -> Vec<Verdict> {
    const CHECK: &str = "body size";
    if let Some(limit) = &details.limit {
        let said = format!(
            "request bodies are limited to {}: {} answers 413 to longer ones, and layers are longer",
            size(limit),
            front::name(&limit.answer)
        );
        return vec![Verdict::wrong(CHECK, Fault::BodyLimit, said)];
    }
    match &details.upload.answer {
        Ok(Answer { report: Some(report), .. }) => {
            let arrived = (report.body.bytes, report.body.sha256.clone());
            if report.body.end == End::Whole && details.upload.sent.as_ref() == Some(&arrived) {
                return vec![Verdict::fine(CHECK, format!("{} arrive whole; no limit below 100 GiB is announced", mib(report.body.bytes)))];
            }
            let said = format!("a body arrives changed, or not whole: {} bytes of {:?}", report.body.bytes, details.upload.sent);
            vec![Verdict::wrong(CHECK, Fault::BodyChanged, said)]
        }
        Ok(answer) if answer.status == 413 => {
            vec![Verdict::wrong(CHECK, Fault::BodyLimit, format!("{} refuses the body that was sent (413)", front::name(answer)))]
        }
        Ok(answer) => {
            let said = format!("{} answers {} to an upload", front::name(answer), answer.status);
            vec![Verdict::wrong(CHECK, Fault::BodyLimit, said)]
        }
        Err(failure) => vec![Verdict::wrong(CHECK, Fault::BodyLimit, format!("an upload {}", ended(failure)))],
    }
}

fn size(limit: &Limit) -> String {
    if limit.fails == limit.passes + 1 {
        binary(limit.passes)
    } else {
        format!("something between {} and {}", binary(limit.passes), binary(limit.fails))
    }
}

/// As people write limits.
fn binary(bytes: u64) -> String {
    match bytes {
        0 => "nothing".to_owned(),
        bytes if bytes % (1 << 30) == 0 => format!("{} GiB", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        bytes if bytes % 1_000_000 == 0 => format!("{} MB", bytes / 1_000_000),
        bytes => format!("{bytes} bytes"),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn ended(failure: &Failure) -> &'static str {
    match failure {
        Failure::Silence => "is not answered in time",
        Failure::Malformed => "is answered with something that is no HTTP",
        Failure::Closed | Failure::Connect(_) | Failure::Tls(_) => "is cut off without an answer",
    }
}

fn judge_expect(announced: &Exchange) -> Option<Verdict> {
    const CHECK: &str = "expect";
    match &announced.answer {
        Ok(answer) if answer.status == 417 => {
            let said = format!("{} answers 417 to Expect: 100-continue: clients that announce an upload fail", front::name(answer));
            Some(Verdict::wrong(CHECK, Fault::Expect, said))
        }
        Err(Failure::Silence) => Some(Verdict::costly(
            CHECK,
            Fault::Expect,
            "nobody answers Expect: 100-continue: clients that announce an upload wait for a second before each",
        )),
        _ => None,
    }
}

fn judge_chunked(chunked: &Exchange, is_limited: bool) -> Verdict {
    const CHECK: &str = "chunked";
    match &chunked.answer {
        Ok(Answer { report: Some(report), .. }) => {
            let arrived = (report.body.bytes, report.body.sha256.clone());
            if report.body.end == End::Whole && chunked.sent.as_ref() == Some(&arrived) {
                return Verdict::fine(CHECK, format!("{} in chunks arrive whole", mib(report.body.bytes)));
            }
            Verdict::wrong(CHECK, Fault::BodyChanged, format!("a chunked body arrives changed, or not whole: {} bytes", report.body.bytes))
        }
        Ok(answer) if answer.status == 413 => {
            let said = format!("{} answers 413 to a chunked body too", front::name(answer));
            Verdict::wrong(CHECK, Fault::BodyLimit, said)
        }
        Ok(answer) => {
            let said = format!("{} answers {} to a chunked body, as docker sends its layers", front::name(answer), answer.status);
            Verdict::wrong(CHECK, Fault::Chunked, said)
        }
        // It is cut off because it is too long.
        Err(failure) if is_limited => Verdict::wrong(CHECK, Fault::BodyLimit, format!("a chunked body {}", ended(failure))),
        Err(failure) => Verdict::wrong(CHECK, Fault::Chunked, format!("a chunked body {}", ended(failure))),
    }
}

/// The second half of the body left after a pause: whoever keeps bodies hands both on at once.
fn judge_request_buffering(paused: &Exchange) -> Verdict {
    const CHECK: &str = "upload";
    let Some(report) = report_of(paused) else {
        return Verdict::wrong(CHECK, Fault::Chunked, "a chunked body with a pause in it does not arrive");
    };
    let arrived = Duration::from_millis(report.body.last_ms.unwrap_or(0));
    if arrived >= PAUSE / 2 {
        return Verdict::fine(CHECK, "bodies are passed on as they come");
    }
    let said = "bodies are kept until they have ended, and only then passed on: each layer is written to the hop's disk first, and a long one runs into time limits";
    Verdict::costly(CHECK, Fault::RequestBuffered, said)
}

fn judge_answer_buffering(halves: &Exchange) -> Verdict {
    const CHECK: &str = "download";
    match &halves.answer {
        Ok(answer) if answer.is_gateways() && answer.body_took >= PAUSE / 2 => Verdict::fine(CHECK, "answers are passed on as they come"),
        Ok(answer) if answer.is_gateways() => {
            let said = "answers are kept and passed on in larger pieces: big layers are written to the hop's disk";
            Verdict::costly(CHECK, Fault::AnswerBuffered, said)
        }
        _ => Verdict::wrong(CHECK, Fault::AnswerChanged, "an answer that takes a while does not come whole"),
    }
}

fn judge_download(details: &Details) -> Vec<Verdict> {
    const CHECK: &str = "answer";
    let mut verdicts = Vec::new();
    let mut noise = vec![0; usize::try_from(DOWNLOAD_BYTES_MAX).unwrap_or_default()];
    Noise::default().fill(&mut noise);
    match &details.plain.answer {
        Ok(answer) if answer.header("content-encoding").is_some_and(|encoding| encoding != "identity") => {
            verdicts.push(Verdict::wrong(CHECK, Fault::Compressed, "answers are compressed although the client asks for none"));
        }
        Ok(answer) if !answer.is_gateways() || answer.body_sha256 != hex(&Sha256::digest(&noise)) => {
            verdicts.push(Verdict::wrong(CHECK, Fault::AnswerChanged, "a download does not come back as the gateway sent it"));
        }
        Ok(answer) if answer.header("content-length").is_none() => {
            let said = "answers lose their Content-Length: clients cannot tell a whole layer from half of one, and show no progress";
            verdicts.push(Verdict::wrong(CHECK, Fault::AnswerChanged, said));
        }
        Ok(_) => {}
        Err(failure) => verdicts.push(Verdict::wrong(CHECK, Fault::AnswerChanged, format!("a download {}", ended(failure)))),
    }
    let is_packed = |exchange: &Exchange| exchange.answer.as_ref().is_ok_and(|answer| answer.header("content-encoding").is_some());
    if is_packed(&details.packed_layer) {
        let said = "layers are compressed once more on their way: they lose Content-Length and Range, and old docker clients fail with \"unexpected EOF\"";
        verdicts.push(Verdict::wrong(CHECK, Fault::Compressed, said));
    } else if is_packed(&details.packed_json) {
        verdicts.push(Verdict::costly(CHECK, Fault::Compressed, "JSON is compressed on its way: manifests lose their Content-Length"));
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::fine(CHECK, "downloads come back byte for byte, with their length"));
    }
    verdicts
}

fn judge_slow(what: &str, exchange: &Exchange) -> Verdict {
    const CHECK: &str = "idle time";
    match &exchange.answer {
        Ok(Answer { report: Some(report), .. }) if report.body.end == End::Whole => Verdict::fine(CHECK, format!("{what} comes through")),
        Ok(answer) => {
            let who = if answer.is_gateways() { "something".to_owned() } else { front::name(answer) };
            let said = format!("{what} is given up by {who} ({}) after {} s", answer.status, exchange.took.as_secs());
            Verdict::wrong(CHECK, Fault::Idle, said)
        }
        Err(failure) => Verdict::wrong(CHECK, Fault::Idle, format!("{what} {} after {} s", ended(failure), exchange.took.as_secs())),
    }
}
