#!/usr/bin/env python3
"""Puts the gateway and nginx in front of the same backend, takes medians over rounds, writes the table. Called by
scripts/bench-gateway.

Invariants: every front does the same steps with the same sizes in every round, in another order at each step; only one
of them works at a time; whatever happens, processes are stopped and data is removed.
"""
import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench_load as load
from bench import machine, output_of, shown, version_of_berth, version_of_nginx
from bench_fronts import FRONTS, Backend

NGINX = ["published", "tuned"]
MEMORY_MB_MAX = 40


@dataclass
class Sizes:
    """How much is done in one step, by one front."""

    blob_bytes: int
    downloads: int
    uploads: int
    seconds: int
    handshakes: int
    idle: int


FULL = Sizes(blob_bytes=256 << 20, downloads=16, uploads=8, seconds=5, handshakes=2000, idle=1000)
QUICK = Sizes(blob_bytes=64 << 20, downloads=16, uploads=8, seconds=2, handshakes=500, idle=1000)


def steps(sizes, blob, digest):
    """What is done to each front, in order, as functions of it and the backend. Memory comes first, when the processes
    are as they start, and last, when they have had work."""

    def idle(front, _):
        return load.idle_connections(front, sizes.idle)

    def small(connections):
        return lambda front, backend: load.small_requests(front, backend, connections, sizes.seconds)

    def down(streams):
        return lambda front, backend: load.download(front, backend, digest, blob, streams, sizes.downloads // streams)

    def up(streams):
        return lambda front, backend: load.upload(front, backend, blob, streams, sizes.uploads // streams)

    return {
        "idle": idle,
        "one by one": small(1),
        "small": small(8),
        "handshakes": lambda front, backend: load.new_connections(front, backend, sizes.handshakes),
        "download 1": down(1),
        "download 8": down(8),
        "upload 1": up(1),
        "upload 8": up(8),
        "idle after": idle,
    }


ALONE_TOO = {"one by one", "small", "download 1", "download 8", "upload 1", "upload 8"}


@dataclass
class Row:
    """One line of the table, and what the gateway has to reach there."""

    name: str
    step: str
    field: str
    unit: str
    higher_is_better: bool = False
    added: bool = False  # how much more the median is than that of the backend alone
    at_most_nginx: bool = False
    max: float | None = None


ROWS = [
    Row("**download**, 1 stream: CPU of the front", "download 1", "front_s_per_gb", "s/GB", at_most_nginx=True),
    Row("CPU of the backend meanwhile", "download 1", "backend_s_per_gb", "s/GB"),
    Row("speed", "download 1", "mb_per_s", "MB/s", higher_is_better=True),
    Row("**download**, 8 streams: CPU of the front", "download 8", "front_s_per_gb", "s/GB", at_most_nginx=True),
    Row("CPU of the backend meanwhile", "download 8", "backend_s_per_gb", "s/GB"),
    Row("speed", "download 8", "mb_per_s", "MB/s", higher_is_better=True),
    Row("**upload**, 1 stream: CPU of the front", "upload 1", "front_s_per_gb", "s/GB", at_most_nginx=True),
    Row("CPU of the backend meanwhile", "upload 1", "backend_s_per_gb", "s/GB"),
    Row("speed", "upload 1", "mb_per_s", "MB/s", higher_is_better=True),
    Row("**upload**, 8 streams: CPU of the front", "upload 8", "front_s_per_gb", "s/GB", at_most_nginx=True),
    Row("CPU of the backend meanwhile", "upload 8", "backend_s_per_gb", "s/GB"),
    Row("speed", "upload 8", "mb_per_s", "MB/s", higher_is_better=True),
    Row("**small requests**, 8 connections: CPU of the front", "small", "front_us", "µs/request"),
    Row("CPU of the backend meanwhile", "small", "backend_us", "µs/request"),
    Row("speed", "small", "requests_per_s", "/s", higher_is_better=True),
    Row("**latency**, 1 connection, p50", "one by one", "p50_us", "µs"),
    Row("added by the front", "one by one", "p50_us", "µs", added=True),
    Row("p99", "one by one", "p99_us", "µs"),
    Row("added by the front", "one by one", "p99_us", "µs", added=True),
    Row("**new connections**: CPU of the front", "handshakes", "front_us", "µs each"),
    Row("per CPU second", "handshakes", "per_cpu_s", "/s", higher_is_better=True),
    Row("**memory** after the start", "idle", "before_mb", "MB"),
    Row("with {idle} idle connections", "idle", "pss_mb", "MB", max=MEMORY_MB_MAX),
    Row("each connection", "idle", "kb_each", "kB"),
    Row("**memory** after all of the above", "idle after", "before_mb", "MB"),
    Row("with {idle} idle connections", "idle after", "pss_mb", "MB", max=MEMORY_MB_MAX),
    Row("each connection, against the start", "idle after", "kb_each", "kB"),
]


def run_round(options, number, certificates, sizes):
    """results[front][step] of one round, over an empty store; "alone" is the backend without a front."""
    results = {name: {} for name in ["alone", *FRONTS]}
    with tempfile.TemporaryDirectory(dir=options.work, prefix="round-") as directory:
        running = []
        try:
            backend = Backend(directory, options.binaries)
            running.append(backend)
            fronts = {}
            for name, start in FRONTS.items():
                fronts[name] = start(directory, options.binaries, certificates)
                running.append(fronts[name])
            for stack in running:
                stack.wait_until_ready()
            blob = Path(directory) / "blob"
            load.write_random(blob, sizes.blob_bytes)
            plan = steps(sizes, blob, load.push_image(backend, blob))
            for at, (step, do) in enumerate(plan.items()):
                names = [*FRONTS, *(["alone"] if step in ALONE_TOO else [])]
                first = (number + at) % len(names)
                for name in names[first:] + names[:first]:
                    os.sync()
                    results[name][step] = do(fronts.get(name, backend), backend)
                print(f"  round {number + 1}: {step}", flush=True)
            for name in FRONTS:
                per_connection(results[name], sizes)
        finally:
            for stack in reversed(running):
                stack.stop()
    return results


def per_connection(of_front, sizes):
    """Each connection's memory, also of those that use again what others have left: against that after the start."""
    for step in ["idle", "idle after"]:
        grown_mb = of_front[step]["pss_mb"] - of_front["idle"]["before_mb"]
        of_front[step]["kb_each"] = grown_mb * 1024 / sizes.idle


def values(rounds, name, row):
    """The row's values in all rounds; none where it says nothing about `name`."""
    if name == "alone" and (row.step not in ALONE_TOO or row.field.startswith("front_") or row.added):
        return []
    found = [one[name][row.step][row.field] for one in rounds]
    if row.added:
        return [statistics.median(found) - statistics.median(one["alone"][row.step][row.field] for one in rounds)]
    return found


def spread(found):
    if not found:
        return "–"
    if len(found) == 1:
        return shown(found[0])
    return f"{shown(statistics.median(found))} [{shown(min(found))}–{shown(max(found))}]"


def judge(row, rounds, sizes):
    """(cells of the row, whether it is as it must be)"""
    of = {name: values(rounds, name, row) for name in ["alone", *FRONTS]}
    medians = {name: statistics.median(of[name]) for name in FRONTS}

    def times(other):
        return f"{medians['gateway'] / medians[other]:.2f}×" if medians["gateway"] > 0 and medians[other] > 0 else "–"

    must, holds = "–", True
    if row.at_most_nginx:
        holds = medians["gateway"] <= min(medians[name] for name in NGINX)
        must = f"≤ nginx {'holds' if holds else '**FAILS**'}"
    if row.max is not None:
        holds = medians["gateway"] < row.max
        must = f"< {row.max:g} {row.unit} {'holds' if holds else '**FAILS**'}"
    direction = " ↑" if row.higher_is_better else ""
    cells = [row.name.format(idle=sizes.idle), row.unit + direction, *(spread(of[name]) for name in ["alone", *FRONTS])]
    return [*cells, *map(times, NGINX), must], holds


def other_cores(rounds):
    """Cores that processes outside the measurement used, median over all steps."""
    results = [result for one in rounds for steps_of_one in one.values() for result in steps_of_one.values()]
    return statistics.median(result["other_cores"] for result in results if "other_cores" in result)


def requests_at_least(rounds):
    return min(one[name]["small"]["requests"] for one in rounds for name in FRONTS)


def write_table(options, rounds, sizes):
    judged = [judge(row, rounds, sizes) for row in ROWS]
    build = f"{version_of_berth()}, release build" if options.built else "**programs that were given, of unknown build**"
    transfer_gb = sizes.blob_bytes * sizes.downloads / 1e9
    lines = [
        "# What the gateway costs beside Debian's nginx",
        "",
        "Written by `make bench-gateway`; do not edit. Every front stood before the same backend in the same run, taking turns"
        " within each step.",
        "",
        f"- {datetime.date.today()}, medians of {len(rounds)} rounds [least–most]"
        + (", **quick run: small sizes, not for the record**" if options.quick else ""),
        f"- {machine(options.work)}; other processes used {other_cores(rounds):.1f} cores meanwhile",
        f"- Gateway and backend: {build}, as shipped",
        f"- {version_of_nginx()}, {output_of('openssl', 'version')}; *published*: the lines that Artifactory publishes for Docker, in"
        " Debian's nginx.conf; *tuned*: bodies streamed, kept connections to the backend, larger buffers. Both are in"
        " `scripts/bench_fronts.py`",
        "- All: TLS with the same ECDSA P-256 certificate, as many workers as cores, Basic authentication at the backend, an access"
        " line per request in a file, the backend on a Unix socket. Clients share the cores, so speed is that of the whole machine;"
        " CPU is user and system time of the front's processes and theirs alone.",
        f"- Download: {transfer_gb:.1f} GB in blobs of {sizes.blob_bytes >> 20} MiB, TLS 1.3 with AES-128-GCM. Upload:"
        f" {transfer_gb * sizes.uploads / sizes.downloads:.1f} GB in blobs of random bytes, one chunked PATCH each, as docker does it;"
        " checked to be complete, then cancelled.",
        f"- Small requests: GET of a manifest, connections kept, {requests_at_least(rounds)} or more of them. The backend alone is"
        " asked over plain TCP, the fronts over TLS. New connections: full handshakes with one such request each.",
        "- Memory: PSS of the front's processes, where pages that several processes share count once.",
        "- × is the gateway divided by nginx; below 1 is less. ↑: more is better.",
        "",
        "| what | unit | backend alone | nginx, published | nginx, tuned | gateway | × published | × tuned | must |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(cells) + " |" for cells, _ in judged),
        "",
        "To repeat: `make bench-gateway` on an idle machine, 8 minutes after the build; `BENCH_QUICK=1` takes 3.",
        "",
    ]
    Path(options.output).write_text("\n".join(lines))
    return all(holds for _, holds in judged)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--not-built", action="store_false", dest="built")
    options = parser.parse_args()

    # So that a stop by signal also goes through the `finally` that ends the stacks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.work = Path(options.work).resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(dir=options.work, prefix="certs-") as certificates:
        make = [f"{options.binaries}/berth-gateway", "cert", "self-signed", "--dir", certificates]
        subprocess.run([*make, "--name", "localhost", "--ip", "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
        rounds = [run_round(options, number, certificates, sizes) for number in range(options.rounds)]
    (options.work / "rounds.json").write_text(json.dumps(rounds, indent=1))
    holds = write_table(options, rounds, sizes)
    print(Path(options.output).read_text())
    if not holds:
        sys.exit("bench-gateway: the gateway does not do what it must in at least one row")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
        sys.exit(f"bench-gateway: {error or 'interrupted'}")
