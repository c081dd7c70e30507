from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode
from cloister_privacy.accounting import Release
from cloister_privacy.parameters import plan


def cloister(*arguments: str, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["privacy", *arguments])
    assert result.exit_code == code, result.output
    return result


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cloister(*arguments, "--json").stdout)
    return found


def words(result: Result) -> str:
    return " ".join(result.stdout.split())


def test_a_complete_graph_is_planned_and_its_bytes_add_up() -> None:
    asked = ("plan", "--members", "100", "--corrupt", "0.1", "--parameters", "1000")
    found = document(*asked)
    expected = plan(100, 0.1, 0.0)
    assert (found["graph"], found["degree"]) == ("complete", 99)
    assert found["threshold"] == found["survivors_needed"] == expected.threshold == 56
    assert (found["corrupt"], found["drop_outs"]) == (10, 0)
    assert found["security_bits"] is found["correctness_bits"] is None
    # 100 (2^15 + 1) < 2^22, and a sign; 9 words and 1000 values of 23 bits
    assert found["ring_bits"] == 23
    assert found["vector_bytes"] == 72 + 2875
    assert found["masks"] == 100
    assert found["mask_bytes"] == 100 * (72 + 4000)
    assert found["up_bytes"] == sum(step["up_bytes"] for step in found["steps"])
    assert found["down_bytes"] == sum(step["down_bytes"] for step in found["steps"])
    assert found["upload_over_vector"] == found["up_bytes"] / 2947
    assert found["upload_over_float32"] == found["up_bytes"] / 4000
    shown = words(cloister(*asked))
    for text in ("56 of 100 shares", "23 bits", "masked vector", f"{found['up_bytes']:,}"):
        assert text in shown
    assert "may break the protocol" in shown


def test_a_ring_says_what_it_assumes() -> None:
    asked = ("plan", "--members", "500", "--graph", "ring", "--drop-outs", "0.1")
    found, expected = document(*asked), plan(500, 0.0, 0.1, graph="ring")
    assert (found["graph"], found["degree"]) == ("ring", expected.degree)
    assert (found["security_bits"], found["correctness_bits"]) == (40, 30)
    assert found["survivors_needed"] is None
    assert found["masks"] == expected.degree + 1
    shown = words(cloister(*asked))
    assert "at most 50 drop out" in shown
    assert "The coordinator follows the protocol" in shown
    safer = document(*asked, "--security-bits", "80")
    assert safer["degree"] >= found["degree"]


def test_a_model_without_parameters_is_planned_too() -> None:
    asked = ("plan", "--members", "3", "--parameters", "0")
    found = document(*asked)
    assert (found["vector_bytes"], found["upload_over_float32"]) == (72, None)
    assert "plain update" not in words(cloister(*asked))


def test_rounds_for_an_epsilon() -> None:
    found = document("budget", "--epsilon", "2", "--delta", "1e-6", "--noise-multiplier", "10")
    one = Release(noise_multiplier=10.0, value_bits=16, parameters=100_000, honest=65_536)
    assert found["rounds"] == one.rounds(2.0, 1e-6)
    assert found["epsilon"] == one.epsilon(found["rounds"], 1e-6) <= 2
    assert found["epsilon_of_one_round"] == one.epsilon(1, 1e-6)
    assert (found["noise"], found["honest"], found["members"]) == ("distributed", None, None)
    shown = words(cloister("budget", "--epsilon", "2", "--noise-multiplier", "10"))
    assert f"rounds │ {found['rounds']}" in shown
    assert "of a budget of 2" in shown
    assert "one client with all its rows" in shown


def test_epsilon_for_rounds() -> None:
    asked = ("budget", "--rounds", "50", "--noise-multiplier", "7", "--noise", "central")
    found = document(*asked, "--parameters", "1000", "--value-bits", "12")
    one = Release(noise_multiplier=7.0, value_bits=12, parameters=1000)
    assert found["epsilon"] == one.epsilon(50, 1e-6)
    assert (found["rounds"], found["budget"], found["noise"]) == (50, None, "central")
    assert "is trusted with it" in words(cloister(*asked))


def test_noise_for_epsilon_and_rounds() -> None:
    asked = ("budget", "--epsilon", "2", "--rounds", "50", "--members", "100", "--corrupt", "0.1")
    found = document(*asked)
    one = Release(
        noise_multiplier=found["noise_multiplier"],
        value_bits=16,
        parameters=100_000,
        honest=90,
    )
    assert one.rounds(2.0, 1e-6) == 50
    assert found["honest"] == 90
    steps = found["noise_multiplier"] * 2**15 / 90**0.5
    assert found["member_noise_steps"] == pytest.approx(steps, rel=1e-12)
    assert found["mean_noise_over_norm"] == pytest.approx(found["noise_multiplier"] / 100)
    # what is shown is enough
    shown = words(cloister(*asked))
    multiplier = float(shown.partition("noise multiplier │ ")[2].partition(",")[0])
    assert found["noise_multiplier"] <= multiplier <= found["noise_multiplier"] * 1.00001
    assert "90 of at least 100 being honest" in shown
    assert "if at most a share of 0.1 collude" in shown


def test_adaptive_clipping_costs_as_well() -> None:
    asked = ("budget", "--rounds", "10", "--noise-multiplier", "5", "--members", "200")
    plain, adaptive = document(*asked), document(*asked, "--adaptive-clipping")
    assert plain["count_noise"] is None
    assert adaptive["count_noise"] == 10
    assert adaptive["epsilon"] > plain["epsilon"]
    noisier = document(*asked, "--adaptive-clipping", "--count-noise", "50")
    assert plain["epsilon"] < noisier["epsilon"] < adaptive["epsilon"]
    assert "noise of 10 updates" in words(cloister(*asked, "--adaptive-clipping"))
    fewest = document(*asked, "--adaptive-clipping", "--minimum", "100")
    assert (fewest["count_noise"], fewest["honest"]) == (10, 100)


def test_a_budget_that_is_too_small_for_one_round_says_so() -> None:
    asked = ("budget", "--epsilon", "0.1", "--noise-multiplier", "1")
    assert document(*asked)["rounds"] == 0
    assert "Not one round fits" in words(cloister(*asked))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("plan --members 10 --corrupt 0.4 --drop-outs 0.4", "fewer than the 8 shares"),
        ("plan --members 10 --graph ring --corrupt 0.4 --drop-outs 0.3", "no ring of 10 members"),
        ("plan --members 1", "Invalid value"),
        ("plan --members 10 --graph star", "Invalid value"),
        ("plan --members 60000 --value-bits 24 --max-weight 4294967296", "of at most 62"),
        ("budget --epsilon 2", "give two of"),
        ("budget --epsilon 2 --rounds 5 --noise-multiplier 1", "give two of"),
        ("budget --epsilon 0 --rounds 5", "--epsilon must be above 0, not 0"),
        ("budget --epsilon inf --rounds 5", "--epsilon must be above 0, not inf"),
        ("budget --rounds 5 --noise-multiplier 0", "a noise multiplier of 0"),
        ("budget --rounds 5 --noise-multiplier 1 --delta 0", "a delta of 0"),
        ("budget --rounds 5 --noise-multiplier 1 --members 5 --minimum 6", "of only 5 members"),
        ("budget --rounds 5 --noise-multiplier 1 --minimum 6", "are for --members"),
        ("budget --rounds 5 --noise-multiplier 1 --corrupt 0.1", "are for --members"),
        ("budget --rounds 5 --noise-multiplier 1 --count-noise 3", "is for --adaptive-clipping"),
        ("budget --rounds 5 --noise-multiplier 1 --adaptive-clipping", "needs --members"),
        (
            "budget --rounds 5 --noise-multiplier 1 --members 10 --minimum 3 --corrupt 0.3",
            "raise the cohort's minimum",
        ),
        ("budget --rounds 5 --noise-multiplier 9 --members 3", "lower value_bits"),
        (
            "budget --rounds 50 --epsilon 2 --members 100 --adaptive-clipping --count-noise 5",
            "unclipped updates alone costs",
        ),
    ],
)
def test_mistakes_are_explained(arguments: str, reason: str) -> None:
    result = cloister(*arguments.split(), code=ExitCode.USAGE)
    assert reason in " ".join(result.output.split())
    assert "Traceback" not in result.output
