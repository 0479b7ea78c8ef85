#!/usr/bin/env python3
"""Drives the load program against each stack, takes medians over rounds, writes the table. Called by scripts/bench.

Invariants: both stacks run the same steps with the same sizes in every round, beginning with another stack each
round; the disk is quiet before a step begins; whatever happens, processes are stopped and data is removed.
"""
import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_stacks import PEERS

STEP_SECONDS_MAX = 600


def steps(quick):
    """Name and load driver's arguments of each step, in order: what is pulled has been pushed before."""
    big8 = ["--count", "8", "--size", "32m" if quick else "128m", "--conns", "8", "--seed", "1"]
    big1 = ["--count", "4", "--size", "64m" if quick else "256m", "--conns", "1", "--seed", "2"]
    few = ["--images", "15" if quick else "40", "--layers", "5", "--size", "20k", "--seed", "3"]
    many = ["--images", "60" if quick else "200", "--layers", "5", "--size", "20k", "--seed", "4"]
    seconds = ["--secs", "2" if quick else "5"]
    tags = ["--conns", "8", "--seed", "5"]
    return {
        "push big 8": ["push-blobs", *big8],
        "pull big 8": ["pull-blobs", *big8],
        "push big 1": ["push-blobs", *big1],
        "pull big 1": ["pull-blobs", *big1],
        "push small 1": ["push-images", *few, "--conns", "1"],
        "push small 8": ["push-images", *many, "--conns", "8"],
        "pull small 1": ["pull-images", *many, "--conns", "1"],
        "pull small 8": ["pull-images", *many, "--conns", "8"],
        "manifest": ["rate", "--kind", "manifest-tag", *many, *seconds, "--conns", "64"],
        "head": ["rate", "--kind", "blob-head", *many, *seconds, "--conns", "64"],
        "blob": ["rate", "--kind", "blob-get", *many, *seconds, "--conns", "16"],
        "steady": ["rate", "--kind", "manifest-tag", *many, *seconds, "--conns", "16", "--rate", "300"],
        "few tags": ["tags", "--tags", "100", *tags, "--repo", "bench/few"],
        "many tags": ["tags", "--tags", "1000" if quick else "10000", *tags, "--repo", "bench/many"],
    }


@dataclass
class Row:
    """One line of the table: what is read where, and what it has to reach."""

    name: str
    source: str  # "step" or "step/command" where a step reports several
    field: str
    unit: str
    higher_is_better: bool = True
    floor: float = 1.0  # times d2n; a release does not fall below it
    floor_max: float | None = None  # an absolute floor in its place: the most that is allowed
    gate: float | None = None  # times d2n; the target
    gate_max: float | None = None  # absolute part of the target
    gate_like: str | None = None  # part of the target: at most 1.5 times Berth's own value of the same field there
    cpu: str | None = None  # the field with the servers' CPU cost
    cpu_max: float | None = None  # part of the target


GB, REQUEST = "srv_cpu_s_per_GB", "srv_us_per_req"
ROWS = [
    Row("pull big, 8 streams", "pull big 8", "MBps", "MB/s", floor=1.5, gate=2.0, cpu=GB, cpu_max=1.0),
    Row("pull big, 1 stream", "pull big 1", "MBps", "MB/s", floor=1.5, gate=1.5, cpu=GB),
    Row("push big, 8 streams", "push big 8", "MBps", "MB/s", floor=1.5, gate=3.5, cpu=GB, cpu_max=2.0),
    Row("push big, 1 stream", "push big 1", "MBps", "MB/s", floor=1.5, gate=3.5, cpu=GB),
    Row("push small, 1 connection", "push small 1", "images_per_s", "images/s", gate=10, cpu=REQUEST),
    Row("push small, 8 connections", "push small 8", "images_per_s", "images/s", gate=8, cpu=REQUEST),
    Row("pull small, 1 connection", "pull small 1", "images_per_s", "images/s", gate=8, cpu=REQUEST),
    Row("pull small, 8 connections", "pull small 8", "images_per_s", "images/s", gate=8, cpu=REQUEST),
    Row("manifest GET by tag, 64 connections", "manifest", "rps", "/s", gate=12, cpu=REQUEST),
    Row("  its p99", "manifest", "p99_ms", "ms", higher_is_better=False, gate_max=12),
    Row("HEAD blob, 64 connections", "head", "rps", "/s", gate=12, cpu=REQUEST),
    Row("GET 20 KB blob, 16 connections", "blob", "rps", "/s", gate=10, cpu=REQUEST),
    Row("tags n=100 of {tags}, p50", "many tags/tags:list-n100", "p50_ms", "ms", higher_is_better=False, gate_max=1.0,
        gate_like="few tags/tags:list-n100"),
    Row("tags n=100 of 100, p50", "few tags/tags:list-n100", "p50_ms", "ms", higher_is_better=False),
    Row("whole list of {tags} tags, p50", "many tags/tags:list-all", "p50_ms", "ms", higher_is_better=False, gate_max=10),
    Row("tag PUT, 8 connections", "many tags/tags:put", "rps", "/s", gate=8, cpu=REQUEST),
    Row("manifest p50 at 300/s", "steady", "p50_ms", "ms", higher_is_better=False, gate_max=0.8, cpu=REQUEST),
    Row("anonymous memory, pull big 8", "pull big 8", "anon_MB", "MB", higher_is_better=False, floor_max=64, gate_max=64),
    Row("anonymous memory, push small 8", "push small 8", "anon_MB", "MB", higher_is_better=False, floor_max=64, gate_max=64),
    Row("peak resident memory, pull big 8", "pull big 8", "hwm_MB", "MB", higher_is_better=False, floor_max=128, gate=1.0),
    Row("peak resident memory, push small 8", "push small 8", "hwm_MB", "MB", higher_is_better=False, floor_max=128, gate=1.0),
]


def run_step(driver, stack, arguments):
    """The step's reports by command name; a step with a single failed request is a failed run."""
    os.sync()
    done = subprocess.run(
        [driver, *arguments, *stack.arguments, "--suite", "aes128"],
        capture_output=True, text=True, timeout=STEP_SECONDS_MAX, check=False,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not reports:
        raise RuntimeError(f"{stack.name}: {arguments[0]} failed: {done.stderr[-600:]}")
    for report in reports:
        if report["errors"]:
            raise RuntimeError(f"{stack.name}: {report['errors']} errors in {report['cmd']}: {report['first_error']}")
    return {report["cmd"]: report for report in reports}


def run_round(options, number, certificates, plan):
    """results[peer]["step"] and results[peer]["step/command"] of one round, over empty stores."""
    names = list(PEERS)
    names = names[number % len(names):] + names[:number % len(names)]
    results = {name: {} for name in names}
    running = []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="round-") as directory:
        try:
            for name in names:
                running.append(PEERS[name](Path(directory) / name, options.binaries, certificates))
            for stack in running:
                stack.wait_until_ready()
            for step, arguments in plan.items():
                for stack in running:
                    reports = run_step(options.driver, stack, arguments)
                    for command, report in reports.items():
                        results[stack.name][step] = report
                        results[stack.name][f"{step}/{command}"] = report
                print(f"  round {number + 1}: {step}", flush=True)
        finally:
            for stack in running:
                stack.stop()
    return results


def median(rounds, peer, source, field):
    return statistics.median(one[peer][source][field] for one in rounds)


def shown(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(rounds, peer, row):
    values = [one[peer][row.source][row.field] for one in rounds]
    return f"{shown(statistics.median(values))} [{shown(min(values))}–{shown(max(values))}]"


def judge(row, rounds):
    """(cells of the row, floor held)"""
    peer, berth = (median(rounds, name, row.source, row.field) for name in ("d2n", "berth"))
    better = berth / max(peer, 1e-9) if row.higher_is_better else peer / max(berth, 1e-9)
    cpu = {name: median(rounds, name, row.source, row.cpu) for name in PEERS} if row.cpu else None

    holds = berth <= row.floor_max if row.floor_max is not None else better >= row.floor
    floor = f"≤ {row.floor_max:g} {row.unit}" if row.floor_max is not None else f"≥ {row.floor:g}×"
    wanted, met = [], True
    if row.gate is not None:
        wanted.append(f"≥ {row.gate:g}×")
        met &= better >= row.gate
    if row.gate_max is not None:
        wanted.append(f"≤ {row.gate_max:g} {row.unit}")
        met &= berth <= row.gate_max
    if row.gate_like is not None:
        wanted.append("≤ 1.5 × that of 100 tags")
        met &= berth <= 1.5 * median(rounds, "berth", row.gate_like, row.field)
    if row.cpu_max is not None:
        wanted.append(f"≤ {row.cpu_max:g} CPU s/GB")
        met &= cpu["berth"] <= row.cpu_max
    cpu_unit = {GB: "s/GB", REQUEST: "µs/request"}.get(row.cpu)
    cells = [
        row.name, row.unit, spread(rounds, "d2n", row), spread(rounds, "berth", row), f"{better:.2f}×",
        f"{floor} {'holds' if holds else '**FAILS**'}",
        f"{', '.join(wanted)} {'met' if met else 'not yet'}" if wanted else "–",
        f"{shown(cpu['d2n'])} / {shown(cpu['berth'])} {cpu_unit}" if cpu else "–",
    ]
    return cells, holds


def output_of(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip()
    except OSError:
        return "unknown"


def machine(work):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU")
    memory_kb = int(next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal")))
    file_system = output_of("findmnt", "--noheadings", "--output", "FSTYPE", "--target", work)
    return f"{os.cpu_count()} cores, {cpu}, {memory_kb / 1048576:.0f} GiB, Linux {platform.release()}, {file_system}"


def version_of_nginx():
    return output_of("nginx", "-v").removeprefix("nginx version: ")


def version_of_berth():
    return output_of("git", "describe", "--always", "--dirty")


def versions():
    registry = output_of("dpkg-query", "-Wf", "${Version}", "docker-registry")
    return {"d2n": f"docker-registry {registry} behind {version_of_nginx()}", "Berth": version_of_berth()}


def other_cores(rounds):
    """Cores that processes outside the measurement used, median over all steps. The driver counts for a machine of two."""
    reports = [report for one in rounds for peer in one.values() for report in peer.values()]
    return statistics.median(report["other_cores"] for report in reports) * os.cpu_count() / 2


def write_table(options, rounds, plan):
    tags = plan["many tags"][plan["many tags"].index("--tags") + 1]
    judged = [judge(row, rounds) for row in ROWS]
    facts = versions()
    lines = [
        "# Speed beside Debian's nginx and docker-registry",
        "",
        "Written by `make bench`; do not edit. Both stacks ran on this machine in the same run, taking turns within a round.",
        "",
        f"- {datetime.date.today()}, medians of {len(rounds)} rounds [least–most]"
        + (", **quick run: small sizes, not for the record**" if options.quick else ""),
        f"- {machine(options.work)}; other processes used {other_cores(rounds):.1f} cores meanwhile",
        f"- d2n: {facts['d2n']}, by distribution's recipe (TLS, request buffering on), **no authentication**",
        f"- Berth: {facts['Berth']}, release build, gateway and backend over a Unix socket, **Basic authentication on every"
        " request**, so Berth does more work per request",
        "- All: TLS 1.3 with AES-128-GCM, HTTP/1.1 keep-alive, one loopback client that shares the cores. Both acknowledge a"
        " push after it is on disk.",
        "- × is how many times better Berth is. The floor must hold in every change; the target is where Berth is going.",
        "",
        "| workload | unit | d2n | Berth | Berth is | floor | target | server CPU, d2n / Berth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(cells).format(tags=tags) + " |" for cells, _ in judged),
        "",
    ]
    Path(options.output).write_text("\n".join(lines))
    return all(holds for _, holds in judged)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    # So that a stop by signal also goes through the `finally` that ends the stacks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Path(options.work).mkdir(parents=True, exist_ok=True)
    plan = steps(options.quick)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="certs-") as certificates:
        make = [f"{options.binaries}/berth-gateway", "cert", "self-signed", "--dir", certificates]
        subprocess.run([*make, "--name", "localhost", "--ip", "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
        rounds = [run_round(options, number, certificates, plan) for number in range(options.rounds)]
    (Path(options.work) / "rounds.json").write_text(json.dumps(rounds, indent=1))
    holds = write_table(options, rounds, plan)
    print(Path(options.output).read_text())
    if not holds:
        sys.exit("bench: Berth is below the floor in at least one row")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, KeyboardInterrupt) as error:
        sys.exit(f"bench: {error or 'interrupted'}")
