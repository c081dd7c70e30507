from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from cloister_sandbox import CodeCache

SETTINGS = {"a": 1}
ONE, TWO = b"\1" * 32, b"\2" * 32
CODE = b"native code" * 100


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("*.code")
    return path


def reread(directory: Path, digest: bytes = ONE) -> bytes | None:
    """What a process started later would get."""
    return CodeCache(directory, SETTINGS).get(digest)


def test_code_survives_a_restart(tmp_path: Path) -> None:
    CodeCache(tmp_path, SETTINGS).put(ONE, CODE)
    assert reread(tmp_path) == CODE
    assert reread(tmp_path, TWO) is None


def test_other_settings_have_other_code(tmp_path: Path) -> None:
    CodeCache(tmp_path, SETTINGS).put(ONE, CODE)
    assert CodeCache(tmp_path, {"a": 2}).get(ONE) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: b"\x7fELF" + data,
        lambda data: data + b"\0",
    ],
)
def test_damage_is_found_and_cleared(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    CodeCache(tmp_path, SETTINGS).put(ONE, CODE)
    path = only_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert reread(tmp_path) is None
    assert "damaged or forged" in caplog.text
    assert not path.exists()


def test_a_file_made_under_another_key_is_forged(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    CodeCache(ours, SETTINGS).put(ONE, CODE)
    CodeCache(theirs, SETTINGS).put(ONE, b"evil")
    shutil.copy(only_file(theirs), only_file(ours))
    assert reread(ours) is None


def test_one_modules_code_does_not_pass_for_anothers(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path, SETTINGS)
    cache.put(ONE, CODE)
    first = only_file(tmp_path)
    cache.put(TWO, b"other")
    (second,) = set(tmp_path.glob("*.code")) - {first}
    shutil.copy(second, first)
    assert reread(tmp_path) is None


def test_nobody_else_may_read_or_write(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "cache"
    CodeCache(directory, SETTINGS).put(ONE, CODE)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.suffix for p in directory.iterdir()) == ["", ".code"]  # no leftovers


def test_a_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    CodeCache(directory, SETTINGS)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_files_open_to_others_are_not_used(tmp_path: Path) -> None:
    CodeCache(tmp_path, SETTINGS).put(ONE, CODE)
    only_file(tmp_path).chmod(0o666)
    assert reread(tmp_path) is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    CodeCache(directory, SETTINGS).put(ONE, CODE)
    path = only_file(directory)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert reread(directory) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(PermissionError, match="another user"):
        CodeCache(tmp_path, SETTINGS)


def test_the_oldest_files_go(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path, SETTINGS, disk_bytes=3 * len(CODE))
    for number in range(6):
        cache.put(bytes([number]) * 32, CODE)
        newest = max(tmp_path.glob("*.code"), key=lambda p: p.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list(tmp_path.glob("*.code"))) == 2
    assert reread(tmp_path, bytes([5]) * 32) == CODE


def test_memory_is_bounded() -> None:
    cache = CodeCache(None, SETTINGS, memory_bytes=3 * len(CODE))
    for number in range(5):
        cache.put(bytes([number]) * 32, CODE)
        cache.get(bytes([0]) * 32)
    kept = [n for n in range(5) if cache.get(bytes([n]) * 32)]
    assert kept == [0, 3, 4]
    cache.forget(bytes([3]) * 32)
    assert cache.get(bytes([3]) * 32) is None


def test_many_processes_agree_on_the_key(tmp_path: Path) -> None:
    caches: list[CodeCache] = []
    threads = [
        threading.Thread(target=lambda: caches.append(CodeCache(tmp_path, SETTINGS)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    caches[0].put(ONE, CODE)
    assert all(cache.get(ONE) == CODE for cache in caches)


def test_a_full_disk_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CodeCache(tmp_path, SETTINGS)
    shutil.rmtree(tmp_path)
    cache.put(ONE, CODE)
    assert "not cached" in caplog.text
    assert cache.get(ONE) == CODE
