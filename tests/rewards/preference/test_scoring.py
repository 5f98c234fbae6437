import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rewards.preference import RewardModel
from rewards.preference.card import HEAD, read_card, written_at_once
from rewards.preference.config import TinyConfig
from rewards.preference.model import ScalarHead, score_rows, tiny_backbone
from rewards.preference.storage import load, save
from rewards.preference.tokenizer import byte_tokenizer
from rewards.types import Reward, Sample

CPU = torch.device("cpu")


def write_model(folder: Path, *, prompts: str = "text", max_length: int = 64) -> ScalarHead:
    torch.manual_seed(0)
    network = ScalarHead(tiny_backbone(TinyConfig(32, 1, 4), vocab_size=258, max_length=max_length))
    with written_at_once(folder) as partial:
        save(partial, network, byte_tokenizer(), max_length=max_length, prompts=prompts, mean=0.5, std=0.1)
    return network


@pytest.fixture
def folder(tmp_path):
    write_model(tmp_path / "rm")
    return tmp_path / "rm"


def test_a_saved_model_comes_back_equal(tmp_path):
    network = write_model(tmp_path / "rm")
    loaded, tokenizer = load(tmp_path / "rm", device=CPU)
    rows = [[1, 2, 3], [4]]
    assert torch.equal(score_rows(network, rows, batch_rows=2), score_rows(loaded, rows, batch_rows=2))
    assert tokenizer("héllo")["input_ids"] == byte_tokenizer()("héllo")["input_ids"]


def test_it_scores_prompt_and_completion_with_eos_in_any_batch(folder):
    samples = [Sample("2+2?", "4"), Sample("a long question", "and a long answer"), Sample("x", "")]
    reward = RewardModel(folder, batch_size=2)
    assert isinstance(reward, Reward)
    scores = reward.score_batch(samples)
    network, tokenizer = load(folder, device=CPU)
    rows = [[*tokenizer(s.prompt + s.completion)["input_ids"], tokenizer.eos_token_id] for s in samples]
    assert [score.value for score in scores] == pytest.approx(
        score_rows(network, rows, batch_rows=1).tolist(), abs=1e-5
    )
    assert [score.value for score in RewardModel(folder, batch_size=1).score_batch(samples[::-1])] == pytest.approx(
        [score.value for score in scores[::-1]], abs=1e-5
    )
    assert reward.score_batch([]) == []


def test_normalization_uses_the_frozen_numbers_and_clips(folder):
    sample = Sample("2+2?", "4")
    raw = RewardModel(folder).score_batch([sample])[0].value
    wanted = (raw - 0.5) / 0.1
    score = RewardModel(folder, normalize=True, clip=1e9).score_batch([sample])[0]
    assert score.value == pytest.approx(wanted)
    assert score.metrics["raw"] == pytest.approx(raw)
    assert abs(wanted) > 0.01
    clipped = RewardModel(folder, normalize=True, clip=0.01).score_batch([sample])[0].value
    assert clipped == pytest.approx(0.01 if wanted > 0 else -0.01)


def test_an_overlong_or_unfinished_sample_is_scored_and_says_so(folder):
    long, short = RewardModel(folder).score_batch(
        [Sample("p" * 10, "c" * 60, finish_reason="budget"), Sample("p", "c")]
    )
    assert (long.metrics["cut_tokens"], long.metrics["unfinished"]) == (7, 1)
    assert (short.metrics["cut_tokens"], short.metrics["unfinished"]) == (0, 0)


def test_prompts_are_read_as_they_were_in_training(tmp_path):
    write_model(tmp_path / "text")
    write_model(tmp_path / "chat", prompts="messages")
    chat = Sample("user: hi\nassistant: ", "yo", messages=({"role": "user", "content": "hi"},))
    text = Sample("user: hi\nassistant: ", "yo")
    expected = RewardModel(tmp_path / "text").score_batch([text])[0].value
    assert RewardModel(tmp_path / "text").score_batch([chat])[0].value == expected
    # the byte tokenizer's template renders exactly this prompt
    assert RewardModel(tmp_path / "chat").score_batch([chat])[0].value == expected
    with pytest.raises(ValueError, match="was trained on chat messages"):
        RewardModel(tmp_path / "chat").score_batch([text])


def test_it_survives_pickling_before_and_after_use(folder):
    reward = RewardModel(folder)
    small = len(pickle.dumps(reward))
    value = reward.score_batch([Sample("a", "b")])[0].value
    assert len(pickle.dumps(reward)) == small
    assert pickle.loads(pickle.dumps(reward)).score_batch([Sample("a", "b")])[0].value == value


def test_importing_it_does_not_import_torch():
    code = "import sys, rewards.preference; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize(("setting", "rule"), [({"batch_size": 0}, "batch_size must be at least 1, got 0")])
def test_settings_out_of_range_are_named(folder, setting, rule):
    with pytest.raises(ValueError, match=rule):
        RewardModel(folder, **setting)
    with pytest.raises(ValueError, match="clip must be above 0, got 0"):
        RewardModel(folder, clip=0.0)


@pytest.mark.parametrize(
    "part", ["reward_model.json", "head.safetensors", "backbone/config.json", "backbone/model.safetensors", "tokenizer"]
)
def test_a_folder_that_lacks_a_part_is_refused_at_construction(folder, part):
    target = folder / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=f"path must .*{part.split('/')[-1]}"):
        RewardModel(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must be a reward model's folder"):
        RewardModel(tmp_path / "nothing")


@pytest.mark.parametrize("part", ["backbone/model.safetensors", "head.safetensors"])
def test_weights_that_were_cut_off_are_refused_at_construction(folder, part):
    content = (folder / part).read_bytes()
    (folder / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        RewardModel(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_another_tokenizer_or_template_is_refused_at_construction(folder, name):
    path = folder / "tokenizer" / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match=r"the tokenizer it was trained with \(sha256"):
        RewardModel(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "null"])
def test_a_damaged_card_is_refused(folder, content):
    (folder / "reward_model.json").write_text(content)
    with pytest.raises(ValueError, match=r"reward_model\.json must be a reward model's card"):
        RewardModel(folder)


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("std", 0), ("max_length", "long"), ("mean", None)])
def test_a_card_with_wrong_numbers_is_refused(folder, key, value):
    path = folder / "reward_model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match="card"):
        RewardModel(folder)


def test_a_head_of_another_width_is_refused(folder):
    save_file({"weight": torch.zeros(1, 5)}, folder / HEAD)
    with pytest.raises(ValueError, match="head that fits the backbone"):
        load(folder, device=CPU)


def test_a_backbone_that_lacks_a_tensor_is_refused(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "backbone" / "model.safetensors")
    weights.pop("norm.weight")
    save_file(weights, folder / "backbone" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold all weights, .* norm\.weight"):
        load(folder, device=CPU)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail():
        with written_at_once(tmp_path / "rm") as partial:
            (partial / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_overwritten_unless_it_is_a_reward_model_and_asked(folder, tmp_path):
    before = (folder / "reward_model.json").read_text()
    with pytest.raises(ValueError, match="overwrite=true"), written_at_once(folder):
        pass
    assert (folder / "reward_model.json").read_text() == before
    with written_at_once(folder, overwrite=True) as partial:
        (partial / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]
    with pytest.raises(ValueError, match="is neither"), written_at_once(folder, overwrite=True):
        pass


def test_the_card_says_what_it_was_given(folder):
    card = read_card(folder)
    assert (card.max_length, card.prompts, card.mean, card.std) == (64, "text", 0.5, 0.1)
    assert card.chat_template == byte_tokenizer().chat_template
