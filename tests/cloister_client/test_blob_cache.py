import hashlib
import os
from pathlib import Path

from cloister_client.blob_cache import BlobCache

BLOBS = [bytes([n]) * 100 for n in range(5)]
DIGESTS = [hashlib.sha256(blob).digest() for blob in BLOBS]


def test_blobs_survive_a_restart(tmp_path: Path) -> None:
    BlobCache(tmp_path, 1000).put(DIGESTS[0], BLOBS[0])
    cache = BlobCache(tmp_path, 1000)
    assert cache.get(DIGESTS[0]) == BLOBS[0]
    assert cache.get(DIGESTS[1]) is None


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 300)
    for index in range(3):
        cache.put(DIGESTS[index], BLOBS[index])
    assert cache.get(DIGESTS[0])
    cache.put(DIGESTS[3], BLOBS[3])
    held = [cache.get(digest) is not None for digest in DIGESTS]
    assert held == [True, False, True, True, False]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 300


def test_order_of_use_survives_a_restart_with_a_smaller_limit(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 1000)
    for index in range(4):
        cache.put(DIGESTS[index], BLOBS[index])
        os.utime(tmp_path / DIGESTS[index].hex(), (index, index))
    os.utime(tmp_path / DIGESTS[0].hex(), (9, 9))
    (tmp_path / "draft-left-by-a-crash").write_bytes(b"torn")
    smaller = BlobCache(tmp_path, 200)
    held = [smaller.get(digest) is not None for digest in DIGESTS]
    assert held == [True, False, False, True, False]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_altered_file_counts_as_absent(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 1000)
    cache.put(DIGESTS[0], BLOBS[0])
    (tmp_path / DIGESTS[0].hex()).write_bytes(b"altered")
    assert cache.get(DIGESTS[0]) is None
    assert list(tmp_path.iterdir()) == []
    cache.put(DIGESTS[0], BLOBS[0])
    assert cache.get(DIGESTS[0]) == BLOBS[0]
    (tmp_path / DIGESTS[0].hex()).unlink()
    assert cache.get(DIGESTS[0]) is None


def test_a_blob_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 99)
    cache.put(DIGESTS[0], BLOBS[0])
    assert cache.get(DIGESTS[0]) is None
    assert list(tmp_path.iterdir()) == []
