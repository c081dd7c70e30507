"""Secure aggregation: processor time of one member and of the coordinator, and bytes.

Updates are weighted (up to 1024), of 16 bits a value; identities have certificates of a real
authority; a tenth of the members drop out once they have dealt shares, and as many may collude.
All runs on one core, with one thread, and processor time is what counts, since other programs may
have the rest of the machine. It is a steady round: certificates were seen in an earlier one; what
they cost in the first is given by itself. A member's time is all of its work but training and
waiting, from bytes to bytes, the best of a few members; the coordinator's is from the first message
to the sum, the best of a few repetitions with the same messages, its sandbox in the same process.
Where a processor lacks AES on wide vectors (VAES), masks take twice the time.

The peer is Flower's SecAgg+, where `FLOWER_PYTHON` or this interpreter has it, or else its method
in numpy (`secagg_plus.py`); it verifies nothing, and its masks come from seeds of 32 bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from cloister_coordinator.secure_sum import SecureSum
from cloister_sandbox import SandboxPool
from masked_cohort import Clock, Cohort, Member, Setting
from report import Report, arguments

LARGE, MANY = Setting(100, 1_000_000), Setting(1000, 100_000)
PROMISED = {
    # of: (a member's milliseconds, the coordinator's seconds)
    LARGE: (120, 0.8),
    MANY: (350, 12),
}
QUICK = (
    *(Setting(n, 100_000) for n in (10, 30, 100)),
    Setting(100, 100_000, ring=True),
    LARGE,
)
WHOLE = (
    *QUICK,
    Setting(100, 1_000),
    Setting(100, 10_000),
    Setting(300, 100_000),
    Setting(300, 100_000, ring=True),
    Setting(1000, 100_000, ring=True),
    MANY,
)
TIMED, REPEATED = 5, 3
"""Members, and repetitions of the coordinator's part; the best counts."""


def alone() -> None:
    """Go on with one core, and with one thread for numpy's products."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if not threads.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | threads)


@dataclass(frozen=True)
class Measured:
    """What came of one setting."""

    cohort: Cohort
    member: Member
    """The fastest."""
    server: Clock
    """Of the fastest repetition."""

    @classmethod
    def of(cls, setting: Setting, pool: SandboxPool) -> Measured:
        """Run a round, and the coordinator's part again."""
        cohort = Cohort(setting, SecureSum(pool, workers=1))
        timed = cohort.record(TIMED)
        clocks = [cohort.replay() for _ in range(REPEATED)]
        return cls(
            cohort,
            min(timed, key=lambda member: member.clock.total),
            min(clocks, key=lambda clock: clock.total),
        )

    def report(self, report: Report) -> None:
        """Add the figures."""
        cohort, setting = self.cohort, self.cohort.setting
        milliseconds, name = 1e3 * self.member.clock.total, setting.name
        of_member, of_server = PROMISED.get(setting, (None, None))
        meaning = f"{setting.members} members, {setting.parameters:,} parameters"
        if setting.ring:
            meaning += ", ring"
        report.add(f"{name}_client_ms", milliseconds, f"a member; {meaning}", at_most=of_member)
        if setting in PROMISED:
            cold = milliseconds + 1e3 * cohort.cold()
            report.add(f"{name}_client_cold_ms", cold, "the same, with certificates never seen")
        seconds = self.server.total
        report.add(f"{name}_server_s", seconds, f"coordinator; {meaning}", at_most=of_server)
        if setting == LARGE:
            sent = sum(self.member.traffic.up.values())
            report.add(
                "upload_overhead",
                sent / cohort.payload,
                f"a member's {sent:,} bytes over {cohort.payload:,} of packed update",
                at_most=1.02,
            )

    def tables(self) -> list[Table]:
        """Bytes and times by step."""
        setting, traffic = self.cohort.setting, self.member.traffic
        title = f"{setting.members} members, {setting.parameters:,} parameters"
        times = Table("a member", title=f"{title}: milliseconds by step")
        times.add_column("ms", justify="right")
        times.add_column("coordinator")
        times.add_column("ms", justify="right")
        parts = self.member.clock.seconds.items(), self.server.seconds.items()
        for own, its in zip_longest(*parts, fillvalue=("", None)):
            cells = []
            for step, seconds in (own, its):
                cells += [step, "" if seconds is None else f"{1e3 * seconds:,.1f}"]
            times.add_row(*cells)
        sizes = Table("exchange", title=f"{title}: bytes of a member")
        sizes.add_column("up", justify="right")
        sizes.add_column("down, the answer before", justify="right")
        for step, up in traffic.up.items():
            sizes.add_row(step, f"{up:,}", f"{traffic.down[step]:,}")
        return [times, sizes]


def compare(report: Report, measured: Measured) -> None:
    """The peer, at the same size and in a ring of the same bits."""
    cohort = measured.cohort
    sizes = cohort.setting.members, cohort.setting.parameters, cohort.terms.encoding.ring_bits
    program = Path(__file__).with_name("secagg_plus.py")
    python = os.environ.get("FLOWER_PYTHON", sys.executable)
    done = subprocess.run(
        [python, str(program), *map(str, sizes)], check=True, stdout=subprocess.PIPE, text=True
    )
    peer = json.loads(done.stdout.splitlines()[-1])
    name, own = peer["name"], cohort.setting.name
    how = "its own functions" if name == "flower" else "its method in numpy"
    how += ", parts timed and multiplied"
    client, server = 1e3 * measured.member.clock.total, measured.server.total
    report.add(f"{name}_{own}_client_ms", peer["client_ms"], f"peer, a member: {how}")
    report.add(f"{name}_{own}_server_s", peer["server_s"], f"peer, server: {how}")
    report.add(f"{name}_{own}_masks_s", peer["masks_s"], "of these, masks; most is shares")
    report.add(f"{own}_client_vs_{name}", peer["client_ms"] / client, "times faster, a member")
    report.add(f"{own}_server_vs_{name}", peer["server_s"] / server, "times faster, coordinator")


def draw(figures: Mapping[str, float], path: Path) -> None:
    """Draw times over the number of members, and over that of parameters."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    rows = ("client_ms", "a member, milliseconds"), ("server_s", "coordinator, seconds")
    for axes, (kind, label) in zip(figure.subplots(2, 2, sharex="col"), rows, strict=True):
        members, parameters = axes
        for ring in (False, True):
            points = [
                (s.members, figures[f"{s.name}_{kind}"])
                for s in WHOLE
                if s.ring is ring and s.parameters == 100_000 and f"{s.name}_{kind}" in figures
            ]
            plot(members, points, "ring" if ring else "complete graph")
        points = [
            (s.parameters, figures[f"{s.name}_{kind}"])
            for s in WHOLE
            if s.members == 100 and not s.ring and f"{s.name}_{kind}" in figures
        ]
        plot(parameters, points, "complete graph")
        members.set_ylabel(label)
        members.legend()
    members.set_xlabel("members, of 100,000 parameters each")
    parameters.set_xlabel("parameters, 100 members")
    # no date and a fixed salt: the same figures give the same file
    with rc_context({"svg.hashsalt": "secure_aggregation"}):
        figure.savefig(path, metadata={"Date": None})


def plot(axes: Axes, points: list[tuple[int, float]], label: str) -> None:
    """One line, with both axes logarithmic."""
    points.sort()
    axes.loglog(*zip(*points, strict=True), marker="o", label=label)
    axes.grid(visible=True, alpha=0.3)


def title() -> str:
    """Says whether masks can come from the widest AES instructions, which halve their time."""
    wide = " vaes " in Path("/proc/cpuinfo").read_text()
    return f"Secure aggregation, processor time of one core {'with' if wide else 'without'} VAES"


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    alone()
    report, console = Report(title()), Console(width=120)
    with SandboxPool(isolated=False) as pool:
        for setting in QUICK if options.quick else WHOLE:
            measured = Measured.of(setting, pool)
            measured.report(report)
            if setting == LARGE:
                compare(report, measured)
            if setting in PROMISED and not options.json:
                for table in measured.tables():
                    console.print(table)
    report.show(only_json=options.json)


if __name__ == "__main__":
    main()
