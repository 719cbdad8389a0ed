"""What families say is worth searching: every space within its config, every draw a config, papers' rows among them."""

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mskray.config import describe, merge, validate
from mskray.errors import UserError
from mskray.families import families, family
from mskray.space import Parameter
from mskray.tuning.space import NO_PRESET, SearchSpace, parse_space
from mskray.verbs.families import family_table

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
BASES: dict[str, dict[str, Any]] = {"zoom": {"zoom": {"bundle": "memory://bundle"}}}
"""What a config cannot do without."""


@cache
def spaces() -> dict[tuple[str, str], SearchSpace]:
    return {
        (name, preset): parse_space({}, each, BASES.get(name, {}), preset, name)
        for name, each in families().items()
        for preset in ("", *each.spaces())
    }


def evenly(rng: np.random.Generator) -> Any:
    def suggest(key: str, parameter: Parameter) -> Any:
        if parameter.finite:
            return parameter.values[rng.integers(len(parameter.values))]
        low, high = parameter.values
        return float(rng.uniform(low, high))

    return suggest


def test_every_draw_of_every_space_is_a_config() -> None:
    rng = np.random.default_rng(0)
    for (name, _), space in spaces().items():
        for _ in range(20):
            values = space.draw(evenly(rng))
            assert values
            validate(family(name).Config, merge(BASES.get(name, {}), values), name)


def test_every_combination_of_every_preset_is_a_config() -> None:
    for (name, preset), space in spaces().items():
        if not preset:
            continue
        assert 1 < space.count() <= 500
        assert all(each.kind == "grid" for each in space.parameters.values())
        for values in islice(space.combinations(), 64):
            validate(family(name).Config, merge(BASES.get(name, {}), values), name)


def test_every_family_has_a_space_and_a_preset() -> None:
    for name, each in families().items():
        assert each.search_space()
        assert each.spaces()
        assert not {"", NO_PRESET} & set(each.spaces())
        assert set(each.search_space()) <= {setting.key for setting in describe(each.Config)}, name


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("pair_bovw", "crmo", 12),  # 3 descriptors × 2 sizes × 2 judges
        ("pair_bovw", "vocabularies", 24),
        ("pair_bovw", "vocabularies-kernel", 3 * 4 * (4 * 3 + 1)),  # C and γ of the SVM alone
        ("spinenet", "table-2", 6),
        ("spinenet", "table-2-task-weights", 24),
        ("kalm", "table-1", 3),
        ("classifier", "deck-versions", 64),
        ("view_fusion", "fusion", 4),  # late by any of three poolings
    ],
)
def test_sizes_of_presets(name: str, preset: str, count: int) -> None:
    space = spaces()[name, preset]
    assert space.count() == len(list(space.combinations())) == count


@pytest.mark.parametrize(
    ("pattern", "preset"),
    [
        ("mura-resnet18-*.yaml", "deck-versions"),
        ("mura-resnet18-recipe.yaml", "deck-unfreezing"),
        ("mura-kalm-*.yaml", "table-1-learning-rates"),
        ("mura-feature-svm.yaml", "kernel-bags"),
        ("mura-racnn.yaml", "unknown"),
        ("mura-zoom-response.yaml", "response"),
        ("mura-early-fusion.yaml", "fusion"),
        ("mura-late-fusion.yaml", "fusion"),
        ("spinenet.yaml", "table-2-task-weights"),
        ("knee-pair-bovw.yaml", "vocabularies"),
        ("knee-pair-softmax.yaml", "features-copies"),
    ],
)
def test_the_jobs_that_are_told_of_are_among_the_presets(pattern: str, preset: str) -> None:
    for path in CONFIGS.glob(pattern):
        job = yaml.safe_load(path.read_text())
        chosen = family(job["family"])
        given = {key: value for key, value in job.items() if key in chosen.Config.model_fields}
        config = validate(chosen.Config, given, path.name).model_dump(mode="json")
        space = spaces()[chosen.name, preset]

        def held(key: str, _: Parameter, config: Any = config) -> Any:
            for name in key.split("."):
                config = config[name]
            return config

        assert space.draw(held) in list(space.combinations()), path.name
    assert list(CONFIGS.glob(pattern))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_can_be_searched_or_says_what_to_change(path: Path) -> None:
    """A job's own values may rule out some of the default space; then the line names parameter and value."""
    job = yaml.safe_load(path.read_text())
    chosen = family(job["family"])
    base = {key: value for key, value in job.items() if key in chosen.Config.model_fields}
    parse_space({}, chosen, base, "", path.name)


def test_a_value_that_the_job_rules_out_is_named() -> None:
    with pytest.raises(UserError, match=r"job, parameter network\.backbone = 'inception_v3': .*data\.image_size = 64"):
        parse_space(
            {"network.backbone": {"choice": ["resnet18", "inception_v3"]}},
            family("classifier"),
            {"data": {"image_size": 64}},
            "",
            "job",
        )


def test_the_table_of_a_family_has_its_spaces() -> None:
    text = family_table("pair_bovw")
    (row,) = [line.split() for line in text.splitlines() if line.startswith("(default)") and "classifier.C" in line]
    assert row == ["(default)", "classifier.C", "loguniform", "0.01", "to", "1000.0", "classifier.name", "=", '"svm"']
    assert "vocabularies-kernel" in text
    data = json.loads(family_table("pair_bovw", as_json=True))
    assert data["search_space"]["vocabulary"] == {"choice": [50, 100, 200, 500, 1000]}
    assert data["spaces"]["crmo"]["vocabulary"] == {"grid": [50, 500]}
    assert data["spaces"]["vocabularies-kernel"]["classifier.gamma"] == {
        "grid": [0.0, 10.0, 100.0],
        "when": {"classifier.name": ["svm"]},
    }
