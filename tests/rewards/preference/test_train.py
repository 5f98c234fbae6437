import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from rewards.preference import RewardModel
from rewards.preference.card import read_card
from rewards.preference.config import TinyConfig, TrainConfig
from rewards.preference.lora import LoraConfig
from rewards.preference.training import train
from rewards.types import Sample

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
synthetic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synthetic)


def quiet(**settings):
    return train(TrainConfig(max_length=64, **settings), console=Console(file=io.StringIO()))


def test_it_reaches_bayes_accuracy_on_a_preference_with_known_truth(tmp_path):
    synthetic.write_pairs(tmp_path / "train.jsonl", 6000, seed=100)
    bayes = synthetic.write_pairs(tmp_path / "eval.jsonl", 2000, seed=200)
    assert bayes == pytest.approx(0.87, abs=0.02)
    summary = quiet(
        data=str(tmp_path / "train.jsonl"), eval_data=str(tmp_path / "eval.jsonl"), output=str(tmp_path / "rm")
    )
    assert summary["eval"]["accuracy"] > bayes - 0.03
    assert summary["eval"]["nll"] < 0.36
    # the reward that the folder gives orders words as the truth does: the same letters, the best or the worst one last
    best, worst = RewardModel(tmp_path / "rm").score_batch([Sample("1:", "addg"), Sample("1:", "gdda")])
    assert best.value > worst.value + 1


def test_from_shuffled_labels_it_learns_nothing(tmp_path):
    synthetic.write_pairs(tmp_path / "train.jsonl", 6000, seed=100, shuffle_labels=True)
    synthetic.write_pairs(tmp_path / "eval.jsonl", 2000, seed=200)
    summary = quiet(
        data=str(tmp_path / "train.jsonl"), eval_data=str(tmp_path / "eval.jsonl"), output=str(tmp_path / "rm")
    )
    # over five seeds 0.41 to 0.59, with an NLL of 0.692 to 0.694: ln 2 is a coin
    assert summary["eval"]["accuracy"] == pytest.approx(0.5, abs=0.15)
    assert summary["eval"]["nll"] > 0.67


@pytest.fixture
def pairs(tmp_path):
    synthetic.write_pairs(tmp_path / "pairs.jsonl", 60, seed=0)
    return tmp_path / "pairs.jsonl"


def run(folder, *overrides, module="train"):
    return subprocess.run(
        [sys.executable, "-m", f"rewards.preference.{module}", *overrides],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )


def test_the_command_trains_from_any_folder_and_writes_one_folder(pairs, tmp_path):
    done = run(tmp_path, "data=pairs.jsonl", "model=tiny", "output=runs/rm", "tiny.num_layers=1", "max_length=64")
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "runs"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["rm"]
    summary = json.loads((tmp_path / "runs/rm/summary.json").read_text())
    steps = [json.loads(line) for line in (tmp_path / "runs/rm/metrics.jsonl").read_text().splitlines()]
    assert summary["eval"]["pairs"] == 6
    assert not (tmp_path / "runs/rm.unfinished").exists()
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert set(steps[0]) == {"step", "loss", "accuracy", "score_gap", "grad_norm", "learning_rate"}
    assert read_card(tmp_path / "runs/rm").training["settings"]["tiny"]["num_layers"] == 1
    assert len(RewardModel(tmp_path / "runs/rm").score_batch([Sample("a", "b")])) == 1


def test_a_model_is_held_against_other_judgements_by_a_command(pairs, tmp_path):
    quiet(data=str(pairs), output=str(tmp_path / "rm"))
    synthetic.write_pairs(tmp_path / "other.jsonl", 30, seed=9)
    with (tmp_path / "other.jsonl").open("a") as lines:
        lines.write(json.dumps({"prompt": "1:", "responses": ["a", "gg", "h"], "ranking": [1, [0, 2]]}) + "\n")
    done = run(tmp_path, "path=rm", "data=other.jsonl", module="evaluate")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["judgements"], found["pairs"]) == (31, 32)
    assert 0 <= found["accuracy"] <= 1
    assert "best of k" in done.stderr
    for wrong, message in (
        (["path=rm"], "error: data must be given: data=..."),
        (["path=nowhere", "data=other.jsonl"], "error: path must be a reward model's folder"),
        (["path=rm", "data=chat.jsonl"], "chat.jsonl, line 1: prompt must be text, which the model was trained on"),
    ):
        chat = {"prompt": [{"role": "user", "content": "hi"}], "chosen": "a", "rejected": "b"}
        (tmp_path / "chat.jsonl").write_text(json.dumps(chat))
        refused = run(tmp_path, *wrong, module="evaluate")
        assert refused.returncode == 1
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr


def test_help_says_what_to_type(tmp_path):
    text = run(tmp_path, "--help").stdout
    for words in ("data=pairs.jsonl", "model=tiny", "a folder, a hub name, or tiny", "learning_rate", "batch_size"):
        assert words in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "error: data must be given: data=..."),
        (["data=pairs.jsonl", "epochs=0"], "error: epochs must be at least 1, got 0"),
        (["data=pairs.jsonl", "epoch=1"], "Key 'epoch' not in 'TrainConfig'"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_and_leaves_nothing(pairs, tmp_path, overrides, message):
    done = run(tmp_path, *overrides)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"microbatch_size": 0}, "microbatch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"eval_share": 1.0}, "eval_share must be from 0 to below 1, got 1"),
        ({"warmup_share": 2.0}, "warmup_share must be from 0 to 1, got 2"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, constant, got step"),
        ({"too_long": "cut"}, "too_long must be one of error, truncate_prompt, got cut"),
        ({"compute": "int8"}, "compute must be one of float32, bfloat16, got int8"),
        ({"centering": -1.0}, "centering must be at least 0, got -1"),
        ({"loss": "pair"}, "loss must be one of pairs, plackett_luce, got pair"),
        ({"ties": "keep"}, "ties must be one of refuse, drop, half, got keep"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_named_with_rule_and_value(setting, rule):
    with pytest.raises(ValueError, match=rule):
        TrainConfig(data="pairs.jsonl", **setting)


def test_a_tiny_model_that_cannot_be_built_is_named():
    with pytest.raises(ValueError, match=r"tiny\.hidden_size must be a multiple of 2 \* tiny\.num_heads \(8\), got 20"):
        TinyConfig(hidden_size=20)


def test_wrong_data_models_and_outputs_are_named_and_nothing_is_written(pairs, tmp_path):
    output = tmp_path / "rm"
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line \d+: prompt and completion must fit max_length=3"):
        train(TrainConfig(data=str(pairs), output=str(output), max_length=3))
    with pytest.raises(ValueError, match=r"missing\.jsonl: must be an existing JSONL file"):
        quiet(data=str(tmp_path / "missing.jsonl"), output=str(output))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"model must be a folder with a config\.json"):
        quiet(data=str(pairs), output=str(output), model=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="model must be tiny, a folder that exists or a hub name"):
        quiet(data=str(pairs), output=str(output), model=str(tmp_path / "nowhere"))
    assert not output.exists()
    with pytest.raises(ValueError, match="output must be a new folder or a reward model"):
        quiet(data=str(pairs), output=str(pairs.parent))


def test_a_folder_is_continued_from_and_replaced_only_when_asked(pairs, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from rewards.preference.tokenizer import byte_tokenizer

    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    byte_tokenizer().save_pretrained(tmp_path / "lm")
    settings = {"data": str(pairs), "model": str(tmp_path / "lm"), "output": str(tmp_path / "rm")}
    assert quiet(**settings)["learning_rate"] == 1e-5
    with pytest.raises(ValueError, match="overwrite=true"):
        quiet(**settings)
    quiet(**settings, overwrite=True)
    (tmp_path / "lm" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model must be a folder with weights"):
        quiet(**settings, overwrite=True)
    assert read_card(tmp_path / "rm").max_length == 64


def test_a_training_that_leaves_the_numbers_says_so_and_writes_nothing(pairs, tmp_path):
    with pytest.raises(ArithmeticError, match=r"at step .*: a lower learning_rate may help"):
        quiet(data=str(pairs), output=str(tmp_path / "rm"), learning_rate=1e30, epochs=3)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_an_adapter_learns_and_is_saved_merged(tmp_path):
    """Continued from a model that knows a little: the head and a rank of 4 are enough to learn the rest."""
    synthetic.write_pairs(tmp_path / "few.jsonl", 1500, seed=300)
    synthetic.write_pairs(tmp_path / "train.jsonl", 3000, seed=100)
    synthetic.write_pairs(tmp_path / "eval.jsonl", 1000, seed=200)
    files = {"eval_data": str(tmp_path / "eval.jsonl")}
    first = quiet(data=str(tmp_path / "few.jsonl"), output=str(tmp_path / "first"), **files)
    model = continued_from(tmp_path / "first", tmp_path / "lm")
    settings = {"data": str(tmp_path / "train.jsonl"), "model": str(model), "lora": LoraConfig(rank=4), **files}
    summary = quiet(output=str(tmp_path / "rm"), learning_rate=5e-3, **settings)
    assert summary["eval"]["accuracy"] > first["eval"]["accuracy"]
    before, after = (load_file(path / "model.safetensors") for path in (model, tmp_path / "rm/backbone"))
    after = {name if name in before else f"model.{name}": weight for name, weight in after.items()}
    changed = {name for name in after if not after[name].equal(before[name])}
    assert changed == {name for name in before if "proj" in name}
    assert not any("lora" in name for name in after)
    assert len(RewardModel(tmp_path / "rm").score_batch([Sample("1:", "abc")])) == 1


def continued_from(reward_model, folder):
    """The backbone of a reward model and its tokenizer as a folder to train from."""
    shutil.copytree(reward_model / "backbone", folder)
    shutil.copytree(reward_model / "tokenizer", folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(rank=-1), r"lora\.rank must be at least 0 .*, got -1"),
        (LoraConfig(rank=2, targets="c_attn"), r"lora\.targets must name linear layers, c_attn is none in LlamaModel"),
    ],
)
def test_an_adapter_that_cannot_be_is_named(pairs, tmp_path, lora, message):
    with pytest.raises(ValueError, match=message):
        quiet(data=str(pairs), output=str(tmp_path / "rm"), lora=lora)
    assert not (tmp_path / "rm").exists()


def test_the_same_seed_gives_the_same_model(pairs, tmp_path):
    def value(name, seed):
        quiet(data=str(pairs), output=str(tmp_path / name), seed=seed)
        return RewardModel(tmp_path / name).score_batch([Sample("1:", "abc")])[0].value

    assert value("a", 0) == value("b", 0) != value("c", 1)
