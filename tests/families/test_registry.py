"""The registry: what is listed, that a new family needs one file, that a wrong name or kind is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mskray.errors import UserError
from mskray.families import families, family
from mskray.verbs.families import families_table, family_table

NEW_FAMILY = """
from mskray.config import Section, setting
from mskray.families.base import Family, register
from mskray.space import uniform


@register
class Coin(Family):
    name, summary = "coin", "a coin"

    class Config(Section):
        bias: float = setting(0.5, "probability of heads", ge=0, le=1)

    def fit(self, cohort, config, run): ...
    def predictor(self, fitted, device="cpu"): ...
    def search_space(self): return {"bias": uniform(0.0, 1.0)}
"""


def test_every_family_says_what_it_is_and_reads() -> None:
    for name, each in families().items():
        assert json.loads(family_table(name, as_json=True))["summary"] == each.summary != ""
        assert each.kinds


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown family 'clasifier': did you mean classifier\? known are classifier"):
        family("clasifier")


def test_tables_name_every_key_with_bounds_and_default() -> None:
    assert "classifier" in families_table()
    text = family_table("classifier")
    assert "optimizer.learning_rate" in text
    assert "> 0 and ≤ 10" in text
    assert "resources.workers" in text
    assert "densenet169" in text


@pytest.mark.slow
def test_a_new_family_is_one_new_file(tmp_path: Path) -> None:
    """A file that appears in the families folder is listed; nothing else is edited."""
    (tmp_path / "coin.py").write_text(NEW_FAMILY)
    program = (
        "import mskray.families as f; "
        f"f.__path__.append({str(tmp_path)!r}); "
        "from mskray.verbs.families import family_table; print(family_table('coin'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert "probability of heads" in done.stdout
    assert "uniform" in done.stdout
