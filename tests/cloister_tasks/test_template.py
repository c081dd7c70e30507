from __future__ import annotations

import numpy as np
import pytest

from cloister_protos import Kind
from cloister_tasks import TEMPLATES, BuildError, Module, Status, build, template


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("transformer", {}, "softmax-regression"),
        ("softmax-regression", {"features": 3}, "classes"),
        ("softmax-regression", {"features": 3, "classes": 2, "hidden": 1}, "hidden"),
        ("softmax-regression", {"features": 3, "classes": 1}, "at least 2"),
        ("softmax-regression", {"features": 0, "classes": 2}, "whole number"),
        ("softmax-regression", {"features": "64", "classes": 2}, "whole number"),
        ("softmax-regression", {"features": True, "classes": 2}, "whole number"),
        ("perceptron", {"features": 3, "hidden": (), "classes": 2}, "hidden layer"),
        ("perceptron", {"features": 3, "hidden": (4, 0), "classes": 2}, "whole number"),
        ("perceptron", {"features": 3, "hidden": [2] * 70, "classes": 2}, "at most"),
        ("summarize", {"features": 3, "low": 1, "high": 1}, "range"),
        ("summarize", {"features": 3, "high": float("nan")}, "range"),
        ("summarize", {"features": 3, "high": float("inf")}, "range"),
        ("noop", {"parameters": 10**10}, "whole number"),
        ("noop", {"parameters": 1, "capacity": 0}, "capacity"),
        ("noop", {"parameters": 1, "variant": "avx"}, "variant"),
    ],
)
def test_shapes_that_do_not_fit_are_explained(name, shape, says):
    with pytest.raises(BuildError, match=says):
        build(name, **shape)


def test_a_model_too_large_for_32_bits_is_explained():
    with pytest.raises(BuildError, match="more than 2 GiB of memory"):
        build("noop", parameters=1 << 28, capacity=1 << 28)


def test_builds_come_from_the_cache(monkeypatch):
    first = build("noop", parameters=3)

    def fail(*_: object, **__: object) -> bytes:
        raise AssertionError("compiled again")

    monkeypatch.setattr(template, "compile_c", fail)
    assert build("noop", parameters=3) == first


def test_noop_changes_nothing(guest):
    g = guest(build("noop", parameters=1000, capacity=4))
    g("init", 1)
    assert not g.parameters.any()
    g.parameters[:] = np.arange(1000)
    assert (g("reset"), g("train", 4), g("evaluate", 4), g("predict", 4)) == (0, 0, 0, 0)
    np.testing.assert_array_equal(g.parameters, np.arange(1000))
    assert g("train", 5) == Status.TOO_MANY


def test_noop_of_25_million_parameters_stays_small():
    module = Module.parse(build("noop", parameters=25_000_000))
    assert len(module.data) < 4096
    assert 100_000_000 < module.memory.max_bytes < 100_400_000


def test_statistics_against_numpy(guest):
    low, high, bins = -2.0, 3.5, 7
    g = guest(build("summarize", features=4, bins=bins, low=low, high=high, capacity=64))
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((150, 4)) * 2).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[0, :2] = low, high
    assert g("reset") == 0
    for at in range(0, 150, 64):
        rows = x[at : at + 64]
        g["features"][: len(rows)] = rows
        assert g("summarize", len(rows)) == 0
    exact = x.astype("f8")
    assert g["count"].tolist() == (~np.isnan(exact)).sum(0).tolist()
    np.testing.assert_array_equal(g["sum"], np.nansum(exact, 0).astype("f4"))
    np.testing.assert_allclose(g["square_sum"], np.nansum(exact**2, 0), rtol=1e-7)
    for f in range(4):
        column = np.clip(exact[~np.isnan(exact[:, f]), f], low, high)
        wanted, _ = np.histogram(column, bins, (low, high))
        assert g["histogram"][f].tolist() == wanted.tolist()
    first = g.parameters.copy()
    g("reset")
    g("summarize", 0)
    assert not g.parameters.any()
    assert first.any()


def test_statistics_of_an_infinite_value_name_its_row(guest):
    g = guest(build("summarize", features=2, capacity=8))
    g["features"][5, 1] = np.inf
    assert g("summarize", 8) == Status.NOT_FINITE
    assert g["fault"] == 5
    assert g("summarize", 9) == Status.TOO_MANY


def test_every_template_is_listed_in_the_documentation():
    for name in TEMPLATES:
        assert f"``{name}``" in (template.__doc__ or "")


def test_kinds():
    kinds = {
        "summarize": Kind.KIND_SUMMARY,
        "noop": Kind.KIND_TRAINING,
    }
    shapes = {"summarize": {"features": 2}, "noop": {"parameters": 2}}
    for name, kind in kinds.items():
        assert Module.parse(build(name, **shapes[name])).manifest.kind == kind
