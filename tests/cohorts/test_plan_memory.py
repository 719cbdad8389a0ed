"""Planning holds a part of a large listing at a time: its peak memory does not grow with the rows, beyond a little."""

import subprocess
import sys
import textwrap

import pytest

# In a process of its own, so that what other tests hold does not hide it.
PROGRAM = textwrap.dedent(
    """
    import resource, sys
    from planned_sources import GRADE, KEYS
    from mskray.cohorts import changes, counting
    from mskray.cohorts.plan import make_plan
    from mskray.cohorts.sources import Item
    from mskray.storage import locate

    def items(count):
        for n in range(count):
            path, mark = f"part/patient{n // 3:09d}/study1/image{n}.png", f"{n:x}-{n * 7919:x}"
            yield Item(path, f"p{n // 3}", "s", mark, {"grade": n % 3}, "HAND", view_index=n % 3)

    plan = make_plan(
        items(int(sys.argv[1])), (GRADE,), KEYS, fractions=(0.7, 0.15, 0.15), resplit=False, seed=0, image_bytes=50176,
        shard_rows=1024, context={}, held=8192,
    )
    assert counting.count(plan, [], (GRADE,)).images == plan.images == int(sys.argv[1])
    changes.compare_files(locate(sys.argv[2]), plan, held=8192)
    plan.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    """
)


def peak_mb(rows: int, folder, tests) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(rows), str(folder)], cwd=tests, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.slow
def test_four_times_the_rows_take_hardly_more_memory(tmp_path, request):
    here = request.path.parent
    few, many = (peak_mb(rows, tmp_path, here) for rows in (25_000, 100_000))
    # 75,000 rows more were 80 MB more in the planner that held them, and are a byte each and the plans of shards now.
    assert many - few < 12


PLANNED = textwrap.dedent(
    """
    import sys, psutil, pyarrow as pa
    from mskray.cohorts.ingest import _prepare
    from mskray.progress import silent

    run = _prepare("phantom", None, sys.argv[1], {"patients": 15_000}, {"size": 64}, silent, b"a key for the test")
    plan, here = run.plan(), psutil.Process()
    assert plan.images > 30_000
    held = here.memory_info().rss
    pa.default_memory_pool().release_unused()
    print((held - here.memory_info().rss) / 1e6)
    """
)


@pytest.mark.slow
def test_what_planning_took_is_given_back_before_shards_are_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PLANNED, str(tmp_path / "out")], capture_output=True, text=True, check=True, timeout=120
    )
    # Arrow held 45 MB that were free.
    assert float(done.stdout) < 10
