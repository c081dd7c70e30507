import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_client.config import CoordinatorConfig, load_config, parse_config
from cloister_client.errors import ConfigError
from cloister_privacy.floors import Floors

FULL = f"""
[client]
name = "ward-7"
state_dir = "state"
tags = ["berlin", "berlin", "x"]
cache_mb = 64

[coordinator]
address = "example.org:7070"
ca = "ca.pem"
certificate = "client.pem"
key = "/abs/client.key"
join_token_file = "token"
max_reconnect_seconds = 5

[data.patients]
path = "patients.csv"
features = ["age", "bmi"]
label = "diagnosis"
scale = [0.01, 0.1]
offset = -0.5
missing = 0
evaluation_fraction = 0.2

[data.numbers]
path = "numbers.npz"
features = "pixel_*"
target = ["x", "y"]
missing = "error"
evaluation_path = "test.npz"
inputs.user = "user_id"
inputs.tokens = ["t_*", "end"]

[policy]
publishers = ["{"ab" * 32}"]
memory_mb = 32
seconds_per_round = 10
seconds_per_day = 3600
clip_norm = 1.5

[secure_aggregation]
authority = "authority.pem"
certificate = "/abs/identity.crt"
required = false
minimum_cohort = 10
corrupt_fraction = 0.5
ring = true
noise_multiplier = 1
"""
SMALL = """
[client]
state_dir = "s"
[coordinator]
address = "127.0.0.1:7070"
[data.d]
path = "d.csv"
[policy]
any_task = true
"""
SECURE = """
[secure_aggregation]
authority = "a"
certificate = "c"
"""


def test_every_key_is_read() -> None:
    config = parse_config(FULL, Path("/etc/cloister"))
    assert (config.name, config.tags, config.cache_mb) == ("ward-7", ("berlin", "x"), 64.0)
    assert config.state_dir == Path("/etc/cloister/state")
    assert config.coordinator.key == Path("/abs/client.key")
    assert config.coordinator.ca == Path("/etc/cloister/ca.pem")
    assert config.coordinator.tls
    patients, numbers = config.data["patients"], config.data["numbers"]
    assert patients.features == ("age", "bmi")
    assert (patients.scale, patients.offset, patients.missing) == ((0.01, 0.1), (-0.5,), 0.0)
    assert numbers.features == ("pixel_*",)
    assert (numbers.target, numbers.missing) == (("x", "y"), None)
    assert numbers.inputs == {"user": ("user_id",), "tokens": ("t_*", "end")}
    assert config.policy.publishers == {b"\xab" * 32}
    limits = config.policy.limits()
    assert (limits.memory_bytes, limits.run_seconds, limits.cpu_seconds) == (32 * 2**20, 10, 10)
    secure = config.secure_aggregation
    assert secure is not None
    assert secure.authority == Path("/etc/cloister/authority.pem")
    assert secure.certificate == Path("/abs/identity.crt")
    assert not secure.required
    assert secure.floors == Floors(
        minimum_cohort=10, corrupt_fraction=0.5, ring=True, noise_multiplier=1.0
    )


def test_the_small_one_is_enough() -> None:
    config = parse_config(SMALL, Path())
    assert (config.data["d"].features, config.data["d"].inputs) == (None, {})
    assert not config.coordinator.tls
    assert config.secure_aggregation is None
    secure = parse_config(SMALL + SECURE, Path()).secure_aggregation
    assert secure is not None
    assert secure.required
    assert secure.floors == Floors()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[policy]\nany_task = true", "[policy]", "allows no task.*any_task = true"),
        ("any_task = true", "any_tasks = true", "'any_tasks'; did you mean 'any_task'"),
        ("any_task", "zzz", "there are: any_task"),
        ("[policy]", "[polcy]", "unknown section: 'polcy'; did you mean 'policy'"),
        ("any_task = true", "any_task = 1", r"\[policy\] any_task must be true or false"),
        ("any_task = true", 'digests = ["abc"]', "64 hexadecimal digits"),
        ("any_task = true", 'digests = "abc"', "64 hexadecimal digits"),
        ("any_task = true", "any_task = true\nmemory_mb = 0", "memory_mb must be above 0"),
        ("any_task = true", "any_task = true\nclip_norm = nan", "clip_norm must be a finite"),
        ("any_task = true", f"any_task = true\nclip_norm = 1{'0' * 400}", "must be a finite"),
        ("any_task = true", "any_task = true\nmemory_mb = 9999", "memory_bytes is .* it must be"),
        ('address = "127.0.0.1:7070"', "", r"\[coordinator\] lacks `address`"),
        ("127.0.0.1:7070", "example.org", "host:port"),
        ('7070"', '7070"\nkey = "k"', "give both"),
        ('7070"', '7070"\ninsecure = true\nca = "c"', "contradicts"),
        ('state_dir = "s"', "", r"\[client\] lacks `state_dir`"),
        ('state_dir = "s"', "state_dir = 3", "must be a printable text"),
        ('path = "d.csv"', "", r"\[data.d\] lacks `path`"),
        ("[data.d]\npath", "[data]\npath", r"datasets have names"),
        ('[data.d]\npath = "d.csv"', "", "1 to 64 local datasets"),
        ('"d.csv"', '"d.csv"\nevaluation_fraction = 1', "below 1"),
        ('"d.csv"', '"d.csv"\nfeatures = []', "features must not be empty"),
        ('"d.csv"', '"d.csv"\nmissing = "zero"', 'number or "error"'),
        ('"d.csv"', '"d.csv"\ninputs = "x"', "inputs must be a table"),
        ('"d.csv"', '"d.csv"\ninputs = { x = 3 }', "inputs 'x': must be a printable text"),
        ('"d.csv"', '"d.csv"\nlabel = "y"\ninputs = { label = "z" }', "label or inputs.label"),
        (
            '"d.csv"',
            '"d.csv"\nevaluation_fraction = 0.1\nevaluation_path = "e"',
            r"\[data.d\] give .*not both",
        ),
        ("[client]", "client = 3\n[other]", "unknown section"),
        ('[client]\nstate_dir = "s"', "client = 3", "client must be a section"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SMALL
    file = tmp_path / "client.toml"
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('authority = "a"', "", r"\[secure_aggregation\] lacks `authority`"),
        ('certificate = "c"', "", r"\[secure_aggregation\] lacks `certificate`"),
        ("authority", "authorty", "did you mean 'authority'"),
        ("[secure_aggregation]", "secure_aggregation = 3\n[x]", "unknown (key|section)"),
        ('"c"', '"c"\nrequired = 1', "required must be true or false"),
        ('"c"', '"c"\nminimum_cohort = 1', "minimum_cohort must be a whole number from 2 to 5000"),
        ('"c"', '"c"\nminimum_cohort = 3.0', "whole number"),
        ('"c"', '"c"\nminimum_cohort = true', "whole number"),
        ('"c"', '"c"\ncorrupt_fraction = 0.6', "corrupt_fraction must be from 0 to 0.5"),
        ('"c"', '"c"\ncorrupt_fraction = nan', "finite number"),
        ('"c"', '"c"\nring = "no"', "ring must be true or false"),
        ('"c"', '"c"\nnoise_multiplier = -1', "noise_multiplier must be from 0 to 1000"),
    ],
)
def test_mistakes_about_secure_aggregation(old: str, new: str, message: str) -> None:
    assert old in SECURE
    with pytest.raises(ConfigError, match=message):
        parse_config(SMALL + SECURE.replace(old, new), Path())


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.toml")
    file = tmp_path / "client.toml"
    file.write_text("[client")
    with pytest.raises(ConfigError, match="no TOML"):
        load_config(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="no TOML"):
        load_config(file)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_plaintext_is_only_for_loopback_unless_insecure(address: str, loopback: bool) -> None:
    assert CoordinatorConfig(address).tls is not loopback
    assert not CoordinatorConfig(address, insecure=True).tls
    assert CoordinatorConfig(address, ca=Path("ca.pem")).tls


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text("abc*./-:1 [", max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["name", "path", "features", "label", "scale", "tags", "address", "any_task", "digests", "zz"]
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@given(
    st.dictionaries(
        st.sampled_from(["client", "coordinator", "data.d", "data", "policy", "x"]),
        st.dictionaries(KEYS, VALUES, max_size=4),
    )
)
def test_whatever_is_written_gives_a_config_or_a_config_error(
    sections: dict[str, dict[str, object]],
) -> None:
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {toml(value)}" for key, value in keys.items()]
    text = "\n".join(lines)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    with contextlib.suppress(ConfigError):
        parse_config(text, Path())
