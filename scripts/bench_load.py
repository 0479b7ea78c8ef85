"""What scripts/bench_gateway.py does to a front, by curl, wrk and connections of its own, and what it costs the processes.

Invariants: everything goes to a stack's loopback address; whatever is not answered as it should be ends the measurement.
"""
import base64
import contextlib
import hashlib
import http.client
import json
import os
import resource
import ssl
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

IMAGE = "load/image"
TRANSFER_SECONDS_MAX = 300
ANSWER_SECONDS_MAX = 60
SETTLE_SECONDS = 0.5
PIECE_BYTES = 1 << 20
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Go's clients ask for this one first. The price of a cipher is not what is compared.
CIPHER = ["--tlsv1.3", "--tls13-ciphers", "TLS_AES_128_GCM_SHA256"]

OCTETS = "application/octet-stream"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

WRK = """
wrk.headers["Authorization"] = "{authorization}"
wrk.headers["Accept"] = "{accept}"
done = function(summary, latency)
  local failed = summary.errors
  io.stderr:write(string.format('{{"requests": %d, "us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, summary.duration, failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


# --- What processes use


def family(process):
    """A process and its children: nginx's workers are those of the one that was started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [process.pid, *map(int, children.split())]


def pids(stack):
    return [pid for process in stack.processes for pid in family(process)]


def cpu_seconds(stack):
    ticks = 0
    for pid in pids(stack):
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def machine_seconds():
    """CPU seconds of everything on this machine, and of this process with its children."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    own = os.times()
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND, own.user + own.system + own.children_user + own.children_system


def memory_mb(stack):
    """PSS, in which pages that processes share count once, and what is no file's."""
    pss_kb = anonymous_kb = 0
    for pid in pids(stack):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            pss_kb += int(line.split()[1]) if line.startswith("Pss:") else 0
            anonymous_kb += int(line.split()[1]) if line.startswith("Anonymous:") else 0
    return {"pss_mb": pss_kb / 1024, "anonymous_mb": anonymous_kb / 1024}


@contextlib.contextmanager
def measured(front, backend):
    """Fills a dictionary with what the block has cost. `front` may be the backend itself."""
    cost = {}
    fronts = [] if front is backend else [front]
    before = [sum(map(cpu_seconds, fronts)), cpu_seconds(backend), *machine_seconds()]
    began = time.monotonic()
    yield cost
    cost["seconds"] = time.monotonic() - began
    # An access line and the end of a connection come after the last byte.
    time.sleep(SETTLE_SECONDS)
    after = [sum(map(cpu_seconds, fronts)), cpu_seconds(backend), *machine_seconds()]
    front_s, backend_s, machine_s, own_s = (late - early for early, late in zip(before, after))
    cost["front_cpu_s"], cost["backend_cpu_s"] = front_s, backend_s
    cost["other_cores"] = max(0.0, machine_s - front_s - backend_s - own_s) / (cost["seconds"] + SETTLE_SECONDS)


# --- Requests


def authorization(stack):
    return "Basic " + base64.b64encode(stack.login.encode()).decode()


# Certificates are not what is measured. Nothing makes it resume a session.
TRUSTING = ssl._create_unverified_context()


def connect(stack):
    if stack.scheme == "http":
        return http.client.HTTPConnection("127.0.0.1", stack.port, timeout=ANSWER_SECONDS_MAX)
    return http.client.HTTPSConnection("127.0.0.1", stack.port, timeout=ANSWER_SECONDS_MAX, context=TRUSTING)


def ask(connection, stack, method, path, wanted, body=None, **headers):
    """The answer's headers; `path` is below /v2/."""
    headers = {"Authorization": authorization(stack), **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, f"{stack.prefix}/v2/{path}", body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != wanted:
        raise RuntimeError(f"{stack.name}: {method} {path} was answered {answer.status}: {text[:300]!r}")
    return answer.headers


def below_v2(location):
    """Whoever answers, the path of an upload begins with /v2/ for the client."""
    return urlsplit(location).path.partition("/v2/")[2]


def begin_upload(connection, stack):
    return below_v2(ask(connection, stack, "POST", f"{IMAGE}/blobs/uploads/", 202)["Location"])


def push_blob(connection, stack, content, digest, length):
    location = begin_upload(connection, stack)
    ask(connection, stack, "PUT", f"{location}?digest={digest}", 201, content, Content_Type=OCTETS, Content_Length=str(length))


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def sha256_of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while piece := content.read(PIECE_BYTES):
            digest.update(piece)
    return "sha256:" + digest.hexdigest()


def write_random(path, length):
    """A file that no compression makes smaller."""
    with open(path, "wb") as content:
        for begin in range(0, length, PIECE_BYTES):
            content.write(os.urandom(min(PIECE_BYTES, length - begin)))


def push_image(stack, blob):
    """Puts what will be pulled into the backend: the blob, and a manifest of usual length. Returns the blob's digest."""
    connection = connect(stack)
    digest = sha256_of_file(blob)
    with open(blob, "rb") as content:
        push_blob(connection, stack, content, digest, blob.stat().st_size)
    layers = [f"layer {number}".encode() for number in range(8)]
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    for content in [config, *layers]:
        push_blob(connection, stack, content, sha256(content), len(content))

    def described(kind, content):
        return {"mediaType": kind, "digest": sha256(content), "size": len(content)}

    manifest = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(OCI_CONFIG, config),
        "layers": [described(OCI_LAYER, content) for content in layers],
    }
    ask(connection, stack, "PUT", f"{IMAGE}/manifests/1", 201, json.dumps(manifest).encode(), Content_Type=OCI_MANIFEST)
    connection.close()
    return digest


# --- Bulk


def curl(stack, transfers):
    """Starts a curl for each list of options in `transfers` and waits. A list is transfers over one connection."""
    running = []
    login = [f'user = "{stack.login}"']
    # The hop that the fronts use too.
    way = ["--unix-socket", "backend.sock"] if stack.scheme == "http" else ["--insecure", *CIPHER]
    try:
        for lines in transfers:
            command = ["curl", "--silent", "--show-error", "--fail", "--max-time", str(TRANSFER_SECONDS_MAX), *way, "--config", "-"]
            process = subprocess.Popen(
                command, cwd=stack.directory, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            running.append(process)
            process.stdin.write("\n".join(login + lines))
            process.stdin.close()
        for process in running:
            errors = process.stderr.read()
            if process.wait(TRANSFER_SECONDS_MAX) != 0:
                raise RuntimeError(f"{stack.name}: curl: {errors.strip()}")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stderr.close()


def download(front, backend, digest, blob, streams, count):
    """`count` downloads of the blob by each of the streams."""
    lines = [f'url = "{front.url}/v2/{IMAGE}/blobs/{digest}"\noutput = "/dev/null"'] * count
    with measured(front, backend) as cost:
        curl(front, [lines] * streams)
    return per_byte(cost, blob.stat().st_size * streams * count)


def upload(front, backend, blob, streams, count):
    """`count` uploads by each of the streams, in one chunked PATCH each, as docker, podman and skopeo do it. They are
    checked to have arrived as a whole, and cancelled: what a digest and a commit cost is not the front's, and the disk
    stays free. The bytes are the same each time: the backend compares blobs when an upload is finished, not before."""
    size = blob.stat().st_size
    connection = connect(front)
    locations = [[begin_upload(connection, front) for _ in range(count)] for _ in range(streams)]
    options = ['request = "PATCH"', 'header = "Transfer-Encoding: chunked"', f'header = "Content-Type: {OCTETS}"', 'header = "Expect:"']
    transfers = [
        options + [f'url = "{front.url}/v2/{location}"\nupload-file = "{blob}"\noutput = "/dev/null"' for location in each]
        for each in locations
    ]
    with measured(front, backend) as cost:
        curl(front, transfers)
    # It may have been idle for too long.
    connection.close()
    for location in sum(locations, []):
        arrived = ask(connection, front, "GET", location, 204)["Range"]
        if arrived != f"0-{size - 1}":
            raise RuntimeError(f"{front.name}: of {size} bytes arrived {arrived}")
        ask(connection, front, "DELETE", location, 204)
    connection.close()
    return per_byte(cost, size * streams * count)


def per_byte(cost, total):
    gigabytes = total / 1e9
    return cost | {
        "front_s_per_gb": cost["front_cpu_s"] / gigabytes,
        "backend_s_per_gb": cost["backend_cpu_s"] / gigabytes,
        "mb_per_s": total / 1e6 / cost["seconds"],
    }


# --- Small requests


def small_requests(front, backend, connections, seconds):
    """GETs of the manifest over kept connections, one after the other on each."""
    script = front.write("wrk.lua", WRK, authorization=authorization(front), accept=OCI_MANIFEST)
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--script", str(script)]
    command.append(f"{front.url}/v2/{IMAGE}/manifests/1")
    with measured(front, backend) as cost:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + ANSWER_SECONDS_MAX, check=False)
    reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not reports:
        raise RuntimeError(f"{front.name}: wrk: {(done.stdout + done.stderr)[-600:]}")
    if reports[0]["failed"] or not reports[0]["requests"]:
        raise RuntimeError(f"{front.name}: {reports[0]['failed']} of {reports[0]['requests']} requests failed")
    requests = reports[0]["requests"]
    return cost | reports[0] | {
        "requests_per_s": requests * 1e6 / reports[0]["us"],
        "front_us": cost["front_cpu_s"] * 1e6 / requests,
        "backend_us": cost["backend_cpu_s"] * 1e6 / requests,
    }


def new_connections(front, backend, count):
    """Full handshakes, with one request each."""
    with measured(front, backend) as cost:
        for _ in range(count):
            connection = connect(front)
            ask(connection, front, "GET", f"{IMAGE}/manifests/1", 200, Accept=OCI_MANIFEST, Connection="close")
            connection.close()
    return cost | {"front_us": cost["front_cpu_s"] * 1e6 / count, "per_cpu_s": count / max(cost["front_cpu_s"], 1e-9)}


def idle_connections(front, count):
    """Memory before and with so many connections that have each made one request and are kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    ask(connect(front), front, "GET", f"{IMAGE}/manifests/1", 200, Accept=OCI_MANIFEST)
    time.sleep(SETTLE_SECONDS)
    before = memory_mb(front)
    connections = []
    try:
        for _ in range(count):
            connections.append(connect(front))
            ask(connections[-1], front, "GET", f"{IMAGE}/manifests/1", 200, Accept=OCI_MANIFEST)
        time.sleep(SETTLE_SECONDS)
        idle = memory_mb(front)
        closed = sum(is_closed(connection.sock) for connection in connections)
        if closed:
            raise RuntimeError(f"{front.name}: {closed} of {count} connections were not kept")
    finally:
        for connection in connections:
            connection.close()
    return {"before_mb": before["pss_mb"], **idle}


def is_closed(sock):
    if sock is None:
        return True
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True
