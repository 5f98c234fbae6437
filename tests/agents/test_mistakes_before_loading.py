"""Mistakes that must end before a run leaves anything behind."""

import pytest
import torch
from transformers import BloomConfig, LlamaConfig

from agents.config import PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.policy.loading import TinyConfig, load_model
from agents.run import prepare
from agents.setup import positions_of


def settings(tmp_path, **changes):
    fields = {"agent": GRPOConfig(prompts=2, group_size=2), "task": "target", "runs": str(tmp_path), "name": "run"}
    return TrainConfig(**{**fields, "policy": PolicyConfig(model="tiny"), **changes})


def test_an_episode_that_does_not_fit_the_model_is_refused(tmp_path):
    short = PolicyConfig(model="tiny", tiny=TinyConfig(max_tokens=8))
    with pytest.raises(ValueError, match=r"need \d+ positions, but policy.model=tiny has 8"):
        prepare(settings(tmp_path, policy=short), {})
    assert not (tmp_path / "run").exists()


def test_a_damaged_weight_file_is_named(tmp_path):
    folder = tmp_path / "model"
    LlamaConfig(vocab_size=35, hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(str(folder), device=torch.device("cpu"))


def test_angles_that_depend_on_the_longest_row_bound_the_context():
    """Phi 3 says 131,072 positions: two sets of angles, and the second one for all rows once one has more than 4,096.
    YaRN's are the same for every length."""
    known = {"rope_theta": 1e4, "original_max_position_embeddings": 4096}
    two = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **known}
    for rope, positions in ((two, 4096), ({"rope_type": "yarn", "factor": 32.0, **known}, 131072), (None, 131072)):
        shape = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=131072, rope_parameters=rope)
        assert positions_of(shape) == positions
    assert positions_of(BloomConfig()) is None
