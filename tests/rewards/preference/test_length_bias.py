"""Judges who mostly chose the longer answer: the report of an evaluation shows what was learnt from them."""

import importlib.util
import io
import json
import random
from pathlib import Path

from rich.console import Console

from rewards.preference.config import TinyConfig, TrainConfig
from rewards.preference.training import train

spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
synthetic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synthetic)


def write(path, count, *, longer_share, seed):
    """Pairs of words of different lengths, as good as they are long by chance alone: the chosen one is the longer one
    in `longer_share` of them."""
    generator = random.Random(seed)
    with path.open("w") as lines:
        for number in range(count):
            short, long = sorted((synthetic.word(generator), synthetic.word(generator)), key=len)
            while len(short) == len(long):
                short, long = sorted((synthetic.word(generator), synthetic.word(generator)), key=len)
            chosen, rejected = (long, short) if generator.random() < longer_share else (short, long)
            lines.write(json.dumps({"prompt": f"{number % 97}:", "chosen": chosen, "rejected": rejected}) + "\n")


def test_accuracy_split_by_length_tells_a_model_that_only_measures_length(tmp_path):
    write(tmp_path / "train.jsonl", 1500, longer_share=0.8, seed=0)
    write(tmp_path / "eval.jsonl", 1000, longer_share=0.5, seed=1)
    settings = {"data": str(tmp_path / "train.jsonl"), "eval_data": str(tmp_path / "eval.jsonl"), "max_length": 32}
    config = TrainConfig(**settings, output=str(tmp_path / "rm"), tiny=TinyConfig(32, 1, 4), learning_rate=5e-3)
    found = train(config, console=Console(file=io.StringIO()))["eval"]
    # it believes the longer one: right on all pairs where that is chosen, wrong on the others, a coin on the whole
    assert abs(found["accuracy"] - 0.5) < 0.06
    assert found["accuracy_chosen_longer"] > 0.85
    assert found["accuracy_chosen_shorter"] < 0.15
    assert found["accuracy_equal_length"] is None
    assert found["score_length_correlation"] > 0.8
    # and it believes it with a probability of .8, which here comes true for half of the pairs
    assert 0.2 < found["calibration_error"] < 0.4
