//! What to change, and where: for each fault a sentence, and the line of each product whose line is known.

use super::front::Product::{self, Alb, Apache, Caddy, CloudFront, Cloudflare, Gateway, HaProxy, Iis, Nginx, Traefik};
use super::judge::Fault;

/// What to do about a fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remedy {
    /// For anybody.
    pub(super) general: &'static str,
    /// For whom it is known.
    pub(super) lines: &'static [(Product, &'static str)],
}

impl Remedy {
    /// The lines for one product, or all if it is not among them.
    pub(super) fn lines_for(&self, product: Product) -> Vec<(Product, &'static str)> {
        let own: Vec<_> = self.lines.iter().copied().filter(|(other, _)| *other == product || *other == Gateway).collect();
        if own.iter().any(|(other, _)| *other == product) { own } else { self.lines.to_vec() }
    }
}

const fn remedy(general: &'static str, lines: &'static [(Product, &'static str)]) -> Remedy {
    Remedy { general, lines }
}

/// What to do about a fault.
pub(super) const fn of(fault: Fault) -> Remedy {
    match fault {
        Fault::Unreachable => {
            remedy("see that the name leads there, that something listens on the port, and that no firewall is between", &[])
        }
        Fault::PlainHttp => remedy(
            "use http:// in the address, with --insecure-registry for docker, or give the listener a certificate",
            &[
                (Nginx, "listen 443 ssl; ssl_certificate …; ssl_certificate_key …;"),
                (Gateway, "certificate = \"…\" and key = \"…\" instead of plain_http = true"),
            ],
        ),
        Fault::HttpsOnly => remedy("use https:// in the address", &[]),
        Fault::CertificateUntrusted | Fault::CertificateName | Fault::CertificateExpired | Fault::OldTls => tls(fault),
        Fault::Redirect
        | Fault::NotForwarded
        | Fault::NoProbe
        | Fault::Denied
        | Fault::Limited
        | Fault::UnknownHost
        | Fault::NoRepository
        | Fault::Method
        | Fault::Path
        | Fault::HeaderLost
        | Fault::AnswerHeaderLost
        | Fault::Api => forwarding(fault),
        Fault::Host | Fault::Scheme | Fault::NotTrusted | Fault::PublicAddress | Fault::Location | Fault::Realm | Fault::ForgedAddress => {
            address(fault)
        }
        Fault::Clock => remedy("let both machines take their time from NTP", &[]),
        Fault::HttpVersion
        | Fault::BodyLimit
        | Fault::Chunked
        | Fault::BodyChanged
        | Fault::RequestBuffered
        | Fault::AnswerBuffered
        | Fault::Compressed
        | Fault::AnswerChanged
        | Fault::Idle
        | Fault::Expect => body(fault),
    }
}

const fn tls(fault: Fault) -> Remedy {
    match fault {
        Fault::CertificateName => remedy(
            "get a certificate with every name and address that clients use among its Subject Alternative Names",
            &[(Gateway, "berth-gateway cert self-signed --dir certs --name HOST --ip ADDRESS")],
        ),
        Fault::CertificateExpired => remedy("renew the certificate, and have the server read it", &[]),
        Fault::OldTls => remedy(
            "allow TLS 1.2 beside TLS 1.3",
            &[(Nginx, "ssl_protocols TLSv1.2 TLSv1.3;"), (Apache, "SSLProtocol -all +TLSv1.2 +TLSv1.3"), (HaProxy, "ssl-min-ver TLSv1.2")],
        ),
        _ => remedy(
            "send the chain with all intermediate certificates; if the authority is your own, give it to clients as /etc/docker/certs.d/HOST:PORT/ca.crt, and to doctor with --ca",
            &[(Nginx, "ssl_certificate must name a file with the server's certificate first and the intermediate ones after it")],
        ),
    }
}

const fn forwarding(fault: Fault) -> Remedy {
    match fault {
        Fault::Redirect => remedy(
            "answer nothing under /v1 and /v2 with a redirect, neither to https:// nor to add a slash; clients must use the final address at once",
            &[
                (Nginx, "no `return 301` and no `rewrite … permanent` for them; `location /v2 { … }` instead of `location /v2/ { … }`"),
                (Apache, "no Redirect and no RewriteRule with [R] for them"),
                (Traefik, "no redirectScheme and no redirectRegex middleware on this router"),
                (HaProxy, "http-request redirect … unless { path_beg /v1 /v2 }"),
            ],
        ),
        Fault::NotForwarded => remedy(
            "forward /v1 and /v2, all that is under them and with every method, to the gateway",
            &[
                (Nginx, "location / { proxy_pass http://GATEWAY; }"),
                (Apache, "ProxyPass / http://GATEWAY/ nocanon"),
                (HaProxy, "default_backend GATEWAY"),
                (Caddy, "reverse_proxy GATEWAY"),
            ],
        ),
        Fault::NoProbe => {
            remedy("see that the last hop leads to berth-gateway, that its backend runs, and that [doctor] enabled = false is not set", &[])
        }
        Fault::Denied => remedy(
            "let the binding admit this machine, or trust the proxy in front, so that clients are told apart from it",
            &[(Gateway, "allow and deny of the binding; trusted_proxies")],
        ),
        Fault::Limited => remedy(
            "raise the limits of requests, or see who uses them up; behind a proxy that is not trusted all clients count as one",
            &[
                (Gateway, "[binding.limits] requests_per_second_per_client, requests_in_flight_per_client, …; trusted_proxies"),
                (Nginx, "limit_req and limit_conn of this location"),
            ],
        ),
        Fault::UnknownHost => {
            remedy("bind this host name, or let a binding have no server_name", &[(Gateway, "[[binding]] server_name = \"HOST\"")])
        }
        Fault::NoRepository => remedy(
            "bind this address to a repository, see that the backend has the repository, or use an address that has one: berth-gateway bindings lists them",
            &[(Gateway, "[[binding]] repository = \"KEY\"")],
        ),
        Fault::Method => remedy(
            "let GET, HEAD, POST, PUT, PATCH and DELETE through",
            &[
                (Nginx, "no limit_except and no `if ($request_method …)` in this location; no dav_methods"),
                (Apache, "no <Limit> and no <LimitExcept> here; see the rules of mod_security"),
                (HaProxy, "no `http-request deny` on method"),
                (CloudFront, "Allowed HTTP methods: GET, HEAD, OPTIONS, PUT, POST, PATCH, DELETE"),
                (Iis, "remove WebDAVModule, and allow the verbs in requestFiltering"),
            ],
        ),
        Fault::Path => remedy(
            "hand the path on as it came",
            &[
                (Nginx, "proxy_pass http://GATEWAY; without a path or slash behind it, and no rewrite"),
                (Apache, "AllowEncodedSlashes NoDecode, MergeSlashes Off, and ProxyPass / http://GATEWAY/ nocanon"),
                (HaProxy, "no http-request normalize-uri"),
                (Caddy, "no `uri` directive before reverse_proxy"),
            ],
        ),
        Fault::AnswerHeaderLost => remedy(
            "hand every header field of answers on",
            &[(Nginx, "no proxy_hide_header for them; proxy_pass_header for what is hidden"), (Apache, "no `Header unset` for them")],
        ),
        Fault::Api => remedy("see the log of the gateway and whether its backend runs", &[]),
        _ => remedy(
            "hand every header field of requests on",
            &[
                (Nginx, "no `proxy_set_header NAME \"\"`; for Authorization: proxy_set_header Authorization $http_authorization;"),
                (Apache, "no `RequestHeader unset`"),
                (HaProxy, "no http-request del-header"),
                (CloudFront, "origin request policy AllViewer, caching disabled"),
            ],
        ),
    }
}

const fn address(fault: Fault) -> Remedy {
    match fault {
        Fault::Host => remedy(
            "hand the Host header on as it came, with the port; or tell the gateway its public address",
            &[
                (Nginx, "proxy_set_header Host $http_host;"),
                (Apache, "ProxyPreserveHost On"),
                (HaProxy, "no `http-request set-header Host`"),
                (Traefik, "passHostHeader: true"),
                (Caddy, "header_up Host {http.request.hostport}"),
                (Alb, "routing.http.preserve_host_header.enabled = true"),
                (CloudFront, "origin request policy AllViewer"),
                (Gateway, "public_url = \"https://HOST:PORT\" in the [[binding]]"),
            ],
        ),
        Fault::Scheme => remedy(
            "tell the gateway what clients speak, and let it believe the hop; or tell it its public address",
            &[
                (Nginx, "proxy_set_header X-Forwarded-Proto $scheme;"),
                (Apache, "RequestHeader set X-Forwarded-Proto \"https\""),
                (HaProxy, "http-request set-header X-Forwarded-Proto https if { ssl_fc }"),
                (Gateway, "trusted_proxies = [\"ADDRESS OF THE HOP\"], or public_url = \"https://HOST:PORT\" in the [[binding]]"),
            ],
        ),
        Fault::NotTrusted => remedy(
            "let the gateway believe the hop before it, or tell it its public address",
            &[(Gateway, "trusted_proxies = [\"ADDRESS OF THE HOP\"], or public_url = \"https://HOST:PORT\" in the [[binding]]")],
        ),
        Fault::PublicAddress | Fault::Realm => remedy(
            "tell the gateway its public address",
            &[(Gateway, "public_port = PORT, or public_url = \"https://HOST:PORT\", in the [[binding]]")],
        ),
        Fault::Location => remedy(
            "hand Location on as it is: the gateway writes the public address itself",
            &[(Nginx, "proxy_redirect off;"), (Apache, "no ProxyPassReverse"), (HaProxy, "no http-response replace-header Location")],
        ),
        _ => remedy(
            "the outermost hop must write the address that it sees into X-Forwarded-For, and the gateway believe your own hops only",
            &[
                (Nginx, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; (outermost: $remote_addr)"),
                (HaProxy, "option forwardfor, after http-request del-header X-Forwarded-For"),
                (Gateway, "trusted_proxies = [\"addresses of your hops and of nobody else\"]"),
            ],
        ),
    }
}

const fn body(fault: Fault) -> Remedy {
    match fault {
        Fault::HttpVersion => remedy(
            "speak HTTP/1.1 to the gateway",
            &[
                (Nginx, "proxy_http_version 1.1; proxy_set_header Connection \"\";"),
                (Apache, "no force-proxy-request-1.0 and no proxy-nokeepalive"),
            ],
        ),
        Fault::BodyLimit => remedy(
            "set no limit for bodies under /v1 and /v2: a layer may have gigabytes",
            &[
                (Nginx, "client_max_body_size 0;"),
                (Apache, "LimitRequestBody 0"),
                (HaProxy, "no `http-request deny` on req.body_size"),
                (Traefik, "no maxRequestBodyBytes in a buffering middleware"),
                (Caddy, "no request_body max_size"),
                (Cloudflare, "100 MB on most plans, whatever is set: let the registry's name be \"DNS only\""),
                (Iis, "maxAllowedContentLength"),
            ],
        ),
        Fault::Chunked => remedy(
            "accept Transfer-Encoding: chunked in requests",
            &[(Nginx, "nginx 1.3.9 or newer"), (Apache, "see the rules of mod_security")],
        ),
        Fault::BodyChanged | Fault::AnswerChanged => remedy(
            "hand bodies on as they are: no virus scan, no rewriting, no cache under /v1 and /v2",
            &[(Nginx, "no sub_filter, no gunzip, no proxy_cache"), (Apache, "no SetInputFilter, SetOutputFilter or mod_cache")],
        ),
        Fault::RequestBuffered => remedy(
            "hand bodies on while they come",
            &[
                (Nginx, "proxy_request_buffering off; proxy_http_version 1.1;"),
                (Apache, "no proxy-sendcl, no SecRequestBodyAccess of mod_security"),
                (HaProxy, "no option http-buffer-request"),
                (Traefik, "no buffering middleware"),
                (Cloudflare, "let the registry's name be \"DNS only\""),
            ],
        ),
        Fault::AnswerBuffered => remedy(
            "hand answers on while they come",
            &[
                (Nginx, "proxy_buffering off;"),
                (Apache, "ProxyPass / http://GATEWAY/ nocanon flushpackets=on"),
                (Traefik, "no buffering middleware"),
                (Caddy, "flush_interval -1"),
            ],
        ),
        Fault::Compressed => remedy(
            "compress nothing under /v1 and /v2: layers are compressed already",
            &[
                (Nginx, "gzip off;"),
                (Apache, "SetEnv no-gzip 1"),
                (HaProxy, "no compression lines"),
                (Traefik, "no compress middleware"),
                (Caddy, "no encode directive"),
                (Cloudflare, "a compression rule that turns it off for the registry's name"),
            ],
        ),
        Fault::Idle => remedy(
            "let a transfer pause, and the registry work, for 15 minutes",
            &[
                (Nginx, "proxy_read_timeout 900s; proxy_send_timeout 900s; client_body_timeout 900s; send_timeout 900s;"),
                (Apache, "ProxyTimeout 900, Timeout 900, and RequestReadTimeout body=0"),
                (HaProxy, "timeout client 15m, timeout server 15m"),
                (Traefik, "transport.respondingTimeouts.readTimeout = 0 at the entry point"),
                (Alb, "idle_timeout.timeout_seconds = 900"),
                (Cloudflare, "100 s for an answer, whatever is set: let the registry's name be \"DNS only\""),
            ],
        ),
        _ => remedy("answer Expect: 100-continue, or hand it on", &[]),
    }
}
