use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::{Instant, SystemTime};

use http::Version;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn entry<'a>() -> Entry<'a> {
    Entry {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(971_186_136_042),
        client: Some("192.0.2.7".parse().unwrap()),
        method: "GET",
        target: b"/v2/team/app/manifests/1?token=abc&n=1",
        version: Version::HTTP_11,
        status: 200,
        bytes_in: 0,
        bytes_out: 1234,
        duration: Duration::from_micros(12_345),
        backend_head: Some(Duration::from_micros(1_500)),
        binding: "0.0.0.0:443/a.example",
        repository: Some("docker-local"),
        host: b"a.example",
        user_agent: b"docker/27.0",
        referer: b"",
        request_id: "0123456789abcdef",
        backend: Some("/run/berth/backend.sock"),
        tls: Some(("TLSv1.3", "TLS13_AES_128_GCM_SHA256")),
        refusal: None,
    }
}

#[test]
fn each_format_says_what_it_should() {
    let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
    assert_eq!(
        text(line::combined(&entry())),
        "192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] \"GET /v2/team/app/manifests/1?token=***&n=1 HTTP/1.1\" 200 1234 \"-\" \"docker/27.0\"\n"
    );
    assert_eq!(
        text(line::json(&entry())),
        concat!(
            r#"{"time":"2000-10-10T13:55:36.042Z","client":"192.0.2.7","method":"GET","path":"/v2/team/app/manifests/1","protocol":"HTTP/1.1","#,
            r#""status":200,"bytes_in":0,"bytes_out":1234,"duration_ms":12.345,"backend_ms":1.5,"binding":"0.0.0.0:443/a.example","#,
            r#""repository":"docker-local","host":"a.example","user_agent":"docker/27.0","request_id":"0123456789abcdef","#,
            r#""backend":"/run/berth/backend.sock","tls_version":"TLSv1.3","tls_cipher":"TLS13_AES_128_GCM_SHA256"}"#,
            "\n"
        )
    );
    assert_eq!(
        text(line::text(&Entry { refusal: Some("unknown_host"), repository: None, ..entry() })),
        concat!(
            r#"2000-10-10T13:55:36.042Z method=GET path="/v2/team/app/manifests/1" status=200 body.bytes_in=0 body.bytes_out=1234 elapsed_ms=12 "#,
            r#"binding="0.0.0.0:443/a.example" host="a.example" client.address=192.0.2.7 request.id="0123456789abcdef" refusal=unknown_host"#,
            "\n"
        )
    );
}

/// What NGINX wrote down, read back.
fn unescape(field: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let [first, tail @ ..] = rest {
        if let [b'\\', b'x', high, low, after @ ..] = rest {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&[*high, *low]).unwrap(), 16).unwrap());
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

proptest! {
    #[test]
    fn any_bytes_make_one_line(target: Vec<u8>, user_agent: Vec<u8>, host: Vec<u8>, referer: Vec<u8>) {
        let entry = Entry { target: &target, user_agent: &user_agent, host: &host, referer: &referer, ..entry() };
        for line in [line::json(&entry), line::combined(&entry), line::text(&entry)] {
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(line.last(), Some(&b'\n'));
        }
        let json: Value = serde_json::from_slice(&line::json(&entry)).unwrap();
        prop_assert_eq!(json["user_agent"].as_str().unwrap(), &*String::from_utf8_lossy(&user_agent));

        let combined = String::from_utf8(line::combined(&entry)).unwrap();
        prop_assert!(combined.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "{combined:?}");
        // Quotes within a field are escaped, so they part the line.
        let parts: Vec<&str> = combined.split('"').collect();
        prop_assert_eq!(parts.len(), 7);
        prop_assert!(parts[1].starts_with("GET ") && parts[1].ends_with(" HTTP/1.1"));
        let agent = if user_agent.is_empty() { b"-".to_vec() } else { user_agent.clone() };
        prop_assert_eq!(unescape(parts[5]), agent);
    }

    #[test]
    fn a_secret_is_in_no_line(name in "[a-z_]{1,12}", place in 0..4_usize) {
        let secret = "S3CRETS3CRET";
        prop_assume!(!["n", "q"].contains(&name.as_str()) && ![
            "last", "digest", "mount", "from", "ns", "service", "scope", "page", "limit", "offset", "order", "sort", "tag",
        ].contains(&name.as_str()));
        let target = match place {
            0 => format!("/v2/?{name}={secret}"),
            1 => format!("/v2/?n=1&{name}={secret}&last=a"),
            2 => format!("http://{name}:{secret}@a/v2/"),
            _ => format!("/v2/#{name}={secret}"),
        };
        let referer = format!("https://a.example{}", if place == 2 { "/" } else { &target });
        let entry = Entry { target: target.as_bytes(), referer: referer.as_bytes(), ..entry() };
        for line in [line::json(&entry), line::combined(&entry), line::text(&entry)] {
            prop_assert!(!String::from_utf8(line).unwrap().contains(secret));
        }
    }
}

#[test]
fn a_field_has_a_bound() {
    let long = vec![b'a'; 1 << 20];
    let entry = Entry { target: &long, user_agent: &long, host: &long, referer: &long, ..entry() };
    for line in [line::json(&entry), line::combined(&entry), line::text(&entry)] {
        assert!(line.len() < 10_000, "{}", line.len());
    }
}

fn open(settings: Settings) -> (AccessLog, Arc<Counter>) {
    let dropped = Arc::<Counter>::default();
    (AccessLog::open(settings, Arc::clone(&dropped)).unwrap(), dropped)
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, dropped) = open(Settings { format: Format::Json, path: Some(path.clone()) });
    log.log(&Entry { status: 201, ..entry() });
    log.flush(Duration::from_secs(5));
    fs::rename(&path, directory.path().join("access.log.1")).unwrap();
    log.log(&Entry { status: 202, ..entry() });
    log.flush(Duration::from_secs(5));
    log.reopen();
    log.log(&Entry { status: 203, ..entry() });
    log.flush(Duration::from_secs(5));
    let statuses = |path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(directory.path().join("access.log.1")), [201, 202]);
    assert_eq!(statuses(path), [203]);
    assert_eq!(dropped.get(), 0);
}

/// A pipe that nobody reads stands for a disk that does not answer.
#[test]
fn a_log_that_stands_still_holds_nobody_up() {
    const LINES: u64 = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Open on both sides, so that opening does not wait for the other one.
    let reader = fs::File::options().read(true).write(true).open(&path).unwrap();
    let (log, dropped) = open(Settings { format: Format::Combined, path: Some(path) });
    let begun = Instant::now();
    for _ in 0..LINES {
        log.log(&entry());
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let lost = dropped.get();
    assert!(lost > LINES / 4 && lost < LINES, "{lost}");

    // What was not dropped comes, whole.
    let expected = LINES - lost;
    let reading = std::thread::spawn(move || {
        let mut lines = BufReader::new(reader).lines();
        (0..expected).filter(|_| lines.next().unwrap().unwrap().ends_with("\"docker/27.0\"")).count() as u64
    });
    log.flush(Duration::from_secs(10));
    assert_eq!(reading.join().unwrap(), expected);
    assert_eq!(dropped.get(), lost);
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let (log, dropped) = open(Settings { format: Format::Combined, path: Some("/dev/full".into()) });
    for _ in 0..3 {
        log.log(&entry());
    }
    log.flush(Duration::from_secs(5));
    assert_eq!(dropped.get(), 3);
}

#[test]
fn a_file_that_cannot_be_had_is_said_at_once() {
    let settings = Settings { format: Format::Json, path: Some("/nowhere/access.log".into()) };
    assert_eq!(AccessLog::open(settings, Arc::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_dropped_log_writes_what_is_queued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, _) = open(Settings { format: Format::Text, path: Some(path.clone()) });
    for _ in 0..100 {
        log.log(&entry());
    }
    drop(log);
    let end = Instant::now() + Duration::from_secs(5);
    let mut text = String::new();
    while text.lines().count() < 100 && Instant::now() < end {
        text.clear();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    }
    assert_eq!(text.lines().count(), 100);
}
