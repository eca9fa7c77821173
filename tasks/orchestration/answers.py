"""The table of a night's answers, in the form in which MLflow's pages compare those of runs."""

import json
from pathlib import Path

from pyarrow import parquet

from tasks.records.predictions import BATCH_TIMES

# What MLflow's pages call the table.
TABLE_FILE = "answers.json"
_NOT_IN_TABLE = ("prompt_sha256", *BATCH_TIMES)


def split_table(predictions: Path) -> str:
    """Predictions as pandas' `split` JSON: without what people can't read, or would misread."""
    found = parquet.read_table(predictions)
    rows = found.drop_columns([name for name in _NOT_IN_TABLE if name in found.column_names])
    columns = rows.to_pydict()
    columns["retrieved"] = ["\n".join(names) for names in columns["retrieved"]]
    # MLflow's pages group by the first column: by system alone, one answer of many would show.
    keys = zip(columns["system"], columns["mode"], columns["record"], strict=True)
    columns = {"answer": [" / ".join(key) for key in keys]} | columns
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)
