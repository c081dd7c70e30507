from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode
from cloister.companion import write_companion
from cloister_protos import (
    JobEvent,
    JobState,
    JobStatus,
    PrivacySpent,
    RoundRecord,
    RoundState,
    Weighting,
)
from cloister_tasks import Module

from .conftest import round_record


@pytest.fixture
def cloister(address: str, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CLOISTER_COORDINATOR", address)
    monkeypatch.setenv("CLOISTER_TOKEN_FILE", str(token_file))
    monkeypatch.chdir(token_file.parent)

    def run(*arguments: str | Path, code: ExitCode = ExitCode.OK) -> Result:
        result = CliRunner().invoke(app, ["job", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def job(cloister: Any, task_file: Path) -> str:
    """A job of two rounds, done; its id."""
    submitted = cloister("submit", task_file, "--rounds", "2", "--cohort", "2", "--name", "digits")
    return str(submitted.stdout.strip())


def test_submit_prints_only_the_id(job: str, peer: Any) -> None:
    assert job in peer.jobs


def test_submit_passes_every_option_on(cloister: Any, task_file: Path, peer: Any) -> None:
    document = json.loads(
        cloister(
            *("submit", task_file, "--rounds", "5", "--cohort", "4", "--minimum", "3"),
            *("--over-selection", "1.5", "--round-deadline", "9", "--epochs", "2"),
            *("--learning-rate", "0.5", "--batch-size", "10", "--set", "momentum=0.9"),
            *("--aggregation", "median", "--evaluate-every", "2", "--dataset", "d"),
            *("--tag", "a", "--tag", "b", "--seed", "7", "--keep-order", "--uniform-weights"),
            "--json",
        ).stdout
    )
    spec = peer.jobs[document["job_id"]].spec
    assert (spec.rounds, spec.cohort.target, spec.cohort.minimum) == (5, 4, 3)
    assert (spec.cohort.over_selection, spec.round_deadline_seconds) == (1.5, 9)
    assert spec.training.keep_order
    assert dict(spec.training.hyperparameters) == pytest.approx(
        {"learning_rate": 0.5, "batch_size": 10, "momentum": 0.9}
    )
    assert (spec.evaluate_every, spec.eligibility.dataset) == (2, "d")
    assert list(spec.eligibility.tags) == ["a", "b"]
    assert document["seed"] == 7


def test_submit_asks_for_protection(cloister: Any, task_file: Path, peer: Any) -> None:
    document = json.loads(
        cloister(
            *("submit", task_file, "--rounds", "5", "--cohort", "20", "--minimum", "15"),
            *("--secure", "--clip-norm", "0.5", "--corrupt", "0.1", "--value-bits", "18"),
            *("--noise-multiplier", "1.5", "--noise", "central", "--epsilon", "20"),
            *("--adaptive-clipping", "--json"),
        ).stdout
    )
    spec = peer.jobs[document["job_id"]].spec
    assert spec.clip_norm == 0.5
    assert spec.weighting == Weighting.WEIGHTING_UNIFORM
    assert document["secure_aggregation"] == {
        "graph": "complete",
        "corrupt_fraction": 0.1,
        "value_bits": 18,
        "max_weight": 1,
        "step_seconds": 20.0,
    }
    assert document["differential_privacy"] == {
        "noise": "central",
        "noise_multiplier": 1.5,
        "epsilon": 20.0,
        "delta": 1e-6,
        "adaptive": {"quantile": 0.5, "learning_rate": 0.2, "count_noise": 3.0},
    }
    assert document["privacy_spent"] is None


def test_options_win_over_the_job_files_protection(
    cloister: Any, task_file: Path, tmp_path: Path, peer: Any
) -> None:
    (tmp_path / "job.toml").write_text(
        'task = "digits.wasm"\nrounds = 3\ncohort = 20\nclip_norm = 2\n'
        "[secure_aggregation]\ncorrupt_fraction = 0.1\nmax_weight = 9\n"
    )
    job = cloister("submit", "--job", "job.toml", "--max-weight", "5").stdout.strip()
    spec = peer.jobs[job].spec
    assert (spec.clip_norm, spec.cohort.minimum) == (2, 3)
    assert spec.secure_aggregation.corrupt_fraction == 0.1
    assert spec.secure_aggregation.max_weight == 5
    job = cloister("submit", "--job", "job.toml", "--no-secure", "--clip-norm", "1").stdout.strip()
    spec = peer.jobs[job].spec
    assert (spec.clip_norm, spec.cohort.minimum) == (1, 1)
    assert not spec.HasField("secure_aggregation")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--secure"], "clip_norm is absent"),
        (["--secure", "--clip-norm", "1", "--aggregation", "median"], "needs single updates"),
        (["--clip-norm", "1", "--epsilon", "2"], "needs --noise-multiplier"),
        (["--no-secure", "--corrupt", "0.1"], "nothing to mask"),
        (
            ["--clip-norm", "1", "--noise-multiplier", "0.5", "--epsilon", "0.1"],
            "less than the",
        ),
    ],
)
def test_protection_that_cannot_be_is_refused_before_an_upload(
    cloister: Any, task_file: Path, peer: Any, options: list[str], words: str
) -> None:
    arguments = ("submit", task_file, "--rounds", "1", "--cohort", "4", *options)
    assert words in cloister(*arguments, code=ExitCode.USAGE).stderr
    assert not peer.blobs


def test_privacy_spent_is_shown(cloister: Any, task_file: Path, peer: Any) -> None:
    job = cloister(
        *("submit", task_file, "--rounds", "2", "--cohort", "4", "--name", "digits"),
        *("--clip-norm", "2", "--noise-multiplier", "1", "--adaptive-clipping"),
    ).stdout.strip()
    status = peer.jobs[job]
    status.privacy_spent.CopyFrom(PrivacySpent(epsilon=3.25, delta=1e-6, rounds=2))
    records = [round_record(1), round_record(2)]
    for record, norm, epsilon in zip(records, (2.0, 1.75), (2.125, 3.25), strict=True):
        record.training.Clear()
        record.clip_norm = norm
        spent = PrivacySpent(epsilon=epsilon, delta=1e-6, rounds=record.number)
        record.privacy_spent.CopyFrom(spent)
    events = [JobEvent(job=status, round=record) for record in records]
    peer.events = [events, events]
    heads, first, second, *last = cloister("watch", job).stdout.splitlines()
    assert heads.split() == [
        "round",
        "version",
        "clients",
        "clipping",
        "norm",
        "epsilon",
        "seconds",
    ]
    assert first.split() == ["1", "1", "2/2", "2", "2.125", "0.250", "masked"]
    assert second.split() == ["2", "2", "2/2", "1.75", "3.25", "0.250", "masked"]
    assert last[-1] == "privacy spent: epsilon 3.25 at delta 1e-06, by 2 rounds"
    *rounds, ended = map(json.loads, cloister("watch", job, "--json").stdout.splitlines())
    assert [(r["secure"], r["clip_norm"]) for r in rounds] == [(True, 2.0), (True, 1.75)]
    assert rounds[1]["privacy_spent"] == {"epsilon": 3.25, "delta": 1e-6, "rounds": 2}
    assert ended["privacy_spent"] == rounds[1]["privacy_spent"]
    shown = " ".join(cloister("show", job).stdout.split())
    assert "complete graph, 0% may collude, 16 bits a coordinate" in shown
    assert "distributed noise of 1 clipping norms, without a budget" in shown
    assert "epsilon 3.25 at delta 1e-06, by 2 rounds" in shown


def test_a_job_in_clear_says_so(cloister: Any, job: str) -> None:
    assert "masked" not in cloister("watch", job).stdout
    assert "the coordinator sees single updates" in cloister("show", job).stdout
    document = json.loads(cloister("show", job, "--json").stdout)
    assert (document["clip_norm"], document["secure_aggregation"]) == (0, None)


def test_options_win_over_the_job_file(
    cloister: Any, task_file: Path, tmp_path: Path, peer: Any
) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "digits.toml").write_text(
        'task = "../digits.wasm"\nrounds = 3\ncohort = 2\naggregation = "sum"\n'
        "[hyperparameters]\nlearning_rate = 0.1\nmomentum = 0.5\n"
    )
    job = cloister(
        "submit", "--job", folder / "digits.toml", "--rounds", "4", "--learning-rate", "0.2"
    ).stdout.strip()
    spec = peer.jobs[job].spec
    assert (spec.rounds, spec.cohort.target) == (4, 2)
    assert dict(spec.training.hyperparameters) == {"learning_rate": 0.2, "momentum": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ronds = 3", "did you mean 'rounds'"),
        ("rounds = 'three'", "rounds must be a whole number"),
        ("rounds = ", "no TOML file"),
        ("hyperparameters = 3", "must be a table"),
        ("rounds = 3\ncohort = 2", "TASK.wasm is missing"),
        ('task = "no.wasm"\nrounds = 3\ncohort = 2', "cannot read"),
    ],
)
def test_a_job_files_mistakes_are_named(
    cloister: Any, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "job.toml").write_text(text)
    assert words in cloister("submit", "--job", "job.toml", code=ExitCode.USAGE).stderr


def test_submit_can_follow_the_job(cloister: Any, task_file: Path) -> None:
    shown = cloister("submit", task_file, "--rounds", "2", "--cohort", "2", "--watch").stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["round", "1", "2", "job"]
    assert "50.00 %" in shown


def test_watch_prints_a_json_line_for_each_round_and_the_job(cloister: Any, job: str) -> None:
    lines = [json.loads(x) for x in cloister("watch", job, "--json").stdout.splitlines()]
    assert [line.get("round") for line in lines] == [1, 2, None]
    assert lines[0]["training"] == {"examples": 20, "loss": 1.0, "accuracy": 0.5}
    assert lines[-1]["state"] == "succeeded"


def test_watch_says_why_a_round_was_abandoned_and_ends_with_the_job(
    cloister: Any, job: str, peer: Any
) -> None:
    failed = JobStatus(job_id=job, state=JobState.JOB_STATE_FAILED, reason="nobody came")
    lost = RoundRecord(number=1, state=RoundState.ROUND_STATE_ABANDONED, reason="too few [updates]")
    peer.events = [[JobEvent(job=peer.jobs[job], round=lost), JobEvent(job=failed)]]
    result = cloister("watch", "digits", code=ExitCode.JOB)
    assert "abandoned: too few [updates]" in result.stdout
    assert "failed: nobody came" in result.stderr


def test_list_and_show(cloister: Any, job: str, peer: Any) -> None:
    assert "digits" in cloister("list").stdout
    assert json.loads(cloister("list", "--json").stdout)["job_id"] == job
    shown = json.loads(cloister("show", "digits", "--json").stdout)
    assert [v["version"] for v in shown["versions"]] == [0, 1, 2]
    assert peer.jobs[job].spec.task.blob.digest.hex() in cloister("show", job).stdout


def test_an_empty_coordinator_gives_a_hint(cloister: Any, peer: Any) -> None:
    peer.clients.clear()
    assert "no jobs yet" in cloister("list").stderr
    assert "no clients yet" in cloister("clients").stderr
    assert cloister("list", "--json").stdout == ""


def test_clients(cloister: Any) -> None:
    every = [json.loads(x) for x in cloister("clients", "--json").stdout.splitlines()]
    assert len(every) == 205
    assert "ward-0" in cloister("clients", "--connected").stdout
    assert "ward-1 " not in cloister("clients", "--connected").stdout


def test_cancel_with_a_reason(cloister: Any, job: str, peer: Any) -> None:
    assert "cancelled" in cloister("cancel", job, "--reason", "wrong").stderr
    assert peer.jobs[job].reason == "wrong"


def test_model_writes_the_format_of_the_suffix(cloister: Any, job: str, tmp_path: Path) -> None:
    cloister("model", job)
    with np.load("digits-v2.npz") as model:
        assert model["weight"].shape == (10, 64)
    cloister("model", job, "--version", "1", "-o", "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == bytes(2600)
    cloister("model", job, "-o", "m.safetensors")
    assert load_file("m.safetensors")["bias"].shape == (10,)


def test_model_says_what_is_wrong(cloister: Any, job: str) -> None:
    assert (
        "no model version 9" in cloister("model", job, "--version", "9", code=ExitCode.USAGE).stderr
    )
    assert "suffix" in cloister("model", job, "-o", "m.txt", code=ExitCode.USAGE).stderr
    assert "no job 'x'" in cloister("model", "x", code=ExitCode.USAGE).stderr
    assert len(cloister("model", job, "--list", "--json").stdout.splitlines()) == 3


def test_who_may_not_and_who_is_not_there(cloister: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.token").write_text("wrong")
    cloister("list", "--token-file", "wrong.token", code=ExitCode.NOT_PERMITTED)
    cloister("list", "--coordinator", "127.0.0.1:1", code=ExitCode.UNREACHABLE)
    cloister("list", "--coordinator", "nowhere", code=ExitCode.USAGE)
    assert "no.token" in cloister("list", "--token-file", "no.token", code=ExitCode.USAGE).stderr


def test_the_data_folders_token_is_the_default(
    cloister: Any, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOISTER_TOKEN_FILE")
    monkeypatch.setenv("CLOISTER_DATA_DIR", str(token_file.parent))
    cloister("list")


def test_submit_takes_the_values_beside_the_task_and_says_so(
    cloister: Any, personal_file: Path, personal: Module, peer: Any
) -> None:
    arguments = ("submit", personal_file, "--rounds", "1", "--cohort", "1")
    assert "--frozen FILE" in cloister(*arguments, code=ExitCode.USAGE).stderr
    write_companion(personal_file, personal.manifest, np.ones(6, np.float32), np.zeros(6, "<f4"))
    shown = cloister(*arguments)
    assert "begins with the values in" in shown.stderr
    assert "net.safetensors" in shown.stderr
    spec = peer.jobs[shown.stdout.strip()].spec
    assert bytes(peer.blobs[spec.initial_model.digest]) == np.ones(6, "<f4").tobytes()
    shown = cloister(
        *(*arguments, "--initial-model", "net.safetensors", "--frozen", "net.safetensors")
    )
    assert "begins" not in shown.stderr
    assert peer.jobs[shown.stdout.strip()].spec.frozen == spec.frozen


def test_model_as_a_state_dict_with_the_frozen_parameters(
    cloister: Any, personal_file: Path, personal: Module, peer: Any
) -> None:
    frozen = np.arange(6, dtype=np.float32)
    write_companion(personal_file, personal.manifest, np.ones(6, np.float32), frozen)
    job = cloister("submit", personal_file, "--rounds", "1", "--cohort", "1").stdout.strip()
    spec = peer.jobs[job].spec
    for version in peer.versions[job]:  # of a model of this task's size
        version.blob.CopyFrom(spec.initial_model)
    cloister("model", job, "--version", "0", "--format", "torch")
    state = torch.load("personal-v0.pt", weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "0.weight": (2, 3),
        "base": (2, 3),
    }
    np.testing.assert_array_equal(state["base"].numpy().reshape(-1), frozen)
    cloister("model", job, "-o", "m.safetensors")
    assert set(load_file("m.safetensors")) == {"0.weight", "base"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "onnx"], "need each other"),
        (["--model", "zoo:digits"], "need each other"),
        (["-o", "m.onnx", "--model", "zoo"], "package.module:factory"),
    ],
)
def test_onnx_needs_the_model(
    cloister: Any, job: str, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    assert words in cloister("model", job, *options, code=ExitCode.USAGE).stderr


def test_onnx_names_the_packages_it_lacks(
    cloister: Any, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    options = ("--format", "onnx", "--model", "zoo:digits")
    assert "pip install onnx" in cloister("model", job, *options, code=ExitCode.USAGE).stderr
