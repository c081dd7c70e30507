from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cloister.deployment import Deployment
from cloister_client.certification import Certification
from cloister_client.config import load_config
from cloister_client.identity import Identity


def test_a_client_is_certified(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        plain = load_config(deployment.write_client("plain", tmp_path / "rows.csv"))
        path = deployment.write_client("ward", tmp_path / "rows.csv", secure={"minimum_cohort": 7})
        other = load_config(deployment.write_client("clinic", tmp_path / "rows.csv", secure={}))
        authority = deployment.authority
    assert plain.secure_aggregation is None
    config = load_config(path)
    assert config.secure_aggregation is not None
    assert other.secure_aggregation is not None
    assert config.secure_aggregation.minimum_cohort == 7
    assert config.secure_aggregation.authority == other.secure_aggregation.authority == authority
    identity = Identity.load(tmp_path / "ward" / "identity.pem")
    found = Certification.load(config.secure_aggregation, identity, datetime.now(UTC))
    assert (found.certified.name, found.certified.client_id) == ("ward", identity.client_id)
