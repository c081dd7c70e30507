from __future__ import annotations

from pathlib import Path

import pytest

from cloister_tasks import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOISTER_CACHE", str(tmp_path))
    return tmp_path


def test_built_once_for_each_key(folder):
    built = []

    def build(content: bytes) -> bytes:
        built.append(content)
        return content

    assert cache.cached(b"k", lambda: build(b"one")) == b"one"
    assert cache.cached(b"k", lambda: build(b"two")) == b"one"
    assert cache.cached(b"l", lambda: build(b"two")) == b"two"
    assert built == [b"one", b"two"]
    assert len(list(folder.rglob("*.*"))) == 2


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 40])
def test_a_damaged_file_is_built_anew(folder, damage):
    cache.cached(b"k", lambda: b"one")
    (path,) = folder.rglob("*.wasm")
    path.write_bytes(damage)
    assert cache.cached(b"k", lambda: b"two") == b"two"
    assert cache.cached(b"k", lambda: b"three") == b"two"


def test_where_nothing_can_be_kept_everything_is_built(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("CLOISTER_CACHE", str(blocker))
    assert cache.cached(b"k", lambda: b"one") == b"one"
    assert cache.cached(b"k", lambda: b"two") == b"two"


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("CLOISTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "cloister"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == Path.home() / ".cache" / "cloister"
