#!/usr/bin/env python3
"""Acknowledgements at half the maximum rate, behaviour at twice the maximum, and what became of every acknowledged span.

usage: overload.py DATASET [--binary PATH] [--conns N] [--json FILE]
       overload.py DATASET --minio PATH [--store-kb-per-s N] [--memory SIZE] ...

The first form starts `sostenuto serve` on a fresh folder and sends the requests of a dataset (gen.py) in four parts, each once:
as fast as answers come, at half the rate that this gave, at twice the rate, and at half again. Latency counts from the
moment a request was due, so that a late client makes it worse, never better. A request that is refused with a retryable
status is not sent again. Then the server is killed, started again, flushed, and every span of every acknowledged request is
looked for in the table's files.

The second form overloads the server for certain: its blocks go to a bucket of a MinIO (the program) through a proxy that lets
no more than N kB/s pass, 1,000 if left out, and its memory for spans is small. It is offered twice what the proxy lets pass, for most of the
dataset, then half of it; refusals, what became of every acknowledged span, and how long it took until nothing is refused any more are
as above.

Needs Python 3 and pyarrow. Client and server share the machine.
"""
import argparse, glob, http.client, json, os, pathlib, queue, shutil, socket, subprocess, sys, tempfile, threading, time
import urllib.request

import pyarrow.fs, pyarrow.parquet

from otlp import fields, spans
from server import OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dataset")
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--conns", type=int, default=16)
ap.add_argument("--json", help="write all figures here")
ap.add_argument("--minio", help="the program; overloads the server by a slow store")
ap.add_argument("--store-kb-per-s", type=float, default=1000)
ap.add_argument("--memory", default="64MiB", help="of the server for spans, with --minio")
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


# What a span takes in a block that was just flushed, in bytes (RESULTS.md).
STORED_BYTES = 46
MINIO, PROXY = 23229, 23228
KEY = "minioadmin"
STORE = ('backend: s3, s3: {bucket: traces, endpoint: "127.0.0.1:%d", access_key: %s, secret_key: %s, insecure: true}'
         % (PROXY, KEY, KEY))


class Proxy:
    """Passes connections on to MinIO, and no more than so many bytes a second towards it; all if `rate` is None."""

    def __init__(self, rate):
        self.rate, self.free_at, self.lock = rate, 0.0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", PROXY))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", MINIO))
            threading.Thread(target=self.pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, False), daemon=True).start()

    def pump(self, source, sink, slow):
        try:
            while data := source.recv(16384):
                if slow and self.rate:
                    with self.lock:
                        self.free_at = max(self.free_at, time.monotonic()) + len(data) / self.rate
                        wait = self.free_at - time.monotonic()
                    time.sleep(max(0, wait))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()


class MinIo:
    def __init__(self, work):
        (work / "minio/traces").mkdir(parents=True)
        self.process = subprocess.Popen(
            [a.minio, "server", "--quiet", "--address", f"127.0.0.1:{MINIO}", "--console-address", "127.0.0.1:0", str(work / "minio")],
            env={**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": KEY, "MINIO_UPDATE": "off"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{MINIO}/minio/health/ready", timeout=5)
                return self
            except OSError:
                time.sleep(0.1)
        sys.exit("MinIO is not ready within a minute")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def stored_ids(self):
        """Of the files that the tables' logs name."""
        store = pyarrow.fs.S3FileSystem(endpoint_override=f"127.0.0.1:{MINIO}", scheme="http", access_key=KEY, secret_key=KEY)
        listed = [f.path for f in store.get_file_info(pyarrow.fs.FileSelector("traces", recursive=True))]
        commits = sorted(path for path in listed if "/_delta_log/" in path and path.endswith(".json"))
        ids = []
        for commit in commits:
            table = commit.split("/_delta_log/")[0]
            for action in map(json.loads, store.open_input_stream(commit).read().decode().splitlines()):
                if "add" in action:
                    ids += ids_of(f"{table}/{action['add']['path']}", store)
        return ids


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


def ids_of(file, store=None):
    read = pyarrow.parquet.read_table(file, columns=["trace_id", "span_id"], filesystem=store)
    return [t + s for t, s in zip(read["trace_id"].to_pylist(), read["span_id"].to_pylist())]


def stored_ids(server):
    return [id for file in server.files() for id in ids_of(file)]


def main():
    bodies = [pathlib.Path(file).read_bytes() for file in sorted(glob.glob(f"{a.dataset}/*.otlp"))]
    # Large and small requests in every part alike.
    quarters = [range(part, len(bodies), 4) for part in range(4)]
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-overload-"))
    try:
        figures = (measure_slow_store if a.minio else measure)(bodies, quarters, work)
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
        found = stored_ids(server)
    return {
        "maximum": most.figures(),
        "half": half.figures(),
        "twice": twice.figures(),
        "half_again": after.figures(),
        "recovered_after_s": recovered_after(after),
        "peak_rss_mb": peak,
        **compared(bodies, (most, half, twice, after), found),
    }


def compared(bodies, parts, found):
    """What became of the spans of acknowledged requests."""
    acknowledged = set().union(*(part.acknowledged for part in parts))
    wanted = {id for number in acknowledged for id in span_ids(bodies[number])}
    return {
        "spans_acknowledged": len(wanted),
        "spans_lost": len(wanted.difference(found)),
        "spans_twice": len(found) - len(set(found)),
    }


def measure_slow_store(bodies, quarters, work):
    """Twice what the store lets pass, then half of it."""
    spans_per_request = sum(sum(1 for _ in spans(body)) for body in bodies) / len(bodies)
    rate = a.store_kb_per_s * 1000 / STORED_BYTES / spans_per_request
    proxy = Proxy(a.store_kb_per_s * 1000)
    server = Server(a.binary, work, "{interval: 1h}", store=STORE, log="error", more=f"ingester: {{max_memory: {a.memory}}}")
    with MinIo(work) as minio:
        with server:
            before = round(server.memory_mb())
            twice = Part(bodies, sorted(number for quarter in quarters[:3] for number in quarter), 2 * rate, a.conns * 4)
            after = Part(bodies, quarters[3], rate / 2, a.conns)
            peak, refusals = round(server.memory_mb()), server.counter("sostenuto_ingester_memory_refusals")
            server.kill()
        proxy.rate = None
        with server:
            server.http("/flush", "POST")
            found = minio.stored_ids()
    return {
        "twice": twice.figures(),
        "half_again": after.figures(),
        "recovered_after_s": recovered_after(after, within_s=1.0),
        "refused_for_memory": round(refusals),
        "idle_rss_mb": before,
        "peak_rss_mb": peak,
        **compared(bodies, (twice, after), found),
    }


main()
