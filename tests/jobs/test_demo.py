"""The demo, stopped in the middle: nothing that it started is left. (`make demo` itself runs for minutes.)"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.own_cluster
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "demo.py")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(200, demo.kill)
    watchdog.start()
    try:
        for line in demo.stderr:
            if line.startswith("ingest") and " 0/" not in line:
                break
        started = psutil.Process(demo.pid).children(recursive=True)
        names = " ".join(" ".join(process.cmdline()) for process in started)
        assert "weed" in names
        assert "raylet" in names
        # A terminal sends it to the whole process group, the store and Ray's processes too.
        os.killpg(demo.pid, signal.SIGINT)
        rest = demo.stderr.read()
        assert demo.wait(timeout=60) == 130, rest
        assert "nothing is left running" in rest
        _, alive = psutil.wait_procs(started, timeout=20)
        assert not alive
    finally:
        watchdog.cancel()
        demo.kill()
        demo.wait(timeout=30)


def test_a_folder_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "demo.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "has neither MURA's layout" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_in_the_folder_that_the_demo_empties_is_kept(tmp_path: Path) -> None:
    data = tmp_path / "demo-out" / "knees"
    (data / "train" / "0").mkdir(parents=True)
    command = [sys.executable, str(ROOT / "jobs" / "demo.py"), "--data", "demo-out/knees", "--store", "file"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: DATA=demo-out/knees lies in demo-out/, which the demo empties: move it elsewhere"
    ]
    assert (data / "train" / "0").is_dir()
