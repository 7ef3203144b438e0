// Grafana's own packages on our answers.
//
//   node contract.cjs parse < QUERIES      a JSON list of queries; prints for each where Grafana's grammar of TraceQL fails
//   node contract.cjs frames URL START END  turns the answers of the API at URL, of this time in seconds, into data frames
//
// Ends with an error that says what does not fit.

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { parser } = require("@grafana/lezer-traceql");
const {
  FieldType,
  NodeGraphDataFrameFieldNames,
  createDataFrame,
  dataFrameFromJSON,
  dataFrameToJSON,
  getFieldDisplayName,
  guessFieldTypeFromValue,
  isTimeSeriesFrames,
  outerJoinDataFrames,
  sortDataFrame,
} = require("@grafana/data");

function errors(query) {
  const found = [];
  parser.parse(query).iterate({ enter: (node) => void (node.type.isError && found.push(node.from)) });
  return found;
}

async function get(url) {
  const answer = await fetch(url);
  const text = await answer.text();
  assert.equal(answer.status, 200, `${url}: ${text}`);
  return JSON.parse(text);
}

// A column has one type for Grafana, whatever the rows.
function column(name, values) {
  const types = new Set(values.filter((value) => value !== null).map(guessFieldTypeFromValue));
  assert.ok(types.size <= 1, `the column ${name} is of types ${[...types]}`);
  return { name, type: [...types][0] ?? FieldType.other, values };
}

// What a frame is when it has come to the browser.
function carried(frame) {
  const there = dataFrameFromJSON(JSON.parse(JSON.stringify(dataFrameToJSON(frame))));
  assert.equal(there.length, frame.length);
  frame.fields.forEach((field, at) => assert.deepEqual([...there.fields[at].values], [...field.values], field.name));
  return there;
}

function plain(value) {
  const [kind, inner] = Object.entries(value)[0];
  assert.ok(["stringValue", "boolValue", "intValue", "doubleValue"].includes(kind), `a ${kind} has no column`);
  return kind === "intValue" || kind === "doubleValue" ? Number(inner) : inner;
}

async function search(api, range) {
  const q = "{} | select(span.step, span.http.route, status, kind, resource.service.name)";
  const { traces } = await get(`${api}/api/search?q=${encodeURIComponent(q)}&limit=100&spss=100&${range}`);
  assert.ok(traces.length > 1);
  const started = traces.map((trace) => Number(trace.startTimeUnixNano) / 1e6);
  const table = createDataFrame({
    fields: [
      column("traceID", traces.map((trace) => trace.traceID)),
      { ...column("startTime", started), type: FieldType.time },
      column("traceService", traces.map((trace) => trace.rootServiceName ?? "")),
      column("traceName", traces.map((trace) => trace.rootTraceName ?? "")),
      column("traceDuration", traces.map((trace) => trace.durationMs ?? 0)),
    ],
  });
  const sorted = sortDataFrame(carried(table), 1, true);
  assert.deepEqual([...sorted.fields[0].values], traces.map((trace) => trace.traceID), "the newest come first");

  const spans = traces.flatMap((trace) => trace.spanSets.flatMap((set) => set.spans));
  const rows = spans.map((span) => new Map((span.attributes ?? []).map(({ key, value }) => [key, plain(value)])));
  const keys = [...new Set(rows.flatMap((row) => [...row.keys()]))];
  for (const key of ["step", "http.route", "status", "kind", "service.name"]) {
    assert.ok(keys.includes(key), `${key} in ${keys}`);
  }
  const columns = keys.map((key) => column(key, rows.map((row) => row.get(key) ?? null)));
  carried(createDataFrame({ fields: [column("spanID", spans.map((span) => span.spanID)), ...columns] }));
}

async function metrics(api, range) {
  const q = "{} | quantile_over_time(duration, 0.5, 0.9) by (name)";
  const { series } = await get(`${api}/api/metrics/query_range?q=${encodeURIComponent(q)}&step=10s&${range}`);
  assert.ok(series.length > 2);
  const frames = series.map(({ labels, samples }) => {
    const named = Object.fromEntries(labels.map(({ key, value }) => [key, String(plain(value))]));
    const times = samples.map((sample) => Number(sample.timestampMs));
    const values = samples.map((sample) => sample.value ?? 0);
    return createDataFrame({
      fields: [
        { name: "Time", type: FieldType.time, values: times },
        { ...column("Value", values), labels: named, config: {} },
      ],
    });
  });
  assert.ok(isTimeSeriesFrames(frames));
  const names = frames.map((frame) => getFieldDisplayName(frame.fields[1], frame, frames));
  assert.equal(new Set(names).size, frames.length, `${names}`);
  // Drilldown puts the series of a group side by side: each has a value at each time.
  const joined = outerJoinDataFrames({ frames: frames.map(carried) });
  assert.equal(joined.length, frames[0].length);
  joined.fields.forEach((field) => assert.ok([...field.values].every(Number.isFinite), field.name));
}

async function nodeGraph(api, range) {
  const { traces } = await get(`${api}/api/search?q=%7B%7D&limit=1&${range}`);
  const { data } = await get(`${api}/jaeger/api/traces/${traces[0].traceID}`);
  const { id, title, source, target } = NodeGraphDataFrameFieldNames;
  const spans = data[0].spans;
  const parentOf = (span) => span.references.find((reference) => reference.refType === "CHILD_OF")?.spanID;
  const edges = spans.filter(parentOf);
  assert.equal(edges.length, spans.length - 1);
  const nodes = carried(createDataFrame({
    fields: [column(id, spans.map((span) => span.spanID)), column(title, spans.map((span) => span.operationName))],
  }));
  const lines = carried(createDataFrame({
    fields: [column(source, edges.map(parentOf)), column(target, edges.map((span) => span.spanID))],
  }));
  const known = new Set(nodes.fields[0].values);
  lines.fields.forEach((field) => assert.ok([...field.values].every((end) => known.has(end)), field.name));
}

async function main() {
  const [mode, ...rest] = process.argv.slice(2);
  if (mode === "parse") {
    console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(errors)));
    return;
  }
  assert.equal(mode, "frames");
  const [api, start, end] = rest;
  const range = `start=${start}&end=${end}`;
  await search(api, range);
  await metrics(api, range);
  await nodeGraph(api, range);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
