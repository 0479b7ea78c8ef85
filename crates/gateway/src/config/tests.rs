//! Configurations, good and bad, and what is said about them.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::upstream::Address;

const UPSTREAM: &str = "[upstream]\nunix = \"backend.sock\"\n";

/// A directory with certificates `a.pem` and `b.pem`, and their keys `a.key` and `b.key`.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec![format!("{name}.example")]).unwrap();
        fs::write(directory.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(directory.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    directory
}

fn parse(bindings: &str) -> Result<Config, Vec<String>> {
    let directory = directory();
    let text = format!("{UPSTREAM}{bindings}");
    let short = |problem: Problem| {
        format!("{}:{}: {}", problem.line, problem.column, problem.message.replace(&format!("{}/", directory.path().display()), ""))
    };
    Config::parse(&text, directory.path()).map_err(|problems| problems.into_iter().map(short).collect())
}

fn problems(bindings: &str) -> Vec<String> {
    parse(bindings).err().unwrap_or_default()
}

fn tls(listen: &str, server_name: &str, certificate: &str) -> String {
    let server_name = if server_name.is_empty() { String::new() } else { format!("server_name = \"{server_name}\"\n") };
    format!(
        "[[binding]]\nlisten = \"{listen}\"\nrepository = \"r\"\n{server_name}certificate = \"{certificate}.pem\"\nkey = \"{certificate}.key\"\n"
    )
}

fn plain(listen: &str) -> String {
    format!("[[binding]]\nlisten = \"{listen}\"\nrepository = \"r\"\nplain_http = true\n")
}

#[test]
fn bindings_are_grouped_by_address() {
    let config = parse(
        &[tls("0.0.0.0:443", "a.example", "a"), plain("0.0.0.0:80"), tls("0.0.0.0:443", "b.example", "b"), tls("0.0.0.0:443", "", "a")]
            .concat(),
    )
    .unwrap();
    assert_eq!(config.bindings, 4);
    let addresses: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| (listener.address.to_string(), listener.bindings.iter().all(|binding| binding.tls.is_some())))
        .collect();
    assert_eq!(addresses, [("0.0.0.0:443".to_owned(), true), ("0.0.0.0:80".to_owned(), false)]);
}

#[test]
fn paths_are_relative_to_the_file() {
    let servers = parse(&plain("127.0.0.1:1")).unwrap().servers;
    let [Server { address: Address::Unix(socket), tls: None }] = &servers[..] else { panic!("a Unix socket: {servers:?}") };
    assert!(socket.is_absolute() && socket.ends_with("backend.sock"));
    let config = Config::parse(&format!("[upstream]\nunix = \"run/b.sock\"\n{}", plain("127.0.0.1:1")), Path::new("")).unwrap();
    assert_eq!(config.servers[0].address, Address::Unix("run/b.sock".into()));
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_the_likely_one() {
    let [problem] = &problems("[[binding]]\nlisten = \"127.0.0.1:1\"\nrepository = \"r\"\n  servername = \"a\"\n")[..] else {
        panic!("one problem")
    };
    assert!(problem.starts_with("6:3: unknown field `servername`"), "{problem}");
    assert!(problem.ends_with("did you mean `server_name`?"), "{problem}");
}

#[test]
fn values_are_checked_where_they_stand() {
    for (field, value, place, says) in [
        ("listen", "\"443\"", "4:10", "write an IP address and a port"),
        ("listen", "\"localhost:443\"", "4:10", "write an IP address and a port"),
        ("listen", "443", "4:10", "invalid type: integer"),
        ("repository", "\"a/b\"", "4:14", "a repository key has"),
        ("server_name", "\"a.example:443\"", "4:15", "has a port"),
        ("server_name", "\"*\"", "4:15", "is no server name"),
        ("server_name", "\"a.*.example\"", "4:15", "stands for the first label alone"),
        ("allow", "[\"10.1.2.3/8\"]", "4:9", "a network like"),
        ("plain_http", "1", "4:14", "expected a boolean"),
        ("key", "", "4:7", "must be quoted"),
    ] {
        let [problem] = &problems(&format!("[[binding]]\n{field} = {value}\n"))[..] else { panic!("one problem: {field} {value}") };
        assert!(problem.starts_with(place) && problem.contains(says), "{field} = {value}: {problem}");
    }
}

#[test]
fn what_a_start_would_stumble_over_is_found_before() {
    let binding = plain("127.0.0.1:7000");
    for (table, expected) in [
        ("[access_log]\npath = \"logs/access.log\"\n", "8:8: there is no directory logs"),
        ("[access_log]\npath = \"/\"\n", "8:8: / is a directory"),
        ("[metrics]\nlisten = \"127.0.0.1:7000\"\n", "8:10: 127.0.0.1:7000 is the address of a binding: metrics have one of their own"),
    ] {
        assert_eq!(problems(&format!("{binding}{table}")), [expected]);
    }
    assert_eq!(problems(&format!("{binding}[access_log]\npath = \"access.log\"\n[metrics]\nlisten = \"127.0.0.1:7001\"\n")), [""; 0]);
}

#[test]
fn the_backend_has_one_address() {
    for (upstream, says) in [
        ("[upstream]\n", "where is the backend?"),
        ("[upstream]\nunix = \"a\"\ntcp = \"127.0.0.1:1\"\n", "either `unix` or `tcp`"),
        ("[upstream]\ntcp = \"backend:8081\"\n", "write an IP address and a port"),
        ("[upstream]\nsocket = \"a\"\n", "unknown field `socket`"),
        ("[upstream]\nunix = \"a\"\n[[upstream.server]]\nunix = \"b\"\n", "every backend has its address there"),
        ("[[upstream.server]]\nunix = \"b\"\n[[upstream.server]]\nunix = \"b\"\n", "b is named twice"),
        ("[[upstream.server]]\ntcp = \"127.0.0.1:1\"\ntls = true\n", "`tls = true` needs `ca`"),
        ("[[upstream.server]]\nunix = \"b\"\ntls = true\nca = \"a\"\n", "a Unix socket needs no TLS"),
        ("[[upstream.server]]\ntcp = \"127.0.0.1:1\"\nca = \"a\"\n", "belong to `tls = true`"),
        ("", "missing field `upstream`"),
    ] {
        let problems = Config::parse(&format!("{upstream}{}", plain("127.0.0.1:1")), Path::new("")).unwrap_err();
        assert!(problems[0].message.contains(says), "{problems:?}");
    }
    let long = format!("[upstream]\nunix = \"{}\"\n{}", "a".repeat(108), plain("127.0.0.1:1"));
    assert!(Config::parse(&long, Path::new("")).unwrap_err()[0].message.contains("107 bytes"));
}

#[test]
fn traces_go_to_a_collector_or_nowhere() {
    let traces =
        |table: &str| Config::parse(&format!("{UPSTREAM}{table}{}", plain("127.0.0.1:1")), Path::new("")).map(|config| config.traces);
    assert_eq!(traces("").unwrap(), None);
    let settings = traces("[traces]\notlp = \"http://127.0.0.1:4318/\"\nratio = 0.5\n").unwrap().unwrap();
    assert_eq!((settings.otlp.to_string(), f64::from(settings.ratio)), ("http://127.0.0.1:4318".to_owned(), 0.5));
    for (table, line, column, says) in [
        ("[traces]\n", 3, 1, "missing field `otlp`"),
        ("[traces]\noltp = \"http://a\"\n", 4, 1, "did you mean `otlp`?"),
        ("[traces]\notlp = \"a:4318\"\n", 4, 8, "for instance \"http://127.0.0.1:4318\""),
        ("[traces]\notlp = \"https://a\"\n", 4, 8, "write http://"),
        ("[traces]\notlp = \"http://a\"\nratio = 2\n", 5, 9, "write a number from 0 to 1"),
    ] {
        let [problem] = &traces(table).unwrap_err()[..] else { panic!("one problem: {table}") };
        assert!((problem.line, problem.column) == (line, column) && problem.message.contains(says), "{table}: {problem:?}");
    }
}

#[test]
fn contradictions_between_bindings_are_found() {
    for (bindings, expected) in [
        (String::new(), "1:1: nothing is bound"),
        (tls("0.0.0.0:443", "", "a") + &tls("0.0.0.0:443", "", "b"), "9:10: 0.0.0.0:443 is bound already"),
        (
            tls("0.0.0.0:443", "a.example", "a") + &tls("0.0.0.0:443", "A.Example", "b"),
            "12:15: 0.0.0.0:443 is bound to server_name \"a.example\" already",
        ),
        (
            tls("0.0.0.0:443", "a.example", "a") + &plain("0.0.0.0:443"),
            "10:10: 0.0.0.0:443 has a binding with TLS and one with `plain_http`",
        ),
        (plain("0.0.0.0:80") + &tls("0.0.0.0:80", "a.example", "a"), "8:10: 0.0.0.0:80 has a binding with TLS"),
        (plain("0.0.0.0:80") + &plain("127.0.0.1:80"), "8:10: 127.0.0.1:80 overlaps with 0.0.0.0:80"),
        (tls("[::1]:443", "", "a") + &tls("[::]:443", "", "a"), "9:10: [::]:443 overlaps with [::1]:443"),
    ] {
        let problems = problems(&bindings);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{expected}: {problems:?}");
    }
    // IPv6 sockets take IPv6 only, so both wildcards stand beside each other.
    assert_eq!(problems(&(plain("0.0.0.0:80") + &plain("[::]:80") + &plain("127.0.0.1:81"))), [""; 0]);
}

#[test]
fn a_binding_has_a_certificate_and_its_key_or_speaks_plain_http() {
    let binding = |rest: &str| format!("[[binding]]\nlisten = \"127.0.0.1:1\"\nrepository = \"r\"\n{rest}");
    for (rest, expected) in [
        ("", "3:1: a binding needs `certificate` and `key`, or `plain_http = true`"),
        ("certificate = \"a.pem\"\n", "6:15: `certificate` needs `key`"),
        ("key = \"a.key\"\n", "6:7: `key` needs `certificate`"),
        ("plain_http = true\ncertificate = \"a.pem\"\nkey = \"a.key\"\n", "7:15: `plain_http = true` has no certificate"),
        ("plain_http = true\nkey = \"a.key\"\n", "7:7: `plain_http = true` has no certificate"),
        ("certificate = \"none.pem\"\nkey = \"a.key\"\n", "6:15: certificate \"none.pem\" cannot be read: No such file"),
        ("certificate = \"a.pem\"\nkey = \"none.key\"\n", "7:7: private key \"none.key\" cannot be read: No such file"),
        ("certificate = \"a.key\"\nkey = \"a.key\"\n", "6:15: \"a.key\" holds no PEM certificate"),
        ("certificate = \"a.pem\"\nkey = \"a.pem\"\n", "7:7: \"a.pem\" holds no PEM private key"),
        ("certificate = \"a.pem\"\nkey = \"b.key\"\n", "7:7: certificate \"a.pem\" and private key \"b.key\" cannot be used together"),
    ] {
        let problems = problems(&binding(rest));
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{expected}: {problems:?}");
    }
}

#[test]
fn all_problems_are_listed_in_the_order_of_the_file() {
    let problems = problems(&(tls("0.0.0.0:443", "", "none") + &plain("0.0.0.0:80") + &plain("0.0.0.0:80")));
    assert_eq!(problems.len(), 2);
    assert!(problems[0].starts_with("6:15") && problems[1].starts_with("13:10"), "{problems:?}");
}

#[test]
fn an_error_reads_like_a_compilers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    fs::write(&path, "[upstream\n").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().starts_with(&format!("{}:1:", path.display())));
    let missing = directory.path().join("none.toml");
    assert!(Config::load(&missing).unwrap_err().to_string().contains("No such file"));
}

fn bound(what: &str) -> Vec<String> {
    problems(&format!("[[binding]]\nlisten = \"127.0.0.1:80\"\nplain_http = true\n{what}"))
}

#[test]
fn a_binding_makes_one_thing_reachable() {
    for (what, expected) in [
        ("repository = \"r\"\n", None),
        ("console = true\n", None),
        ("repository_from = \"path\"\n", None),
        ("repository_from = \"host\"\nserver_name = \"*.d.example\"\n", None),
        ("redirect = \"https://r.example\"\n", None),
        ("repository = \"r\"\nredirect = \"https://r.example:444/\"\n", None),
        ("", Some("3:1: a binding needs `repository`, `repository_from`, or `console = true`")),
        ("repository = \"r\"\nconsole = true\n", Some("3:1: a binding has one of `repository`, `repository_from`")),
        ("repository = \"r\"\nrepository_from = \"path\"\n", Some("3:1: a binding has one of")),
        ("repository_from = \"host\"\n", Some("6:19: `repository_from = \"host\"` needs a `server_name` like \"*.")),
        ("repository_from = \"host\"\nserver_name = \"d.example\"\n", Some("6:19: `repository_from = \"host\"` needs")),
        ("repository_from = \"query\"\n", Some("6:19: unknown variant `query`")),
        ("console = true\nredirect = \"https://r.example\"\n", Some("7:12: a console on plain HTTP")),
        ("repository = \"r\"\nredirect = \"r.example\"\n", Some("7:12: \"r.example\" is no address")),
    ] {
        let problems = bound(what);
        match expected {
            None => assert_eq!(problems, [""; 0], "{what}"),
            Some(expected) => assert!(problems.len() == 1 && problems[0].starts_with(expected), "{what}: {problems:?}"),
        }
    }
}

#[test]
fn what_clients_connect_to_is_said_once() {
    for (what, expected) in [
        ("public_port = 444\n", None),
        ("public_url = \"https://r.example\"\n", None),
        ("public_port = 0\n", Some("7:15: `public_port` is from 1 to 65535")),
        ("public_port = 70000\n", Some("7:15: invalid value")),
        ("public_url = \"https://r.example\"\npublic_port = 444\n", Some("8:15: `public_url` has the port already")),
        ("public_url = \"https://r.example/v2\"\n", Some("7:14: \"https://r.example/v2\" is no address")),
    ] {
        let problems = bound(&format!("repository = \"r\"\n{what}"));
        match expected {
            None => assert_eq!(problems, [""; 0], "{what}"),
            Some(expected) => assert!(problems.len() == 1 && problems[0].starts_with(expected), "{what}: {problems:?}"),
        }
    }
}

#[test]
fn limits_of_the_file_are_those_of_a_binding_that_says_nothing_else() {
    let text = "[upstream]\ntcp = \"127.0.0.1:1\"\n[limits]\nrequests_per_second_per_client = 5\nbody_idle_timeout_s = 7\n\
                [[binding]]\nlisten = \"127.0.0.1:80\"\nplain_http = true\nrepository = \"a\"\n\
                [[binding]]\nlisten = \"127.0.0.1:81\"\nplain_http = true\nrepository = \"b\"\n\
                [binding.limits]\nrequests_per_second_per_client = 0\nconnections_per_client = 9\n";
    let config = Config::parse(text, Path::new("")).unwrap();
    let limits: Vec<_> = config
        .listeners
        .iter()
        .flat_map(|listener| listener.bindings.iter())
        .map(|binding| &binding.limits)
        .map(|limits| (limits.requests_per_second_per_client, limits.connections_per_client, limits.body_idle_timeout.as_secs()))
        .collect();
    assert_eq!(limits, [(Some(5), None, 7), (None, Some(9), 7)]);
    for (limit, expected) in [
        ("header_bytes = 100", "`header_bytes` is from 1024 to 32768"),
        ("header_fields = 1000", "`header_fields` is from 10 to 90"),
        ("header_timeout_s = 0", "`header_timeout_s` is from 1 to 3600 seconds"),
        ("conections = 5", "did you mean `connections`?"),
    ] {
        let problems = bound(&format!("repository = \"r\"\n[binding.limits]\n{limit}\n"));
        assert!(problems.len() == 1 && problems[0].starts_with("8:") && problems[0].contains(expected), "{limit}: {problems:?}");
    }
}

#[test]
fn places_have_bounds_and_defaults_that_no_client_can_use_up() {
    let places = |text: &str| parse(&format!("{text}{}", plain("127.0.0.1:80"))).map(|config| config.places);
    assert_eq!(places("").unwrap(), Places::default());
    assert_eq!(places("[places]\nconnections = 1000\nrequests_per_client = 7\n").unwrap().requests_per_client(), 7);
    assert_eq!(places("[places]\nconnections = 1000\n").unwrap().bounds().per_client, 500);
    for (field, expected) in [
        ("connections = 10", "4:15: `connections` is from 64 to 1048576"),
        ("bodies_per_client = 0", "4:21: `bodies_per_client` is from 1 to 16384"),
        ("requests_per_client = 20000", "4:23: `requests_per_client` is from 1 to 16384"),
        ("conections = 5", "4:1: unknown field `conections`"),
    ] {
        let problems = places(&format!("[places]\n{field}\n")).unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{field}: {problems:?}");
    }
}

#[test]
fn a_backend_has_a_minute_for_the_first_byte_unless_the_file_says_otherwise() {
    let first_byte = |line: &str| parse(&format!("{line}{}", plain("127.0.0.1:80"))).map(|config| config.first_byte.as_secs());
    assert_eq!(first_byte(""), Ok(60));
    assert_eq!(first_byte("first_byte_timeout_s = 5\n"), Ok(5));
    assert_eq!(first_byte("first_byte_timeout_s = 0\n"), Err(vec!["3:24: `first_byte_timeout_s` is from 1 to 3600 seconds".to_owned()]));
}

#[test]
fn a_proxy_protocol_needs_somebody_to_believe() {
    let binding = format!("{}proxy_protocol = true\n", plain("127.0.0.1:80"));
    assert!(problems(&binding)[0].starts_with("3:1: `proxy_protocol` needs `trusted_proxies`"));
    let text = |bindings: &str| format!("trusted_proxies = [\"10.0.0.0/8\"]\n{UPSTREAM}{bindings}");
    assert!(Config::parse(&text(&binding), Path::new("")).is_ok());
    let mixed = format!("{binding}{}server_name = \"a.example\"\n", plain("127.0.0.1:80"));
    let problems = Config::parse(&text(&mixed), Path::new("")).unwrap_err();
    assert!(problems[0].message.contains("with `proxy_protocol` and one without"), "{problems:?}");
}

#[test]
fn every_file_that_was_read_is_known() {
    let directory = directory();
    let path = directory.path().join("gateway.toml");
    fs::write(&path, format!("{UPSTREAM}{}client_ca = \"b.pem\"\n", tls("127.0.0.1:443", "", "a"))).unwrap();
    let config = Config::load(&path).unwrap();
    let names: Vec<_> = config.files.keys().filter_map(|file| file.file_name()?.to_str()).collect();
    assert_eq!(names, ["a.key", "a.pem", "b.pem", "gateway.toml"]);
}

#[test]
fn a_thousand_bindings_are_read_in_a_moment() {
    let bindings: String = (0..1000).map(|n| tls(&format!("127.0.0.1:{}", 10_000 + n), "", "a")).collect();
    let began = std::time::Instant::now();
    assert_eq!(parse(&bindings).unwrap().listeners.len(), 1000);
    // Not a measurement: it would take minutes if each were compared with each.
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
