"""corners.json: what is written is read; what is no such file is one line."""

import json

import numpy as np
import pytest
from block_spine import lumbar

from mskray.cohorts.corners import Body, read_corners, write_corners
from mskray.errors import UserError
from mskray.storage import locate


def test_bodies_come_back_as_they_were(tmp_path):
    spine = lumbar(7)
    place = locate(tmp_path / "corners.json")
    write_corners(place, {"a/t2.mha": [Body.of(body, 0.9) for body in reversed(spine.vertebrae.values())], "b": []})
    content = json.loads((tmp_path / "corners.json").read_text())
    assert content["schema_version"] == 1
    assert [body["level"] for body in content["volumes"]["a/t2.mha"]] == ["T12", "L1", "L2", "L3", "L4", "L5"]
    assert content["volumes"]["a/t2.mha"][0]["score"] == 0.9
    found = read_corners(place)
    assert found["b"].bodies == {}
    for level, body in spine.vertebrae.items():
        assert found["a/t2.mha"].bodies[level].slice == body.slice
        np.testing.assert_array_equal(found["a/t2.mha"].bodies[level].corners, body.corners)
    # A file without notes is read as well.
    assert found["a/t2.mha"].notes == ()


BODY = {"level": "L5", "slice": 3, "corners": [[0, 0], [9, 0], [9, 9], [0, 9]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema_version": 2, "volumes": {}}, "version 2, newer than this mskray reads"),
        ({"volumes": {}}, "schema_version: Field required"),
        ([], "is no corners.json"),
        ({"schema_version": 1, "volumes": {"a": [{**BODY, "level": "C1"}]}}, r"volumes\.a\.0\.level"),
        ({"schema_version": 1, "volumes": {"a": [{**BODY, "corners": BODY["corners"][:3]}]}}, r"a\.0\.corners"),
        ({"schema_version": 1, "volumes": {"a": [{**BODY, "slice": 1e999}]}}, r"a\.0\.slice"),
        ({"schema_version": 1, "volumes": {"a": [BODY, BODY]}}, "more than once in a"),
    ],
)
def test_what_is_no_corners_file_is_one_line(tmp_path, content, message):
    (tmp_path / "corners.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_corners(locate(tmp_path / "corners.json"))


def test_no_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="are not a file: give a"):
        read_corners(locate(tmp_path / "corners.json"))
