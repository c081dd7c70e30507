from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloister_coordinator.errors import ConfigurationError, Unauthenticated
from cloister_coordinator.operator_token import OperatorToken


def test_it_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    OperatorToken(path)
    text = path.read_text()
    assert len(text.strip()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = OperatorToken(path)
    assert path.read_text() == text
    token.check(f"Bearer {text.strip()}")
    for wrong in ("", "Bearer ", "Bearer \u00e9", f"Bearer {text.strip()}x"):
        with pytest.raises(Unauthenticated):
            token.check(wrong)


def test_a_token_that_protects_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    path.write_text("hunter2\n")
    with pytest.raises(ConfigurationError, match="fewer than 32"):
        OperatorToken(path)
    with pytest.raises(ConfigurationError, match="out of reach"):
        OperatorToken(tmp_path / "missing" / "operator.token")
