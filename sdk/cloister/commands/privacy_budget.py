"""`cloister privacy budget`: how many rounds an epsilon is good for, and the other way round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.failure import Mistake
from cloister.commands.output import Json, results, write_json
from cloister.commands.protection import DEFAULT_DELTA, Noise

if TYPE_CHECKING:
    from cloister_privacy.accounting import Release

EPILOG = """
Examples:

  cloister privacy budget --epsilon 2 --delta 1e-6 --noise-multiplier 10 --members 100

  cloister privacy budget --rounds 50 --noise-multiplier 10 --noise central

  cloister privacy budget --epsilon 2 --rounds 50 --members 100 --corrupt 0.1

Of --epsilon, --rounds and --noise-multiplier give two; the third is the answer.
"""


def budget(
    epsilon: Annotated[float | None, typer.Option(help="Most that all rounds may cost.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Sums that are released.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Deviation of the noise in a sum, over the clipping norm.")
    ] = None,
    delta: Annotated[
        float, typer.Option(help="Chance that epsilon does not hold.")
    ] = DEFAULT_DELTA,
    noise: Annotated[
        Noise, typer.Option(help="Who adds it: all members, or the coordinator.")
    ] = Noise.distributed,
    members: Annotated[
        int | None, typer.Option(min=2, max=65_536, help="Most of a round; for distributed noise.")
    ] = None,
    minimum: Annotated[
        int | None, typer.Option(min=2, help="Fewest survivors of a sum; default all members.")
    ] = None,
    corrupt: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the members that may collude.")
    ] = 0.0,
    parameters: Annotated[int, typer.Option(min=0, help="Of the model.")] = 100_000,
    value_bits: Annotated[
        int, typer.Option(min=2, max=24, help="Bits of a coordinate, its sign included.")
    ] = 16,
    adaptive: Annotated[
        bool, typer.Option("--adaptive-clipping", help="The clipping norm follows the updates'.")
    ] = False,
    count_noise: Annotated[
        float | None,
        typer.Option(
            help="Deviation of the noise on the number of unclipped updates;"
            " default a twentieth of the minimum, at least twice the noise multiplier."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Work out the rounds, the epsilon or the noise of a job with differential privacy."""
    from cloister_privacy.accounting import LEAST_NOISE_MULTIPLIER, Release

    if sum(value is None for value in (epsilon, rounds, noise_multiplier)) != 1:
        raise Mistake(
            "give two of --epsilon, --rounds and --noise-multiplier; the third is the answer"
        )
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise Mistake(f"--epsilon must be above 0, not {epsilon:g}")
    fewest = _fewest(members, minimum)
    one = Release(
        noise_multiplier=LEAST_NOISE_MULTIPLIER if noise_multiplier is None else noise_multiplier,
        value_bits=value_bits,
        parameters=parameters,
        honest=_honest(noise, members, fewest, corrupt),
        count_noise=_count_noise(adaptive, count_noise, fewest, noise_multiplier),
    )
    if rounds is None:
        assert epsilon is not None
        rounds = one.rounds(epsilon, delta)
    elif epsilon is not None:
        one = one.with_least_noise(rounds, epsilon, delta)
    document = _document(one, rounds, epsilon, delta, members, fewest)
    if as_json:
        write_json(document)
        return
    _show(document)
    typer.echo("\n".join(_assumed(document, corrupt)))


def _fewest(members: int | None, minimum: int | None) -> int | None:
    if minimum is not None and members is not None and minimum > members:
        raise Mistake(f"--minimum is {minimum}, of only {members} members")
    return minimum or members


def _honest(noise: Noise, members: int | None, fewest: int | None, corrupt: float) -> int | None:
    """None: the noise is the coordinator's."""
    from cloister_privacy.encoding import MAX_MEMBERS
    from cloister_privacy.noise import honest_survivors

    if noise is Noise.central:
        return None
    if members is None:
        if corrupt or fewest:
            raise Mistake("--minimum and --corrupt are for --members")
        return MAX_MEMBERS  # what each of them adds is not looked at then
    assert fewest is not None
    return honest_survivors(fewest, members, corrupt)


def _count_noise(
    adaptive: bool, given: float | None, fewest: int | None, multiplier: float | None
) -> float | None:
    """None: the clipping norm stays."""
    from cloister_coordinator.protection import default_count_noise

    if not adaptive:
        if given is not None:
            raise Mistake("--count-noise is for --adaptive-clipping")
        return None
    if given is not None:
        return given
    if fewest is None or multiplier is None:
        raise Mistake(
            "--adaptive-clipping needs --members and --noise-multiplier, or --count-noise"
        )
    return default_count_noise(fewest, multiplier)


def _document(
    one: Release,
    rounds: int,
    epsilon: float | None,
    delta: float,
    members: int | None,
    fewest: int | None,
) -> dict[str, Any]:
    from cloister_privacy.noise import member_variance

    shared = one.honest is not None and members is not None
    return {
        "rounds": rounds,
        "epsilon": one.epsilon(rounds, delta),
        "delta": delta,
        "noise_multiplier": one.noise_multiplier,
        "budget": epsilon,
        "epsilon_of_one_round": one.epsilon(1, delta),
        "noise": "central" if one.honest is None else "distributed",
        "members": members,
        "minimum": fewest,
        "honest": one.honest if shared else None,
        "parameters": one.parameters,
        "value_bits": one.value_bits,
        "sensitivity_over_norm": one.sensitivity * one.noise_multiplier / one.deviation,
        "member_noise_steps": math.sqrt(
            member_variance(one.noise_multiplier, one.value_bits, one.honest or 1)
        )
        if shared
        else None,
        "mean_noise_over_norm": one.noise_multiplier / fewest if fewest else None,
        "count_noise": one.count_noise,
    }


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="privacy budget", show_header=False)
    fewest, count = document["minimum"], document["count_noise"]
    rows = {
        "rounds": f"{document['rounds']:,}",
        "epsilon": f"{document['epsilon']:.4g} at delta {document['delta']:g}"
        + (f", of a budget of {document['budget']:g}" if document["budget"] else ""),
        "noise multiplier": f"{_rounded_up(document['noise_multiplier']):.6g},"
        f" {document['noise']} noise",
        "one round": f"epsilon {document['epsilon_of_one_round']:.4g}",
        "after rounding": f"an update is up to {document['sensitivity_over_norm']:.4f}"
        " clipping norms long",
    }
    if document["member_noise_steps"] is not None:
        rows["each member adds"] = (
            f"noise of {document['member_noise_steps']:,.1f} steps,"
            f" {document['honest']:,} of at least {fewest:,} being honest"
        )
    if fewest:
        rows["in the mean"] = (
            f"noise of {document['mean_noise_over_norm']:.4g} clipping norms for each parameter,"
            f" of {fewest:,} updates"
        )
    if count is not None:
        rows["count of unclipped updates"] = f"noise of {count:g} updates"
    for name, value in rows.items():
        table.add_row(name, value)
    results().print(table, highlight=False)


def _assumed(document: dict[str, Any], corrupt: float) -> list[str]:
    """What the answer rests on, in words."""
    who = (
        "The coordinator sees the sum without noise, and is trusted with it."
        if document["noise"] == "central"
        else "Nobody sees a sum without the noise of its honest members"
        + (f", if at most a share of {corrupt:g} collude." if corrupt else "; nobody colludes.")
    )
    lines = [
        who,
        "The unit is one client with all its rows: its contribution or zeros in its place.",
        "Being selected or not is no secret and adds nothing.",
    ]
    if document["rounds"] == 0:
        lines.append("Not one round fits: raise the noise multiplier, or the budget.")
    return lines


def _rounded_up(value: float) -> float:
    """To six digits, so that what is shown is enough noise."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return math.ceil(value / unit * (1 - 1e-12)) * unit
