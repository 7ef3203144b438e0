#!/usr/bin/env python3
"""Acknowledgements at half the maximum rate, behaviour at twice the maximum, and what became of every acknowledged span.

usage: overload.py DATASET [--binary PATH] [--conns N] [--json FILE]

Starts `sostenuto serve` on a fresh folder and sends the requests of a dataset (gen.py) in four parts, each once:
as fast as answers come, at half the rate that this gave, at twice the rate, and at half again. Latency counts from the
moment a request was due, so that a late client makes it worse, never better. A request that is refused with a retryable
status is not sent again. Then the server is killed, started again, flushed, and every span of every acknowledged request is
looked for in the table's files. Needs Python 3 and pyarrow. Client and server share the machine.
"""
import argparse, glob, http.client, json, pathlib, queue, shutil, sys, tempfile, threading, time

import pyarrow.parquet

from otlp import fields, spans
from server import OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--conns", type=int, default=16)
ap.add_argument("--json", help="write all figures here")
a = ap.parse_args()
RETRYABLE = (429, 502, 503, 504)


def span_ids(request):
    for span in spans(request):
        ids = {}
        for number, _, begin, end in fields(request, *span):
            if number in (1, 2):
                ids[number] = request[begin:end]
            if len(ids) == 2:
                break
        yield ids[1] + ids[2]


class Part:
    """Sends requests, at a rate or as fast as answers come."""

    def __init__(self, bodies, numbers, rate, conns):
        self.bodies, self.rate = bodies, rate
        self.due = queue.Queue()
        self.answers = []  # (due, latency, status), status 0 for no answer
        self.acknowledged = set()
        begin = time.monotonic()
        threads = [threading.Thread(target=self.send) for _ in range(conns)]
        [thread.start() for thread in threads]
        for count, number in enumerate(numbers):
            if rate:
                due = begin + count / rate
                time.sleep(max(0, due - time.monotonic()))
                self.due.put((due, number))
            else:
                self.due.put((None, number))
        [self.due.put(None) for _ in threads]
        [thread.join() for thread in threads]
        self.begin, self.seconds = begin, time.monotonic() - begin

    def send(self):
        connection = None
        while (item := self.due.get()) is not None:
            due, number = item
            due = due or time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", OTLP_HTTP, timeout=60)
                connection.request("POST", "/v1/traces", self.bodies[number], {"Content-Type": "application/x-protobuf"})
                response = connection.getresponse()
                response.read()
                status = response.status
            except OSError:
                connection, status = None, 0
            self.answers.append((due, time.monotonic() - due, status))
            if status == 200:
                self.acknowledged.add(number)

    def figures(self):
        latencies = sorted(latency for _, latency, status in self.answers if status == 200)
        quantile = lambda q: round(latencies[min(len(latencies) - 1, int(q * len(latencies)))] * 1e3, 1) if latencies else None
        statuses = [status for _, _, status in self.answers]
        return {
            "requests": len(statuses),
            "requests_per_s_offered": round(self.rate, 1) if self.rate else None,
            "requests_per_s_acknowledged": round(len(latencies) / self.seconds, 1),
            "acknowledged": len(latencies),
            "refused_retryable": sum(status in RETRYABLE for status in statuses),
            "refused_otherwise": sum(status not in (200, *RETRYABLE) for status in statuses),
            "ack_p50_ms": quantile(0.5),
            "ack_p99_ms": quantile(0.99),
        }


def recovered_after(part, within_s=0.05):
    """Seconds after which every answer came within `within_s` and none was refused."""
    late = [due for due, latency, status in part.answers if status != 200 or latency > within_s]
    return round(max(late) - part.begin, 2) if late else 0.0


def stored_ids(server):
    ids = []
    for file in server.files():
        read = pyarrow.parquet.read_table(file, columns=["trace_id", "span_id"])
        ids += [t + s for t, s in zip(read["trace_id"].to_pylist(), read["span_id"].to_pylist())]
    return ids


def main():
    bodies = [pathlib.Path(file).read_bytes() for file in sorted(glob.glob(f"{a.dataset}/*.otlp"))]
    # Large and small requests in every part alike.
    quarters = [range(part, len(bodies), 4) for part in range(4)]
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-overload-"))
    try:
        figures = measure(bodies, quarters, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)
    sys.exit(figures["spans_lost"] > 0)


def measure(bodies, quarters, work):
    server = Server(a.binary, work, log="error")
    with server:
        most = Part(bodies, quarters[0], None, a.conns)
        rate = len(quarters[0]) / most.seconds
        half = Part(bodies, quarters[1], rate / 2, a.conns)
        twice = Part(bodies, quarters[2], rate * 2, a.conns * 8)
        after = Part(bodies, quarters[3], rate / 2, a.conns)
        peak = round(server.memory_mb())
        server.kill()
    with server:
        server.http("/flush", "POST")
        acknowledged = set().union(*(part.acknowledged for part in (most, half, twice, after)))
        wanted = {id for number in acknowledged for id in span_ids(bodies[number])}
        found = stored_ids(server)
    return {
        "maximum": most.figures(),
        "half": half.figures(),
        "twice": twice.figures(),
        "half_again": after.figures(),
        "recovered_after_s": recovered_after(after),
        "peak_rss_mb": peak,
        "spans_acknowledged": len(wanted),
        "spans_lost": len(wanted.difference(found)),
        "spans_twice": len(found) - len(set(found)),
    }


main()
