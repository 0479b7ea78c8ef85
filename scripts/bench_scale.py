#!/usr/bin/env python3
"""Asks a store of a thousand, a hundred thousand and a million tags and V1 images the same questions, through both
services, and writes the table. Called by scripts/bench-scale.

Invariants: the same requests, as many of them, at every size, one after the other on one connection; whatever is not
answered as it should be ends the measurement; whatever happens, processes are stopped and data is removed.
"""
import argparse
import base64
import datetime
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import bench_load as load
from bench import machine, shown, version_of_berth
from bench_stacks import PASSWORD, Stack, free_port

SIZES = [1_000, 100_000, 1_000_000]
QUICK = [1_000, 20_000, 100_000]
FLAT = 1.5
# Below this, in milliseconds, a difference is the client's and the clock's.
LEAST_MS = 0.1
START_SECONDS_MAX = 1.0
READY_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60
FILL_SECONDS_MAX = 4 * 3600
QUIET_SECONDS_MAX = 300
QUIET_CORES_MAX = 0.03
ANSWER_SECONDS_MAX = 60
WARM_UP = 20

# What crates/registry/examples/fill.rs has put in.
TAGS_PER_IMAGE, TAGS_PER_TAG_OF_MANY, CHAIN, CHAINS_PER_IMAGE = 100, 10, 5, 100

BACKEND = """
data_dir = "{data}"
{storage}
[listen]
unix = "backend.sock"
[[repository]]
key = "scale"
api_version = "V2"
[[repository]]
key = "scale-v1"
api_version = "V1"
"""

GATEWAY = """
[upstream]
unix = "backend.sock"
[[binding]]
listen = "127.0.0.1:{port}"
repository = "scale"
certificate = "{certificates}/server.pem"
key = "{certificates}/server.key"
[[binding]]
listen = "127.0.0.1:{v1}"
repository = "scale-v1"
certificate = "{certificates}/server.pem"
key = "{certificates}/server.key"
[[binding]]
listen = "127.0.0.1:{console}"
console = true
certificate = "{certificates}/server.pem"
key = "{certificates}/server.key"
"""


# --- The store and its two services


class Berth(Stack):
    """Both services over a filled store."""

    def __init__(self, directory, binaries, certificates, data, memory_mib):
        super().__init__("berth", directory, authenticated=True)
        self.binaries, self.data, self.v1, self.console = binaries, data, free_port(), free_port()
        self.write("backend.toml", BACKEND, data=data, storage=f"[storage]\nmemory_mib = {memory_mib}" if memory_mib else "")
        self.write("gateway.toml", GATEWAY, certificates=certificates, v1=self.v1, console=self.console)
        self.write("password", "{password}")

    def start_up(self):
        """Starts both; returns seconds until the backend takes requests."""
        began = time.monotonic()
        command = [f"{self.binaries}/berth-backend", "serve", "--config", "backend.toml", "--admin-password-file", "password"]
        backend = subprocess.Popen(
            command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=open(self.directory / "backend.log", "ab"), text=True,
        )
        self.processes.append(backend)
        too_late = threading.Timer(READY_SECONDS_MAX, backend.kill)
        too_late.start()
        is_ready = any(line.startswith("berth-backend ready") for line in backend.stdout)
        too_late.cancel()
        if not is_ready:
            raise RuntimeError(f"the backend ended, or was not ready after {READY_SECONDS_MAX} s: {self.last_words()}")
        seconds = time.monotonic() - began
        self.start(f"{self.binaries}/berth-gateway", "serve", "--config", "gateway.toml")
        self.wait_until_ready()
        return seconds

    def start_after_kill(self):
        """Kills the backend where it stands; returns seconds until another one takes requests."""
        self.processes[0].kill()
        self.processes[0].wait(STOP_SECONDS_MAX)
        self.stop()
        return self.start_up()

    def wait_until_quiet(self):
        """Until no compaction is at work; returns how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < QUIET_SECONDS_MAX:
            before = load.cpu_seconds(self)
            time.sleep(2)
            if (load.cpu_seconds(self) - before) / 2 <= QUIET_CORES_MAX:
                break
        return time.monotonic() - began

    def memory_mb(self):
        """The backend's alone: the gateway keeps nothing of what is stored."""
        anonymous = resident = 0
        for line in Path(f"/proc/{self.processes[0].pid}/smaps_rollup").read_text().splitlines():
            anonymous += int(line.split()[1]) if line.startswith("Anonymous:") else 0
            resident += int(line.split()[1]) if line.startswith("Pss:") else 0
        return {"anonymous_mb": anonymous / 1024, "pss_mb": resident / 1024}

    def disk_mb(self):
        return sum(path.stat().st_size for path in (self.data / "meta").iterdir()) / 1e6


# --- Requests


class Asked:
    """One kept connection."""

    def __init__(self, stack, port):
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=ANSWER_SECONDS_MAX, context=load.TRUSTING)
        self.authorization = "Basic " + base64.b64encode(stack.login.encode()).decode()

    def __call__(self, method, path, wanted=200, body=None, **headers):
        headers = {"Authorization": self.authorization, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.connection.request(method, path, body=body, headers=headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != wanted:
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {content[:300]!r}")
        return answer.headers, content


class Questions:
    """What is asked of a store that was filled up to `size`. Each method asks once; `chosen` is random but repeatable."""

    def __init__(self, stack, size, seed):
        self.size, self.chosen = size, random.Random(seed)
        self.v2, self.v1, self.rest = (Asked(stack, port) for port in (stack.port, stack.v1, stack.console))
        self.fresh = f"new/of-{size}-{seed}"
        self.count = self.deleted = 0

    def close(self):
        for asked in (self.v2, self.v1, self.rest):
            asked.connection.close()

    def number(self):
        return self.chosen.randrange(self.size)

    @staticmethod
    def image(number):
        return f"team/app-{number // TAGS_PER_IMAGE:05}"

    @staticmethod
    def v1_id(number):
        return hashlib.sha256(f"V1 image {number}".encode()).hexdigest()

    def v1_top(self):
        number = self.number() // CHAIN * CHAIN + CHAIN - 1
        return f"team/app-{number // CHAIN // CHAINS_PER_IMAGE:05}", number

    def push_blob(self, image, content):
        headers, _ = self.v2("POST", f"/v2/{image}/blobs/uploads/", 202)
        place = urlsplit(headers["Location"])
        path = f"{place.path}?{place.query + '&' if place.query else ''}digest={load.sha256(content)}"
        self.v2("PUT", path, 201, content, Content_Type=load.OCTETS, Content_Length=str(len(content)))

    def manifest(self, image, config, layer, **annotations):
        described = [
            {"mediaType": kind, "digest": load.sha256(content), "size": len(content)}
            for kind, content in ((load.OCI_CONFIG, config), (load.OCI_LAYER, layer))
        ]
        document = {
            "schemaVersion": 2, "mediaType": load.OCI_MANIFEST, "config": described[0], "layers": described[1:],
            "annotations": annotations,
        }
        return json.dumps(document).encode()

    # Reads

    def ping(self):
        self.v2("GET", "/v2/")

    def manifest_by_tag(self):
        number = self.number()
        self.v2("GET", f"/v2/{self.image(number)}/manifests/t{number:07}", Accept=load.OCI_MANIFEST)

    def head_blob(self):
        image = self.image(self.number())
        _, layer = self.filled_with(image)
        self.v2("HEAD", f"/v2/{image}/blobs/{load.sha256(layer)}")

    def tags_page(self):
        number = self.number()
        self.v2("GET", f"/v2/{self.image(number)}/tags/list?n=50&last=t{number // 100 * 100 + 25:07}")

    def tags_page_of_many(self):
        last = self.chosen.randrange(self.size // TAGS_PER_TAG_OF_MANY)
        self.v2("GET", f"/v2/team/many/tags/list?n=50&last=t{min(last, self.size // TAGS_PER_TAG_OF_MANY - 60):07}")

    def catalog_page(self):
        last = self.chosen.randrange(max(1, self.size // TAGS_PER_IMAGE - 10))
        self.v2("GET", f"/v2/_catalog?n=10&last=team/app-{max(0, last):05}")

    def search_page(self):
        number = self.number()
        self.rest("GET", f"/artifactory/api/search/prop?docker.repoName={self.image(number)}&docker.manifest=t{number:07}&repos=scale&limit=50")

    def search_by_value(self):
        number = self.number()
        _, found = self.rest("GET", f"/artifactory/api/search/prop?docker.manifest=t{number // 10:06}*&repos=scale&limit=50")
        if not json.loads(found)["results"]:
            raise RuntimeError(f"tag t{number:07} was not found")

    def v1_tag(self):
        image, number = self.v1_top()
        _, found = self.v1("GET", f"/v1/repositories/{image}/tags/t{number:07}")
        if json.loads(found) != self.v1_id(number):
            raise RuntimeError(f"V1 tag t{number:07} of {image} is {found!r}")

    def v1_ancestry(self):
        _, found = self.v1("GET", f"/v1/images/{self.v1_id(self.v1_top()[1])}/ancestry")
        if len(json.loads(found)) != CHAIN:
            raise RuntimeError(f"a V1 chain of {CHAIN} is {found!r}")

    def v1_json(self):
        self.v1("GET", f"/v1/images/{self.v1_id(self.number())}/json")

    def v1_layer(self):
        self.v1("GET", f"/v1/images/{self.v1_id(self.number())}/layer")

    # Changes

    def put_tag(self, image, config, layer):
        self.count += 1
        content = self.manifest(image, config, layer, build=f"{self.fresh}-{self.count}")
        self.v2("PUT", f"/v2/{image}/manifests/new-{self.count}", 201, content, Content_Type=load.OCI_MANIFEST)

    def put_tag_anew(self):
        """In an image that only these are in."""
        config, layer = b"{}", b"a layer"
        if self.count == 0:
            for content in (config, layer):
                self.push_blob(self.fresh, content)
        self.put_tag(self.fresh, config, layer)

    @staticmethod
    def filled_with(image):
        """What there is in an image that was filled."""
        config = f'{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"image":"{image}"}}}},"rootfs":{{"type":"layers","diff_ids":[]}}}}'
        return config.encode(), f"the layer of {image}, as small as layers can be".encode()

    def put_tag_filled(self):
        """In one of those that there are."""
        image = self.image(self.number())
        self.put_tag(image, *self.filled_with(image))

    def prepare_deletions(self, requests):
        self.count = 0
        for _ in range(requests):
            self.put_tag("team/many", *self.filled_with("team/many"))

    def delete_tag(self):
        """From the front of the image that has many, where every deletion looks at what is left."""
        self.deleted += 1
        self.v2("DELETE", f"/v2/team/many/manifests/new-{self.deleted}", 202)

    def push_image(self):
        self.count += 1
        image = f"{self.fresh}/image-{self.count}"
        config, layer = (f"{kind} of {image}".encode() for kind in ("config", "layer"))
        for content in (config, layer):
            self.v2("HEAD", f"/v2/{image}/blobs/{load.sha256(content)}", 404)
            self.push_blob(image, content)
        self.v2("PUT", f"/v2/{image}/manifests/1", 201, self.manifest(image, config, layer), Content_Type=load.OCI_MANIFEST)


@dataclass
class Row:
    """One line of the table."""

    name: str
    ask: str  # of Questions
    requests: int


ROWS = [
    Row("`GET /v2/`", "ping", 1500),
    Row("manifest by tag", "manifest_by_tag", 1500),
    Row("`HEAD` blob", "head_blob", 1500),
    Row("50 tags of an image's 100, from the middle", "tags_page", 800),
    Row("50 tags of the image that has a tenth of all", "tags_page_of_many", 800),
    Row("10 names of the catalog, from anywhere", "catalog_page", 800),
    Row("search by two properties, one of them rare", "search_page", 800),
    Row("search by the beginning of a value", "search_by_value", 800),
    Row("V1 tag", "v1_tag", 800),
    Row("V1 ancestry, chains of 5", "v1_ancestry", 800),
    Row("V1 JSON", "v1_json", 800),
    Row("V1 layer", "v1_layer", 800),
    Row("tag `PUT`, new image", "put_tag_anew", 800),
    Row("tag `PUT`, filled images", "put_tag_filled", 800),
    Row("small image pushed, 7 requests", "push_image", 200),
    Row("tag deleted, of the image that has many", "delete_tag", 200),
]


def measure(stack, size, rounds):
    """results[row's name] = medians over the rounds of p50 and of the servers' CPU time per request."""
    found = {row.name: [] for row in ROWS}
    other = []
    for number in range(rounds):
        questions = Questions(stack, size, number)
        for row in ROWS:
            ask = getattr(questions, row.ask)
            if ask == questions.delete_tag:
                questions.prepare_deletions(WARM_UP + row.requests)
            for _ in range(WARM_UP):
                ask()
            taken = []
            with load.measured(stack, stack) as cost:
                for _ in range(row.requests):
                    began = time.perf_counter()
                    ask()
                    taken.append(time.perf_counter() - began)
            other.append(cost["other_cores"])
            found[row.name].append((statistics.median(taken) * 1e3, cost["backend_cpu_s"] * 1e6 / row.requests))
        questions.close()
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in found.items()}
    return {name: {"p50_ms": p50, "cpu_us": cpu} for name, (p50, cpu) in medians.items()} | {"other_cores": statistics.median(other)}


def fill(options, stores, before, size):
    """The store of that size. It is made of a copy of the one before it, unless it is there already."""
    whole, unfinished = stores / str(size), stores / f"{size}-unfinished"
    if whole.exists():
        return whole
    print(f"  {size}: filling", flush=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    if before:
        shutil.copytree(stores / str(before), unfinished)
    command = [f"{options.binaries}/examples/fill", str(unfinished), str(before), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FILL_SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fill: {(done.stdout + done.stderr)[-600:]}")
    print("  " + done.stdout.strip().replace("\n", "; "), flush=True)
    return unfinished.rename(whole)


def run(options, directory, certificates):
    """results[size]"""
    results, before = {}, 0
    stores = options.stores or directory / "stores"
    stores.mkdir(parents=True, exist_ok=True)
    for size in options.sizes:
        filled = fill(options, stores, before, size)
        before = size
        # What is asked changes it: each measurement has a copy of its own.
        data = directory / f"data-{size}"
        shutil.copytree(filled, data)
        os.sync()
        stack = Berth(directory / f"berth-{size}", options.binaries, certificates, data, options.memory)
        try:
            started = stack.start_up()
            quiet = stack.wait_until_quiet()
            results[size] = measure(stack, size, options.rounds)
            results[size] |= stack.memory_mb() | {"start_s": started, "quiet_s": quiet, "disk_mb": stack.disk_mb()}
            results[size]["kill_s"] = stack.start_after_kill()
            print(f"  {size}: measured; started in {started:.2f} s, quiet after {quiet:.0f} s", flush=True)
        finally:
            stack.stop()
            shutil.rmtree(data)
    return results


# --- The table


def judge(name, results, sizes):
    """(cells of the row, whether it is flat). Time and CPU both count: one that is flat alone is luck."""
    p50 = [results[size][name]["p50_ms"] for size in sizes]
    cpu = [results[size][name]["cpu_us"] for size in sizes]
    times = [max(column[1:]) / max(column[0], least) for column, least in ((p50, LEAST_MS), (cpu, LEAST_MS * 1e3))]
    holds = max(times) <= FLAT
    cells = [name, *map(shown, p50), *map(shown, cpu), f"{times[0]:.2f}× / {times[1]:.2f}×", "holds" if holds else "**FAILS**"]
    return cells, holds


def write_table(options, results):
    sizes = list(results)
    judged = [judge(row.name, results, sizes) for row in ROWS]
    starts = {field: max(results[size][field] for size in sizes) < START_SECONDS_MAX for field in ("start_s", "kill_s")}
    build = f"{version_of_berth()}, release build" if options.built else f"{version_of_berth()}, **{options.build}**"
    headings = [f"{size:,}" for size in sizes]

    def line(what, field, unit, must="–"):
        return f"| {what} | " + " | ".join(f"{shown(results[size][field])} {unit}" for size in sizes) + f" | {must} |"

    def start_must(field):
        return f"< {START_SECONDS_MAX:g} s {'holds' if starts[field] else '**FAILS**'}"

    lines = [
        "# The same requests with more and more in the store",
        "",
        "Written by `make bench-scale`; do not edit.",
        "",
        f"- {datetime.date.today()}, medians of {options.rounds} rounds"
        + (", **quick run: fewer rows, not for the record**" if options.quick else ""),
        f"- {machine(options.work)}; other processes used"
        f" {statistics.median(results[size]['other_cores'] for size in sizes):.1f} cores meanwhile",
        f"- {build}, gateway and backend over a Unix socket, TLS, Basic authentication on every request;"
        f" `[storage] memory_mib` {options.memory or 'as it comes'}",
        f"- So many tags, {TAGS_PER_IMAGE} in each image, with a manifest each; a tenth as many more in one image; as many V1 images"
        f" in chains of {CHAIN}. A tag is about 14 rows, a V1 image about 9.",
        "- One request after the other on a kept connection; what is asked for is chosen at random from all there is. Time is that of"
        " the client (a Python program, some 0.2 ms of it); CPU is user and system time of both services, compactions included.",
        f"- Flat: neither p50 nor CPU is more than {FLAT:g} times that of the smallest store.",
        "",
        "| request | " + " | ".join(f"p50 ms, {size}" for size in headings) + " | " + " | ".join(f"CPU µs, {size}" for size in headings)
        + " | × p50 / × CPU | flat |",
        "| --- |" + " --- |" * (2 * len(sizes) + 2),
        *("| " + " | ".join(cells) + " |" for cells, _ in judged),
        "",
        "| of the backend | " + " | ".join(headings) + " | must |",
        "| --- |" + " --- |" * (len(sizes) + 1),
        line("start until it takes requests", "start_s", "s", start_must("start_s")),
        line("the same after `kill -9` in the middle of it", "kill_s", "s", start_must("kill_s")),
        line("anonymous memory after all of it", "anonymous_mb", "MB"),
        line("resident memory (PSS)", "pss_mb", "MB"),
        line("metadata on disk", "disk_mb", "MB"),
        "",
        "To repeat: `make bench-scale`, about half an hour after the build; `BENCH_QUICK=1` takes five minutes.",
        "",
    ]
    Path(options.output).write_text("\n".join(lines))
    return all(starts.values()) and all(holds for _, holds in judged)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", type=Path, help="where filled stores are kept and taken from; nowhere if it is not given")
    parser.add_argument("--memory", type=int, help="[storage] memory_mib; the default if it is not given")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--build", default="release build", help="what the programs are, if they were not built for this")
    options = parser.parse_args()
    options.built = options.build == "release build"
    options.sizes = QUICK if options.quick else SIZES
    options.stores = options.stores and options.stores.resolve()

    # So that a stop by signal also goes through the `finally` that ends the stack.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.work, options.binaries = Path(options.work).resolve(), Path(options.binaries).resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="scale-") as directory:
        make = [f"{options.binaries}/berth-gateway", "cert", "self-signed", "--dir", f"{directory}/certs"]
        subprocess.run([*make, "--name", "localhost", "--ip", "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
        results = run(options, Path(directory), f"{directory}/certs")
    (options.work / "scale.json").write_text(json.dumps(results, indent=1))
    holds = write_table(options, results)
    print(Path(options.output).read_text())
    if not holds:
        sys.exit("bench-scale: something is not as flat as it must be")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
        sys.exit(f"bench-scale: {error or 'interrupted'}")
