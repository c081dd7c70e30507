from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cloister.vouching import create_key, load_key, read_signature, write_signature
from cloister_protos import Blob
from cloister_tasks import InvalidSignature

BLOB = Blob(digest=b"d" * 32, size=5)


@pytest.fixture
def signature(tmp_path: Path) -> Path:
    create_key(tmp_path / "key.pem")
    return write_signature(tmp_path / "m.wasm", BLOB.digest, load_key(tmp_path / "key.pem"))


def test_a_signature_survives_its_file(signature: Path) -> None:
    module = read_signature(signature, BLOB)
    assert module.blob == BLOB
    assert (len(module.publisher), len(module.signature)) == (32, 64)


def test_a_signature_of_other_bytes_is_refused(signature: Path) -> None:
    with pytest.raises(InvalidSignature, match="other bytes"):
        read_signature(signature, Blob(digest=b"e" * 32, size=5))


@pytest.mark.parametrize("field", ["publisher", "signature"])
def test_a_forged_field_is_refused(signature: Path, field: str) -> None:
    fields = json.loads(signature.read_text())
    first = "0" if fields[field][0] != "0" else "1"
    signature.write_text(json.dumps(fields | {field: first + fields[field][1:]}))
    with pytest.raises(InvalidSignature):
        read_signature(signature, BLOB)


@given(
    st.one_of(
        st.binary(max_size=100),
        st.just(b"[" * 60_000),
        st.dictionaries(
            st.sampled_from(["digest", "publisher", "signature"]),
            st.one_of(st.text(max_size=8), st.integers(), st.none(), st.just("64" * 32)),
        ).map(lambda fields: json.dumps(fields).encode()),
    )
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.sig").write_bytes(data)
    with pytest.raises(InvalidSignature):
        read_signature(tmp_path / "m.sig", BLOB)


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(InvalidSignature, match="no Ed25519"):
        load_key(tmp_path / "no.pem")
