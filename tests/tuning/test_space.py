"""A search's space: what is drawn and counted under conditions, and what is refused."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import model_validator

from mskray.config import Section, merge, setting, validate
from mskray.errors import UserError
from mskray.families import Family
from mskray.space import Parameter, Space, choice, grid, loguniform, only, uniform
from mskray.tuning.space import SearchSpace, parse_space


class Judge(Section):
    name: Literal["svm", "forest", "nb"] = setting("svm", "judge")
    kernel: Literal["rbf", "poly"] = setting("rbf", "of the svm")
    C: float = setting(1.0, "penalty", gt=0, le=1000)
    degree: int = setting(3, "of poly", ge=1, le=9)


class Words(Section):
    number: int = setting(500, "words", ge=2, le=100_000)
    odd: int = setting(9, "an odd number", ge=3, le=99)
    stages: tuple[str, ...] = setting((), "names")
    weights: dict[str, float] = setting({}, "by name")
    size: int | None = setting(None, "or none", ge=1, le=64)


class ToyConfig(Section):
    judge: Judge = Judge()
    words: Words = Words()
    patience: int = setting(0, "epochs", ge=0)
    stop: int = setting(0, "epochs", ge=0)
    seed: int = setting(0, "seed", ge=0)

    @model_validator(mode="after")
    def _rules(self) -> "ToyConfig":
        if self.words.odd % 2 == 0:
            raise ValueError("give an odd number")
        if 0 < self.stop <= self.patience:
            raise ValueError(f"stop = {self.stop} must be above patience = {self.patience}")
        return self


class Toy(Family):
    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "nothing"
    Config: ClassVar[type[ToyConfig]] = ToyConfig

    def fit(self, cohort: Any, config: Any, run: Any) -> Any:
        raise AssertionError("a space is read without fitting anything")

    def predictor(self, fitted: Any, device: str = "cpu") -> Any:
        raise AssertionError("a space is read without fitting anything")

    def search_space(self) -> Space:
        return {
            "judge.name": choice("svm", "forest"),
            "judge.C": only(loguniform(0.1, 100), judge__name="svm"),
        }

    def spaces(self) -> Mapping[str, Space]:
        svm = {"judge.name": grid("svm", "nb"), "judge.kernel": only(grid("rbf", "poly"), judge__name="svm")}
        return {"paper": {**svm, "judge.degree": only(grid(2, 3, 5), judge__kernel="poly"), "words.number": grid(5, 9)}}


def parse(text: str = "", preset: str = "none", base: str = "") -> SearchSpace:
    return parse_space(yaml.safe_load(text), Toy(), yaml.safe_load(base) or {}, preset, "tune.yaml")


def drawn(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Draw as a searcher does: through Optuna's distributions."""
    rng = np.random.default_rng(seed)

    def suggest(key: str, parameter: Parameter) -> Any:
        each = space.distribution(key)
        if isinstance(each, CategoricalDistribution):
            return space.value(key, rng.integers(len(each.choices)))
        assert isinstance(each, IntDistribution | FloatDistribution)
        at = rng.uniform(np.log(each.low), np.log(each.high)) if each.log else rng.uniform(each.low, each.high)
        exact = np.exp(at) if each.log else at
        return space.value(
            key, round(exact) if isinstance(each, IntDistribution) else np.clip(exact, each.low, each.high)
        )

    return space.draw(suggest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "3 is no search space: give a mapping of keys to values"),
        ("", "no parameter is left to search: give one, or another preset"),
        ("judge.c: {choice: [1]}", "no parameter 'judge.c': did you mean judge.C? there are judge.name, judge.kernel"),
        ("judge: {choice: [1]}", "no parameter 'judge': it is a section, of judge.name, judge.kernel, judge.C"),
        ("words.weights.a.b: {choice: [1]}", "no parameter 'words.weights.a.b': "),
        ("seed: {choice: [1, 2]}", "seed is no parameter: repeats vary seeds"),
        ("judge.C: 3", "parameter judge.C: 3 says not where its values come from: give {choice: […]}, {grid: […]}"),
        ("judge.C: {unifrom: [1, 2]}", "unknown kind 'unifrom': did you mean uniform? give {choice: […]}"),
        ("judge.C: {choice: [1], grid: [2]}", "parameter judge.C: choice and grid is given: give one of"),
        ("judge.C: {when: {judge.name: svm}}", "parameter judge.C: nothing is given: give one of"),
        ("judge.C: {choice: 3}", "parameter judge.C: choice is 3: give a list"),
        ("judge.C: {choice: []}", "parameter judge.C: choice is empty: give values, or null"),
        ("judge.C: {uniform: [1, 2, 3]}", "uniform is [1, 2, 3]: give two numbers, [low, high]"),
        ("judge.C: {uniform: [a, b]}", "uniform is ['a', 'b']: give two numbers, [low, high]"),
        ("judge.C: {uniform: [2, 2]}", "the range uniform [2, 2] is empty: give [low, high] with low < high"),
        ("judge.C: {uniform: [.nan, 2]}", "the range uniform [nan, 2] is empty"),
        ("judge.C: {loguniform: [1e-1, 1e-3]}", "the range loguniform [0.1, 0.001] is empty"),
        ("judge.C: {loguniform: [0, 1]}", "loguniform [0, 1]: no logarithm of 0: give a low above 0, or take uniform"),
        ("judge.C: {uniform: [0, 1]}", "judge.C = 0: judge.C = 0 is not allowed (allowed: float, > 0 and ≤ 1000)"),
        ("judge.C: {uniform: [1, .inf]}", "judge.C = inf is not allowed"),
        ("judge.name: {choice: [svm, tree]}", "judge.name = 'tree' is not allowed (allowed: svm | forest | nb)"),
        ("judge.name: {uniform: [1, 2]}", "judge.name = 1 is not allowed"),
        ("words.stages: {uniform: [1, 2]}", "words.stages = 1 is not allowed"),
        ("words.number: {uniform: [2.5, 9]}", "words.number = 2.5 is not allowed (allowed: int"),
        ("words.odd: {uniform: [3, 9]}", "parameter words.odd = 4: configuration: give an odd number"),
        ("words.weights: {choice: [{a: x}]}", "words.weights"),
        ("words.number: {choice: [5, 7, 5]}", "parameter words.number: 5 is given twice: leave it out once"),
        ("words.number: {choice: [5, '5']}", "parameter words.number: 5 is given twice"),
        ("words.weights: {grid: [{a: 1, b: 2}, {b: 2.0, a: 1}]}", "is given twice"),
        ("judge.C: null", "no parameter 'judge.C' to leave out: there is none"),
        (
            "{words.weights: {choice: [{}]}, words.weights.a: {uniform: [0, 1]}}",
            "words.weights.a is a part of words.weights, which is a parameter too: leave one of them out",
        ),
        ("judge.C: {choice: [1], when: svm}", "when is 'svm': give {other.key: value} or {other.key: [values]}"),
        ("judge.C: {choice: [1], when: {judge.name: []}}", "when judge.name has none of any values"),
        (
            "judge.C: {choice: [1], when: {judge.nam: svm}}",
            "when judge.nam: neither a parameter nor a key of the config: did you mean judge.name?",
        ),
        ("judge.C: {choice: [1], when: {judge.name: nb}}", "when judge.name is 'nb': it never is, but 'svm': mend"),
        (
            "{judge.name: {choice: [svm, nb]}, judge.C: {choice: [1], when: {judge.name: [svm, forest]}}}",
            "when judge.name is 'forest': it never is, but 'svm' or 'nb'",
        ),
        (
            "{judge.kernel: {choice: [rbf], when: {judge.name: svm}}, judge.name: {choice: [svm, nb]},"
            " judge.C: {choice: [1], when: {judge.kernel: poly}}}",
            "when judge.kernel is 'poly': it never is, but 'rbf'",
        ),
        (
            "{words.number: {uniform: [2, 9]}, judge.C: {choice: [1], when: {words.number: 3}}}",
            "when words.number: it is drawn from a range: a condition needs a choice or grid",
        ),
        (
            "{judge.name: {choice: [svm], when: {judge.degree: 2}}, judge.C: {choice: [1], when: {judge.degree: 2}},"
            " judge.kernel: {choice: [rbf], when: {judge.name: svm}},"
            " judge.degree: {choice: [2], when: {judge.kernel: rbf}}}",
            "conditions in a circle: judge.degree needs judge.kernel needs judge.name needs judge.degree: take one",
        ),
        ("judge.name: {choice: [svm], when: {judge.name: svm}}", "conditions in a circle: judge.name needs judge.name"),
        ("{patience: {grid: [3]}, stop: {grid: [2]}}", "parameter patience = 3"),
    ],
)
def test_what_is_refused_is_one_line_that_says_where(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, base="{patience: 0, stop: 1}" if "stop" in text else "")
    assert str(caught.value).startswith("tune.yaml")
    assert message in str(caught.value)


def test_presets_by_name() -> None:
    assert set(parse(preset="").parameters) == {"judge.name", "judge.C"}
    with pytest.raises(UserError, match="no preset 'papr': did you mean paper\\? there are none, paper, and what it"):
        parse(preset="papr")
    changed = parse("{judge.degree: null, words.number: {loguniform: [2, 64]}, words.size: {grid: [8]}}", "paper")
    assert set(changed.parameters) == {"judge.name", "judge.kernel", "words.number", "words.size"}
    with pytest.raises(UserError, match=r"no parameter 'judge\.nam' to leave out: did you mean judge\.name"):
        parse("judge.nam: null", preset="paper")


def test_values_are_as_the_config_holds_them() -> None:
    space = parse(
        "{words.number: {loguniform: [2, '1e2']}, judge.C: {uniform: [1, 10]}, words.size: {uniform: [1, 8]},"
        " words.stages: {choice: [[], [stem]]}, words.weights.a: {uniform: [0, 1]}, judge.degree: {grid: ['2']}}"
    )
    assert space.to_data() == {
        "judge.C": {"uniform": [1.0, 10.0]},
        "judge.degree": {"grid": [2]},
        "words.number": {"loguniform": [2, 100]},
        "words.size": {"uniform": [1, 8]},
        "words.stages": {"choice": [[], ["stem"]]},
        "words.weights.a": {"uniform": [0.0, 1.0]},
    }
    assert [space.distribution(key) for key in ("judge.C", "words.number", "words.stages")] == [
        FloatDistribution(1.0, 10.0),
        IntDistribution(2, 100, log=True),
        CategoricalDistribution((0, 1)),
    ]


def test_a_value_may_need_one_of_another_parameter() -> None:
    """A stop of 2 does not go with the base's patience of 4, but with the space's of 1."""
    space = parse("{patience: {grid: [1, 4]}, stop: {grid: [2, 5]}}", base="patience: 4")
    assert space.count() == 4


def test_conditions_give_each_combination_once() -> None:
    space = parse(preset="paper")
    assert list(space.parameters) == ["judge.name", "words.number", "judge.kernel", "judge.degree"]
    found = list(space.combinations())
    # nb; svm with rbf; svm with poly of three degrees: each with two sizes
    assert len(found) == space.count() == 10
    assert len({json.dumps(each, sort_keys=True) for each in found}) == 10
    assert {"judge.name": "nb", "words.number": 5} in found
    assert {"judge.name": "svm", "judge.kernel": "rbf", "words.number": 9} in found
    assert all("judge.degree" not in each for each in found if each.get("judge.kernel") != "poly")


@pytest.mark.parametrize(
    ("base", "text", "keys"),
    [
        # what is no parameter decides once for all
        ("judge: {name: nb}", "judge.name: null", {"words.number"}),
        ("judge: {name: svm}", "judge.name: null", {"words.number", "judge.kernel", "judge.degree"}),
        ("", "judge.name: null", {"words.number", "judge.kernel", "judge.degree"}),
        ("", "judge.name: {choice: [nb]}", {"words.number", "judge.name"}),
        ("", "judge.kernel: {choice: [rbf], when: {judge.name: svm}}", {"words.number", "judge.name", "judge.kernel"}),
    ],
)
def test_what_can_never_be_there_of_a_preset_is_left_out(base: str, text: str, keys: set[str]) -> None:
    space = parse(text, "paper", base)
    assert set(space.parameters) == keys
    assert all(parent in keys for each in space.parameters.values() for parent in each.when)


def test_a_parameter_below_one_that_is_never_there_is_refused() -> None:
    """The preset's kernel is never there under the job's nb, and what the user hangs on it neither."""
    with pytest.raises(UserError, match=r"words\.size: it can never be there, as judge\.kernel cannot: leave it out"):
        parse("{judge.name: null, words.size: {grid: [8], when: {judge.kernel: poly}}}", "paper", "judge: {name: nb}")


def test_ranges_have_no_combinations() -> None:
    space = parse(preset="")
    assert space.infinite() == ["judge.C"]
    for ask in (space.count, space.combinations):
        with pytest.raises(UserError, match=r"grid search needs values, judge\.C is drawn from a range"):
            ask()


def test_a_huge_space_is_counted_exactly() -> None:
    sizes = list(range(1, 10_001))
    many = {f"words.weights.{name}": choice(*sizes) for name in "abcde"}
    judge = {"judge.name": {"choice": ["svm", "nb"]}, "judge.degree": {"choice": [1, 2], "when": {"judge.name": "svm"}}}
    assert SearchSpace({**many, **parse(yaml.safe_dump(judge)).parameters}).count() == 10_000**5 * 3


def test_grids_are_visited_in_turn() -> None:
    degree = "judge.degree: {grid: [2, 3], when: {judge.name: svm}}"
    text = f"{{judge.name: {{grid: [svm, nb]}}, {degree}, words.size: {{%s: [8, 9]}}}}"
    assert parse(text % "choice").grids() == [
        {"judge.name": "svm", "judge.degree": 2},
        {"judge.name": "svm", "judge.degree": 3},
        {"judge.name": "nb"},
    ]
    assert len(parse(text % "grid").grids()) == 6
    assert parse(preset="").grids() == [{}]
    # whether it is there is drawn: it has a value for when it is
    assert parse(f"{{judge.name: {{choice: [svm, nb]}}, {degree}}}").grids() == [
        {"judge.degree": 2},
        {"judge.degree": 3},
    ]


def test_too_many_grids_are_refused() -> None:
    many = SearchSpace({f"words.weights.{name}": grid(*range(100)) for name in "abcd"})
    with pytest.raises(UserError, match=r"have more than 1,000,000 combinations: give fewer values"):
        many.grids()


ALWAYS = {
    "judge.name": st.sampled_from([choice("svm", "nb"), grid("svm", "forest", "nb"), choice("svm")]),
    "judge.kernel": st.just(only(choice("rbf", "poly"), judge__name="svm")),
}
SOMETIMES = {
    "words.number": st.one_of(
        st.lists(st.integers(2, 100_000), min_size=1, max_size=4, unique=True).map(lambda each: choice(*each)),
        st.tuples(st.integers(2, 50), st.integers(51, 100_000)).map(lambda ends: loguniform(*ends)),
    ),
    "judge.degree": st.sampled_from([uniform(1, 9), grid(1, 5), only(choice(2, 3), judge__kernel=("poly",))]),
    "judge.C": st.tuples(st.floats(1e-6, 1), st.floats(1.5, 1000)).map(lambda ends: loguniform(*ends)),
    "words.weights": st.just(grid({}, {"a": 1, "b": 2.5}, {"a": 5})),
    "words.stages": st.just(choice((), ("stem",), ("stem", "layer1"))),
    "words.odd": st.just(choice(3, 9)),
}


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(ALWAYS, optional=SOMETIMES),
    st.integers(0, 2**31),
)
def test_drawn_values_validate_and_survive_json(parameters: dict[str, Parameter], seed: int) -> None:
    data = {key: each.to_data() for key, each in parameters.items()}
    space = parse_space(data, Toy(), {}, "none", "tune.yaml")
    again = SearchSpace.of_data(json.loads(json.dumps(space.to_data(), sort_keys=True)), "tune.json")
    assert again == space
    assert list(again.parameters) == list(space.parameters)
    values = drawn(space, seed)
    assert drawn(again, seed) == values
    for key, each in space.parameters.items():
        there = all(values.get(parent) in wanted for parent, wanted in each.when.items())
        assert (key in values) == there
    config = validate(ToyConfig, merge({}, values), "trial").model_dump(mode="json")
    for key, value in values.items():
        node = config
        for name in key.split("."):
            node = node[name]
        assert node == value
        internal = space.internal(key, value)
        assert space.distribution(key)._contains(internal)
        assert space.value(key, internal) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("judge.C", 1e4),
        ("judge.C", "1"),
        ("words.number", 3.5),
        ("words.number", True),
        ("judge.name", "forest"),
        ("x", 1),
    ],
)
def test_what_the_space_does_not_hold_has_no_internal_value(key: str, value: Any) -> None:
    space = parse("{judge.C: {uniform: [1, 9]}, words.number: {uniform: [2, 9]}, judge.name: {choice: [svm, nb]}}")
    with pytest.raises(ValueError):
        space.internal(key, value)


@pytest.mark.parametrize("data", [{"a": 3}, {"a": {"choice": []}}, {"a": {"choice": [1], "when": {"a": 1}}}])
def test_a_stored_space_that_is_none_is_refused(data: dict) -> None:
    with pytest.raises(UserError, match=r"tune\.json"):
        SearchSpace.of_data(data, "tune.json")
