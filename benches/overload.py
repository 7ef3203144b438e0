#!/usr/bin/env python3
"""Acknowledgements at half the maximum rate, behaviour at twice the maximum, and what became of every acknowledged span.

usage: overload.py DATASET [--binary PATH] [--conns N] [--json FILE]

Starts `sostenuto serve` on a fresh folder and sends the requests of a dataset (gen.py) in four parts, each once:
as fast as answers come, at half the rate that this gave, at twice the rate, and at half again. Latency counts from the
moment a request was due, so that a late client makes it worse, never better. A request that is refused with a retryable
status is not sent again. Then the server is killed, started again, flushed, and every span of every acknowledged request is
looked for in the table's files. Needs Python 3 and pyarrow. Client and server share the machine.
"""
import argparse, glob, http.client, json, pathlib, queue, shutil, signal, subprocess, sys, tempfile, threading, time, urllib.request

import pyarrow.parquet

HERE = pathlib.Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--conns", type=int, default=16)
ap.add_argument("--json", help="write all figures here")
a = ap.parse_args()
API, OTLP_HTTP, OTLP_GRPC = 23300, 24418, 24417
RETRYABLE = (429, 502, 503, 504)
CONFIG = """
server: {{http_listen_port: {api}}}
distributor:
  receivers:
    otlp:
      protocols:
        grpc: {{endpoint: "127.0.0.1:{grpc}"}}
        http: {{endpoint: "127.0.0.1:{http}"}}
storage: {{path: {path}}}
overrides: {{defaults: {{ingestion: {{rate_limit_bytes: 10GiB, burst_size_bytes: 1GiB}}}}}}
log: {{level: error}}
"""


def fields(message):
    """(number, value) of a protobuf message; bytes for what has a length."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
        else:
            length = {1: 8, 5: 4}.get(kind) or varint()
            yield tag >> 3, message[at : at + length]
            at += length


def span_ids(request):
    for number, resource in fields(request):
        for number, scope in (f for f in fields(resource) if f[0] == 2):
            for number, span in (f for f in fields(scope) if f[0] == 2):
                ids = dict.fromkeys((1, 2))
                for number, value in fields(span):
                    if number in ids:
                        ids[number] = bytes(value)
                    if all(ids.values()):
                        break
                yield ids[1] + ids[2]


def http_api(path, method="GET"):
    return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{API}{path}", method=method), timeout=300).read()


def start(config):
    server = subprocess.Popen([a.binary, "serve", f"--config.file={config}"], stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode}")
        try:
            http_api("/ready")
            return server
        except OSError:
            time.sleep(0.05)
    sys.exit("the server did not become ready within 60 s")


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


def stored_ids(folder):
    live = set()
    for commit in sorted(pathlib.Path(folder).rglob("_delta_log/*.json")):
        table = commit.parent.parent
        for action in map(json.loads, commit.read_text().splitlines()):
            if "add" in action:
                live.add(table / action["add"]["path"])
            if "remove" in action:
                live.discard(table / action["remove"]["path"])
    ids = []
    for file in live:
        read = pyarrow.parquet.read_table(file, columns=["trace_id", "span_id"])
        ids += [t + s for t, s in zip(read["trace_id"].to_pylist(), read["span_id"].to_pylist())]
    return ids


def peak_mb(pid):
    return round(next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith("VmHWM")) / 1024)


def main():
    bodies = [pathlib.Path(file).read_bytes() for file in sorted(glob.glob(f"{a.dataset}/*.otlp"))]
    # Large and small requests in every part alike.
    quarters = [range(part, len(bodies), 4) for part in range(4)]
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-overload-"))
    config = work / "config.yaml"
    config.write_text(CONFIG.format(api=API, grpc=OTLP_GRPC, http=OTLP_HTTP, path=work / "data"))
    server = start(config)
    try:
        most = Part(bodies, quarters[0], None, a.conns)
        rate = len(quarters[0]) / most.seconds
        half = Part(bodies, quarters[1], rate / 2, a.conns)
        twice = Part(bodies, quarters[2], rate * 2, a.conns * 8)
        after = Part(bodies, quarters[3], rate / 2, a.conns)
        peak = peak_mb(server.pid)
        server.send_signal(signal.SIGKILL)
        server.wait()
        server = start(config)
        http_api("/flush", "POST")
        acknowledged = set().union(*(part.acknowledged for part in (most, half, twice, after)))
        wanted = {id for number in acknowledged for id in span_ids(bodies[number])}
        found = stored_ids(work / "data")
        figures = {
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
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)
    sys.exit(figures["spans_lost"] > 0)


main()
