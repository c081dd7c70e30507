"""The options that protect a job's updates."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.failure import Mistake

if TYPE_CHECKING:
    from cloister.protection import DifferentialPrivacy, SecureAggregation


class Noise(StrEnum):
    """Who adds noise."""

    distributed = "distributed"
    central = "central"


Secure = Annotated[
    bool | None,
    typer.Option("--secure/--no-secure", help="Sum updates so that nobody sees a single one."),
]
ClipNorm = Annotated[
    float | None, typer.Option(help="Largest L2 norm of an update; longer ones are scaled down.")
]
Corrupt = Annotated[
    float | None,
    typer.Option(min=0, max=0.5, help="Share of a cohort that may collude; default none."),
]
ValueBits = Annotated[
    int | None, typer.Option(min=2, max=24, help="Bits of a coordinate under masks; default 16.")
]
MaxWeight = Annotated[
    int | None, typer.Option(min=1, help="Most that a masked update counts for; default 1024.")
]
NoiseMultiplier = Annotated[
    float | None,
    typer.Option(help="Differential privacy: deviation of the noise, over the clipping norm."),
]
NoiseBy = Annotated[
    Noise | None,
    typer.Option("--noise", help="Who adds it: all members (the default), or the coordinator."),
]
Epsilon = Annotated[float | None, typer.Option(help="Stop before a round would go past this.")]
Delta = Annotated[
    float | None, typer.Option(help="Chance that epsilon does not hold; default 1e-6.")
]
AdaptiveNorm = Annotated[
    bool | None,
    typer.Option("--adaptive-clipping", help="Let the clipping norm follow the updates' median."),
]

DEFAULT_DELTA = 1e-6


def protections(
    given: Mapping[str, Any],
    *,
    secure: bool | None,
    clip_norm: float | None,
    corrupt: float | None,
    value_bits: int | None,
    max_weight: int | None,
    noise: Noise | None,
    noise_multiplier: float | None,
    epsilon: float | None,
    delta: float | None,
    adaptive: bool | None,
) -> dict[str, Any]:
    """The arguments of a job that protect it, of which options win over what is `given`.

    What asks for noise, or says how to mask, asks for secure aggregation.
    """
    masking = {"corrupt_fraction": corrupt, "value_bits": value_bits, "max_weight": max_weight}
    noising = {
        "noise_multiplier": noise_multiplier,
        "noise": None if noise is None else noise.value,
        "epsilon": epsilon,
        "delta": delta,
    }
    private = _private(given.get("differential_privacy"), _said(noising), adaptive)
    masked = given.get("secure_aggregation")
    if secure is False:
        if _said(masking) or _said(noising) or adaptive:
            raise Mistake("--no-secure leaves nothing to mask or to put noise on")
        masked = None
    elif secure or _said(masking) or private is not None:
        masked = _masked(masked, _said(masking))
    norm = given.get("clip_norm") if clip_norm is None else clip_norm
    found = {"clip_norm": norm, "secure_aggregation": masked, "differential_privacy": private}
    return {key: value for key, value in found.items() if value is not None}


def _masked(given: SecureAggregation | None, said: dict[str, Any]) -> SecureAggregation:
    from dataclasses import replace

    from cloister.protection import SecureAggregation

    return replace(given or SecureAggregation(), **said)


def _private(
    given: DifferentialPrivacy | None, said: dict[str, Any], adaptive: bool | None
) -> DifferentialPrivacy | None:
    from dataclasses import replace

    from cloister.protection import AdaptiveClipping, DifferentialPrivacy

    if adaptive and (given is None or given.adaptive is None):
        said["adaptive"] = AdaptiveClipping()
    if given is not None:
        return replace(given, **said)
    if not said:
        return None
    if "noise_multiplier" not in said:
        raise Mistake("differential privacy needs --noise-multiplier")
    return DifferentialPrivacy(**{"delta": DEFAULT_DELTA, **said})


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
