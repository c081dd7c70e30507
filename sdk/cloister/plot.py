"""Metrics by round as a picture: PNG, SVG, or one self-contained HTML page."""

from __future__ import annotations

import html
import importlib
import io
from pathlib import Path

from cloister.history import History, shown
from cloister_protos import Role

FORMATS = (".png", ".svg", ".html")
"""Suffixes `plot` understands."""


def check(path: Path) -> None:
    """Find out before a long simulation whether `plot` could draw to `path`.

    :raises ValueError: the suffix is none of FORMATS.
    :raises ModuleNotFoundError: there is no matplotlib.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot draw {path.name}: the suffix must be one of {', '.join(FORMATS)}")
    importlib.import_module("matplotlib.figure")


def plot(history: History, path: Path) -> None:
    """Draw each metric by round, training beside test, one panel per metric.

    :raises ValueError: the task has no metrics, or see `check`.
    :raises ModuleNotFoundError: see `check`.
    """
    check(path)
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator

    names = [buffer.name for buffer in history.manifest.of(Role.ROLE_METRIC)]
    if not names:
        raise ValueError(f"{history.manifest.name} has no metrics to draw")
    figure = Figure(figsize=(5 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, points in (
            ("training", [(r.number, r.training.means.get(name)) for r in history.rounds]),
            ("test", [(r.number, r.test.means[name]) for r in history.rounds if r.test]),
        ):
            drawn = [(x, y) for x, y in points if y is not None]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), marker=".", label=label)
                axes.legend()
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name)
        axes.grid(alpha=0.3)
    if path.suffix != ".html":
        figure.savefig(path, dpi=150)
        return
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    path.write_text(_page(history, picture.getvalue()), encoding="utf-8")


def _page(history: History, svg: str) -> str:
    title = html.escape(history.manifest.name)
    names = [buffer.name for buffer in history.manifest.of(Role.ROLE_METRIC)]
    head = "".join(
        f"<th>{part} {html.escape(name)}</th>" for part in ("training", "test") for name in names
    )
    body = "".join(
        f"<tr><td>{r.number}</td><td>{r.survivors}/{r.cohort}</td>"
        + "".join(
            f"<td>{shown(name, means.get(name))}</td>"
            for means in (r.training.means, r.test.means if r.test else {})
            for name in names
        )
        + "</tr>"
        for r in history.rounds
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px system-ui;margin:2em auto;max-width:70em}"
        "td,th{padding:.2em 1em;text-align:right}</style>"
        f"<h1>{title}</h1>{svg[svg.index('<svg') :]}"
        f"<table><tr><th>round</th><th>clients</th>{head}</tr>{body}</table></html>"
    )
