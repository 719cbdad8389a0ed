"""`mskray predict --server URL IN`: a server answers, and neither model nor Ray is needed here."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from mskray.client import Client, RequestRefused
from mskray.errors import UserError
from mskray.prediction.readers import list_files
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes

TOKEN_VARIABLE = "MSKRAY_TOKEN"  # nosec B105 # a variable's name
_AT_ONCE = 8
_MOST_BYTES = 1 << 30
_OF_THE_FILE = (413, 422)
"""What a server answers where only this file is to blame."""


def predict_remote(url: str, source: str, out: str, report: Report = silent) -> pa.Table:
    """Have a server predict each file of a folder or prefix as a study of its own; write a Parquet file.

    The token is read from MSKRAY_TOKEN, which no list of processes shows.

    Returns:
        One row a file, ordered by path: `path`, `body_part`, `prob_<class>` and `error`, one of them null.
    Raises:
        UserError: source or `out` does not do, the server says no or goes away.
    """
    place, target = locate(source), locate(out)
    check_access(place)
    check_access(target, write=True)
    root, paths = list_files(place)
    rows: list[dict[str, Any]] = []
    with Client(url, os.environ.get(TOKEN_VARIABLE) or None) as client:
        classes = client.models().of_studies.classes
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            for row in pool.map(lambda path: _row(client, root, path), sorted(paths)):
                rows.append(row)
                report(Progress("predict", len(rows), len(paths)))
        finally:
            pool.shutdown(cancel_futures=True)
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("body_part", pa.string()),
            *((f"prob_{name}", pa.float32()) for name in classes),
            ("error", pa.string()),
        ]
    )
    table = pa.Table.from_pylist(rows, schema)
    target.write_bytes(parquet_bytes(table))
    return table


def _row(client: Client, root: Location, path: str) -> dict[str, Any]:
    try:
        (view,) = client.predict_study([root.join(path).read_bytes(_MOST_BYTES)]).views
    except RequestRefused as error:
        if error.status not in _OF_THE_FILE:
            raise
        problem = error.problem
        reason = problem.views[0].reason if problem and problem.views else str(error)
        return {"path": path, "error": reason}
    except UserError as error:
        return {"path": path, "error": str(error)}
    shares = {f"prob_{name}": value for name, value in view.probabilities.items()}
    return {"path": path, "body_part": view.body_part, **shares}
