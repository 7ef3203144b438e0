#!/usr/bin/env python3
"""How query times grow with the store: the anchors' queries over 1, 10 or 50 million spans, in many blocks and in one.

usage: growth.py DATASET [--copies 1,11,54] [--binary PATH] [--runs N] [--keep DIR] [--json FILE]

A store of N copies holds the dataset of gen.py N times, a minute apart, each copy with trace ids of its own: they and the
times are changed in the bytes of the requests. Every copy is flushed, so that the store has at least as many blocks as copies;
then the compactor puts them into one. All copies lie in one hour, so no more than 55 fit. With --keep stores stay in DIR, and a
further run begins with what is there: what is stored is not sent again, what is merged not merged again, and not measured before.
Prints a table in Markdown, and with --json a file. Needs Python 3 and numpy.
"""
import argparse, contextlib, hashlib, http.client, json, pathlib, subprocess, sys, tempfile, threading, time, urllib.parse

import numpy

from otlp import fields, spans
from server import API, OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
MINUTE, HOUR = 60, 3600
CONNECTIONS = 4
# The compactor's settings that put all blocks of an hour into one.
MERGE_ALL = "{interval: 1s, min_input_blocks: 2, max_input_blocks: 1000, settled_after: 1s, max_block_bytes: 16GiB, max_job_bytes: 8GiB}"
# A request that the server cannot take yet is sent again as often, each time after what its Retry-After says.
TRIES_MAX = 60
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--copies", default="1,11,54")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--runs", type=int, default=9)
ap.add_argument("--keep", type=pathlib.Path, help="where stores stay; a temporary folder if left out")
ap.add_argument("--json", help="write all figures here")
a = ap.parse_args()


class Request:
    """A body, and where the trace ids and times in it are."""

    def __init__(self, body):
        ids, times = [], []
        for span in spans(body):
            for number, wire, begin, end in fields(body, *span):
                if number == 1 and end - begin == 16:
                    ids.append(begin)
                elif wire == 1 and number in (7, 8):
                    times.append(begin)
                elif wire == 2 and number == 11:
                    times.extend(event[2] for event in fields(body, begin, end) if event[:2] == (1, 1))
        self.body = numpy.frombuffer(body, numpy.uint8)
        self.ids = numpy.array(ids, numpy.int64)[:, None] + numpy.arange(16)
        self.times = numpy.array(times, numpy.int64)[:, None] + numpy.arange(8)

    def copy(self, mask, seconds):
        body = self.body.copy()
        body[self.ids] ^= mask
        times = body[self.times].copy().view("<i8")
        body[self.times] = (times + seconds * 10**9).view(numpy.uint8)
        return body.tobytes()


def mask_of(copy):
    return numpy.frombuffer(hashlib.sha256(b"copy %d" % copy).digest()[:16], numpy.uint8)


def send(bodies):
    left, failures = iter(bodies), []
    lock = threading.Lock()

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", OTLP_HTTP, timeout=120)
        while True:
            with lock:
                body = next(left, None)
            if body is None:
                return
            for _ in range(TRIES_MAX):
                connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
                response = connection.getresponse()
                text = response.read()
                if response.status not in (429, 503):
                    break
                time.sleep(float(response.headers.get("Retry-After", 1)))
            if response.status != 200:
                failures.append((response.status, text[:200]))
                return

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if failures:
        sys.exit(f"a request was refused: {failures[0]}")


def queries(truth, folder):
    (folder / "truth.json").write_text(json.dumps(truth))
    out = folder / "queries.json"
    subprocess.check_call([sys.executable, HERE / "query.py", str(folder), f"http://127.0.0.1:{API}", "--runs", str(a.runs),
                           "--out", str(out)], stdout=subprocess.DEVNULL)
    return json.load(open(out))


def first_answer(server, truth):
    """CPU seconds until the first metrics query is answered: blocks are opened, and split traces found."""
    cpu = server.cpu_seconds()
    query = urllib.parse.urlencode({"q": "{ } | rate()", "start": truth["start"] - 60, "end": truth["end"] + 60, "step": "5s"})
    server.http(f"/api/metrics/query_range?{query}")
    return round(server.cpu_seconds() - cpu, 2)


def figures_of(server, truth, work):
    blocks = server.blocks()
    first = first_answer(server, truth)
    cpu = server.cpu_seconds()
    found = queries(truth, work)
    return {
        "blocks": len(blocks),
        "spans": truth["spans"],
        "bytes_per_span": round((server.bytes_of(blocks, ".parquet") + server.bytes_of(blocks, ".side")) / truth["spans"], 1),
        "first_answer_cpu_s": first,
        "query_cpu_s": round(server.cpu_seconds() - cpu, 1),
        "rss_mb": round(server.memory_mb("VmRSS")),
        "peak_mb": round(server.memory_mb()),
        "query": found,
    }


def measure(copies, requests, truth):
    """Figures in many blocks, before the compactor has seen them, and merged, if these are not the same."""
    # The first copy begins with a whole hour of the day before the dataset: nothing lies in the future.
    begin = (truth["start"] // HOUR + 1) * HOUR - 24 * HOUR + MINUTE
    shifts = [begin - truth["start"] + copy * MINUTE for copy in range(copies)]
    ids = [bytes(numpy.frombuffer(bytes.fromhex(id), numpy.uint8) ^ mask_of(at % copies)).hex() for at, id in enumerate(truth["sample_ids"])]
    grown = {**truth, "spans": truth["spans"] * copies, "sample_ids": ids, "start": begin, "end": truth["end"] + shifts[-1]}
    with store_of(copies) as work:
        stored, merged = work / "stored", work / "merged"
        if not stored.exists():
            with Server(a.binary, work, "{interval: 24h}") as server:
                for copy, shift in enumerate(shifts):
                    send(request.copy(mask_of(copy), shift) for request in requests)
                    server.http("/flush", "POST")
                print(f"{copies} copies: {server.cpu_seconds():.1f} CPU seconds to stored blocks", flush=True)
            stored.touch()
        # A process of its own for each measurement: nothing is in memory yet.
        if not merged.exists():
            with Server(a.binary, work, "{interval: 24h}") as server:
                many = figures_of(server, grown, work)
            yield many
            if many["blocks"] == 1:
                return
            with Server(a.binary, work, MERGE_ALL) as server:
                server.wait_merged(seconds=3600)
                print(f"{copies} copies: {server.cpu_seconds():.1f} CPU seconds to merge, {server.memory_mb():.0f} MB at most", flush=True)
            merged.touch()
        with Server(a.binary, work, "{interval: 24h}") as server:
            yield figures_of(server, grown, work)


@contextlib.contextmanager
def store_of(copies):
    if a.keep:
        work = a.keep / str(copies)
        work.mkdir(parents=True, exist_ok=True)
        yield work
    else:
        with tempfile.TemporaryDirectory(prefix=f"sostenuto-growth-{copies}-") as work:
            yield pathlib.Path(work)


def main():
    truth = json.load(open(f"{a.dataset}/truth.json"))
    requests = [Request(f.read_bytes()) for f in sorted(pathlib.Path(a.dataset).glob("*.otlp"))]
    columns = []
    for copies in map(int, a.copies.split(",")):
        for column in measure(copies, requests, truth):
            columns.append(column)
            if a.json:
                json.dump(columns, open(a.json, "w"), indent=1)
    report(columns)


def report(columns):
    heads = [f"{c['spans'] / 1e6:.1f} M, {c['blocks']} block{'s' if c['blocks'] > 1 else ''}" for c in columns]
    print("| p50, ms | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
    for name in columns[0]["query"]:
        print(f"| {name} | " + " | ".join(str(c["query"][name]["ms_p50"]) for c in columns) + " |")
    for name in ("bytes_per_span", "first_answer_cpu_s", "query_cpu_s", "rss_mb", "peak_mb"):
        print(f"| {name} | " + " | ".join(str(c[name]) for c in columns) + " |")


main()
