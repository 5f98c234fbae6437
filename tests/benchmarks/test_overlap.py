import json

import torch

from benchmarks.overlap import main


def test_every_kind_of_reward_is_measured_and_the_rollouts_are_equal(tmp_path, capsys):
    small = [
        "--rows",
        "2",
        "--problems",
        "3",
        "--max-new-tokens",
        "6",
        "--propose-tokens",
        "2",
        "--milliseconds",
        "1",
        "--rounds",
        "1",
    ]
    main([*small, "--threads", str(torch.get_num_threads()), "--output", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    kinds = ["worker_waits", "worker_computes", "async_judge", "inline_waits", "inline_computes", "inline_free"]
    assert last["benchmark"] == "overlap"
    assert list(last["ratios"]) == kinds
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(results[kind]["immediate"] > 0 < results[kind]["deferred"] for kind in kinds)
    assert results["machine"]["cores"] >= 1
    assert (tmp_path / "table.md").read_text().count("\n| ") == 1 + len(kinds)
