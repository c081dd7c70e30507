from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.client_sample import SAMPLE
from cloister.commands.exit_code import ExitCode
from cloister_client import ConfigError, parse_config
from cloister_client.audit import AuditLog
from cloister_client.local_state import LocalStore
from cloister_protos import Assignment


def cloister(*arguments: str | Path, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["client", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "ward 7.toml"
    cloister("--init", path)
    (tmp_path / "data.csv").write_text("a,b,label\n" + "1,2,0\n3,4,1\n" * 20)
    return path


def test_the_sample_checks_out_once_its_data_is_there(device: Path) -> None:
    shown = cloister(device, "--check").stdout
    assert "features [2]" in shown
    assert "any, signed or not" in shown
    document = json.loads(cloister(device, "--check", "--json").stdout)
    data = document["datasets"]["local"]
    assert data["train_rows"] + data["evaluation_rows"] == 40
    assert document["name"] == "ward-7"
    assert document["client_id"] is None
    assert not (device.parent / "ward-7-state").exists()


def test_the_sample_is_never_written_over_a_file(device: Path) -> None:
    device.write_text("mine")
    cloister("--init", device, code=ExitCode.USAGE)
    assert device.read_text() == "mine"


def test_what_the_sample_leaves_out_can_be_set_too(tmp_path: Path) -> None:
    sample = SAMPLE.format(file="f", name="n")
    with pytest.raises(ConfigError, match="publishers"):  # the placeholder is nobody's key
        parse_config(sample.replace("# publishers", "publishers"), tmp_path)
    text = sample.replace("<64 hexadecimal digits>", "ab" * 32)
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_setting = " = " in bare.partition("#")[0] or bare.startswith("[")
        lines.append(bare if line.startswith("# ") and is_setting else line)
    config = parse_config("\n".join(x for x in lines if "For a regression" not in x), tmp_path)
    assert config.policy.publishers
    assert config.policy.clip_norm == 1.0
    assert config.tags == ("berlin", "ward-7")
    assert config.secure_aggregation is not None
    assert config.secure_aggregation.minimum_cohort == 3
    with pytest.raises(ConfigError):
        parse_config(text.replace("any_task = true", ""), tmp_path)


def test_what_jobs_keep_is_shown_and_forgotten(device: Path) -> None:
    assert "no job keeps anything" in cloister(device, "--kept").stderr
    folder = device.parent / "ward-7-state"
    folder.mkdir()
    with closing(AuditLog(folder / "audit.jsonl")) as audit:
        store = LocalStore(folder / "local", "127.0.0.1:8470", 1 << 20, audit)
        for job in ("a1", "b2"):
            work = Assignment(job_id=job, job_name=f"name-{job}", base_version=4)
            store.keep(work, None, b"12345")
    found = [json.loads(x) for x in cloister(device, "--kept", "--json").stdout.splitlines()]
    assert sorted(x["job"] for x in found) == ["a1", "b2"]
    assert {(x["version"], x["state_bytes"], x["states"]) for x in found} == {(4, 5, 1)}
    assert "name-a1" in cloister(device, "--kept").stdout
    assert "deleted 1 local state of name-a1" in cloister(device, "--forget", "name-a1").stderr
    assert "'a1' keeps" in cloister(device, "--forget", "a1", code=ExitCode.USAGE).stderr
    (left,) = cloister(device, "--kept", "--json").stdout.splitlines()
    assert json.loads(left)["job"] == "b2"
    log = (folder / "audit.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["reason"] == "by the owner"


def test_the_identity_is_made_once_and_shown(device: Path) -> None:
    shown = cloister("--identity", device)
    key = shown.stdout.strip()
    client_id = hashlib.sha256(bytes.fromhex(key)).hexdigest()[:32]
    assert client_id in shown.stderr
    state = device.parent / "ward-7-state"
    assert state.stat().st_mode & 0o077 == 0
    assert [path.name for path in state.iterdir()] == ["identity.pem"]
    document = json.loads(cloister("--identity", device, "--json").stdout)
    assert document == {"client_id": client_id, "public_key": key}
    checked = json.loads(cloister(device, "--check", "--json").stdout)
    assert checked["client_id"] == client_id


def test_secure_aggregation_is_shown_with_its_certificate(device: Path) -> None:
    folder = device.parent
    assert "updates leave in clear" in cloister(device, "--check").stdout
    section = """
[secure_aggregation]
authority = "hospitals/authority.pem"
certificate = "ward-7.pem"
minimum_cohort = 5
corrupt_fraction = 0.2
ring = true
noise_multiplier = 0.5
"""
    device.write_text(device.read_text() + section)
    wrong = cloister(device, "--check", code=ExitCode.USAGE).stderr
    assert "cloister client --identity" in wrong
    key = cloister("--identity", device).stdout.strip()
    for words in (
        ["init", folder / "hospitals", "--name", "Hospitals of Berlin"],
        ["sign", folder / "hospitals", key, "--name", "ward 7", "-o", folder / "ward-7.pem"],
    ):
        assert CliRunner().invoke(app, ["pki", *map(str, words)]).exit_code == ExitCode.OK
    shown = " ".join(cloister(device, "--check").stdout.split())
    for words in ("required", "Hospitals of Berlin", "at least 5 members", "0.2 may collude"):
        assert words in shown
    document = json.loads(cloister(device, "--check", "--json").stdout)["secure_aggregation"]
    assert document.pop("expires_at_ms") > 0
    assert document == {
        "required": True,
        "authority": "Hospitals of Berlin",
        "minimum_cohort": 5,
        "corrupt_fraction": 0.2,
        "ring": True,
        "noise_multiplier": 0.5,
    }


def test_an_identity_that_cannot_be_made_or_read_is_the_owners(device: Path) -> None:
    state = device.parent / "ward-7-state"
    state.write_text("a file")
    assert "cannot use state_dir" in cloister("--identity", device, code=ExitCode.USAGE).stderr
    state.unlink()
    cloister("--identity", device)
    (state / "identity.pem").chmod(0o644)
    assert "chmod 600" in cloister("--identity", device, code=ExitCode.USAGE).stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("address =", "adress =", "did you mean 'address'"),
        ('label = "label"', 'label = "lable"', "no column 'lable'"),
        ("memory_mb = 256", "memory_mb = -1", "memory_mb must be above 0"),
    ],
)
def test_mistakes_are_named(device: Path, old: str, new: str, words: str) -> None:
    device.write_text(device.read_text().replace(old, new))
    for option in (["--check"], []):
        assert words in cloister(device, *option, code=ExitCode.USAGE).stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no.toml" in cloister(tmp_path / "no.toml", code=ExitCode.USAGE).stderr
