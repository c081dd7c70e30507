import subprocess
import sys

import cloister_client


def test_all_is_true() -> None:
    assert sorted(cloister_client.__all__, key=str.lower) == sorted(
        dict.fromkeys(cloister_client.__all__), key=str.lower
    )
    for name in cloister_client.__all__:
        assert getattr(cloister_client, name) is not None


def test_what_the_simulator_shares_needs_no_network() -> None:
    heavy = "{'grpc', 'cryptography', 'pyarrow'}"
    code = f"import sys, cloister_client; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
