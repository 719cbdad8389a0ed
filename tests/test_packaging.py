"""What the Makefile asks for is what the package asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_python_versions_agree() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    found = re.search(r"\(3, (\d+)\) <= v < \(3, (\d+)\)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert found is not None
    assert wanted == f">=3.{found[1]},<3.{found[2]}"
    named = [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]
    assert ", ".join(named[:-1]) + f" or {named[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_locks_name_no_place_to_download_from() -> None:
    for lock in ("requirements.lock", "serve/page/package-lock.json"):
        assert "://" not in (ROOT / lock).read_text(encoding="utf-8"), lock
