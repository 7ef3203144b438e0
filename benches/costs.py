#!/usr/bin/env python3
"""What the object store is asked for: requests and bytes per ingested GB and per query, hot and cold, and the bill they mean.

usage: costs.py DATASET [--binary PATH] [--minio PATH] [--json FILE]

Starts `sostenuto serve` on a fresh folder, or with --minio (the program) on a bucket of a MinIO started for it, replays a
dataset of gen.py, flushes, lets the compactor finish, and asks every query of query.py: once by a process that has just
started (cold) and once more (hot). The figures are differences of `sostenuto_storage_*` in /metrics. With a folder the
requests are those that an object store would get, but for reads that go through the page cache chunk by chunk.
"""
import argparse, json, os, pathlib, shutil, subprocess, sys, tempfile, time, urllib.parse, urllib.request

from server import OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
MINIO = 23219
# US dollars, S3 Standard, us-east-1, list prices as of 2026-11: put/list per 1,000, get per 1,000, GB and month.
PUT_1000, GET_1000, GB_MONTH = 0.005, 0.0004, 0.023
KINDS = ("put", "get", "head", "list", "delete")

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--minio")
ap.add_argument("--json")

S3 = """backend: s3, s3: {{bucket: traces, endpoint: "127.0.0.1:{port}", access_key: minioadmin, secret_key: minioadmin, insecure: true}}"""


def counts(server):
    """Requests by kind and bytes both ways, since the server's start."""
    found = dict.fromkeys((*KINDS, "sent", "received", "memory", "disk", "store"), 0.0)
    for line in server.http("/metrics").decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("sostenuto_storage_requests_total"):
            found[name.split('"')[1]] += float(value)
        if name.startswith("sostenuto_storage_pieces_read_total"):
            found[name.split('"')[1]] += float(value)
        for way in ("sent", "received"):
            if name == f"sostenuto_storage_{way}_bytes_total":
                found[way] += float(value)
    return found


def less(after, before):
    return {key: round(after[key] - before[key]) for key in after}


def wait(ready, what, process):
    for _ in range(1200):
        if process.poll() is not None:
            sys.exit(f"{what}: the process ended with status {process.returncode}")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"not within two minutes: {what}")


def start_minio(a, work):
    data = work / "minio"
    (data / "traces").mkdir(parents=True)
    env = {**os.environ, "MINIO_ROOT_USER": "minioadmin", "MINIO_ROOT_PASSWORD": "minioadmin"}
    minio = subprocess.Popen([a.minio, "server", "--quiet", "--address", f"127.0.0.1:{MINIO}", str(data)], env=env,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    alive = lambda: urllib.request.urlopen(f"http://127.0.0.1:{MINIO}/minio/health/live", timeout=5).status == 200
    wait(alive, "MinIO is ready", minio)
    return minio


def queries(dataset):
    """Name and path of every query of query.py."""
    truth = json.load(open(f"{dataset}/truth.json"))
    span = {"start": truth["start"] - 60, "end": truth["end"] + 60}
    # query.py times what it asks when it is run; only its tables of queries are wanted here.
    source = (HERE / "query.py").read_text()
    begin, end = source.index("SEARCH = {"), source.index("rows = []")
    tables = {"slow": truth["slow_service"], "err": truth["err_service"]}
    exec(source[begin:end], tables)
    path = lambda base, **q: f"{base}?" + urllib.parse.urlencode({**q, **span})
    yield "t_by_id", path(f"/api/v2/traces/{truth['sample_ids'][0]}")
    yield "t_by_id, no time", f"/api/v2/traces/{truth['sample_ids'][1]}"
    for name, q in tables["SEARCH"].items():
        yield name, path("/api/search", q=q, limit=20)
    for name, q in tables["METRICS"].items():
        yield name, path("/api/metrics/query_range", q=q, step="5s")


def main():
    a = ap.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-costs-"))
    minio = start_minio(a, work) if a.minio else None
    try:
        figures = measure(a, work)
    finally:
        if minio:
            minio.terminate()
            minio.wait(30)
        shutil.rmtree(work, ignore_errors=True)
    report(figures)
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)


def measure(a, work):
    truth = json.load(open(f"{a.dataset}/truth.json"))
    gigabytes = sum(f.stat().st_size for f in pathlib.Path(a.dataset).glob("*.otlp")) / 1e9
    store = S3.format(port=MINIO) if a.minio else "backend: local"
    server = lambda interval: Server(a.binary, work, "{interval: %s, min_input_blocks: 2}" % interval, store)
    with server("1h") as running:
        before = counts(running)
        subprocess.check_call([sys.executable, HERE / "replay.py", a.dataset, f"http://127.0.0.1:{OTLP_HTTP}/v1/traces", "--conns", "2"],
                              stdout=subprocess.DEVNULL)
        running.http("/flush", "POST")
        flushed, blocks = less(counts(running), before), running.counter("sostenuto_storage_blocks_written")
    with server("1s") as running:
        before = counts(running)
        if blocks > 1:
            running.wait_merged()
        # With the looks at the tables meanwhile.
        merged = less(counts(running), before)
    answers = {}
    for name, path in queries(a.dataset):
        row = {}
        with server("1h") as running:
            for heat in ("cold", "hot"):
                before, begun = counts(running), time.perf_counter()
                running.http(path)
                row[heat] = {"ms": round((time.perf_counter() - begun) * 1e3, 1), **less(counts(running), before)}
        answers[name] = row
    return {"store": "MinIO" if a.minio else "folder", "spans": truth["spans"], "gigabytes": round(gigabytes, 3),
            "flush": flushed, "compaction": merged, "queries": answers}


def dollars(row):
    return (row["put"] + row["list"]) / 1000 * PUT_1000 + (row["get"] + row["head"]) / 1000 * GET_1000


def report(figures):
    gb = figures["gigabytes"]
    print(f"{figures['spans']} spans, {gb} GB of OTLP, {figures['store']}\n")
    print(f"{'per ingested GB':24}" + "".join(f"{k:>9}" for k in KINDS) + f"{'MB out':>9}{'MB in':>9}{'$':>11}")
    for name in ("flush", "compaction"):
        row = figures[name]
        print(f"{name:24}" + "".join(f"{row[k] / gb:9.1f}" for k in KINDS)
              + f"{row['sent'] / 1e6 / gb:9.1f}{row['received'] / 1e6 / gb:9.1f}{dollars(row) / gb:11.6f}")
    print(f"\n{'query':22}{'cold ms':>9}{'gets':>6}{'MB':>8}{'$/1000':>9}{'hot ms':>9}{'gets':>6}{'MB':>8}{'in memory':>11}")
    for name, row in figures["queries"].items():
        cold, hot = row["cold"], row["hot"]
        print(f"{name:22}{cold['ms']:9}{cold['get'] + cold['head']:6}{cold['received'] / 1e6:8.2f}{dollars(cold) * 1000:9.4f}"
              f"{hot['ms']:9}{hot['get'] + hot['head']:6}{hot['received'] / 1e6:8.2f}{hot['memory']:11}")


if __name__ == "__main__":
    main()
