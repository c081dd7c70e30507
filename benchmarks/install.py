"""What a client costs a device: megabytes installed, packages, seconds to start.

Makes a fresh virtual environment, installs `.[client]` into it, and starts the client there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from statistics import median

from report import Report, arguments

ROOT = Path(__file__).resolve().parent.parent

DEVICE = """
[client]
state_dir = "state"
[coordinator]
address = "127.0.0.1:1"
[data.rows]
path = "rows.csv"
[policy]
any_task = true
"""


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def seconds(command: list[str], runs: int) -> float:
    """Median wall-clock time of a command, after one run to warm the disk cache."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    report = Report("A client's install")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        packages = next((folder / "venv" / "lib").iterdir()) / "site-packages"
        before = size(packages)
        began = time.perf_counter()
        install = [str(python), "-m", "pip", "install", "--quiet", f"{ROOT}[client]"]
        subprocess.run(install, check=True, stdout=sys.stderr)
        report.add(
            "install_s", time.perf_counter() - began, "pip install .[client], build included"
        )
        subprocess.run(  # what pip compiles is part of what lies on the device
            [str(python), "-m", "compileall", "-q", str(packages)], check=False, capture_output=True
        )
        report.add("installed_mb", (size(packages) - before) / 1e6, "site-packages, without pip")
        for package in ("wasmtime", "grpc", "numpy", "cryptography"):
            report.add(f"{package}_mb", size(packages / package) / 1e6, f"of these, {package}")
        runs = 3 if options.quick else 9
        cloister = str(folder / "venv" / "bin" / "cloister")
        report.add("help_s", seconds([cloister, "--help"], runs), "cloister --help")
        (folder / "device.toml").write_text(DEVICE)
        (folder / "rows.csv").write_text("a,b\n1,2\n")
        check = [cloister, "client", str(folder / "device.toml"), "--check"]
        report.add("start_s", seconds(check, runs), "cloister client --check: all but connecting")
    report.show(only_json=options.json)


if __name__ == "__main__":
    main()
