"""A publisher's signature in a file beside the module: ``digits.wasm`` and ``digits.wasm.sig``.

The file is one JSON object of hexadecimal texts: the module's SHA-256 ``digest``, the
``publisher``'s Ed25519 public key and the ``signature``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cloister.job_spec import signature_path
from cloister_protos import Blob
from cloister_protos import Module as ModuleMessage
from cloister_tasks import InvalidSignature
from cloister_tasks.signature import sign, verify

_MAX_FILE_BYTES = 64 * 1024


def create_key(path: Path) -> str:
    """Write a new private key (PEM, for its owner's eyes only); returns the public key in hex.

    Raises FileExistsError: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return key.public_key().public_bytes_raw().hex()


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key. Raises InvalidSignature if the file holds none."""
    try:
        key = load_pem_private_key(path.read_bytes()[:_MAX_FILE_BYTES], password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidSignature(f"{path} holds no Ed25519 private key; `cloister task keygen` does")
    return key


def write_signature(module: Path, digest: bytes, key: Ed25519PrivateKey) -> Path:
    """Vouch for the module with this SHA-256, beside its file."""
    signed = sign(digest, key)
    text = json.dumps(
        {
            "digest": digest.hex(),
            "publisher": signed["publisher"].hex(),
            "signature": signed["signature"].hex(),
        },
        indent=2,
    )
    path = signature_path(module)
    path.write_text(text + "\n")
    return path


def read_signature(path: Path, blob: Blob) -> ModuleMessage:
    """The module with the signature in a file, checked.

    Raises InvalidSignature: the file is none, or of other bytes, or the signature is not valid.
    """
    try:
        fields = json.loads(path.read_bytes()[:_MAX_FILE_BYTES])
        digest, publisher, signature = (
            bytes.fromhex(fields[name]) for name in ("digest", "publisher", "signature")
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidSignature(f"{path} is no signature file; sign the module again") from error
    if digest != blob.digest:
        raise InvalidSignature(f"{path} is for other bytes; sign the module again")
    module = ModuleMessage(blob=blob, publisher=publisher, signature=signature)
    verify(module)
    return module
