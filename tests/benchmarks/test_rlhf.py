import json

import pytest

from benchmarks.rlhf import main

SMALL = [
    "policy.tiny.hidden_size=16",
    "policy.tiny.num_heads=2",
    "preparation.judgements=70",
    "preparation.reward_model.tiny.hidden_size=16",
    "preparation.reward_model.tiny.num_heads=2",
    "agent.prompts=4",
    "evaluation.every=0",
    "evaluation.problems=4",
    "iterations=2",
    "threads=1",
]


@pytest.mark.slow
def test_a_small_chain_is_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["--output", "results", *SMALL])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = json.loads((tmp_path / "results/results.json").read_text())["runs"][0]
    assert [point[0] for point in found["curve"]] == [1, 2]
    assert found["summary"]["watched"] == last["watched"][0]
    assert found["curve"][0][2] == last["watched"][0]["listener"]["first"]
    assert 0.5 < found["bayes"]["accuracy"] < 1
    assert "70 rankings of 4" in (tmp_path / "results/table.md").read_text()
    assert (tmp_path / "results/curves.png").read_bytes().startswith(b"\x89PNG")
