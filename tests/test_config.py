"""Configuration: what is refused, and that the line names what is allowed."""

import pytest

from mskray.config import Section, apply_overrides, describe, merge, read_yaml, setting, type_of, validate
from mskray.errors import UserError


class Inner(Section):
    rate: float = setting(0.1, "how fast", unit="1/s", source="K, eq. 3", gt=0, le=1)


class Outer(Section):
    name: str = setting(..., "what it is called")
    size: int = setting(4, "how large", ge=1)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ["name is required"]),
        ({"name": "a", "sise": 3}, ["unknown key sise", "did you mean size?", "allowed: name, size, inner"]),
        ({"name": "a", "inner": {"rat": 3}}, ["unknown key inner.rat", "did you mean inner.rate?"]),
        ({"name": "a", "inner": {"rate": 2}}, ["inner.rate = 2", "float, > 0 and ≤ 1"]),
        ({"name": "a", "size": "big"}, ["size = 'big'", "int, ≥ 1"]),
        ({"name": "a", "size": 0, "inner": {"rate": 0}}, ["size = 0", "inner.rate = 0"]),
        ({"name": "a", "inner": 3}, ["inner = 3"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(data: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        validate(Outer, data, "job.yaml")
    message = str(caught.value)
    assert message.startswith("job.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.b=2"], {"a": {"b": 2, "c": 1}}),
        (["a.c=1e-3"], {"a": {"b": 1, "c": 0.001}}),
        (["a.c=-2E5"], {"a": {"b": 1, "c": -200000.0}}),
        (["d=[1, 2]"], {"a": {"b": 1, "c": 1}, "d": [1, 2]}),
        (["a.c=e"], {"a": {"b": 1, "c": "e"}}),
        (["a.c=s3://b/k=v"], {"a": {"b": 1, "c": "s3://b/k=v"}}),
        (["x.y.z=true"], {"a": {"b": 1, "c": 1}, "x": {"y": {"z": True}}}),
    ],
)
def test_overrides(words: list[str], expected: dict) -> None:
    data = {"a": {"b": 1, "c": 1}}
    assert apply_overrides(data, words) == expected
    assert data == {"a": {"b": 1, "c": 1}}


def test_merging_dotted_keys_leaves_what_was_given_as_it_is() -> None:
    data, weights = {"a": {"b": 1, "c": 1}}, {"x": 1}
    merged = merge(data, {"a.b": 2, "d.e.f": weights, "a.g": "1e-3"})
    assert merged == {"a": {"b": 2, "c": 1, "g": "1e-3"}, "d": {"e": {"f": {"x": 1}}}}
    merged["d"]["e"]["f"]["x"] = merged["a"]["c"] = 3
    assert (data, weights) == ({"a": {"b": 1, "c": 1}}, {"x": 1})
    with pytest.raises(UserError, match=r"key a\.b\.c: b is a value, not a section"):
        merge(data, {"a.b.c": 3})


class Weighed(Section):
    inner: Inner = Inner()
    weights: dict[str, int] = setting({}, "by name")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("inner.rate", float),
        ("weights", dict[str, int]),
        ("weights.a", int),
        ("weights.a.b", None),
        ("inner", None),
        ("inner.", None),
        ("inner.rate.x", None),
        ("inner.rat", None),
        ("", None),
    ],
)
def test_types_of_leaves(key: str, found: object) -> None:
    assert type_of(Weighed, key) == found


@pytest.mark.parametrize("word", ["a", "=3", "a.b.c=3", "a=[1"])
def test_malformed_overrides_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="override"):
        apply_overrides({"a": {"b": 1}}, [word])


@pytest.mark.parametrize(("text", "match"), [("a: [", "not valid YAML"), ("- 1", "is no mapping"), ("", "is empty")])
def test_files_that_are_no_mapping_are_refused(tmp_path, text: str, match: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        read_yaml(path)


def test_numbers_in_exponent_notation_are_numbers() -> None:
    assert validate(Outer, {"name": "a", "inner": {"rate": "1e-2"}}, "x").inner.rate == 0.01


def test_describe_lists_every_leaf_with_unit_and_source() -> None:
    rows = {row.key: row for row in describe(Outer)}
    assert list(rows) == ["name", "size", "inner.rate"]
    assert rows["name"].required
    assert (rows["inner.rate"].unit, rows["inner.rate"].source, rows["inner.rate"].default) == ("1/s", "K, eq. 3", 0.1)
