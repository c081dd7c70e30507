"""The device's TOML, typed and checked.

Every key is documented at its field: `[client]` in ClientConfig, `[coordinator]` in
CoordinatorConfig, `[data.<name>]` in DataConfig, `[policy]` in cloister_client.policy.Policy,
`[secure_aggregation]` in SecureConfig.
Relative paths start at the folder of the TOML. An unknown key is an error, because a mistyped
limit must not silently be no limit.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cloister_client import setting
from cloister_client.errors import ConfigError
from cloister_client.policy import Policy

if TYPE_CHECKING:
    from cloister_privacy.floors import Floors

_T = TypeVar("_T")

ALL_OTHERS = "all others"
"""`features` value for: every column that is neither label nor target."""


@dataclass(frozen=True)
class CoordinatorConfig:
    """The `[coordinator]` section: where work comes from."""

    address: str
    """`address = "host:port"`, or `"unix:/path"`."""
    ca: Path | None = None
    """`ca = "ca.pem"`: certificates the coordinator's is checked against. Left out: the public
    ones that come with gRPC, or plaintext to a loopback address."""
    certificate: Path | None = None
    """`certificate = "client.pem"`: this client's certificate chain, for coordinators that ask
    for one (mTLS). Needs `key`."""
    key: Path | None = None
    """`key = "client-key.pem"`: private key of `certificate`."""
    insecure: bool = False
    """`insecure = true`: no TLS even beyond loopback. Anyone on the way can read and alter
    models and updates; a warning is logged."""
    join_token_file: Path | None = None
    """`join_token_file = "join.token"`: file with the shared secret some coordinators ask for."""
    max_reconnect_seconds: float = 60.0
    """`max_reconnect_seconds = 60`: longest pause between two attempts to connect."""

    def __post_init__(self) -> None:
        if not self.address.startswith("unix:") and not self.address.rpartition(":")[2].isdigit():
            raise ConfigError('[coordinator] address must read "host:port" or "unix:/path"')
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("[coordinator] certificate and key only work together; give both")
        if self.insecure and (self.ca or self.certificate):
            raise ConfigError("[coordinator] insecure = true contradicts ca and certificate")
        if self.certificate and not self.tls:
            raise ConfigError("[coordinator] certificate needs `ca` for a loopback address")

    @property
    def loopback(self) -> bool:
        """Whether the address never leaves this machine."""
        host = self.address.rpartition(":")[0].strip("[]")
        if self.address.startswith("unix:") or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.ca is not None or not (self.insecure or self.loopback)


@dataclass(frozen=True)
class DataConfig:
    """One `[data.<name>]` section: a local file and how its columns become a task's inputs.

    The task's `features` input gets the feature columns as f32, `label` one column of whole
    numbers as i32, `target` one or several columns as f32; any other, what `inputs` names.
    """

    path: Path
    """`path = "patients.csv"`: a `.csv` (comma separated, UTF-8, first row names the columns),
    `.npz` or `.parquet` file. In an NPZ, arrays take the place of columns; one of several
    dimensions is laid out row by row, and so stands for several features."""
    features: tuple[str, ...] | None = None
    """`features = ["age", "bmi"]`: columns in this order; or a pattern, `"pixel_*"`; or
    `"all others"`: all that nothing else takes, in the file's order. Left out: all others, unless
    there are `inputs`."""
    label: str | None = None
    """`label = "diagnosis"`: column of class numbers from 0."""
    target: tuple[str, ...] = ()
    """`target = "pressure"` or `["x", "y"]`: columns of numbers to predict."""
    scale: tuple[float, ...] = (1.0,)
    """`scale = 0.0625`, or one number per feature: features become `x * scale + offset`."""
    offset: tuple[float, ...] = (0.0,)
    """`offset = -0.5`, or one number per feature; added after scaling."""
    missing: float | None = None
    """`missing = 0.0`: value, before scaling, of a feature whose cell is empty or NaN. Left out,
    or `"error"`: such a cell is an error. A missing label or target always is."""
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`inputs = { user = "user_id", tokens = "token_*" }`: the columns of a task's inputs of other
    names, each as `features`; as they are, without scaling. An NPZ of several arrays whose section
    names no columns at all gives each array as the input of its own name."""
    evaluation_fraction: float = 0.0
    """`evaluation_fraction = 0.2`: share of rows kept from training, to evaluate models on.
    Chosen by a fixed hash of the row's position: rows appended later change nothing."""
    evaluation_path: Path | None = None
    """`evaluation_path = "test.csv"`: evaluate on the rows of this file instead."""

    def __post_init__(self) -> None:
        if self.evaluation_fraction and self.evaluation_path:
            raise ConfigError("give evaluation_fraction or evaluation_path, not both")
        named = {"features": self.features, "label": self.label, "target": self.target}
        for name, columns in named.items():
            if columns and name in self.inputs:
                raise ConfigError(f"give {name} or inputs.{name}, not both")


@dataclass(frozen=True)
class SecureConfig:
    """The `[secure_aggregation]` section: updates leave masked, and only their sum is seen.

    What a job offers less of than is wanted here is declined, with the reason.
    """

    authority: Path
    """`authority = "authority.pem"`: certificate of the authority whose certificates make a
    member; pinned, so compare its SHA-256 with the authority's."""
    certificate: Path
    """`certificate = "identity.crt"`: that authority's certificate for this device's identity
    key, in PEM. Read at the start: start the client anew with a renewed one."""
    required: bool = True
    """`required = true`: nothing leaves in clear; jobs without secure aggregation are declined."""
    minimum_cohort: int = 3
    """`minimum_cohort = 3`: fewest members whose sum this device's update may become part of; 2 to
    5000."""
    corrupt_fraction: float = 0.0
    """`corrupt_fraction = 0.2`: share of the members that may collude with the coordinator without
    learning anything; 0 to 0.5."""
    ring: bool = False
    """`ring = true`: accept cohorts in which each member shares secrets with some others only.
    That holds as long as the coordinator follows the protocol."""
    noise_multiplier: float = 0.0
    """`noise_multiplier = 0.5`: least standard deviation, over the clipping norm, of the noise that
    honest members add to the sum themselves; 0 to 1000. Then no exact metrics leave either."""

    @property
    def floors(self) -> Floors:
        """What the protocol is held to."""
        # here, for a simulation shares this module and has no cryptography
        from cloister_privacy.floors import Floors

        return Floors(
            minimum_cohort=self.minimum_cohort,
            corrupt_fraction=self.corrupt_fraction,
            ring=self.ring,
            noise_multiplier=self.noise_multiplier,
        )


@dataclass(frozen=True)
class ClientConfig:
    """The whole file; its own fields are the `[client]` section's keys."""

    state_dir: Path
    """`state_dir = "state"`: folder for the identity key, caches and the audit log; made when
    missing. One running client each."""
    coordinator: CoordinatorConfig
    data: Mapping[str, DataConfig]
    """By name, at least one, at most 64."""
    policy: Policy
    secure_aggregation: SecureConfig | None = None
    """Left out: jobs with secure aggregation are declined."""
    name: str = ""
    """`name = "ward-7"`: for people, at most 64 printable characters."""
    tags: tuple[str, ...] = ()
    """`tags = ["gpu-less", "berlin"]`: operators may select by them; at most 64 of 64
    characters."""
    cache_mb: float = 1024.0
    """`cache_mb = 1024`: MiB of downloaded tasks and frozen parameters kept on disk; past it
    those unused for longest are deleted and later downloaded again."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.data) <= 64:
            raise ConfigError(
                "describe 1 to 64 local datasets, each in a section such as\n"
                '[data.patients]\npath = "patients.csv"\nlabel = "diagnosis"'
            )


_CLIENT = {
    "name": setting.text(64),
    "state_dir": setting.path,
    "tags": setting.texts(64, 64),
    "cache_mb": setting.positive,
}
_COORDINATOR = {
    "address": setting.text(256),
    "ca": setting.path,
    "certificate": setting.path,
    "key": setting.path,
    "insecure": setting.flag,
    "join_token_file": setting.path,
    "max_reconnect_seconds": setting.positive,
}
_DATA = {
    "path": setting.path,
    "features": setting.one_or_more(setting.text(256)),
    "label": setting.text(256),
    "target": setting.one_or_more(setting.text(256)),
    "inputs": setting.table(setting.one_or_more(setting.text(256))),
    "scale": setting.one_or_more(setting.number),
    "offset": setting.one_or_more(setting.number),
    "missing": setting.number_or_error,
    "evaluation_fraction": setting.fraction,
    "evaluation_path": setting.path,
}
_POLICY = {
    "any_task": setting.flag,
    "publishers": setting.digests,
    "digests": setting.digests,
    "aggregations": setting.digests,
    "memory_mb": setting.positive,
    "seconds_per_round": setting.positive,
    "cpu_seconds": setting.positive,
    "seconds_per_day": setting.positive,
    "local_mb": setting.positive,
    "clip_norm": setting.positive,
}
_SECURE = {
    "authority": setting.path,
    "certificate": setting.path,
    "required": setting.flag,
    "minimum_cohort": setting.whole(2, 5000),
    "corrupt_fraction": setting.between(0.0, 0.5),
    "ring": setting.flag,
    "noise_multiplier": setting.between(0.0, 1000.0),
}
_SECTIONS = ("client", "coordinator", "data", "policy", "secure_aggregation")


def load_config(path: Path) -> ClientConfig:
    """Read the TOML file `path`. Raises ConfigError, whose message names the file."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str, folder: Path) -> ClientConfig:
    """The configuration in `text`; relative paths start at `folder`. Raises ConfigError."""
    file = tomllib.loads(text)
    _known(file, _SECTIONS, "section")
    for name in _SECTIONS:
        if not isinstance(file.get(name, {}), dict):
            raise ConfigError(f"{name} must be a section: [{name}]")
    client = _section(file.get("client", {}), "[client]", _CLIENT, folder)
    coordinator = _section(file.get("coordinator", {}), "[coordinator]", _COORDINATOR, folder)
    policy = _section(file.get("policy", {}), "[policy]", _POLICY, folder)
    secure = None
    if "secure_aggregation" in file:
        where = "[secure_aggregation]"
        section = _section(file["secure_aggregation"], where, _SECURE, folder)
        secure = _build(SecureConfig, section, where, required=("authority", "certificate"))
    data = {}
    for name, table in file.get("data", {}).items():
        where = f"[data.{name}]"
        if not isinstance(table, dict):
            raise ConfigError(f"datasets have names: write [data.<name>] above `{name} = ...`")
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise ConfigError(f"{where} needs a name of 1 to 64 printable characters")
        section = _section(table, where, _DATA, folder)
        data[name] = _build(DataConfig, section, where, required=("path",))
    return _build(
        ClientConfig,
        {
            **client,
            "coordinator": _build(
                CoordinatorConfig, coordinator, "[coordinator]", required=("address",)
            ),
            "data": data,
            "policy": _build(Policy, policy, "[policy]"),
            "secure_aggregation": secure,
        },
        "[client]",
        required=("state_dir",),
    )


def _section(
    table: Mapping[str, Any], where: str, schema: Mapping[str, setting.Reader], folder: Path
) -> dict[str, Any]:
    _known(table, tuple(schema), f"key in {where}")
    values = {}
    for key, value in table.items():
        try:
            read = schema[key](value)
        except ConfigError as error:
            raise ConfigError(f"{where} {key} {error}") from error
        values[key] = folder / read if isinstance(read, Path) else read
    return values


def _known(table: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise ConfigError(f"unknown {what}: {key!r}; {hint}")


def _build(
    kind: Callable[..., _T], values: Mapping[str, Any], where: str, required: tuple[str, ...] = ()
) -> _T:
    for key in required:
        if key not in values:
            raise ConfigError(f"{where} lacks `{key}`")
    try:
        return kind(**values)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith("[") else f"{where} {message}") from error
