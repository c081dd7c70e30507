from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cloister.history import History, RoundResult, Score
from cloister.plot import FORMATS, check
from cloister_tasks import Module, template

BLUE, ORANGE = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)  # the first two colours of a plot


def run(rounds: int, *, tested: bool) -> History:
    task = Module.parse(template.build("softmax-regression", features=3, classes=2))
    results = [
        RoundResult(
            number=number,
            version=number,
            committed=True,
            cohort=5,
            survivors=4,
            diverged=0,
            training=Score(10, {"loss": 1 / number, "accuracy": 1 - 1 / number}),
            test=Score(10, {"loss": 2 / number, "accuracy": 0.5}) if tested else None,
        )
        for number in range(1, rounds + 1)
    ]
    return History(task.manifest, np.zeros(8, np.float32), results)


def pixels(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """Columns of the picture that hold the colour."""
    picture = np.round(imread(path)[:, :, :3] * 255).astype(int)
    return np.flatnonzero((np.abs(picture - colour).sum(axis=2) < 6).any(axis=0))


def test_a_png_has_both_curves_in_both_panels(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    run(30, tested=True).plot(path)
    height, width, _ = imread(path).shape
    assert (height, width) == (510, 1500)
    for colour in (BLUE, ORANGE):
        columns = pixels(path, colour)
        left, right = columns[columns < width / 2], columns[columns > width / 2]
        # a curve runs through most of its panel, not only through the legend
        assert len(left) > 0.35 * width
        assert len(right) > 0.35 * width


def test_without_a_test_there_is_one_curve(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    run(30, tested=False).plot(path)
    assert len(pixels(path, BLUE)) > 0
    assert len(pixels(path, ORANGE)) == 0


def test_one_round_and_no_round_can_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    run(1, tested=False).plot(path)
    assert len(pixels(path, BLUE)) > 0
    run(0, tested=False).plot(path)
    assert len(pixels(path, BLUE)) == 0


def test_an_svg_is_xml(tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    run(3, tested=True).plot(path)
    assert ET.parse(path).getroot().tag.endswith("svg")


def test_the_html_page_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    run(3, tested=True).plot(path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "<td>3</td><td>4/5</td><td>0.3333</td><td>66.67 %</td>" in page
    assert "src=" not in page
    assert "<link" not in page


@pytest.mark.parametrize("name", ["run.pdf", "run", "run.PNG.txt"])
def test_another_suffix_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be one of {', '.join(FORMATS)}"):
        check(Path(name))
    with pytest.raises(ValueError, match="cannot draw"):
        run(1, tested=False).plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
