//! What noting a request costs: nanoseconds per request, on one thread and on all.
//!
//! `cargo run --release -p berth-gateway --example observe_cost`

use std::hint::black_box;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use berth_gateway::access::{self, AccessLog, Entry, Format};
use berth_gateway::metrics::{Api, Metrics, Sample};
use berth_traces::{Settings, Traces};
use http::{Method, Version};

/// Requests that each thread notes.
const REQUESTS: u32 = 1_000_000;

/// Where no collector is.
const COLLECTOR: &str = "http://127.0.0.1:1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let all = thread::available_parallelism().map_or(1, NonZero::get);
    let metrics = Arc::new(Metrics::default());
    let binding = metrics.binding("0.0.0.0:443/registry.company.com");
    let sample = Sample {
        api: Api::V2,
        method: &Method::GET,
        status: 200,
        bytes_in: 0,
        bytes_out: 3_000,
        first_byte: Some(Duration::from_micros(900)),
        total: Duration::from_millis(2),
    };
    for threads in [1, all] {
        let nanoseconds = measure(threads, || {
            let under_way = binding.begin();
            under_way.binding().record(black_box(&sample));
        });
        println!("metrics             {threads} threads  {nanoseconds:>6.0} ns");
    }
    for (name, format) in [("off", Format::Off), ("json", Format::Json), ("combined", Format::Combined), ("text", Format::Text)] {
        for threads in [1, all] {
            let settings = access::Settings { format, path: Some("/dev/null".into()) };
            let log = AccessLog::open(settings, metrics.access_log_dropped())?;
            let nanoseconds = measure(threads, || log.log(black_box(&entry())));
            println!("access log {name:<8} {threads} threads  {nanoseconds:>6.0} ns");
        }
    }
    for ratio in [0.0, 1.0] {
        // Nobody is there: spans are made, queued or lost, and that is all a request has to do with it.
        let settings = Settings { otlp: COLLECTOR.to_owned().try_into()?, ratio: ratio.try_into()? };
        let traces = Traces::open("observe_cost", settings, metrics.spans_dropped())?;
        for threads in [1, all] {
            let nanoseconds = measure(threads, || trace(black_box(&traces)));
            println!("traces ratio {ratio:<6} {threads} threads  {nanoseconds:>6.0} ns");
        }
    }
    println!("lines dropped, because nobody is as fast as this: {}", metrics.access_log_dropped().get());
    let begun = Instant::now();
    let text = metrics.encode()?;
    println!("a scrape: {} bytes in {:?}, memory {}", text.len(), begun.elapsed(), memory(Path::new("/proc/self/status"))?);
    Ok(())
}

/// Time per request while so many threads do it.
fn measure(threads: usize, work: impl Fn() + Sync) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..REQUESTS).for_each(|_| work()));
        }
    });
    begun.elapsed().as_nanos() as f64 / f64::from(REQUESTS)
}

/// What a request that is passed on has to do for its two spans.
fn trace(traces: &Traces) {
    let mut server = traces.request(&Method::GET, "/v2/team/app/blobs/sha256:e3b0c442", None);
    let mut attempt = server.child();
    black_box(attempt.headers().count());
    attempt.answered(200);
    drop(attempt);
    if server.is_recorded() {
        server.answered(200);
        for name in ["url.path", "server.address", "client.address", "berth.request_id", "berth.binding", "berth.repository"] {
            server.set(name, "0123456789abcdef0123456789abcdef".to_owned());
        }
    }
}

fn entry<'a>() -> Entry<'a> {
    Entry {
        time: SystemTime::now(),
        client: Some([192, 0, 2, 7].into()),
        method: "GET",
        target: b"/v2/team/app/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        version: Version::HTTP_11,
        status: 200,
        bytes_in: 0,
        bytes_out: 3_000,
        duration: Duration::from_micros(2_123),
        backend_head: Some(Duration::from_micros(900)),
        binding: "0.0.0.0:443/registry.company.com",
        repository: Some("docker-local"),
        host: b"registry.company.com",
        user_agent: b"docker/27.0.3 go/go1.21.11 git-commit/662f78c kernel/6.1.0 os/linux arch/amd64",
        referer: b"",
        request_id: "0123456789abcdef0123456789abcdef",
        backend: Some("/run/berth/backend.sock"),
        tls: Some(("TLSv1.3", "TLS13_AES_128_GCM_SHA256")),
        refusal: None,
    }
}

fn memory(status: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(status)?;
    Ok(text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned())
}
