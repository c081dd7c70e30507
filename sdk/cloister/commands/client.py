"""`cloister client`: offer local data to a coordinator, within the limits of a TOML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.output import Json, results, say, write_json

if TYPE_CHECKING:
    from cloister_client import ClientConfig, Summary
    from cloister_client.certification import Certification

EPILOG = """
Examples:

  cloister client --init device.toml      write a sample to edit

  cloister client --check device.toml     try settings and data without connecting

  cloister client --identity device.toml  its public key, for an authority to certify

  cloister client device.toml             run until stopped

  cloister client --kept device.toml      what jobs keep here between rounds
"""


def client(
    config: Annotated[
        Path, typer.Argument(metavar="DEVICE.toml", help="Coordinator, data and policy.")
    ],
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented sample to DEVICE.toml and stop.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read settings, data and keys, show them, and stop."),
    ] = False,
    identity: Annotated[
        bool,
        typer.Option("--identity", help="Show who this device is, made when missing, and stop."),
    ] = False,
    show_kept: Annotated[
        bool,
        typer.Option("--kept", help="Show what jobs keep on this device between rounds, and stop."),
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Delete what a job (id or name) keeps here, and stop."),
    ] = None,
    as_json: Json = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every step, not only one line a round.")
    ] = False,
) -> None:
    """Train on local data for a coordinator, in a sandbox, until stopped."""
    if init:
        _write_sample(config)
        return
    from cloister_client import Agent, load_config
    from cloister_client import check as summarise

    settings = load_config(config)
    if check:
        _show(settings, summarise(settings), as_json)
        return
    if identity:
        _show_identity(settings, as_json)
        return
    if show_kept:
        _show_kept(settings, as_json)
        return
    if forget is not None:
        _forget(settings, forget)
        return
    from cloister.commands.service import log_to_stderr, run_until_stopped

    log_to_stderr(verbose=verbose)
    run_until_stopped(Agent(settings).run)


def _write_sample(path: Path) -> None:
    from cloister.commands.client_sample import SAMPLE

    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem)[:64] or "client"
    with path.open("x", encoding="utf-8") as file:
        file.write(SAMPLE.format(file=path.name, name=name))
    say(f"wrote {path}; edit it, then try: cloister client --check {path}")


def _show_identity(settings: ClientConfig, as_json: bool) -> None:
    from cloister_client import identify

    identity = identify(settings)
    if as_json:
        key = identity.public_key.hex()
        write_json({"client_id": identity.client_id, "public_key": key})
        return
    typer.echo(identity.public_key.hex())
    say(f"client {identity.client_id}; above is its public key, for `cloister pki sign`")


def _show_kept(settings: ClientConfig, as_json: bool) -> None:
    from dataclasses import asdict

    from cloister_client import kept

    found = kept(settings)
    if as_json:
        for one in found:
            write_json(asdict(one))
        return
    if not found:
        say("no job keeps anything on this device")
        return
    from rich.table import Table

    table = Table("job", "id", "coordinator", "task", "version", "bytes", "saved")
    for one in found:
        size = one.states * one.state_bytes
        cells = (one.job_name, one.job, one.coordinator, one.task[:12], str(one.version))
        table.add_row(*cells, f"{size:,}", one.saved)
    results().print(table)


def _forget(settings: ClientConfig, job: str) -> None:
    from cloister.commands.failure import Mistake
    from cloister_client import forget

    if not (count := forget(settings, job)):
        raise Mistake(f"no job {job!r} keeps anything here; --kept lists those that do")
    say(f"deleted {count} local state{'s' * (count != 1)} of {job}; the job would begin anew")


def _show(settings: ClientConfig, summary: Summary, as_json: bool) -> None:
    if as_json:
        write_json(_document(settings, summary))
        return
    from rich.table import Table

    document = _document(settings, summary)
    table = Table("setting", "value", title=f"client {settings.name or summary.client_id or ''}")
    table.add_row("identity", summary.client_id or "made at the first start")
    encryption = "encrypted" if summary.encrypted else "plaintext"
    table.add_row("coordinator", f"{settings.coordinator.address} ({encryption})")
    for name, data in document["datasets"].items():
        inputs = ", ".join(f"{key} {shape}" for key, shape in data["inputs"].items())
        table.add_row(
            f"dataset {name}",
            f"{data['train_rows']} rows to train, {data['evaluation_rows']} to evaluate: {inputs}",
        )
    policy = document["policy"]
    table.add_row("tasks allowed", policy["tasks"])
    table.add_row("memory of a task", f"{policy['memory_mb']:g} MiB")
    table.add_row("time in a round", f"{policy['seconds_per_round']:g} s")
    day = policy["seconds_per_day"]
    table.add_row("time in a day", "no limit" if day is None else f"{day:g} s")
    table.add_row("kept between rounds", f"at most {policy['local_mb']:g} MiB")
    clip = policy["clip_norm"]
    table.add_row("norm of an update", "no limit" if clip is None else f"at most {clip:g}")
    for row in _secure_rows(summary.certification):
        table.add_row(*row)
    results().print(table)


def _secure_rows(certification: Certification | None) -> list[tuple[str, str]]:
    if certification is None:
        return [("secure aggregation", "not set up: updates leave in clear")]
    wanted = certification.config
    until = f"{certification.until:%Y-%m-%d %H:%M} UTC"
    cohort = [f"at least {wanted.minimum_cohort} members"]
    if wanted.corrupt_fraction:
        cohort.append(f"of whom {wanted.corrupt_fraction:g} may collude")
    if wanted.ring:
        cohort.append("also on a ring")
    if wanted.noise_multiplier:
        cohort.append(f"with noise of {wanted.noise_multiplier:g} clipping norms")
    return [
        ("secure aggregation", "required" if wanted.required else "where a job has it"),
        ("certificate", f"by {certification.trust.authority.name}, valid until {until}"),
        ("sums", ", ".join(cohort)),
    ]


def _secure_document(certification: Certification | None) -> dict[str, Any] | None:
    if certification is None:
        return None
    wanted = certification.config
    return {
        "required": wanted.required,
        "authority": certification.trust.authority.name,
        "expires_at_ms": int(certification.until.timestamp()) * 1000,
        "minimum_cohort": wanted.minimum_cohort,
        "corrupt_fraction": wanted.corrupt_fraction,
        "ring": wanted.ring,
        "noise_multiplier": wanted.noise_multiplier,
    }


def _document(settings: ClientConfig, summary: Summary) -> dict[str, Any]:
    policy = settings.policy
    tasks = f"{len(policy.publishers)} publishers, {len(policy.digests)} single tasks"
    return {
        "client_id": summary.client_id,
        "name": settings.name,
        "coordinator": settings.coordinator.address,
        "encrypted": summary.encrypted,
        "datasets": {
            name: {
                "train_rows": data.train_rows,
                "evaluation_rows": data.evaluation_rows,
                "inputs": {key: list(array.shape[1:]) for key, array in data.train.items()},
            }
            for name, data in summary.datasets.items()
        },
        "policy": {
            "tasks": "any, signed or not" if policy.any_task else tasks,
            "memory_mb": policy.memory_mb,
            "seconds_per_round": policy.seconds_per_round,
            "seconds_per_day": policy.seconds_per_day,
            "local_mb": policy.local_mb,
            "clip_norm": policy.clip_norm,
        },
        "secure_aggregation": _secure_document(summary.certification),
    }
