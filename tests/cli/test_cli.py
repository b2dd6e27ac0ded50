"""The command line: every command on real runs, its JSON, its exit codes, its sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foreshock.cli import COMMANDS, main
from foreshock.cli.console import emit, short
from foreshock.cli.simulate import _show
from foreshock.store import Comparison, Run
from foreshock.types import Estimate

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path, capsys: Capture) -> Path:
    path = tmp_path / "runs" / "p23"
    words = "run grokking --task p23 --steps 120 --observables standard --out".split()
    assert main([*words, str(path)]) == 0
    capsys.readouterr()
    return path


def answer(capsys: Capture, *words: str, code: int = 0) -> Any:
    """Run a command with --json and parse what it printed, all of it."""
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_usage_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main([]) == 2
    assert main(["predict"]) == 2
    assert "no command 'predict'" in capsys.readouterr().err


def test_bench_passes_options_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["foreshock"])
    assert main(["bench"]) == 0
    assert "coverage" in capsys.readouterr().out.split()
    little = ("--runs", "1", "--events", "1", "--real", "0", "--signals", "1")
    rows = json.loads(_output(capsys, "bench", "detectors", *little, "--json"))
    assert {row["rule"] for row in rows} >= {"cusum up", "heldout_signal", "LossSpike"}
    assert main(["bench", "nothing"]) == 2


def _output(capsys: Capture, *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "bench"])
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"foreshock {command}" in capsys.readouterr().out


def test_run_says_what_happened(tmp_path: Path, capsys: Capture) -> None:
    words = "run grokking --task p23 --steps 60 --observables none --out".split()
    found = answer(capsys, *words, str(tmp_path / "a"))
    assert 20 <= found["milestones"]["memorised"] <= 60
    assert main([*words, str(tmp_path / "a")]) == 2  # the folder exists
    assert "foreshock run:" in capsys.readouterr().err


def test_ls_and_doctor(run: Path, capsys: Capture) -> None:
    (row,) = answer(capsys, "ls", str(run.parent))
    assert row["kind"] == "grokking" and row["state"] == "closed" and row["last_step"] == 119
    assert main(["ls", str(run.parent)]) == 0
    assert "p23" in capsys.readouterr().out
    checks = answer(capsys, "doctor", str(run.parent))
    assert {"python", "torch"} <= {c["name"] for c in checks}
    assert main(["ls", str(run.parent / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_report_of_a_run_and_of_a_pair(run: Path, tmp_path: Path, capsys: Capture) -> None:
    found = answer(capsys, "report", str(run))
    assert Path(found["report"]).stat().st_size == found["bytes"]
    out = tmp_path / "pair.html"
    found = answer(capsys, "report", str(run), str(run), "--out", str(out))
    assert out.read_text().startswith("<!doctype html>")
    assert main(["report"]) == 2


def test_replay_is_identical_and_says_so(run: Path, capsys: Capture) -> None:
    found = answer(capsys, "replay", str(run))
    assert found["identical"] is True
    with Run.open(run) as recorded:
        assert len(found["alarms"]) == len(recorded.events("alarm"))
    words = ["replay", str(run), "--detector", "cusum:val_acc", "--detector", "turnover"]
    assert answer(capsys, *words)["identical"] is None
    assert main(["replay", str(run), "--detector", "oracle"]) == 2
    assert "no detector 'oracle'" in capsys.readouterr().err


def test_replay_of_policies_prints_what_they_would_have_done(
    run: Path, capsys: Capture, tmp_path: Path
) -> None:
    words = ["replay", str(run), "--policy", "weight_reset:cusum(loss up)", "--detector"]
    found = answer(capsys, *words, "cusum:loss", "--dry-run")
    assert found["actions"] == []
    with Run.create(tmp_path / "r") as recorded:
        for step in range(13):
            recorded.append(step, {"published/c_wrapper_fp": 0.1})
    words = ["replay", str(tmp_path / "r"), "--policy", "published_weight_reset"]
    found = answer(capsys, *words)
    assert [(a["step"], a["applied"]) for a in found["actions"]] == [(11, False), (12, False)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "published_weight_reset, reset_weights: Perturb 15%" in said
    assert "2 actions, none carried out." in said
    assert main([*words, "--no-dry-run"]) == 2
    assert "is a dry run" in capsys.readouterr().err
    assert main(["replay", str(run), "--policy", "prayer"]) == 2
    assert "There is no policy 'prayer'" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["phase_rate", "descent_margin"])
def test_replay_says_that_a_policy_is_blind(policy: str, run: Path, capsys: Capture) -> None:
    assert main(["replay", str(run), "--policy", policy]) == 1
    said = capsys.readouterr().out
    assert f"{policy} is blind" in said and "0 actions, none carried out." in said
    assert main(["replay", str(run), "--policy", policy, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["unread"]) == 1


def test_replay_misses_no_series_that_a_policy_can_do_without(
    tmp_path: Path, capsys: Capture
) -> None:
    series = ("published/p_signal", "published/c_signal")
    for name, names in (("both", series), ("one", series[:1])):
        with Run.create(tmp_path / name) as recorded:
            for step in range(12):
                recorded.append(step, dict.fromkeys(names, 0.3))
    found = answer(capsys, "replay", str(tmp_path / "both"), "--policy", "published_early_stop")
    assert found["unread"] == [] and [a["step"] for a in found["actions"]] == [9]
    words = ["replay", str(tmp_path / "one"), "--policy", "published_early_stop"]
    assert answer(capsys, *words, code=1)["unread"] == ["published/c_signal"]


def test_replay_refuses_a_policy_whose_detector_is_nowhere(run: Path, capsys: Capture) -> None:
    for more in ([], ["--detector", "cusum:val_loss"]):
        assert main(["replay", str(run), "--policy", "weight_reset:nobody", *more]) == 2
        said = capsys.readouterr().err
        assert "'weight_reset' waits for alarms of 'nobody'" in said and "--detector" in said


def test_replay_notices_a_difference(run: Path, capsys: Capture) -> None:
    with Run.open(run, "a") as recorded:
        payload = {"series": "loss", "value": 1.0, "threshold": 0.0, "reason": "forged"}
        recorded.event("alarm", "heldout_signal", {**payload, "forecast": None}, step=3)
    assert answer(capsys, "replay", str(run), code=1)["identical"] is False


def test_replay_of_a_run_without_detectors(tmp_path: Path, capsys: Capture) -> None:
    with Run.create(tmp_path / "r") as recorded:
        recorded.append(0, {"loss": 1.0})
    assert main(["replay", str(tmp_path / "r")]) == 2
    assert "No detector was attached" in capsys.readouterr().err


def test_demo_end_to_end_at_small_size(tmp_path: Path, capsys: Capture) -> None:
    words = ["demo", "--steps", "200", "--every", "20", "--out", str(tmp_path / "demo")]
    found = answer(capsys, *words)
    # The twin has the same pairs, other labels: it memorises within an evaluation of the run.
    assert found["milestones"]["memorised"] == 159
    assert abs(found["twin_milestones"]["memorised"] - 159) <= 10
    assert {"grad/snr", "hessian/lambda_max", "update/k_star"} <= {
        r["series"] for r in found["readings"]
    }
    assert Path(found["report"]).is_file()
    assert main([*words[:-1], str(tmp_path / "again"), "--picture", str(tmp_path / "a.svg")]) == 0
    text = capsys.readouterr().out
    assert "What happened" in text and "Watching took" in text
    assert "predict" not in text.lower()
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_json_has_no_bare_nan(capsys: Capture) -> None:
    emit({"a": [float("nan"), float("-inf"), 1.0], "b": {"c": float("inf")}})
    text = capsys.readouterr().out

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": ["nan", "-inf", 1.0], "b": {"c": "inf"}}


def test_replay_names_what_it_cannot_compare(run: Path, capsys: Capture) -> None:
    with Run.open(run, "a") as recorded:
        payload = {"series": "loss", "value": 1.0, "threshold": 0.0, "reason": "my own rule"}
        recorded.event("alarm", "mine", {**payload, "forecast": None}, step=3)
    found = answer(capsys, "replay", str(run))
    assert found["identical"] is True and found["not_compared"] == ["mine"]


def test_a_file_that_cannot_be_written_is_one_sentence(run: Path, capsys: Capture) -> None:
    assert main(["report", str(run), "--out", "/proc/nowhere/r.html"]) == 2
    assert "foreshock report:" in capsys.readouterr().err


def test_reading_commands_need_no_torch(run: Path, tmp_path: Path) -> None:
    script = (
        # A finder that finds no torch; tyro looks for the key in sys.modules, so None there lies.
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from foreshock.cli import main\n"
        f"codes = [main(['ls', {str(run.parent)!r}]), main(['replay', {str(run)!r}]),\n"
        f"         main(['report', {str(run)!r}, '--out', {str(tmp_path / 'r.html')!r}])]\n"
        "assert codes == [0, 0, 0], codes\n"
        "assert main(['demo']) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "needs torch" in done.stderr


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5,), "0.5"),
        ((0.5, 0.4, 0.6), "0.5 [0.4, 0.6]"),
        ((1.0, 1.0, 1.0), "1"),
        ((float("nan"), 0.0, 1.0), "nan"),
    ],
)
def test_short(numbers: tuple[float, ...], text: str) -> None:
    assert short(*numbers) == text


def test_module_entry_point() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foreshock", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip()


def test_observables_are_listed_from_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    from foreshock.monitor.presets import BY_NAME

    assert main(["observables"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in BY_NAME) and "by name only" in text
    assert main(["observables", "ntk", "--json"]) == 0
    (ntk,) = json.loads(capsys.readouterr().out)
    assert ntk["name"] == "ntk" and "research" in ntk["presets"]
    assert all(s["formula"] and s["oracle"] and s["null"] for s in ntk["series"])
    assert main(["observables", "fortune"]) == 2
    assert "There is no observable 'fortune'" in capsys.readouterr().err


def test_simulate_compares_with_the_exact_answer(tmp_path: Path, capsys: Capture) -> None:
    words = "simulate ou --particles 300 --records 3 --seed 4 --out".split()
    found = answer(capsys, *words, str(tmp_path / "a"))
    assert found["world"] == "ou" and found["config"]["particles"] == 300
    assert len(found["comparisons"]) == 7
    assert all(low <= high for low, high in ((c["low"], c["high"]) for c in found["comparisons"]))
    page = Path(found["report"]).read_text(encoding="utf-8")
    for words_of in ("Against the exact answer", "Particles one by one", "Density of the first"):
        assert words_of in page
    text = _output(capsys, *words, str(tmp_path / "b"))
    assert "Entropy production, t = 1.5" in text and "agrees" in text
    assert main([*words, str(tmp_path / "b")]) == 2  # the folder exists
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "ou", "--stiffness", "-1", "--out", str(tmp_path / "c")])
    assert "must be positive" in " ".join(capsys.readouterr().err.split())
    assert main(["simulate", "ou", "--seed", str(2**63), "--out", str(tmp_path / "d")]) == 2
    assert "The `seed` must be 0 to" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["simulate", "--help"])
    assert "Langevin motion among K wells" in capsys.readouterr().out


def test_simulate_prints_names_as_they_are_and_says_what_is_exact(capsys: Capture) -> None:
    found = [
        Comparison("speed, E[v²]", Estimate(1.0, 0.9, 1.1), 1.05),
        Comparison("as written", Estimate.exact(1.5), 2.0, published=True),
        Comparison("nothing", Estimate.missing("No."), 2.0),
    ]
    _show("world", found)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()][2:]
    assert rows == [
        "speed, E[v²] 1 [0.9, 1.1] 1.05 agrees",
        "as written 1.5, without noise 2 as published: differs",
        "nothing not computed 2",
    ]
