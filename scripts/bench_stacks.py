"""The stacks that scripts/bench.py measures: processes on the loopback, each with its data in a directory of its own.

Invariants: a stack listens on 127.0.0.1 only; it ends the processes it started, by pid, and no others.
"""
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

READY_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30
PASSWORD = "bench-only-password"

# The reverse proxy of distribution's documentation, with TLS 1.3 allowed, its paths moved, and nginx's defaults
# (request buffering above all) left as they are.
NGINX = """
user root;
pid nginx.pid;
error_log nginx-error.log;
worker_processes auto;
daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log nginx-access.log;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream docker-registry {{ server 127.0.0.1:{upstream}; }}
  map $upstream_http_docker_distribution_api_version $docker_distribution_api_version {{ '' 'registry/2.0'; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    ssl_certificate {certificates}/server.pem;
    ssl_certificate_key {certificates}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers 'EECDH+AESGCM:EDH+AESGCM:AES256+EECDH:AES256+EDH';
    ssl_prefer_server_ciphers on;
    ssl_session_cache shared:SSL:10m;
    client_max_body_size 0;
    chunked_transfer_encoding on;
    location /v2/ {{
      add_header 'Docker-Distribution-Api-Version' $docker_distribution_api_version always;
      proxy_pass http://docker-registry;
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 900;
    }}
  }}
}}
"""

# Debian's own configuration without its password file.
REGISTRY = """
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {directory}/data
  delete:
    enabled: true
http:
  addr: 127.0.0.1:{upstream}
  secret: {password}
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""

BACKEND = """
data_dir = "data"
[listen]
unix = "backend.sock"
[[repository]]
key = "bench"
api_version = "V2"
"""

GATEWAY = """
[upstream]
unix = "backend.sock"
[[binding]]
listen = "127.0.0.1:{port}"
repository = "bench"
certificate = "{certificates}/server.pem"
key = "{certificates}/server.key"
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Stack:
    """A running registry. `arguments` are what the load driver needs to reach and to account for it."""

    scheme, prefix = "https", ""

    def __init__(self, name, directory, authenticated):
        self.name, self.directory = name, Path(directory)
        self.directory.mkdir(parents=True)
        self.port = free_port()
        self.processes = []
        self.login = f"admin:{PASSWORD}" if authenticated else None

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}{self.prefix}"

    @property
    def arguments(self):
        pids = ",".join(str(process.pid) for process in self.processes)
        arguments = ["--url", self.url, "--label", self.name, "--pids", pids]
        return arguments + (["--auth", self.login] if self.login else [])

    def write(self, name, template, **values):
        path = self.directory / name
        path.write_text(template.format(directory=self.directory, port=self.port, password=PASSWORD, **values))
        return path

    def start(self, *command):
        log = open(self.directory / f"{Path(command[0]).name}.log", "wb")
        with log:
            process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def wait_until_ready(self):
        """Ready is when /v2/ gets through the front to the registry: 200, or 401 where a login is asked for."""
        context = ssl._create_unverified_context()
        deadline = time.monotonic() + READY_SECONDS_MAX
        answer = None
        while time.monotonic() < deadline:
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{self.name}: {process.args[0]} ended: {self.last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/v2/", context=context, timeout=5):
                    return
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return
                answer = error
            except OSError as error:
                answer = error
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} is not ready after {READY_SECONDS_MAX} s: {answer}; {self.last_words()}")

    def last_words(self):
        return "\n".join(log.read_text(errors="replace")[-600:] for log in sorted(self.directory.glob("*.log")))

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def start_d2n(directory, binaries, certificates):
    """Debian's docker-registry behind Debian's nginx, TLS at nginx, no authentication."""
    del binaries
    stack = Stack("d2n", directory, authenticated=False)
    upstream = free_port()
    registry = stack.write("registry.yml", REGISTRY, upstream=upstream)
    nginx = stack.write("nginx.conf", NGINX, upstream=upstream, certificates=certificates)
    stack.start("docker-registry", "serve", str(registry))
    stack.start("nginx", "-p", str(stack.directory), "-e", "nginx-error.log", "-c", str(nginx))
    return stack


def start_berth(directory, binaries, certificates):
    """Gateway and backend over a Unix socket, every request authenticated."""
    stack = Stack("berth", directory, authenticated=True)
    stack.write("backend.toml", BACKEND)
    stack.write("gateway.toml", GATEWAY, certificates=certificates)
    password = stack.write("password", "{password}")
    # Relative paths: the socket's name must stay below 108 bytes wherever the measuring happens.
    stack.start(f"{binaries}/berth-backend", "serve", "--config", "backend.toml", "--admin-password-file", str(password))
    stack.start(f"{binaries}/berth-gateway", "serve", "--config", "gateway.toml")
    return stack


PEERS = {"d2n": start_d2n, "berth": start_berth}
