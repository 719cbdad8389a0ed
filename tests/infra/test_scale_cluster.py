"""The simulations that start Ray, small: every shard is scheduled once, every trial ends, results are written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.own_cluster]
ROOT = Path(__file__).parents[2]


def simulate(tmp_path: Path, *words: str) -> dict:
    file = tmp_path / "measured.json"
    command = [sys.executable, "-m", "infra.scale.simulate", *words, "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    ((found,),) = json.loads(file.read_text()).values()
    return found


@pytest.mark.parametrize("raylets", [1, 2])
def test_scheduling_is_measured(tmp_path, raylets):
    words = ("--nodes", "10", "--shards", "200", "--rows-a-shard", "20", "--workers", "1", "--raylets", str(raylets))
    found = simulate(tmp_path, "ingest", *words)
    assert (found["shards"], found["rows"], found["workers"]) == (200, 4000, raylets)
    assert found["shards_a_s"] > 0
    assert found["driver_cpu_ms_a_shard"] > 0


def test_searching_is_measured(tmp_path):
    found = simulate(tmp_path, "tune", "--trials", "6", "--slots", "2", "--seconds", "0.05")
    assert (found["trials"], found["slots"]) == (6, 2)
    assert found["overhead_s_a_trial"] > 0
