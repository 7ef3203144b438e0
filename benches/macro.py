#!/usr/bin/env python3
"""The macro benchmark: one server process, a generated dataset in, the anchors' queries out.

usage: macro.py [--traces N] [--seed N] [--dataset DIR] [--binary PATH] [--conns N] [--runs N] [--compacted] [--json FILE] [--keep]

Starts `sostenuto serve` on a fresh folder, replays the dataset over keep-alive connections, flushes, and
times every query of query.py against blocks, with --compacted after the compactor has merged them. Prints a table beside anchors.json, and with --json a file.
CPU seconds are those of the server process; bytes are those of its folder. Needs Python 3; generating a dataset
needs the package opentelemetry-proto.
"""
import argparse, json, pathlib, shutil, subprocess, sys, tempfile

from server import API, OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--traces", type=int, default=60_000)
ap.add_argument("--seed", type=int, default=7)
ap.add_argument("--dataset", help="a folder that gen.py wrote; generated if left out")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--conns", type=int, default=4)
ap.add_argument("--runs", type=int, default=9)
ap.add_argument("--compacted", action="store_true", help="let the compactor merge the blocks before queries are timed")
ap.add_argument("--json", help="write all figures here")
ap.add_argument("--keep", action="store_true", help="leave the server's folder and say where it is")
a = ap.parse_args()


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-bench-"))
    dataset = a.dataset
    if not dataset:
        dataset = str(work / "dataset")
        subprocess.check_call([sys.executable, HERE / "gen.py", "--traces", str(a.traces), "--seed", str(a.seed),
                               "--window-s", "60", dataset])
    truth = json.load(open(f"{dataset}/truth.json"))
    compactor = "{interval: %s, min_input_blocks: 2}" % ("1s" if a.compacted else "1h")
    try:
        with Server(a.binary, work, compactor) as server:
            figures = measure(server, dataset, truth, work)
    finally:
        if a.keep:
            print(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    report(figures)
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)


def measure(server, dataset, truth, work):
    idle = server.cpu_seconds()
    replayed = json.loads(subprocess.check_output(
        [sys.executable, HERE / "replay.py", dataset, f"http://127.0.0.1:{OTLP_HTTP}/v1/traces", "--conns", str(a.conns)]))
    received = server.cpu_seconds() - idle
    server.http("/flush", "POST")
    stored = server.cpu_seconds() - idle
    if a.compacted:
        server.wait_merged()
    merged = server.cpu_seconds() - idle
    blocks = server.blocks()
    figures = {
        "spans": truth["spans"],
        "receive_spans_per_s": replayed["spans_per_s"],
        "retries": replayed["retries"],
        "refused": replayed["bad"],
        "spans_per_cpu_s_receive_only": round(truth["spans"] / received),
        "spans_per_cpu_s_total": round(truth["spans"] / stored),
        "cpu_s_total": round(stored, 2),
        "peak_rss_mb_ingest": round(server.memory_mb()),
        "cpu_s_compaction": round(merged - stored, 2) if a.compacted else 0,
        "blocks": len(blocks),
        "bytes_per_span_data": round(server.bytes_of(blocks, ".parquet") / truth["spans"], 1),
        "bytes_per_span_sidecars": round(server.bytes_of(blocks, ".side") / truth["spans"], 2),
    }
    out = work / "queries.json"
    subprocess.check_call([sys.executable, HERE / "query.py", dataset, f"http://127.0.0.1:{API}", "--runs", str(a.runs),
                           "--out", str(out)], stdout=subprocess.DEVNULL)
    figures["query"] = json.load(open(out))
    figures["peak_rss_mb"] = round(server.memory_mb())
    return figures


def report(figures):
    anchors = json.load(open(HERE / "anchors.json"))
    tempo = anchors["tempo-3.0.3 single binary, local backend"]
    for name, value in figures.items():
        if name != "query":
            beside = tempo.get(name, "")
            print(f"{name:32} {value!s:>12}   {beside!s:>16}")
    print(f"\n{'query':18} {'p50 ms':>8} {'min ms':>8} {'Tempo p50':>10}  answer")
    for name, row in figures["query"].items():
        answer = {k: v for k, v in row.items() if k not in ("q", "status", "ms_p50", "ms_min", "bytes", "inspected")}
        print(f"{name:18} {row['ms_p50']:8} {row['ms_min']:8} {tempo['query_ms_p50'].get(name, ''):>10}  {row['status']} {answer}")


main()
