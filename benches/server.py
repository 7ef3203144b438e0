"""One `sostenuto serve` process on a folder of its own, for the benchmarks."""
import json, os, pathlib, signal, subprocess, sys, time, urllib.request

API, OTLP_HTTP, OTLP_GRPC = 23200, 24318, 24317

CONFIG = """
server: {{http_listen_port: {api}}}
distributor:
  receivers:
    otlp:
      protocols:
        grpc: {{endpoint: "127.0.0.1:{grpc}"}}
        http: {{endpoint: "127.0.0.1:{http}"}}
storage: {{path: {path}, {store}, table: {{log_kept_ms: 0}}}}
compactor: {compactor}
overrides: {{defaults: {{ingestion: {{rate_limit_bytes: 10GiB, burst_size_bytes: 1GiB}}, {tenant}}}}}
log: {{level: {log}}}
{more}
"""


class Server:
    """Runs while the `with` block does. `compactor` are settings of that section, `store` further ones of `storage`, `tenant`
    of `overrides.defaults`, `more` other sections, as YAML."""

    def __init__(self, binary, folder, compactor="{}", store="backend: local", tenant="", more="", log="warn"):
        self.data = pathlib.Path(folder) / "data"
        config = pathlib.Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(api=API, grpc=OTLP_GRPC, http=OTLP_HTTP, path=self.data, compactor=compactor,
                                        store=store, tenant=tenant, more=more, log=log))
        self.command = [binary, "serve", f"--config.file={config}"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        self.pid = self.process.pid
        for _ in range(1200):
            self.check()
            try:
                self.http("/ready")
                return self
            except OSError:
                time.sleep(0.05)
        sys.exit("the server did not become ready within 60 s")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def check(self):
        if self.process.poll() is not None:
            sys.exit(f"the server ended with status {self.process.returncode}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def http(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{API}{path}", method=method)
        return urllib.request.urlopen(request, timeout=300).read()

    def cpu_seconds(self):
        fields = open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, what="VmHWM"):
        """The peak, or with VmRSS what it takes now."""
        return next(int(l.split()[1]) for l in open(f"/proc/{self.pid}/status") if l.startswith(what)) / 1024

    def counters(self):
        """By name, without the suffix `_total`, summed up over labels."""
        found = {}
        for line in self.http("/metrics").decode().splitlines():
            if line.startswith("sostenuto_"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0].removesuffix("_total")
                found[name] = found.get(name, 0) + float(value)
        return found

    def counter(self, name):
        return self.counters().get(name, 0)

    def wait_merged(self, seconds=300):
        for _ in range(2 * seconds):
            if self.counter("sostenuto_compactor_compactions") > 0 and self.counter("sostenuto_compactor_blocks_due") == 0:
                return
            time.sleep(0.5)
        sys.exit(f"the compactor did not merge the blocks within {seconds} s")

    def files(self):
        """Data files of all tables, by their Delta logs, which stay whole here. Files of merged blocks stay for a while and do not
        count."""
        files = set()
        for commit in sorted(self.data.rglob("_delta_log/*.json")):
            table = commit.parent.parent
            for action in map(json.loads, commit.read_text().splitlines()):
                if "add" in action:
                    files.add(table / action["add"]["path"])
                if "remove" in action:
                    files.discard(table / action["remove"]["path"])
        return files

    def blocks(self):
        """Ids of the blocks of all tables."""
        return {file.stem for file in self.files()}

    def bytes_of(self, blocks, suffix):
        return sum(f.stat().st_size for f in self.data.rglob(f"*{suffix}") if f.stem in blocks)
