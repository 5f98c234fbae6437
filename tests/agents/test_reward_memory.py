"""What a reward model or a judge will take is what it takes when it is loaded."""

import pytest
import torch
from finished_runs import save_chat_model

from agents.reward_memory import held_bytes, held_model, held_models
from rewards.combine import as_parts
from rewards.judge import ChatEndpoint, LLMJudge, LocalModel
from rewards.preference import RewardModel
from rewards.preference.card import written_at_once
from rewards.preference.config import TinyConfig
from rewards.preference.model import ScalarHead, tiny_backbone
from rewards.preference.storage import save
from rewards.preference.tokenizer import byte_tokenizer

CPU = torch.device("cpu")


def test_the_bytes_of_a_reward_model_are_those_of_its_weights(tmp_path):
    network = ScalarHead(tiny_backbone(TinyConfig(32, 1, 4), vocab_size=258, max_length=64))
    with written_at_once(tmp_path / "model") as partial:
        save(partial, network, byte_tokenizer(), max_length=64, prompts="text", mean=0.5, std=0.1)
    parts = as_parts({"right": len, "taste": RewardModel(tmp_path / "model", device="cpu")})
    (held,) = held_models(parts).values()
    assert held.num_bytes == sum(p.numel() * p.element_size() for p in network.backbone.parameters())
    assert held_bytes(parts, CPU) == held.num_bytes
    assert held_bytes(parts, torch.device("cuda")) == 0


def test_a_judge_elsewhere_holds_nothing_here(tmp_path):
    save_chat_model(tmp_path / "judge")
    here = held_model(LLMJudge(LocalModel(str(tmp_path / "judge"), device="cpu")))
    assert here is not None
    assert here.num_bytes > 0
    assert held_model(LLMJudge(ChatEndpoint(model="m"))) is None
    assert held_model(len) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_said_before_anything_is_loaded(tmp_path):
    save_chat_model(tmp_path / "judge")
    with pytest.raises(ValueError, match="device must exist on this machine, got cuda"):
        held_model(LLMJudge(LocalModel(str(tmp_path / "judge"), device="cuda")))
