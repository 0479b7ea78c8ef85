//! NGINX's directives that nothing has been made of, each with the reason.

use super::super::Verdict::{self, Decide, Unneeded};
use super::super::ledger::{Directive, Ledger};

const NO_GRPC: &str = "registry clients do not speak gRPC";

/// Judges whatever is still open.
pub(super) fn judge(directives: &[Directive], ledger: &mut Ledger) {
    for directive in directives {
        if ledger.is_open(directive.id) {
            let (verdict, reason, is_whole) = match judgement(directive) {
                Some(judgement) => judgement,
                None => {
                    judge(directive.children(), ledger);
                    continue;
                }
            };
            ledger.note(directive.id, verdict, reason);
            if is_whole {
                ledger.cover(directive.children());
                continue;
            }
        }
        judge(directive.children(), ledger);
    }
}

/// The verdict, its reason, and whether it holds for everything in the directive's block.
fn judgement(directive: &Directive) -> Option<(Verdict, &'static str, bool)> {
    let plain = |verdict, reason| Some((verdict, reason, false));
    let whole = |verdict, reason| Some((verdict, reason, true));
    match directive.name.as_str() {
        "proxy_set_header" | "grpc_set_header" => {
            let (verdict, reason) = header(&directive.argument(0).to_ascii_lowercase(), directive.argument(1))?;
            plain(verdict, reason)
        }
        "events" => whole(Unneeded, "connections are handled by themselves"),
        "types" => whole(Unneeded, "media types are the backend's"),
        "location" => whole(Decide, "leads to nothing that a binding was made of, and bindings pass on nothing else"),
        "map" | "geo" | "split_clients" => whole(Decide, "no rule that was translated uses this variable"),
        "upstream" => whole(Decide, "no server that was translated uses these backends"),
        "stream" | "mail" => whole(Decide, "only HTTP is proxied"),
        "limit_except" => {
            whole(Decide, "methods are the backend's to allow, by the permissions of its users; `read_only = true` refuses all that write")
        }
        "if" if only_sets_origin(directive) => whole(Unneeded, "scheme, host and port are taken from the connection"),
        "if" if directive.arguments.iter().any(|argument| argument.contains("application/grpc")) => whole(Unneeded, NO_GRPC),
        "if" => plain(Decide, "has no part in what today's registry clients get to: look at whom it is for"),
        name if name.ends_with("_by_lua_block") || name.starts_with("js_") || name.starts_with("perl") => {
            whole(Decide, "no scripts are run: what it does is missing from the result")
        }
        name => single(name, directive).and_then(|(verdict, reason)| plain(verdict, reason)),
    }
}

/// Whether a block only keeps what the client says of scheme, host and port for a header.
fn only_sets_origin(directive: &Directive) -> bool {
    let is_origin = |name: &str| ["proto", "scheme", "https", "ssl", "port", "host"].iter().any(|part| name.contains(part));
    let sets_origin = |inner: &Directive| inner.is("set") && is_origin(&inner.argument(0).to_ascii_lowercase());
    !directive.children().is_empty() && directive.children().iter().all(sets_origin)
}

/// Headers on the way to the backend.
fn header(name: &str, value: &str) -> Option<(Verdict, &'static str)> {
    Some(match name {
        "host" => (Unneeded, "host and port are passed as the client used them; the port is kept by itself"),
        "x-forwarded-for" | "x-real-ip" => (Unneeded, "the client's address is passed by itself"),
        "x-forwarded-proto" | "x-forwarded-ssl" | "x-forwarded-scheme" | "x-scheme" => (Unneeded, "the scheme is passed by itself"),
        "x-forwarded-port" => (Unneeded, "the port is kept by itself"),
        "x-forwarded-host" | "x-forwarded-server" | "x-forwarded-prefix" | "forwarded" => (Unneeded, "the host is passed by itself"),
        "x-artifactory-override-base-url" | "x-jfrog-override-base-url" => {
            (Unneeded, "the backend makes its URLs from scheme, host and port")
        }
        "x-request-id" => (Unneeded, "every request gets an id by itself"),
        "connection" | "upgrade" => {
            (Unneeded, "connections to the backend are kept by themselves, and registry clients upgrade to nothing")
        }
        "accept-encoding" | "x-original-uri" | "x-nginx-proxy" | "early-data" => (Unneeded, "means nothing to the backend"),
        "authorization" if value.is_empty() => (Decide, "the backend checks passwords itself: `Authorization` is passed on"),
        "authorization" => (Decide, "a fixed login is not added: give anonymous users the permission instead"),
        _ => return None,
    })
}

#[rustfmt::skip]
fn single(name: &str, directive: &Directive) -> Option<(Verdict, &'static str)> {
    Some(match name {
        "client_max_body_size" => (Unneeded, "bodies are never limited"),
        "chunked_transfer_encoding" => (Unneeded, "bodies without a length are passed in both directions"),
        "proxy_request_buffering" | "proxy_buffering" | "proxy_buffer_size" | "proxy_buffers" | "proxy_busy_buffers_size"
        | "proxy_max_temp_file_size" | "proxy_temp_path" | "proxy_temp_file_write_size" | "client_body_buffer_size"
        | "client_body_temp_path" | "client_body_in_file_only" | "output_buffers" | "postpone_output" =>
            (Unneeded, "bodies are streamed in both directions, never stored on the way"),
        "proxy_http_version" => (Unneeded, "the backend is spoken to in HTTP/1.1"),
        "proxy_read_timeout" | "proxy_send_timeout" | "send_timeout" | "client_body_timeout" =>
            (Unneeded, "a transfer lasts as long as bytes move; `body_idle_timeout_s` in [limits] bounds a pause"),
        "proxy_connect_timeout" => (Unneeded, "connecting to the backend has its own bound"),
        "client_header_timeout" => (Unneeded, "`header_timeout_s` in [limits] is the bound, 10 s by default"),
        "keepalive_timeout" | "keepalive_requests" => (Unneeded, "`keepalive_timeout_s` in [limits] is the bound, 75 s by default"),
        "client_header_buffer_size" | "large_client_header_buffers" => (Unneeded, "`header_bytes` in [limits] is the bound, 32 KiB by default"),
        "ssl_protocols" => (Unneeded, "TLS 1.2 and 1.3 only"),
        "ssl_ciphers" | "ssl_prefer_server_ciphers" | "ssl_ecdh_curve" | "ssl_dhparam" | "ssl_conf_command" =>
            (Unneeded, "authenticated ciphers with forward secrecy only"),
        "ssl_session_cache" | "ssl_session_timeout" | "ssl_session_tickets" | "ssl_session_ticket_key" | "ssl_buffer_size" | "ssl_early_data" =>
            (Unneeded, "TLS sessions are resumed by themselves"),
        "ssl_stapling" | "ssl_stapling_verify" | "ssl_trusted_certificate" | "ssl_stapling_responder" | "resolver" | "resolver_timeout" =>
            (Unneeded, "nothing is looked up while serving"),
        "ssl_certificate" | "ssl_certificate_key" => (Unneeded, "no TLS address that was translated uses it"),
        "ssl_client_certificate" | "ssl_verify_depth" => (Unneeded, "client certificates are not asked for"),
        "ssl_crl" => (Decide, "revoked client certificates are not looked up: use short-lived ones"),
        "ssl_password_file" => (Decide, "the key must be stored without a password: `openssl pkey` removes it"),
        "ssl" | "http2" => (Unneeded, "off"),
        "proxy_pass_header" | "proxy_hide_header" | "proxy_ignore_headers" | "proxy_pass_request_headers" | "proxy_pass_request_body"
        | "proxy_redirect" | "proxy_cookie_path" | "proxy_cookie_domain" | "proxy_intercept_errors" =>
            (Unneeded, "answers pass unchanged, and their URLs are right from the start"),
        "proxy_next_upstream" | "proxy_next_upstream_tries" | "proxy_next_upstream_timeout" =>
            (Unneeded, "what can be repeated without harm goes to another backend by itself"),
        "proxy_ssl_verify" | "proxy_ssl_trusted_certificate" | "proxy_ssl_name" | "proxy_ssl_server_name" | "proxy_ssl_protocols" | "proxy_ssl_ciphers" =>
            (Decide, "a backend's certificate is always checked: write `server_name` and `ca` beside its `tcp`"),
        "proxy_cache" | "proxy_cache_path" | "proxy_cache_valid" | "proxy_cache_bypass" | "proxy_no_cache" | "proxy_cache_key" | "proxy_store" | "expires" =>
            (Unneeded, "nothing is cached on the way"),
        "grpc_pass" | "grpc_read_timeout" | "grpc_send_timeout" | "grpc_ssl_verify" | "grpc_buffer_size" => (Unneeded, NO_GRPC),
        "proxy_bind" => (Decide, "the address towards the backend can't be chosen"),
        "proxy_pass" => (Decide, "leads to nothing that a binding was made of"),
        "real_ip_header" | "real_ip_recursive" => (Unneeded, "`trusted_proxies` alone may say who the client is, by PROXY protocol or X-Forwarded-For"),
        "limit_req" | "limit_conn" | "limit_req_zone" | "limit_conn_zone" => (Decide, "see [binding.limits] for what can be limited"),
        "limit_req_status" | "limit_conn_status" => (Unneeded, "who is too fast is answered 429"),
        "limit_req_log_level" | "limit_conn_log_level" | "limit_req_dry_run" | "limit_conn_dry_run" => (Unneeded, "refusals are counted in the metrics"),
        "limit_rate" | "limit_rate_after" => (Decide, "transfers are not slowed down"),
        "allow" | "deny" => (Decide, "holds for a part of the paths only; `allow` and `deny` hold for a whole binding"),
        "auth_basic" | "auth_basic_user_file" | "auth_request" | "auth_request_set" | "satisfy" =>
            (Decide, "the backend knows the users: create them there (`berth-backend user add`)"),
        "add_header" | "more_set_headers" | "more_clear_headers" => (Decide, "answers pass unchanged: this header will be missing"),
        "error_page" | "recursive_error_pages" => (Unneeded, "errors are answered in the form of the API that was called"),
        "return" | "rewrite" | "set" | "break" if points_to_interface(directive) =>
            (Unneeded, "browsers find the user interface on the binding with `console = true`"),
        "set" => (Decide, "has no part in what today's registry clients get to: look at what uses it"),
        "return" | "rewrite" | "break" => (Decide, "has no part in what today's registry clients get to: look at whom it is for"),
        "access_log" | "log_format" | "open_log_file_cache" | "log_not_found" | "log_subrequest" =>
            (Unneeded, "every request is one line of the log; [access_log] takes `format = \"combined\"` and a `path`"),
        "error_log" | "rewrite_log" => (Unneeded, "the log goes to standard error, and BERTH_LOG sets its level"),
        "stub_status" => (Unneeded, "[metrics] serves what there is to know"),
        "root" | "index" | "try_files" | "autoindex" | "alias" | "default_type" | "charset" | "etag" | "if_modified_since" | "types_hash_max_size"
        | "types_hash_bucket_size" | "sendfile" | "aio" | "directio" | "open_file_cache" | "max_ranges" | "sendfile_max_chunk" | "override_charset" =>
            (Unneeded, "no files are served"),
        "gzip" | "gzip_types" | "gzip_vary" | "gzip_proxied" | "gzip_comp_level" | "gzip_min_length" | "gzip_buffers" | "gzip_disable"
        | "gzip_http_version" | "gunzip" | "gzip_static" => (Unneeded, "layers are compressed already; bodies pass as they are"),
        "user" | "worker_processes" | "worker_rlimit_nofile" | "worker_connections" | "worker_priority" | "worker_cpu_affinity" | "pid" | "daemon"
        | "master_process" | "load_module" | "env" | "lock_file" | "pcre_jit" | "thread_pool" | "worker_shutdown_timeout" | "working_directory" | "use"
        | "multi_accept" | "timer_resolution" | "accept_mutex" => (Unneeded, "the service manager and the number of processors decide"),
        "tcp_nopush" | "tcp_nodelay" | "reset_timedout_connection" | "lingering_close" | "lingering_time" | "lingering_timeout" | "server_tokens"
        | "server_names_hash_bucket_size" | "server_names_hash_max_size" | "variables_hash_max_size" | "variables_hash_bucket_size"
        | "map_hash_bucket_size" | "map_hash_max_size" | "proxy_headers_hash_max_size" | "proxy_headers_hash_bucket_size" | "ignore_invalid_headers"
        | "underscores_in_headers" | "merge_slashes" | "port_in_redirect" | "server_name_in_redirect" | "absolute_redirect" | "http2_max_requests"
        | "http2_body_preread_size" | "http2_max_concurrent_streams" | "http2_recv_timeout" | "http2_idle_timeout" | "internal" | "msie_padding"
        | "proxy_socket_keepalive" | "subrequest_output_buffer_size" | "proxy_method" | "proxy_request_dynamic" => (Unneeded, "there is nothing to set"),
        _ => return None,
    })
}

/// Whether a rule sends browsers to Artifactory's own pages.
fn points_to_interface(directive: &Directive) -> bool {
    directive
        .arguments
        .iter()
        .any(|argument| argument.contains("webapp") || argument.starts_with("/ui") || argument.contains("/artifactory/?"))
}
