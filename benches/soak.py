#!/usr/bin/env python3
"""A soak: ingest, queries, compaction and retention together, for a bounded time.

usage: soak.py [--minutes M] [--rate SPANS_PER_S] [--binary PATH] [--out PREFIX] [--memory-mb MAX]

Starts `sostenuto serve` on a fresh folder and sends it traces of now at a steady rate, and now and then a burst of traces of
an hour that is long over, which is merged at once, and which retention deletes some minutes later. Meanwhile it asks for traces by id
(each must have all of its spans, once), searches, and computes rates. Every five seconds it writes a line of figures to
PREFIX.csv, and at the end PREFIX.svg: memory, latency, blocks, requests, over time. What queries keep in memory is bounded so that
the bound is met early: from then on, and when what they look at no longer grows (after five minutes), memory and latency should be
flat. At the end it flushes, and counts the spans of the hour of now.

It judges itself, says what it found wrong, and exits with 1: if an acknowledged trace was incomplete or doubled, a span was lost, a
query failed, or memory passed the limit given; and, if it ran for ten minutes or more, if between the third and the last quarter
memory, open files, the log, or files in the store that belong to no block of the table have grown by more than their noise. Needs
nothing but Python 3.
"""
import argparse, csv, http.client, json, os, pathlib, random, shutil, statistics, sys, tempfile, threading, time
import urllib.parse, urllib.request

from server import API, OTLP_HTTP, Server

HERE = pathlib.Path(__file__).resolve().parent
SPANS = 8           # of a trace
PER_REQUEST = 25    # traces
SAMPLE_S = 5
OLD_EVERY_S = 30    # a burst of an old hour
ASKED_S = 300       # back from now, of searches and rates
HOUR_NS = 3_600_000_000_000
# What should be flat: the part or the amount by which its median may grow from the third to the last quarter, and for each span
# that came meanwhile, since some memory belongs to the hour that is still filled (sidecars, columns, traces in several blocks).
FLAT = {"rss_mb": (0.1, 25, 64e-6), "open_files": (0.1, 10, 0), "wal_mb": (0.25, 20, 0), "files_besides": (0.25, 20, 0)}
FLAT_MINUTES_MIN = 10
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--minutes", type=float, default=20)
ap.add_argument("--rate", type=int, default=4000)
ap.add_argument("--binary", default=str(HERE.parent / "target/release/sostenuto"))
ap.add_argument("--out", default="soak")
ap.add_argument("--memory-mb", type=float, default=0)
a = ap.parse_args()

SERVICES = ["frontend", "cart", "checkout", "payment", "shipping", "email", "ads", "currency"]


class World:
    """What threads share."""

    def __init__(self):
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.acknowledged = []       # (trace id, when) of traces of now
        self.starts = []             # of all acknowledged traces of now, nanoseconds
        self.unanswered = 0          # requests of which nobody knows what became
        self.spans = 0
        self.refused = 0
        self.ack_ms = []
        self.query_ms = {"trace": [], "search": [], "rate": []}
        self.wrong = []

    def take(self):
        """Latencies since the last call."""
        with self.lock:
            taken = {"ack": self.ack_ms, **self.query_ms}
            self.ack_ms, self.query_ms = [], {name: [] for name in self.query_ms}
        return taken


def attribute(key, value):
    kind = "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value)}}


def request(dice, traces, end_ns):
    """OTLP/JSON of whole traces that ended before `end_ns`, their ids and starts."""
    by_service, ids, starts = {}, [], []
    for _ in range(traces):
        trace = "%032x" % dice.getrandbits(128)
        ids.append(trace)
        start = end_ns - dice.randrange(1, 2_000_000_000) - 500_000_000
        starts.append(start)
        parents = []
        for number in range(SPANS):
            span = "%016x" % (dice.getrandbits(64) | 1)
            service = SERVICES[0] if number == 0 else dice.choice(SERVICES)
            begin = start + number * 1_000_000
            by_service.setdefault(service, []).append({
                "traceId": trace, "spanId": span, "parentSpanId": dice.choice(parents) if parents else "",
                "name": f"GET /api/{service}/{dice.randrange(12)}", "kind": 2,
                "startTimeUnixNano": str(begin), "endTimeUnixNano": str(begin + dice.randrange(1_000_000, 400_000_000)),
                "status": {"code": 2} if dice.random() < 0.02 else {},
                "attributes": [attribute("http.response.status_code", dice.choice([200, 200, 200, 404, 500])),
                               attribute("user.id", f"user_{dice.randrange(5000)}"),
                               attribute("http.route", f"/api/{service}")],
            })
            parents.append(span)
    resources = [{"resource": {"attributes": [attribute("service.name", service)]},
                  "scopeSpans": [{"scope": {"name": "soak"}, "spans": spans}]} for service, spans in by_service.items()]
    return json.dumps({"resourceSpans": resources}).encode(), ids, starts


def send(world, seed):
    dice = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", OTLP_HTTP, timeout=60)
    begun, sent, next_old, old_hour = time.time(), 0, time.time() + 10, 2
    while not world.stop.is_set():
        due = begun + sent * PER_REQUEST * SPANS / a.rate
        if due > time.time():
            world.stop.wait(due - time.time())
        old = time.time() >= next_old
        end = time.time_ns()
        if old:
            # An hour that nothing else is in.
            end -= old_hour * HOUR_NS
            old_hour, next_old = old_hour + 1, time.time() + OLD_EVERY_S
        body, ids, starts = request(dice, PER_REQUEST, end)
        asked = time.perf_counter()
        try:
            connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            with world.lock:
                world.unanswered += not old
            continue
        sent += 1
        with world.lock:
            if answer.status != 200:
                world.refused += 1
                continue
            world.ack_ms.append((time.perf_counter() - asked) * 1e3)
            world.spans += PER_REQUEST * SPANS
            if not old:
                world.acknowledged.append((ids[0], time.time()))
                world.starts += starts


def ask(world, server, seed):
    dice = random.Random(seed)
    while not world.stop.wait(0.25):
        with world.lock:
            # Retention lets the hour of now alone.
            trace = dice.choice(world.acknowledged)[0] if world.acknowledged else None
        now = int(time.time())
        questions = [("search", "/api/search?" + urllib.parse.urlencode({"q": "{ status = error }", "limit": 20, "start": now - ASKED_S, "end": now + 60})),
                     ("rate", "/api/metrics/query_range?" + urllib.parse.urlencode({"q": "{ } | rate() by (resource.service.name)", "start": now - ASKED_S, "end": now, "step": "15s"}))]
        if trace:
            questions.append(("trace", f"/api/v2/traces/{trace}"))
        name, path = dice.choice(questions)
        asked = time.perf_counter()
        try:
            answer = json.loads(server.http(path))
        except Exception as error:
            if not world.stop.is_set():
                world.wrong.append(f"{name}: {error}")
            continue
        with world.lock:
            world.query_ms[name].append((time.perf_counter() - asked) * 1e3)
        if name == "trace":
            found = answer.get("trace", answer)
            resources = found.get("resourceSpans", found.get("batches", []))
            ids = [span["spanId"] for r in resources for scope in r.get("scopeSpans", []) for span in scope.get("spans", [])]
            if len(ids) != SPANS or len(set(ids)) != SPANS:
                world.wrong.append(f"trace {trace} has {len(ids)} spans, {len(set(ids))} of them different, of {SPANS}")


def percentile(values, share):
    return round(sorted(values)[min(len(values) - 1, int(len(values) * share))], 2) if values else None


def sample(world, server, begun):
    taken, now = world.take(), server.counters()
    blocks = server.files()
    files = {}
    for file in server.data.rglob("*"):
        try:
            files[file] = file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            pass  # Deleted meanwhile.
    live = {file.stem for file in blocks}
    besides = [file for file in files if file.suffix in (".parquet", ".side", ".traces") and file.stem not in live]
    return {
        "seconds": round(time.time() - begun, 1),
        "rss_mb": round(server.memory_mb("VmRSS"), 1),
        "cpu_s": round(server.cpu_seconds(), 2),
        "spans_acknowledged": world.spans,
        "requests_refused": world.refused,
        "ack_p50_ms": percentile(taken["ack"], .5), "ack_p99_ms": percentile(taken["ack"], .99),
        **{f"{name}_p50_ms": percentile(taken[name], .5) for name in world.query_ms},
        **{f"{name}_max_ms": percentile(taken[name], 1) for name in world.query_ms},
        "blocks": len(blocks), "hours": len({file.parent for file in blocks}),
        "folder_mb": round(sum(files.values()) / 1e6, 2),
        "wal_mb": round(sum(size for file, size in files.items() if "wal" in file.relative_to(server.data).parts) / 1e6, 2),
        # Files of blocks that were merged or deleted, and wait for their grace to end; indexes.
        "files_besides": len(besides),
        "open_files": len(os.listdir(f"/proc/{server.pid}/fd")),
        "compactions": now.get("sostenuto_compactor_compactions", 0),
        "spans_deleted": now.get("sostenuto_retention_spans_deleted", 0),
        "files_swept": now.get("sostenuto_storage_files_swept", 0),
        "store_requests": now.get("sostenuto_storage_requests", 0),
        "store_sent_mb": round(now.get("sostenuto_storage_sent_bytes", 0) / 1e6, 2),
        "store_received_mb": round(now.get("sostenuto_storage_received_bytes", 0) / 1e6, 2),
    }


PLOTS = [("memory, MB", ["rss_mb"]), ("acknowledgement, ms", ["ack_p50_ms", "ack_p99_ms"]),
         ("queries, ms (median of 5 s)", ["trace_p50_ms", "search_p50_ms", "rate_p50_ms"]),
         ("blocks in the table, hours with blocks", ["blocks", "hours"]), ("folder and log, MB", ["folder_mb", "wal_mb"]),
         ("open files, files of no block in the table", ["open_files", "files_besides"]),
         ("spans acknowledged, spans deleted", ["spans_acknowledged", "spans_deleted"]),
         ("requests to the store", ["store_requests"])]
COLOURS = ["#1f5fa8", "#c4572b", "#3c8d4f"]


def plot(rows, path):
    wide, high, left, gap = 760, 130, 70, 46
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide + left + 20}" height="{len(PLOTS) * (high + gap) + 30}" '
           'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    end = max(row["seconds"] for row in rows) or 1
    for number, (title, names) in enumerate(PLOTS):
        top = 30 + number * (high + gap)
        most = max([row[name] for row in rows for name in names if row[name] is not None], default=0) or 1
        out.append(f'<text x="{left}" y="{top - 8}">{title}</text>')
        out.append(f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#ccc"/>')
        out.append(f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{most:,.0f}</text>')
        out.append(f'<text x="{left - 6}" y="{top + high}" text-anchor="end">0</text>')
        out.append(f'<text x="{left + wide}" y="{top + high + 14}" text-anchor="end">{end / 60:.1f} min</text>')
        for colour, (at, name) in zip(COLOURS, enumerate(names)):
            points = [(left + row["seconds"] / end * wide, top + high - row[name] / most * high) for row in rows if row[name] is not None]
            out.append(f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
            out.append(f'<text x="{left + 200 + at * 160}" y="{top - 8}" fill="{colour}">{name}</text>')
    pathlib.Path(path).write_text("\n".join(out) + "\n</svg>\n")


def run(world, server):
    """Samples of the time asked for."""
    rows = []
    threads = [threading.Thread(target=send, args=(world, 1), daemon=True)]
    threads += [threading.Thread(target=ask, args=(world, server, seed), daemon=True) for seed in (2, 3)]
    begun = time.time()
    for thread in threads:
        thread.start()
    with open(f"{a.out}.csv", "w", newline="") as file:
        writer = None
        while time.time() - begun < a.minutes * 60:
            time.sleep(min(SAMPLE_S, max(0.1, begun + a.minutes * 60 - time.time())))
            server.check()
            row = sample(world, server, begun)
            rows.append(row)
            writer = writer or csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    world.stop.set()
    for thread in threads:
        thread.join(90)
    return rows


def count_all(world, server):
    """What is wrong with the number of spans of the hour of now, which retention lets alone. All that a request sent is stored or
    nothing; of those without an answer either may be."""
    server.http("/flush", "POST")
    # A trace belongs to the hour of its first span, so not to the second before.
    since = time.time_ns() // HOUR_NS * HOUR_NS + 10**9
    if since > time.time_ns():
        since -= HOUR_NS
    asked = f"SELECT count(*) AS spans FROM spans WHERE start_time >= to_timestamp_nanos({since})"
    request = urllib.request.Request(f"http://127.0.0.1:{API}/api/sql", asked.encode(), method="POST")
    found = json.loads(urllib.request.urlopen(request, timeout=300).read())[0]["spans"]
    wanted = sum(start + number * 1_000_000 >= since for start in world.starts for number in range(SPANS))
    print(f"{found} spans since the hour began, {wanted} acknowledged, {world.unanswered} requests without an answer")
    if found < wanted or found > wanted + world.unanswered * PER_REQUEST * SPANS:
        return [f"{found} spans are stored of the hour, and {wanted} were acknowledged"]
    return []


def grown(rows):
    """What should be flat and is not."""
    if a.minutes < FLAT_MINUTES_MIN:
        return []
    found, quarter = [], len(rows) // 4
    parts = rows[2 * quarter:3 * quarter], rows[3 * quarter:]
    medians = lambda name: [statistics.median(row[name] for row in part) for part in parts]
    spans = medians("spans_acknowledged")
    for name, (share, amount, for_span) in FLAT.items():
        before, after = medians(name)
        if after - before > max(share * before, amount) + for_span * (spans[1] - spans[0]):
            found.append(f"{name} went from {before:.1f} in the third quarter to {after:.1f} in the last")
    return found


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="sostenuto-soak-"))
    server = Server(a.binary, work, "{interval: 5s, settled_after: 30s, removed_block_grace: 90s, sweep_interval: 20s, min_keep: 1m}",
                    store="backend: local, cache: {chunks_memory: 32MiB}", tenant="retention: {keep: 3m}", more="ingester: {max_block_duration: 15s}\nquery_frontend: {api_timeout: 30s, columns_memory: 64MiB, split_traces_memory: 32MiB}")
    world = World()
    try:
        with server:
            rows = run(world, server)
            world.wrong += count_all(world, server)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    plot(rows, f"{a.out}.svg")
    world.wrong += grown(rows)
    last, half = rows[-1], rows[len(rows) // 2:]
    memory = [row["rss_mb"] for row in half]
    print(json.dumps({
        "minutes": round(last["seconds"] / 60, 2), "spans": last["spans_acknowledged"], "refused": last["requests_refused"],
        "rss_mb_second_half": [min(memory), max(memory)], "cpu_s": last["cpu_s"], "blocks": last["blocks"],
        "compactions": last["compactions"], "spans_deleted": last["spans_deleted"], "files_swept": last["files_swept"],
        "store_requests": last["store_requests"], "open_files": last["open_files"], "files_besides": last["files_besides"],
        "p50_ms": {name: round(statistics.median(v), 2) for name in ("ack", "trace", "search", "rate")
                   if (v := [row[f"{name}_p50_ms"] for row in rows if row[f"{name}_p50_ms"] is not None])},
        "wrong": world.wrong[:10]}))
    if world.wrong or (a.memory_mb and max(row["rss_mb"] for row in rows) > a.memory_mb):
        sys.exit(1)


main()
