import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister_client.errors import IdentityError
from cloister_client.identity import Identity


def test_made_once_private_and_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity.pem"
    first = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).public_key == first.public_key
    assert first.client_id == hashlib.sha256(first.public_key).hexdigest()[:32]
    assert list(path.parent.iterdir()) == [path]


def test_signature_covers_nonce_and_join_token(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "key.pem")
    signature = identity.sign_enrolment(b"n" * 32, "token")
    key = Ed25519PublicKey.from_public_bytes(identity.public_key)
    key.verify(signature, b"cloister enrol v1\0" + b"n" * 32 + b"token")


def test_racing_first_starts_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with ThreadPoolExecutor(8) as threads:
        identities = list(threads.map(lambda _: Identity.load_or_create(path), range(8)))
    assert len({identity.client_id for identity in identities}) == 1


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    Identity.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load(path)


def test_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"nonsense")
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="no readable PEM"):
        Identity.load(path)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(other)
    with pytest.raises(IdentityError, match="another kind"):
        Identity.load(path)
    with pytest.raises(IdentityError, match="cannot read"):
        Identity.load(tmp_path / "absent.pem")
