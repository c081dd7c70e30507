"""A table that grows by one line for each round, as rounds end."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape

from cloister.commands.job_view import reported, round_state
from cloister.commands.metric import SHARES, shown
from cloister_protos import Metrics, RoundRecord, RoundState

_CLIP_NORM, _EPSILON = "clipping norm", "epsilon"


class RoundLines:
    """Turns ended rounds into lines, the heading before the first and when metrics appear.

    Args:
        secure: whether updates are summed by secure aggregation; committed rounds are marked.
    """

    def __init__(self, secure: bool = False) -> None:
        self._secure = secure
        self._names: list[str] = []

    def lines(self, record: RoundRecord) -> Iterator[str]:
        """The lines for one ended round, as rich markup."""
        names = [
            f"{phase} {name}"
            for phase, metrics in (("train", record.training), ("eval", record.evaluation))
            for name in sorted(metrics.means, key=lambda n: (n in SHARES, n))
        ]
        if record.HasField("privacy_spent"):
            names += [_CLIP_NORM, _EPSILON]
        new = [name for name in names if name not in self._names]
        if new or not self._names:
            self._names += new
            heads = "".join(f"{escape(name[:16]):>18}" for name in self._names)
            yield f"[bold]{'round':>6}{'version':>9}{'clients':>9}{heads}{'seconds':>10}[/]"
        yield self._line(record)
        for member in record.members:
            if member.reason and record.state == RoundState.ROUND_STATE_ABANDONED:
                yield f"[dim]{'':6}  {member.client_id}: {escape(member.reason)}[/]"

    def _line(self, record: RoundRecord) -> str:
        version = str(record.base_version + (not record.evaluation_only))
        cells = "".join(f"{self._cell(name, record):>18}" for name in self._names)
        clients = f"{reported(record)}/{len(record.members)}"
        seconds = (record.ended_at_ms - record.started_at_ms) / 1000
        if record.state == RoundState.ROUND_STATE_ABANDONED:
            reason = f": {escape(record.reason)}" if record.reason else ""
            return (
                f"{record.number:>6}{'-':>9}{clients:>9}  [yellow]{round_state(record)}{reason}[/]"
            )
        mark = "  masked" * self._secure
        return f"{record.number:>6}{version:>9}{clients:>9}{cells}{seconds:>10.3f}{mark}"

    def _cell(self, name: str, record: RoundRecord) -> str:
        if name in (_CLIP_NORM, _EPSILON):
            return f"{record.clip_norm if name == _CLIP_NORM else record.privacy_spent.epsilon:.4g}"
        phase, _, metric = name.partition(" ")
        metrics: Metrics = record.training if phase == "train" else record.evaluation
        if metric not in metrics.means:
            return "-"
        return shown(metric, metrics.means[metric])
