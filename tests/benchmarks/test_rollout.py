import json
import random

import pytest

from benchmarks import rollout
from benchmarks.peers.answering import answer  # noqa: F401  (a peer's side needs nothing but Python)
from benchmarks.peers.environments import OWN, Absent, Worker, without
from benchmarks.peers.rollout_ours import describe_difference
from benchmarks.peers.rollout_roofline import Rates, bound
from benchmarks.rollout_table import cells_of, ratios, table
from benchmarks.workloads import drawn_lengths, end_probability, workloads

ABOUT = {
    "model": "tiny",
    "shape": {"rows": 8, "prompt": 8, "new": 4},
    "machine": {"processor": "P", "cores": 2, "accelerator": None, "torch": "2"},
    "code": {"commit": "abc", "changed_files": 0},
    "date": "today",
    "command": "python",
}


def record(system, speed, workload="different", precision="bfloat16", number=1):
    return {
        "system": system,
        "workload": workload,
        "precision": precision,
        "round": number,
        "tokens_per_second": speed,
        "seconds": 100 / speed,
        "prefill_seconds": 0.5,
        "step_ms": 2.0,
        "peak_gb": 1.0,
    }


def test_a_ratio_is_between_medians_of_the_same_workload_and_the_warm_up_does_not_count():
    records = [record("ours", 1.0, number=0), record("hf_generate", 9999.0, number=0)]
    records += [record("ours", speed, number=k) for k, speed in enumerate((300.0, 900.0, 100.0), 1)]
    records += [record("hf_generate", speed, number=k) for k, speed in enumerate((200.0, 50.0, 100.0), 1)]
    records += [record("ours", 50.0, precision="float32"), record("hf_generate", 200.0, precision="float32")]
    records += [record("ours", 60.0, "ragged_lengths"), record("hf_generate", 20.0, "ragged_lengths")]
    records += [record("ours", 60.0, "ragged_prompts"), record("hf_generate", 40.0, "ragged_prompts")]
    records += [record("roofline", 600.0), record("vllm", 120.0, "shared_prompts")]
    assert ratios(cells_of(records), main_precision="bfloat16") == {
        "hf_generate": 3.0,
        "hf_generate/float32": 0.25,
        "hf_generate/ragged_lengths": 3.0,
        "hf_generate_ragged": 1.5,
        "roofline": 0.5,
    }


def test_an_absent_peer_is_named_with_the_reason_and_has_no_ratio():
    cells = cells_of([record("ours", 300.0), record("hf_generate", 100.0)])
    found = ratios(cells, main_precision="bfloat16")
    numerics = {"bfloat16": describe_difference_of([0.0, 0.1])}
    shown = table(cells, found, {"vllm": "no network"}, numerics, ABOUT, main_precision="bfloat16")
    assert list(found) == ["hf_generate"]
    assert "vllm is absent: no network" in shown
    assert (
        "| different prompts | bfloat16 | hf_generate | 100 | 100 to 100 | 0.50 | 2.0 | 1.0 | 3.00 |"
        in shown.splitlines()
    )


def describe_difference_of(values):
    import torch

    return describe_difference(torch.tensor(values, dtype=torch.float64))


def test_a_difference_of_log_probabilities_is_described_by_its_size():
    found = describe_difference_of([-0.2, 0.0, 0.1])
    assert found["mean"] == pytest.approx(0.1)
    assert (found["quantile_0.5"], found["max"], found["tokens"]) == (pytest.approx(0.1), pytest.approx(0.2), 3)
    # (e^-0.2 - 1 + 0.2 + e^0.1 - 1 - 0.1) / 3 = (0.0187308 + 0.0051709) / 3
    assert found["k3"] == pytest.approx(0.0079672, abs=1e-6)


@pytest.mark.parametrize(("count", "most"), [(64, 64), (256, 256), (64, 512)])
def test_drawn_lengths_end_with_one_probability_and_have_half_the_maximum_as_mean(count, most):
    lengths = drawn_lengths(count, most, random.Random(0))
    assert sum(lengths) / count == pytest.approx(most / 2, rel=0.03)
    assert min(lengths) >= 1
    assert max(lengths) == most
    # e^-1.594, where (1 - e^-x) / x = 1/2, is the chance never to end before the maximum.
    assert sum(length == most for length in lengths) / count == pytest.approx(0.203, abs=0.02)
    assert lengths == drawn_lengths(count, most, random.Random(0))
    assert lengths != drawn_lengths(count, most, random.Random(1))


def test_the_probability_to_end_solves_its_equation():
    p = end_probability(100)
    assert sum((1 - p) ** k for k in range(100)) == pytest.approx(50)


def test_workloads_have_the_sizes_that_were_asked_for():
    found = workloads(range(1000), rows=16, prompt=16, new=8)
    assert {len(ids) for ids in found["different"].prompts} == {16}
    assert (len(found["shared_prompts"].prompts), found["shared_prompts"].samples) == (2, 8)
    ragged = [len(ids) for ids in found["ragged_prompts"].prompts]
    assert (min(ragged), max(ragged), sum(ragged)) == (14, 18, 16 * 16)
    assert all(w.num_tokens == 16 * 8 for name, w in found.items() if name not in ("ragged_lengths", "greedy"))
    assert found["ragged_lengths"].num_tokens < 16 * 8
    with pytest.raises(ValueError, match="rows must be a multiple of 8, the completions of a shared prompt, got 12"):
        workloads(range(1000), rows=12, prompt=16, new=8)


def test_the_bound_adds_prompts_products_and_reads():
    rates = Rates(
        rows=[1, 2], step_seconds=[1.0, 3.0], prompt_seconds=5.0, bytes_per_second=10.0, weight_bytes=20, kv_bytes=10
    )
    # Two prompts of 2 and 3 tokens, 3 and 2 to write. The first ones come with the prompts. Step 1: both rows live,
    # products 3 s (weights 2 s), keys of 3 + 4 tokens 7 s. Step 2: one row, products 1 s but weights 2 s, 4 tokens 4 s.
    assert bound(rates, [[1, 1], [1, 1, 1]], 1, [3, 2]) == {"prefill": 5.0, "decode": pytest.approx(3 + 7 + 2 + 4)}


def test_packages_to_remove_stand_behind_a_comment():
    assert without("# without: a b\nx==1\n# without: c\n") == ["a", "b", "c"]
    assert without("x==1\n# made without love\n") == []


WORKER = """
import sys
from benchmarks.peers.answering import answer

def load(settings):
    print("noise")
    def fail():
        raise KeyError("what")
    def hang():
        import time
        time.sleep(60)
    return {"double": lambda x: {"x": settings["factor"] * x}, "fail": fail, "hang": hang}

answer(load)
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return Worker(OWN, script)


def test_a_worker_answers_until_it_fails_and_then_says_why(worker):
    with worker.start({"factor": 2}, seconds=30) as running:
        assert running.ask({"do": "double", "x": 3}, seconds=30) == {"x": 6}
        assert running.ask({"do": "double", "x": 4}, seconds=30) == {"x": 8}
        peak = running.peak_memory_gb()
        assert peak is None or 0.001 < peak < 1
        with pytest.raises(Absent, match="ours failed: KeyError: 'what'"):
            running.ask({"do": "fail"}, seconds=30)


def test_a_worker_that_takes_too_long_is_ended(worker):
    with (
        worker.start({"factor": 2}, seconds=30) as running,
        pytest.raises(Absent, match="ours took longer than 0 s"),
    ):
        running.ask({"do": "hang"}, seconds=0.2)


def test_a_small_benchmark_agrees_with_generate_and_ends_in_one_object(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEXTENV_CACHE", str(tmp_path / "cache"))
    sizes = ["--rows", "8", "--prompt", "8", "--new", "4", "--rounds", "1", "--threads", "1", "--device", "cpu"]
    names = ["--model", "tiny", "--precision", "float32", "--peers", "hf_generate", "roofline"]
    rollout.main([*names, *sizes, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    assert any("equal those of generate" in line for line in printed)
    last = json.loads(printed[-1])
    keys = {"hf_generate", "hf_generate_ragged", "hf_generate/ragged_lengths", "roofline"}
    assert last["benchmark"] == "rollout"
    assert keys <= last["ratios"].keys()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["ratios"] == last["ratios"]
    assert results["numerics"]["float32"]["max"] < 1e-4
    assert {r["round"] for r in results["records"]} == {0, 1}
    assert "| different prompts | float32 | ours |" in (tmp_path / "out" / "table.md").read_text()


def test_tokens_that_differ_from_generate_end_the_benchmark_before_any_timing(monkeypatch):
    class Fake:
        def __init__(self, tokens):
            self.tokens = tokens

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def ask(self, question, seconds):
            return {"tokens": self.tokens}

    fakes = {"ours": Fake([[1, 2], [3, 4]]), "hf_generate": Fake([[1, 2], [3, 5]])}
    monkeypatch.setattr(rollout, "started", lambda system, *_: fakes[system])
    with pytest.raises(RuntimeError, match=r"not Hugging Face's in row 1: \[3, 4\] against \[3, 5\]"):
        rollout.check_greedy(None, print)
