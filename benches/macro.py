#!/usr/bin/env python3
"""The macro benchmark: one server process, a generated dataset in, the anchors' queries out.

usage: macro.py [--traces N] [--seed N] [--dataset DIR] [--binary PATH] [--conns N] [--runs N] [--compacted] [--json FILE] [--keep]

Starts `sostenuto serve` on a fresh folder, replays the dataset over keep-alive connections, flushes, and
times every query of query.py against blocks, with --compacted after the compactor has merged them. Prints a table beside anchors.json, and with --json a file.
CPU seconds are those of the server process; bytes are those of its folder. Needs Python 3; generating a dataset
needs the package opentelemetry-proto.
"""
import argparse, json, os, pathlib, shutil, signal, subprocess, sys, tempfile, time, urllib.request

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
API, OTLP_HTTP, OTLP_GRPC = 23200, 24318, 24317

CONFIG = """
server: {{http_listen_port: {api}}}
distributor:
  receivers:
    otlp:
      protocols:
        grpc: {{endpoint: "127.0.0.1:{grpc}"}}
        http: {{endpoint: "127.0.0.1:{http}"}}
storage: {{path: {path}}}
compactor: {{interval: {interval}, min_input_blocks: 2}}
overrides: {{defaults: {{ingestion: {{rate_limit_bytes: 10GiB, burst_size_bytes: 1GiB}}}}}}
log: {{level: warn}}
"""


def http(path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{API}{path}", method=method)
    return urllib.request.urlopen(request, timeout=300).read()


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid):
    return next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith("VmHWM")) / 1024


def live_blocks(folder):
    """Ids of the blocks of all tables, by their Delta logs. Files of merged blocks stay for a while and do not count."""
    blocks = set()
    for commit in sorted(pathlib.Path(folder).rglob("_delta_log/*.json")):
        for action in map(json.loads, commit.read_text().splitlines()):
            if "add" in action:
                blocks.add(pathlib.Path(action["add"]["path"]).stem)
            if "remove" in action:
                blocks.discard(pathlib.Path(action["remove"]["path"]).stem)
    return blocks


def bytes_of(folder, blocks, suffix):
    return sum(f.stat().st_size for f in pathlib.Path(folder).rglob(f"*{suffix}") if f.stem in blocks)


def wait_ready(server):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode}")
        try:
            return http("/ready")
        except OSError:
            time.sleep(0.05)
    sys.exit("the server did not become ready within 30 s")


def counter(name):
    lines = http("/metrics").decode().splitlines()
    return sum(float(l.rsplit(" ", 1)[1]) for l in lines if l.split("{")[0].split(" ")[0] in (name, f"{name}_total"))


def wait_merged():
    for _ in range(600):
        if counter("sostenuto_compactor_compactions") > 0 and counter("sostenuto_compactor_blocks_due") == 0:
            return
        time.sleep(0.5)
    sys.exit("the compactor did not merge the blocks within 5 minutes")


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-bench-"))
    dataset = a.dataset
    if not dataset:
        dataset = str(work / "dataset")
        subprocess.check_call([sys.executable, HERE / "gen.py", "--traces", str(a.traces), "--seed", str(a.seed),
                               "--window-s", "60", dataset])
    truth = json.load(open(f"{dataset}/truth.json"))
    config = work / "config.yaml"
    config.write_text(CONFIG.format(api=API, grpc=OTLP_GRPC, http=OTLP_HTTP, path=work / "data",
                                    interval="1s" if a.compacted else "1h"))
    server = subprocess.Popen([a.binary, "serve", f"--config.file={config}"], stdout=subprocess.DEVNULL)
    try:
        wait_ready(server)
        idle = cpu_seconds(server.pid)
        replayed = json.loads(subprocess.check_output(
            [sys.executable, HERE / "replay.py", dataset, f"http://127.0.0.1:{OTLP_HTTP}/v1/traces", "--conns", str(a.conns)]))
        received = cpu_seconds(server.pid) - idle
        http("/flush", "POST")
        stored = cpu_seconds(server.pid) - idle
        if a.compacted:
            wait_merged()
        merged = cpu_seconds(server.pid) - idle
        blocks = live_blocks(work / "data")
        figures = {
            "spans": truth["spans"],
            "receive_spans_per_s": replayed["spans_per_s"],
            "retries": replayed["retries"],
            "refused": replayed["bad"],
            "spans_per_cpu_s_receive_only": round(truth["spans"] / received),
            "spans_per_cpu_s_total": round(truth["spans"] / stored),
            "cpu_s_total": round(stored, 2),
            "peak_rss_mb_ingest": round(peak_mb(server.pid)),
            "cpu_s_compaction": round(merged - stored, 2) if a.compacted else 0,
            "blocks": len(blocks),
            "bytes_per_span_data": round(bytes_of(work / "data", blocks, ".parquet") / truth["spans"], 1),
            "bytes_per_span_sidecars": round(bytes_of(work / "data", blocks, ".side") / truth["spans"], 2),
        }
        out = work / "queries.json"
        subprocess.check_call([sys.executable, HERE / "query.py", dataset, f"http://127.0.0.1:{API}", "--runs", str(a.runs),
                               "--out", str(out)], stdout=subprocess.DEVNULL)
        figures["query"] = json.load(open(out))
        figures["peak_rss_mb"] = round(peak_mb(server.pid))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        if a.keep:
            print(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    report(figures)
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)


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
