#!/usr/bin/env python3
"""Opens a table of spans with readers that share no code with ours, and prints what they find as JSON.

Needs `pip install deltalake pyarrow`. Usage: read_table.py <folder of the table>
"""

import json
import sys

import deltalake
import pyarrow as pa
import pyarrow.compute as pc

# Spans that start after this are looked for by a filter, which the readers answer with file statistics.
LATE_NANO = 80_000


def by_pyarrow(table, trace_id, late):
    rows = table.to_pyarrow_table()
    dataset = table.to_pyarrow_dataset()
    return {
        "rows": rows.num_rows,
        "traces": len(pc.unique(rows["trace_id"])),
        "min_start_unix_nano": pc.min(rows["start_time_unix_nano"]).as_py(),
        "max_start_unix_nano": pc.max(rows["start_time_unix_nano"]).as_py(),
        "names": sorted(set(rows["name"].to_pylist())),
        "services": sorted(set(rows["resource.service.name"].drop_null().to_pylist())),
        "one_trace": dataset.to_table(filter=pc.field("trace_id") == trace_id).num_rows,
        "roots": rows["parent_span_id"].null_count,
        "late": dataset.to_table(filter=pc.field("start_time_unix_nano") > late).num_rows,
    }


def by_sql(table, trace_id, late):
    engine = deltalake.QueryBuilder().register("spans", table)

    def column(query):
        return pa.table(engine.execute(query).read_all()).column(0).to_pylist()

    return {
        "rows": column("SELECT count(*) FROM spans")[0],
        "traces": column("SELECT count(DISTINCT trace_id) FROM spans")[0],
        "min_start_unix_nano": column("SELECT min(start_time_unix_nano) FROM spans")[0],
        "max_start_unix_nano": column("SELECT max(start_time_unix_nano) FROM spans")[0],
        "names": column("SELECT DISTINCT name FROM spans ORDER BY 1"),
        "services": column(
            'SELECT DISTINCT "resource.service.name" FROM spans WHERE "resource.service.name" IS NOT NULL ORDER BY 1'
        ),
        "one_trace": column(f"SELECT count(*) FROM spans WHERE trace_id = X'{trace_id.hex()}'")[0],
        "roots": column("SELECT count(*) FROM spans WHERE parent_span_id IS NULL")[0],
        "late": column(f"SELECT count(*) FROM spans WHERE start_time_unix_nano > {late}")[0],
    }


def attribute_values(rows):
    """Of each attribute column: its values and on how many rows each stands."""
    counts = {}
    for name in rows.column_names:
        if name.startswith(("span.", "resource.")):
            found = pc.value_counts(rows[name].drop_null()).to_pylist()
            counts[name] = [[item["values"], item["counts"]] for item in found]
    return counts


def main():
    table = deltalake.DeltaTable(sys.argv[1])
    rows = table.to_pyarrow_table()
    trace_id = rows["trace_id"][0].as_py()
    late = pc.min(rows["start_time_unix_nano"]).as_py() + LATE_NANO
    fields = json.loads(table.schema().to_json())["fields"]
    json.dump(
        {
            "version": table.version(),
            "files": len(table.file_uris()),
            "columns": [[f["name"], f["type"]] for f in fields if isinstance(f["type"], str)],
            "one_trace_id": trace_id.hex(),
            "pyarrow": by_pyarrow(table, trace_id, late),
            "sql": by_sql(table, trace_id, late),
            "attributes": attribute_values(rows),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
