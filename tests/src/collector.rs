//! A collector of OpenTelemetry traces: takes OTLP over HTTP/1.1 as the protocol describes it, and keeps what it is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
pub use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

/// How long spans may take to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// A listening collector. It listens until the process ends.
pub struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Seen>>>,
}

/// A span, and which service it is from.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The service's name.
    pub service: String,
    /// As it came.
    pub span: Span,
}

impl Collector {
    /// Listens on any port.
    pub fn start() -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", 0)).unwrap())
    }

    /// Listens on this port.
    pub fn start_on(port: u16) -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", port)).unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let collector = Self { port: listener.local_addr().unwrap().port(), spans: Arc::default() };
        let spans = Arc::clone(&collector.spans);
        spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let spans = Arc::clone(&spans);
                spawn(move || take(stream, &spans));
            }
        });
        collector
    }

    /// The table that sends a service's traces here.
    pub fn table(&self) -> String {
        format!("[traces]\notlp = \"http://127.0.0.1:{}\"\n", self.port)
    }

    /// Everything that has come.
    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits until a span of this service and name, and of this kind, has come for which this holds.
    pub fn wait_for(&self, service: &str, kind: SpanKind, name: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        let is_it = |seen: &Seen| seen.service == service && seen.span.kind() == kind && seen.span.name == name && holds(seen);
        let begun = Instant::now();
        loop {
            if let Some(found) = self.spans().into_iter().find(is_it) {
                return found;
            }
            assert!(begun.elapsed() < ARRIVAL_MAX, "no {kind:?} span {name:?} of {service} among {:#?}", self.spans());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Seen {
    /// What the span says under this name, as text.
    pub fn says(&self, name: &str) -> Option<String> {
        text(&self.span.attributes, name)
    }

    /// Whether it is right under the other one, in the same trace.
    pub fn is_child_of(&self, parent: &Self) -> bool {
        self.span.trace_id == parent.span.trace_id && self.span.parent_span_id == parent.span.span_id
    }

    /// Whether it is the first of its trace.
    pub fn is_root(&self) -> bool {
        self.span.parent_span_id.is_empty()
    }

    /// Whether it says that something went wrong.
    pub fn has_failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match attributes.iter().find(|attribute| attribute.key == name)?.value.clone() {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

/// Takes one request after the other from a connection.
fn take(stream: TcpStream, spans: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = request(&mut reader) {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
        for resource in ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans {
            let service = text(&resource.resource.unwrap_or_default().attributes, "service.name").unwrap();
            let sent = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.lock().unwrap().extend(sent.map(|span| Seen { service: service.clone(), span }));
        }
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n", answer.len());
        if reader.get_mut().write_all(&[head.as_bytes(), &answer].concat()).is_err() {
            return;
        }
    }
}

/// Head and body, if there is another request.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
