from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode
from cloister.commands.failure import Mistake
from cloister.commands.pki_folder import BACKDATED, MAX_PASSPHRASE_BYTES, Folder
from cloister_privacy.certificate import Authority, Trust, from_pem, to_pem


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cloister(*arguments: str | Path, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["pki", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str | Path) -> str:
    return cloister(*arguments, code=ExitCode.USAGE).stderr


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def new_key() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


KEY = new_key()
CLIENT = hashlib.sha256(KEY).hexdigest()[:32]
DAY = timedelta(days=1)


def now() -> datetime:
    """In whole seconds; asked in each test, because they may run long after they are collected."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    cloister("init", "hospitals")
    return Folder(tmp_path / "hospitals")


def trust(folder: Folder) -> Trust:
    return Trust(from_pem(folder.certificate.read_bytes()))


def test_init_makes_a_key_for_its_owner_and_a_certificate_for_all(tmp_path: Path) -> None:
    (shown,) = documents(cloister("init", "a/b", "--name", "Hospitals", "--days", "30", "--json"))
    assert (shown["key"], shown["certificate"]) == ("a/b/authority-key.pem", "a/b/authority.pem")
    assert shown["encrypted"] is False
    assert stat.S_IMODE((tmp_path / shown["key"]).stat().st_mode) == 0o600
    der = from_pem((tmp_path / shown["certificate"]).read_bytes())
    assert shown["fingerprint"] == hashlib.sha256(der).hexdigest()
    said = Trust(der).authority
    assert said.name == shown["name"] == "Hospitals"
    assert said.not_after.timestamp() * 1000 == shown["expires_at_ms"]
    assert timedelta(days=29.9) < said.not_after - now() < timedelta(days=30.1)
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == [
        "authority-key.pem",
        "authority.pem",
    ]


def test_init_prints_the_fingerprint_and_says_what_to_do() -> None:
    shown = cloister("init", "hospitals")
    assert len(bytes.fromhex(shown.stdout)) == 32
    assert "not encrypted" in shown.stderr
    assert trust(Folder(Path("hospitals"))).authority.name == "hospitals"


@pytest.mark.parametrize("lost", ["authority-key.pem", "authority.pem", "neither"])
def test_an_authority_is_never_overwritten(folder: Folder, lost: str) -> None:
    (folder.path / lost).unlink(missing_ok=True)
    left = {path: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    assert "never overwritten" in refused("init", "hospitals")
    assert {path: path.read_bytes() for path in folder.path.iterdir() if path.is_file()} == left


def test_a_name_that_is_none_makes_nothing(tmp_path: Path) -> None:
    assert "1 to 64 bytes" in refused("init", "hospitals", "--name", "x" * 65)
    assert not (tmp_path / "hospitals").exists()


def test_a_passphrase_locks_the_key(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("x" * (MAX_PASSPHRASE_BYTES + 1))
    for name in ("empty", "long"):
        assert "should hold a passphrase" in refused("init", "locked", "--passphrase-file", name)
    assert "missing" in refused("init", "locked", "--passphrase-file", "missing")
    (shown,) = documents(cloister("init", "locked", "--passphrase-file", "right", "--json"))
    assert shown["encrypted"] is True
    sign = ("sign", "locked", KEY.hex(), "--name", "w", "-o", "w.pem")
    assert "needs its passphrase" in refused(*sign)
    assert "passphrase is another" in refused(*sign, "--passphrase-file", "wrong")
    assert not (tmp_path / "w.pem").exists()
    cloister(*sign, "--passphrase-file", "right")
    der = from_pem((tmp_path / "w.pem").read_bytes())
    assert trust(Folder(tmp_path / "locked")).identity(der, now()) == KEY


@pytest.mark.parametrize("form", ["digits", "capitals", "file"])
def test_sign_certifies_a_key(folder: Folder, form: str) -> None:
    who = {"digits": KEY.hex(), "capitals": KEY.hex().upper(), "file": "ward-7.key"}[form]
    Path("ward-7.key").write_text(f"{KEY.hex()}\n")
    (shown,) = documents(
        cloister("sign", "hospitals", who, "--name", "ward-7", "-o", "w.pem", "--json")
    )
    der = from_pem(Path("w.pem").read_bytes())
    assert trust(folder).identity(der, now()) == KEY
    slow = now() - timedelta(minutes=30)
    assert trust(folder).identity(der, slow) == KEY  # as the clock of a device may be
    said = trust(folder).certified(der)
    assert shown == {
        "path": "w.pem",
        "name": "ward-7",
        "client_id": CLIENT,
        "public_key": KEY.hex(),
        "serial": f"{said.serial:x}",
        "expires_at_ms": int(said.not_after.timestamp() * 1000),
    }
    assert timedelta(days=364.9) < said.not_after - now() < timedelta(days=365.1)
    (record,) = (folder.path / "issued").iterdir()
    assert record.name == f"{said.serial:x}.pem"
    assert record.read_bytes() == Path("w.pem").read_bytes()


def test_sign_says_until_when(folder: Folder) -> None:
    shown = cloister("sign", "hospitals", KEY.hex(), "--name", "w", "-o", "w.pem", "--days", "9")
    assert shown.stdout == ""
    (issued,) = folder.issued()
    until = issued.certified.not_after
    assert f"client {CLIENT}, valid until {until:%Y-%m-%d %H:%M} UTC" in shown.stderr
    assert timedelta(days=8.9) < until - now() < timedelta(days=9.1)


def test_what_is_no_public_key_is_named(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "bad.key").write_bytes(b"\xff" * 40)
    (tmp_path / "two.key").write_text(KEY.hex() * 2)
    for who in ("nobody", "bad.key", "two.key", "hospitals", KEY.hex()[:-1], "x" * 5000, "ü\0"):
        words = refused("sign", "hospitals", who, "--name", "w", "-o", "w.pem")
        assert "neither a public key" in words
        assert "--identity" in words
    assert not (tmp_path / "w.pem").exists()


def test_a_device_gets_one_valid_certificate_unless_again(folder: Folder) -> None:
    sign = ("sign", "hospitals", KEY.hex(), "--name", "w", "-o")
    cloister(*sign, "1.pem")
    words = refused(*sign, "2.pem")
    assert f"client {CLIENT} has a certificate, valid until" in words
    assert "--again" in words
    assert not Path("2.pem").exists()
    cloister(*sign, "2.pem", "--again")
    cloister("sign", "hospitals", new_key().hex(), "--name", "w", "-o", "3.pem")
    assert len(documents(cloister("list", "hospitals", "--json"))) == 3


def test_a_certificate_that_has_expired_is_in_nobodys_way(folder: Folder) -> None:
    signer, moment = folder.open(None), now()
    later = moment + DAY + timedelta(seconds=1)
    folder.issue(signer, KEY, "old", 1, moment, again=False)
    with pytest.raises(Mistake, match="has a certificate"):
        folder.issue(signer, KEY, "new", 1, moment + DAY, again=False)
    folder.issue(signer, KEY, "new", 1, later, again=False)
    assert [one.certified.name for one in folder.issued()] == ["old", "new"]
    assert [one.state(later) for one in folder.issued()] == ["expired", "valid"]


def test_of_two_at_once_one_signs(folder: Folder) -> None:
    signer, moment = folder.open(None), now()

    def issue(_: int) -> bool:
        try:
            folder.issue(signer, KEY, "w", 1, moment, again=False)
        except Mistake:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(issue, range(8))) == 1


def test_a_file_is_never_overwritten_and_nothing_is_issued(folder: Folder) -> None:
    Path("mine.pem").write_text("mine")
    sign = ("sign", "hospitals", KEY.hex(), "--name", "w", "-o")
    assert "not overwritten" in refused(*sign, "mine.pem")
    assert "no/such.pem" in refused(*sign, "no/such.pem")
    assert Path("mine.pem").read_text() == "mine"
    assert "1 to 64 bytes" in refused(*sign[:4], "x" * 65, "-o", "w.pem")
    assert not Path("w.pem").exists()
    assert folder.issued() == []


def test_nothing_is_signed_past_the_authoritys_own_end(tmp_path: Path) -> None:
    cloister("init", "short", "--days", "30")
    sign = ("sign", "short", KEY.hex(), "--name", "w", "-o", "w.pem", "--days")
    assert "give --days 29 or less" in refused(*sign, "31")
    cloister(*sign, "29")
    short = Folder(tmp_path / "short")
    signer = short.open(None)
    end = signer.certified.not_after
    for moment, words in (
        (end - timedelta(hours=23), "ends today"),
        (end + timedelta(seconds=1), "expired at"),
    ):
        with pytest.raises(Mistake, match=words):
            short.issue(signer, new_key(), "w", 1, moment, again=False)


def test_without_an_authority_there_is_a_way_to_one(tmp_path: Path) -> None:
    for arguments in (
        ("list", "nowhere"),
        ("sign", "nowhere", KEY.hex(), "--name", "w", "-o", "w.pem"),
    ):
        assert "`cloister pki init nowhere` makes one" in refused(*arguments)


def test_a_key_that_is_lost_open_or_anothers_signs_nothing(folder: Folder) -> None:
    sign = ("sign", "hospitals", KEY.hex(), "--name", "w", "-o", "w.pem")
    folder.key.chmod(0o640)
    assert "chmod 600" in refused(*sign)
    cloister("init", "others")
    Folder(folder.path.parent / "others").key.rename(folder.key)
    assert "do not belong together" in refused(*sign)
    folder.key.unlink()
    assert "is not there" in refused(*sign)
    cloister("list", "hospitals")  # needs none
    folder.certificate.write_text("nonsense")
    assert "authority.pem" in refused("list", "hospitals")


def test_list_shows_what_was_issued(folder: Folder) -> None:
    assert "nothing issued yet" in cloister("list", "hospitals").stderr
    assert cloister("list", "hospitals", "--json").stdout == ""
    signer = folder.open(None)
    own = signer.certified
    (folder.path / "issued").mkdir()
    minutes = timedelta(minutes=5)  # of the hour by which it is backdated
    past = signer.sign(KEY, "[old]", own.not_before, own.not_before + minutes, 255)
    (folder.path / "issued" / "ff.pem").write_bytes(to_pem(past))
    begun = own.not_before + BACKDATED + timedelta(minutes=1)
    issued = folder.issue(signer, KEY, "ward-7", 365, begun, again=False)
    old, new = documents(cloister("list", "hospitals", "--json"))
    assert (old["name"], old["serial"], old["state"]) == ("[old]", "ff", "expired")
    assert new == {
        "name": "ward-7",
        "client_id": CLIENT,
        "public_key": KEY.hex(),
        "serial": issued.serial,
        "begins_at_ms": int(issued.certified.not_before.timestamp()) * 1000,
        "expires_at_ms": int(issued.certified.not_after.timestamp()) * 1000,
        "state": "valid",
    }
    table = cloister("list", "hospitals").stdout
    for words in ("[old]", "ward-7", CLIENT, "ff", issued.serial, "valid", "expired"):
        assert words in table


def test_a_damaged_record_is_named(folder: Folder) -> None:
    cloister("sign", "hospitals", KEY.hex(), "--name", "w", "-o", "w.pem")
    (record,) = (folder.path / "issued").iterdir()
    record.write_text("nonsense")
    assert str(record.name) in refused("list", "hospitals")
    begin, end = now(), now() + DAY
    other = Authority.create("hospitals", begin, end)
    record.write_bytes(to_pem(other.sign(KEY, "w", begin, end)))
    assert "no record of this authority's" in refused("list", "hospitals")
