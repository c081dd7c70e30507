from __future__ import annotations

import subprocess
import sys

import cloister_coordinator


def test_all_is_true() -> None:
    assert sorted(cloister_coordinator._HOMES) == cloister_coordinator.__all__
    for name in cloister_coordinator.__all__:
        assert getattr(cloister_coordinator, name).__name__ == name


def test_what_the_simulator_shares_needs_no_network_or_database() -> None:
    modules = ("cohort", "round", "job", "aggregation")
    imports = "; ".join(f"import cloister_coordinator.{module}" for module in modules)
    heavy = "{'grpc', 'sqlalchemy', 'alembic', 'cryptography'}"
    code = f"import sys; {imports}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
