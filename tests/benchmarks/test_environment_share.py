import json

from benchmarks import environment_share


def test_the_share_is_measured_for_single_tokens_and_for_proposals(tmp_path, capsys):
    options = ["--models", "tiny", "--rows", "4", "--rounds", "1", "--precision", "float32", "--device", "cpu"]
    environment_share.main([*options, "--output", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"benchmark", "share", "ratios"}
    assert last["share"].keys() == {"tiny/1", "tiny/32"}
    assert all(0 < percent < 100 for percent in last["share"].values())
    written = json.loads((tmp_path / "results.json").read_text())["share"]["tiny"]["1"]
    assert written["act_seconds"] < written["seconds"]
