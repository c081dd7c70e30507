from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cloister import job_file
from cloister.errors import InvalidJob
from cloister.job_file import load_job
from cloister.protection import AdaptiveClipping, DifferentialPrivacy, SecureAggregation
from cloister_protos import Schedule


def test_the_sample_in_the_docstring_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("\n".join((job_file.__doc__ or "").partition("::")[2].splitlines()))
    job = load_job(path)
    assert job["task"] == tmp_path / "digits.wasm"
    assert (job["aggregation"], job["minimum"]) == ("fedavg", 6)
    assert job["hyperparameters"] == {"momentum": 0.5, "batch_size": 32.0}
    cosine = Schedule.Cosine(start=0.1, end=0.001)
    assert job["clip_norm"] == 1
    assert job["secure_aggregation"] == SecureAggregation(corrupt_fraction=0.1)
    assert job["differential_privacy"] == DifferentialPrivacy(
        noise_multiplier=1, epsilon=4, delta=1e-6, adaptive=AdaptiveClipping()
    )
    assert job["schedules"] == {"learning_rate": Schedule(cosine=cosine)}


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('aggregation = "a.wasm"\ninitial_model = "/m.npz"\n')
    job = load_job(tmp_path / "job.toml")
    assert job == {"aggregation": tmp_path / "a.wasm", "initial_model": Path("/m.npz")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("secure_aggregation = true", r"must be a table: \[secure_aggregation\]"),
        ("[secure_aggregation]\nbits = 16", "has no 'bits'; there are: graph, corrupt"),
        ("[secure_aggregation]\ngraph = 'tree'", "graph: must be one of complete, ring"),
        ("[secure_aggregation]\nvalue_bits = 1.5", "value_bits: must be a whole number"),
        ("[differential_privacy]\ndelta = 0.1", "must have noise_multiplier"),
        (
            "[differential_privacy]\nnoise_multiplier = 1\ndelta = 0.1\nadaptive = 3",
            r"adaptive: must be a table: \[differential_privacy.adaptive\]",
        ),
        ("clip_norm = 0", "clip_norm must be above 0"),
    ],
)
def test_protection_that_makes_no_sense(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "job.toml").write_text(text + "\n")
    with pytest.raises(InvalidJob, match=says):
        load_job(tmp_path / "job.toml")


def test_a_heading_alone_asks_for_secure_aggregation(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[secure_aggregation]\n")
    assert load_job(tmp_path / "job.toml") == {"secure_aggregation": SecureAggregation()}


VALUES = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1).map(str),
    st.floats().map(str),
    st.sampled_from(["true", "[]", "{}", '""', '"a"', '["a", 1]', "{a = 1}", '{a = "b"}']),
)


@given(st.sampled_from([*job_file._KEYS, "other"]), VALUES)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_it_is_read_or_refused(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f"{key} = {value}\n")
    with contextlib.suppress(InvalidJob):
        assert set(load_job(path)) == {key}


@given(st.binary(max_size=200))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "job.toml").write_bytes(data)
    with contextlib.suppress(InvalidJob):
        load_job(tmp_path / "job.toml")
    with pytest.raises(InvalidJob):
        load_job(tmp_path / "missing.toml")
