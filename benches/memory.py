#!/usr/bin/env python3
"""The peak of the server's memory while it takes in a dataset, for clients of several speeds.

usage: memory.py DATASET [--binary PATH] [--conns 1,4,16,64] [--memory SIZE] [--limit-mb N] [--json FILE]

For each number of connections a `sostenuto serve` on a fresh folder gets the whole dataset of gen.py as fast as it answers, every
request again until it is taken, and flushes. Prints the peak of the process beside what its budget for spans (ingester.max_memory)
was charged at most, how often it refused, and its CPU time. With --limit-mb it exits with 1 if a peak was above.
"""
import argparse, json, pathlib, shutil, subprocess, sys, tempfile, threading, time

from server import OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--conns", default="1,4,16,64")
ap.add_argument("--memory", help="instead of the server's default")
ap.add_argument("--limit-mb", type=float, default=0)
ap.add_argument("--json", help="write all figures here")
a = ap.parse_args()


def measure(conns):
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-memory-"))
    more = f"ingester: {{max_memory: {a.memory}}}" if a.memory else ""
    charged, ended = [0], threading.Event()

    def watch(server):
        while not ended.wait(0.1):
            charged[0] = max(charged[0], server.counter("sostenuto_ingester_memory_bytes"))

    try:
        with Server(a.binary, work, "{interval: 1h}", more=more) as server:
            idle, before = server.memory_mb(), server.cpu_seconds()
            watching = threading.Thread(target=watch, args=(server,))
            watching.start()
            replayed = json.loads(subprocess.check_output(
                [sys.executable, HERE / "replay.py", a.dataset, f"http://127.0.0.1:{OTLP_HTTP}/v1/traces", "--conns", str(conns)]))
            server.http("/flush", "POST")
            ended.set()
            watching.join()
            return {
                "conns": conns,
                "spans_per_s": replayed["spans_per_s"],
                "spans_per_cpu_s": round(replayed["spans"] / (server.cpu_seconds() - before)),
                "refused_for_memory": round(server.counter("sostenuto_ingester_memory_refusals")),
                "idle_mb": round(idle),
                "budget_mb": round(server.counter("sostenuto_ingester_memory_max_bytes") / 1e6),
                "charged_mb": round(charged[0] / 1e6),
                "peak_mb": round(server.memory_mb()),
                "not_taken": replayed["bad"],
            }
    finally:
        ended.set()
        shutil.rmtree(work, ignore_errors=True)


def main():
    rows = [measure(int(conns)) for conns in a.conns.split(",")]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if a.json:
        json.dump(rows, open(a.json, "w"), indent=1)
    if any(row["not_taken"] for row in rows) or a.limit_mb and max(row["peak_mb"] for row in rows) > a.limit_mb:
        sys.exit(1)


main()
