import importlib
import json
import math
from types import SimpleNamespace

import pytest

from agents.metrics import JsonLines, TensorBoard, WeightsAndBiases, read_metrics, truncate_after


def written(path, iterations=3):
    log = JsonLines(path)
    for i in range(1, iterations + 1):
        log(i, {"reward/mean": i / 4, "kl": 0.0})
    log.close()
    return path


def test_records_come_back_in_order(tmp_path):
    records = read_metrics(written(tmp_path / "run" / "metrics.jsonl"))
    assert records == [{"iteration": i, "reward/mean": i / 4, "kl": 0.0} for i in (1, 2, 3)]


def test_every_record_is_on_the_file_at_once(tmp_path):
    log = JsonLines(tmp_path / "metrics.jsonl")
    log(1, {"kl": 0.5})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    log = JsonLines(tmp_path / "metrics.jsonl")
    log(1, {"explained_variance": math.nan, "ratio/max": math.inf, "kl": 1})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "iteration": 1,
        "explained_variance": None,
        "ratio/max": None,
        "kl": 1.0,
    }
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["explained_variance"])


@pytest.mark.parametrize("torn", [b'{"iteration": 4, "rew', b"\0\0\0", b'{"iteration": 4, "kl": 0.5}\xff\n', b"7"])
def test_a_torn_last_line_is_left_out_and_removed_when_writing_goes_on(tmp_path, torn):
    path = written(tmp_path / "metrics.jsonl")
    with path.open("ab") as file:
        file.write(torn)
    assert [r["iteration"] for r in read_metrics(path)] == [1, 2, 3]
    log = JsonLines(path)
    log(4, {"kl": 0.25})
    log.close()
    assert [r["iteration"] for r in read_metrics(path)] == [1, 2, 3, 4]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\nnonsense\n{"iteration": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a record"):
        read_metrics(path)
    path.write_text('{"iteration": 1}\n{"kl": 1}\n{"iteration": 2}\n')
    with pytest.raises(ValueError, match=r"line 2: .*integer `iteration`"):
        read_metrics(path)


def test_truncate_after_lets_a_resumed_run_write_on(tmp_path):
    path = written(tmp_path / "metrics.jsonl", iterations=5)
    truncate_after(path, 3)
    assert [r["iteration"] for r in read_metrics(path)] == [1, 2, 3]
    truncate_after(path, 3)
    assert [r["iteration"] for r in read_metrics(path)] == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"iteration": 4, "k')
    truncate_after(path, 9)
    assert path.read_text().endswith("}\n")
    truncate_after(path, 0)
    assert path.read_text() == ""
    truncate_after(tmp_path / "none.jsonl", 1)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_scalars_and_forgets_what_a_resumed_run_repeats(tmp_path):
    log = TensorBoard(tmp_path)
    for i in (1, 2, 3):
        log(i, {"reward/mean": float(i)})
    log.close()
    log = TensorBoard(tmp_path, purge_after=1)
    log(2, {"reward/mean": 20.0})
    log.close()
    assert scalars(tmp_path) == {"reward/mean": [(1, 1.0), (2, 20.0)]}


def test_absent_wandb_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(importlib.sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install textenv\[wandb\]"):
        WeightsAndBiases(tmp_path, project="textenv", name="run")


def test_wandb_run_is_continued_under_its_identity(tmp_path, monkeypatch):
    started, logged = [], []
    run = SimpleNamespace(id="abc", log=lambda metrics, step: logged.append((step, metrics)), finish=lambda: None)
    fake = SimpleNamespace(init=lambda **settings: started.append(settings) or run)
    monkeypatch.setitem(importlib.sys.modules, "wandb", fake)
    for iteration in (1, 2):
        log = WeightsAndBiases(tmp_path, project="textenv", name="run", config={"seed": 0})
        log(iteration, {"kl": 0.5})
        log.close()
    assert [settings["id"] for settings in started] == [None, "abc"]
    assert logged == [(1, {"kl": 0.5}), (2, {"kl": 0.5})]
