"""corners.json: what is written is read; what is no such file is one line."""

import json

import numpy as np
import pytest
from block_spine import lumbar

from mskray.cohorts.corners import Body, Entry, read_corners, read_search, write_corners, write_search
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


def test_notes_of_a_search_say_nothing_of_bodies_that_a_person_drew(tmp_path):
    first, second, *_ = lumbar(7).vertebrae.values()
    place = locate(tmp_path / "corners.json")
    volumes = {"all": [Body.of(first), Body.of(second)], "one": [Body.of(first), Body.of(second, 0.9)], "none": []}
    write_corners(place, volumes, dict.fromkeys(volumes, ("no sacrum in view",)))
    assert {name: each.notes for name, each in read_corners(place).items()} == {
        "all": (),
        "one": ("no sacrum in view",),
        "none": ("no sacrum in view",),
    }


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


def test_what_a_search_may_keep(tmp_path):
    place = locate(tmp_path / "corners.json")
    assert read_search(place).known_to("d1") == {}
    drawn, found = Body.model_validate(BODY), Body.model_validate({**BODY, "score": 0.5})
    other = Body.model_validate({**BODY, "level": "L4", "score": 0.5})
    entries = {"drawn": Entry((other, drawn)), "found": Entry((found,), ("a note",), "c0"), "none": Entry((), (), "c1")}
    write_search(place, entries, "d1")
    assert read_search(place).known_to("d1") == entries
    assert read_search(place).known_to("d2") == {"drawn": entries["drawn"]}
    write_corners(place, {"drawn": [drawn], "found": [found]})
    assert list(read_search(place).known_to("d1")) == ["drawn"]


@pytest.mark.parametrize("content", [b"\x00\x01", b'{"my": "work"}', b'{"schema_version": 2, "volumes": {}}'])
def test_a_file_that_is_no_search_of_ours_is_not_taken_for_none(tmp_path, content):
    (tmp_path / "out.json").write_bytes(content)
    with pytest.raises(UserError, match="nothing is written over it: give another --out"):
        read_search(locate(tmp_path / "out.json"))


def test_no_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="are not a file: give a"):
        read_corners(locate(tmp_path / "corners.json"))
