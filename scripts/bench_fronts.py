"""What scripts/bench_gateway.py measures: one backend, and the fronts that pass requests on to it over its Unix socket.

Invariants: every front ends TLS with the same certificate, uses as many workers as there are cores, and writes the same
access line per request (NGINX's "combined") into a file.
"""
import os
from pathlib import Path

from bench_stacks import Stack

REPOSITORY = "bench"
CONNECTIONS_MAX = 8192

BACKEND = """
data_dir = "data"
[listen]
unix = "backend.sock"
tcp = "127.0.0.1:{port}"
[[repository]]
key = "bench"
api_version = "V2"
"""

GATEWAY = """
[upstream]
unix = "../backend/backend.sock"
[access_log]
format = "combined"
path = "access.log"
[[binding]]
listen = "127.0.0.1:{port}"
repository = "bench"
certificate = "{certificates}/server.pem"
key = "{certificates}/server.key"
"""

# What both have: Debian's nginx.conf, with more connections per worker, paths of this directory, and processes that stay
# children of the one that measures.
NGINX = """
user root;
pid nginx.pid;
error_log nginx-error.log;
worker_processes {workers};
worker_rlimit_nofile {files};
daemon off;
events {{ worker_connections {connections}; }}
http {{
  sendfile on;
  tcp_nopush on;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_prefer_server_ciphers on;
  ssl_certificate {certificates}/server.pem;
  ssl_certificate_key {certificates}/server.key;
  {site}
}}
"""

# The lines that Artifactory publishes for Docker, for one repository on one port. What they leave open is nginx's default:
# bodies are collected, in files if they are large, and the backend is asked over a new connection each time, in HTTP/1.0.
PUBLISHED = """
  access_log access.log combined;
  ssl_session_cache shared:SSL:1m;
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    rewrite ^/(v1|v2)/(.*) /artifactory/api/docker/bench/$1/$2;
    chunked_transfer_encoding on;
    client_max_body_size 0;
    location /artifactory/ {{
      proxy_read_timeout 900;
      proxy_pass_header Server;
      proxy_cookie_path ~*^/.* /;
      proxy_pass http://unix:../backend/backend.sock:/artifactory/;
      proxy_set_header X-Artifactory-Override-Base-Url $scheme://$host:$server_port/artifactory;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
"""

# What somebody who knows nginx well would write in its place. With answers not buffered at all it takes as much or more.
TUNED = """
  access_log access.log combined buffer=64k flush=1s;
  ssl_session_cache shared:SSL:10m;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256;
  tcp_nodelay on;
  keepalive_requests 1000000;
  upstream berth {{
    server unix:../backend/backend.sock;
    keepalive 64;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    location /v2/ {{
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_buffers 8 256k;
      proxy_buffer_size 64k;
      proxy_busy_buffers_size 512k;
      proxy_max_temp_file_size 0;
      proxy_read_timeout 900;
      proxy_pass http://berth/artifactory/api/docker/bench/v2/;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
"""

class Backend(Stack):
    """Plain HTTP, and what the price of a front is added to."""

    scheme, prefix = "http", f"/artifactory/api/docker/{REPOSITORY}"
    socket = "../backend/backend.sock"

    def __init__(self, directory, binaries):
        super().__init__("backend", Path(directory) / "backend", authenticated=True)
        self.write("backend.toml", BACKEND)
        password = self.write("password", "{password}")
        self.start(f"{binaries}/berth-backend", "serve", "--config", "backend.toml", "--admin-password-file", str(password))


def gateway(directory, binaries, certificates):
    """As shipped."""
    front = Stack("gateway", Path(directory) / "gateway", authenticated=True)
    front.write("gateway.toml", GATEWAY, certificates=certificates)
    front.start(f"{binaries}/berth-gateway", "serve", "--config", "gateway.toml")
    return front


def nginx(name, site, directory, certificates):
    front = Stack(name, Path(directory) / name, authenticated=True)
    values = {"workers": len(os.sched_getaffinity(0)), "connections": CONNECTIONS_MAX, "files": 2 * CONNECTIONS_MAX}
    site = site.format(port=front.port)
    configuration = front.write("nginx.conf", NGINX, site=site, certificates=certificates, **values)
    front.start("nginx", "-p", str(front.directory), "-e", "nginx-error.log", "-c", str(configuration))
    return front


FRONTS = {
    "published": lambda directory, _, certificates: nginx("published", PUBLISHED, directory, certificates),
    "tuned": lambda directory, _, certificates: nginx("tuned", TUNED, directory, certificates),
    "gateway": gateway,
}
