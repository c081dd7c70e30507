"""What all commands share: help, exit codes, errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from cloister import errors as operator_errors
from cloister.commands import failure
from cloister.commands.app import app
from cloister.commands.exit_code import MEANINGS, ExitCode
from cloister_client import errors as client_errors
from cloister_coordinator import errors as coordinator_errors
from cloister_privacy import envelope as privacy_errors
from cloister_sandbox import errors as sandbox_errors
from cloister_tasks import errors as task_errors

_OPTIONAL = ("numpy", "grpc", "wasmtime", "cryptography", "sqlalchemy", "google", "ziglang")


def commands() -> list[list[str]]:
    """Every command and group, as typed."""
    found: list[list[str]] = [[]]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, sub] for sub in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words) or "cloister")
def test_every_command_has_help_with_an_example(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    if words not in (["job"], ["op"], ["pki"], ["privacy"], ["task"]):
        assert f"cloister {' '.join(words)}" in result.stdout.partition("Example")[2]


def test_help_names_every_exit_code() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning}" in shown
    assert set(MEANINGS) == set(ExitCode)


def test_help_needs_no_extra() -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({_OPTIONAL!r}))"
    script = f"{block}; from cloister.__main__ import main; sys.argv[1:] = ['job', '-h']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["job", "list", "--token-file", __file__], "grpc", "client"),
        (["client", "device.toml", "--check"], "wasmtime", "client"),
        (["coordinator"], "sqlalchemy", "coordinator"),
        (["task", "keygen", "k.pem"], "cryptography", "author"),
        (["pki", "init", "hospitals"], "cryptography", "client"),
        (
            ["privacy", "budget", "--epsilon", "2", "--noise-multiplier", "9"],
            "dp_accounting",
            "coordinator",
        ),
    ],
)
def test_a_missing_extra_is_one_line(
    tmp_path: Path, arguments: list[str], missing: str, extra: str
) -> None:
    hide = f"import sys; sys.modules[{missing!r}] = None"
    script = f"{hide}; from cloister.__main__ import main; sys.argv[1:] = {arguments!r}; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == f"error: this needs an extra: pip install 'cloister[{extra}]'\n"


@pytest.mark.parametrize(
    "package",
    [
        operator_errors,
        client_errors,
        coordinator_errors,
        privacy_errors,
        sandbox_errors,
        task_errors,
    ],
)
def test_the_table_names_real_errors(package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    listed = [key.removeprefix(f"{name}.") for key in failure.CODES if key.startswith(f"{name}.")]
    assert listed
    for entry in listed:
        assert issubclass(getattr(package, entry), Exception)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (operator_errors.Unreachable("x"), ExitCode.UNREACHABLE),
        (operator_errors.NotPermitted("x"), ExitCode.NOT_PERMITTED),
        (task_errors.InvalidModule("import", "x"), ExitCode.TASK),
        (sandbox_errors.Refused("memory", "x"), ExitCode.TASK),
        (sandbox_errors.Crashed("x"), ExitCode.TASK),
        (client_errors.UnfitAssignment("x"), ExitCode.USAGE),
        (privacy_errors.BadCertificate(privacy_errors.Reason.EXPIRED, "x"), ExitCode.USAGE),
        (client_errors.GateError("x"), ExitCode.TASK),
        (FileNotFoundError(2, "No such file", "a.csv"), ExitCode.USAGE),
        (KeyError("x"), ExitCode.BUG),
        (ValueError("not raised by us"), ExitCode.BUG),
        (ModuleNotFoundError("x", name="cloister_nothing"), ExitCode.BUG),
    ],
)
def test_errors_become_exit_codes(error: Exception, code: ExitCode) -> None:
    message, found = failure.explain(error, "task")
    assert found is code
    assert message


def test_a_bug_shows_its_traceback_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("deep inside")

    monkeypatch.setattr("cloister_tasks.Module.parse", broken)
    result = CliRunner().invoke(app, ["task", "inspect", "fedavg"])
    assert result.exit_code == ExitCode.BUG
    assert "internal error: KeyError" in result.stderr
    assert "Traceback" not in result.stderr
    shown = CliRunner().invoke(app, ["--debug", "task", "inspect", "fedavg"])
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("cloister_tasks.Module.parse", interrupted)
    assert CliRunner().invoke(app, ["task", "inspect", "fedavg"]).exit_code == ExitCode.INTERRUPTED


def test_wrong_usage_is_usage() -> None:
    assert CliRunner().invoke(app, ["job", "sbmit"]).exit_code == ExitCode.USAGE
    assert CliRunner().invoke(app, ["task", "run"]).exit_code == ExitCode.USAGE
