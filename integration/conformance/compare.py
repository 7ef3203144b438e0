#!/usr/bin/env python3
"""Asks two servers with the API of Tempo the same questions and shows where their answers differ.

usage: compare.py ONE TWO --start S --end S [--count N] [--seed N] [--queries FILE] [--tenant T] [--show N]

Both must hold the same spans, all of them between start and end (Unix seconds). Without --queries the questions are made up
from the names and values that the first server lists: filters, structure, pipelines, metrics. A file has one query per line.
Order, counters of work, exemplars and the wording of errors are not compared. Exit status 0 if all answers are equal.
Standard library only.
"""
import argparse, json, math, random, sys, urllib.error, urllib.parse, urllib.request

INTRINSICS = {"duration": ["1ms", "100ms", "1s"], "name": None, "status": ["error", "ok", "unset"], "kind": ["server", "client"],
              "statusMessage": None, "rootName": None, "rootServiceName": None, "traceDuration": ["100ms", "1s"],
              "event:name": None, "instrumentation:name": None, "nestedSetParent": ["-1", "1"], "nestedSetLeft": ["1", "5"]}
RELATIONS = ["&&", "||"] + [form + op for op in (">", "<", ">>", "<<", "~") for form in ("", "!", "&")]


def get(base, path, params, tenant):
    """Status and decoded body."""
    headers = {"Accept": "application/json", **({"X-Scope-OrgID": tenant} if tenant else {})}
    request = urllib.request.Request(base + path + "?" + urllib.parse.urlencode(params), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf8", "replace").strip()


def text(value):
    """A typed value; floats by six digits."""
    if "doubleValue" in value:
        return f"double {float(value['doubleValue']):.6g}"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def attributes(found):
    return sorted(f"{a['key']}={text(a.get('value') or {})}" for a in found or [])


def comparable(status, body):
    """What both servers should agree on."""
    if status != 200:
        return {"status": status}
    if "series" in body:
        return {" ".join(attributes(s.get("labels"))): s["value"] if "value" in s else
                {p["timestampMs"]: p.get("value", 0) for p in s.get("samples", []) if p.get("value")} for s in body["series"]}
    traces = {}
    for trace in body.get("traces", []):
        sets = []
        for spanset in trace.get("spanSets", []):
            spans = sorted([s["spanID"], s.get("durationNanos", "0"), attributes(s.get("attributes"))] for s in spanset.get("spans", []))
            sets.append([spanset.get("matched", 0), attributes(spanset.get("attributes")), spans])
        head = [trace.get(key) for key in ("rootServiceName", "rootTraceName", "startTimeUnixNano", "durationMs")]
        traces[trace["traceID"].zfill(32)] = head + sorted(sets, key=json.dumps)
    return traces


def equal(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, (int, float)) or isinstance(b, float) and isinstance(a, int):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
    return a == b


def vocabulary(base, window, tenant):
    """Names with literals to compare them with."""
    known = {}
    def look(name):
        _, body = get(base, "/api/v2/search/tag/" + urllib.parse.quote(name, safe="") + "/values", window, tenant)
        values = body.get("tagValues", []) if isinstance(body, dict) else []
        literals = [json.dumps(v.get("value", ""), ensure_ascii=False) if v["type"] == "string" else v["value"] for v in values[:5]]
        if literals:
            known[name] = literals
    _, body = get(base, "/api/v2/search/tags", window, tenant)
    for scope in body["scopes"]:
        if scope["name"] != "intrinsic":
            for tag in scope["tags"]:
                look(f"{scope['name']}.{json.dumps(tag, ensure_ascii=False)}")
    for name, literals in INTRINSICS.items():
        known[name] = literals
        if literals is None:
            del known[name]
            look(name)
    return known


def questions(known, count, seed):
    dice = random.Random(seed)
    names = sorted(known)
    numbers = [n for n in names if known[n][0].lstrip("-")[:1].isdigit()]
    def condition():
        name = dice.choice(names)
        literal = dice.choice(known[name])
        ordered = literal[:1] == '"' or literal.lstrip("-")[:1].isdigit()
        operators = ["=", "!="] + (["<", "<=", ">", ">="] if ordered else []) + (["=~", "!~"] if literal[:1] == '"' else [])
        return f"{name} {dice.choice(operators)} {literal}"
    def spanset():
        return dice.choice(["{ }", f"{{ {condition()} }}", f"{{ {condition()} {dice.choice(['&&', '||'])} {condition()} }}"])
    def aggregate():
        function = dice.choice(["min", "max", "avg", "sum"])
        return dice.choice([f"count() > {dice.randrange(5)}", f"{function}({dice.choice(numbers)}) > 1"])
    def stage():
        return dice.choice([aggregate(), f"by({dice.choice(names)})", f"select({dice.choice(names)}, {dice.choice(names)})", spanset()])
    def metrics():
        measured = dice.choice(numbers)
        functions = ["rate()", "count_over_time()", f"quantile_over_time({measured}, .5, .9)"]
        functions += [f"{f}_over_time({measured})" for f in ("min", "max", "avg", "sum", "histogram")]
        by = dice.choice(["", f" by ({dice.choice(names)})", f" by ({dice.choice(names)}, {dice.choice(names)})"])
        return f"{spanset()} | {dice.choice(functions)}{by}{dice.choice(['', '', ' | topk(2)', ' > 1'])}"
    for _ in range(count):
        yield dice.choice([spanset(), f"{spanset()} {dice.choice(RELATIONS)} {spanset()}", f"{spanset()} | {stage()} | {stage()}", metrics()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one"), parser.add_argument("two"), parser.add_argument("--queries"), parser.add_argument("--tenant")
    for name, default in (("--start", None), ("--end", None), ("--count", 500), ("--seed", 1), ("--show", 20)):
        parser.add_argument(name, type=int, default=default, required=default is None)
    args = parser.parse_args()
    window = {"start": args.start, "end": args.end}
    if args.queries:
        queries = [line.strip() for line in open(args.queries, encoding="utf8") if line.strip()]
    else:
        queries = questions(vocabulary(args.one, window, args.tenant), args.count, args.seed)
    same = different = 0
    for query in queries:
        answers = []
        is_metrics = "_over_time(" in query or "rate()" in query
        for base in (args.one, args.two):
            params = {"q": query, **window, **({} if is_metrics else {"limit": 10000, "spss": 100})}
            answers.append(comparable(*get(base, "/api/metrics/query" if is_metrics else "/api/search", params, args.tenant)))
        if equal(*answers):
            same += 1
            continue
        different += 1
        if different <= args.show:
            keys = [k for k in {**answers[0], **answers[1]} if not equal(answers[0].get(k), answers[1].get(k))]
            print(query, f"\n    {len(keys)} of {len(answers[0])} and {len(answers[1])} differ; of {keys[0]}:")
            for answer in answers:
                print("   ", str(answer.get(keys[0]))[:400])
    print(f"{same} equal, {different} different")
    sys.exit(0 if different == 0 else 1)
