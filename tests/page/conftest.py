"""The page's server in this process: small real models of studies, pairs and spines, and the page as it is built."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The samples of the server's own tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
Browse = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the built page."""
    from mskray.serving.routes.page import FOLDER

    if not (FOLDER / "index.html").is_file():
        pytest.skip("the page is not built (make page)")
    return FOLDER


@pytest.fixture(scope="session")
def browse(built: Path) -> Browse:
    """Run a scenario of this folder in a browser; gives the facts that it saw."""
    if shutil.which("node") is None or not (ROOT / "serve/page/node_modules/playwright-core").is_dir():
        pytest.skip("node or the page's packages are not there (make page)")

    def run(scenario: str, **given: Any) -> dict[str, Any]:
        told = json.dumps({"chromium": shutil.which("chromium"), **given}, default=str)
        ended = subprocess.run(["node", str(HERE / scenario), told], capture_output=True, text=True, timeout=200)
        assert ended.returncode == 0, ended.stderr[-2000:]
        facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        assert facts["strangers"] == [], "the page asked another server"
        assert facts["complaints"] == [], "the browser complained"
        assert facts["violations"] == [], "axe-core found barriers"
        assert facts["wide"] <= 0, "the page is wider than the window"
        return facts

    return run


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without tokens that answers studies, pairs and spines."""
    import torch
    from reading_room import reading_room
    from serving_samples import over_http

    torch.set_num_threads(1)
    with over_http(reading_room(tmp_path_factory.mktemp("room"))) as address:
        yield address
