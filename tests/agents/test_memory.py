"""A run fits, is made to fit without changing a result, or is refused with the arithmetic."""

import weakref
from pathlib import Path

import pytest
import torch
from small import FAMILIES, hugging_face_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents.config import PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.memory import LOGIT_BYTES, Demand, ModelSize, fixed_parts, free_bytes, plan
from agents.policy import Sampling
from agents.policy.head import score_tokens
from agents.ppo import PPOConfig
from agents.setup import logit_bytes

CPU = torch.device("cpu")
SIZE = ModelSize(
    num_parameters=10**6,
    num_layers=4,
    hidden_size=100,
    intermediate_size=200,
    num_heads=4,
    key_value_heads=2,
    head_size=50,
    vocabulary=1000,
)
DEMAND = Demand(num_rows=64, num_columns=99, microbatch_tokens=2048, dtype=torch.bfloat16)
HEAD = 1000 * 100 * (4 + 2)
"""The gradient of the head: the sum over chunks in float32, and that of a chunk."""
WEIGHTS = 10**6 * (2 + 4 + 4 + 8 + 2) + HEAD
"""In bfloat16: the weights, their float32 masters, gradients, two moments, and a copy to act with."""
CACHE_ROW = 4 * 2 * 2 * 100 * 50 * 2
"""Layers, keys and values, heads, 99 columns and one more, size, bytes."""
LOGITS = 1024 * 1000 * (2 + 4 + 4 + 2)
"""Of a chunk: as the model gives them, less the log of their sum, their exponentials, their gradient."""
PER_TOKEN = 4 * (14 * 100 + 6 * 200 + 4 * 99) * 2
"""Layers, parts of one and the probabilities of its attention, bytes."""


def room(num_bytes):
    """Free memory of which that much may be used."""
    return int(num_bytes / 0.9) + 1


def test_what_fits_is_left_alone():
    enough = WEIGHTS + 64 * CACHE_ROW + 2048 * PER_TOKEN + LOGITS
    planned = plan(SIZE, DEMAND, room(enough))
    assert (planned.num_rows, planned.microbatch_tokens, planned.changes) == (64, 2048, ())
    assert not planned.checkpoint_activations


def test_a_little_too_little_takes_fewer_rows():
    planned = plan(SIZE, DEMAND, room(WEIGHTS + 40 * CACHE_ROW + 2048 * PER_TOKEN + LOGITS))
    assert (planned.num_rows, planned.microbatch_tokens) == (40, 2048)
    assert planned.changes == ("env.rows 64 -> 40",)


def test_less_takes_smaller_microbatches():
    planned = plan(SIZE, DEMAND, room(WEIGHTS + 64 * CACHE_ROW + 1024 * PER_TOKEN + LOGITS))
    assert (planned.num_rows, planned.microbatch_tokens) == (64, 1024)
    assert planned.changes == ("agent.optim.microbatch_tokens 2048 -> 1024",)


def test_still_less_computes_activations_twice():
    """256 tokens are the smallest microbatch; checkpointed, 4 layer inputs and one layer are kept of each."""
    checkpointed = 256 * (4 * 100 * 2 + PER_TOKEN // 4) + 256 * 1000 * 12
    planned = plan(SIZE, DEMAND, room(WEIGHTS + 16 * CACHE_ROW + checkpointed))
    assert planned.checkpoint_activations
    assert planned.microbatch_tokens == 256
    assert planned.num_rows == 16
    assert "agent.optim.checkpoint_activations -> true" in planned.changes


def test_probabilities_of_attention_are_kept_only_where_they_are_one_array():
    """Four heads: 4 x 2,896^2 is just below 2^25, 4 x 2,897^2 above."""
    assert SIZE.kept_scores(2896) == 4 * 2896
    assert SIZE.kept_scores(2897) == 0
    on_gpu = Demand(64, 99, 2048, torch.bfloat16, keeps_scores=False)
    enough = WEIGHTS + 64 * CACHE_ROW + 2048 * (PER_TOKEN - 4 * 4 * 99 * 2) + LOGITS
    assert plan(SIZE, on_gpu, room(enough)).changes == ()
    assert plan(SIZE, DEMAND, room(enough)).changes


def test_a_chunk_of_logits_is_counted_by_what_is_asked_of_it():
    """1,024 rows in bfloat16: of 12 bytes, or of 25 or 40."""
    enough = WEIGHTS + 64 * CACHE_ROW + 2048 * PER_TOKEN
    for each, needed in ((None, 12), (25, 25), (40, 40)):
        demand = Demand(64, 99, 2048, torch.bfloat16, logit_bytes=each)
        assert plan(SIZE, demand, room(enough + 1024 * 1000 * needed)).changes == ()
        assert plan(SIZE, demand, room(enough + 1024 * 1000 * needed - 10)).changes


def run_of(agent=None, **policy):
    return TrainConfig(agent or GRPOConfig(), policy=PolicyConfig("tiny", device="cpu", **policy))


def test_what_a_run_asks_of_its_logits():
    assert logit_bytes(run_of()) is None
    assert logit_bytes(run_of(top_p=0.9)) == logit_bytes(run_of(top_k=5)) == LOGIT_BYTES["restricted"]
    over_all = LOGIT_BYTES["over the vocabulary"]
    assert logit_bytes(run_of(GRPOConfig(entropy_coef=0.01))) == over_all
    assert logit_bytes(run_of(PPOConfig(kl_coef=0.1, kl_in="loss", kl_estimator="full"))) == over_all
    assert logit_bytes(run_of(PPOConfig(kl_coef=0.0, kl_in="loss", kl_estimator="full"))) is None


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within it have held at once."""

    def __init__(self):
        super().__init__()
        self.held, self.most = {}, 0

    def __torch_dispatch__(self, function, types, given=(), options=None):
        result = function(*given, **options or {})
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and (address := x.untyped_storage().data_ptr()) not in self.held:
                self.held[address] = x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self.held.pop, address, None)
        self.most = max(self.most, sum(self.held.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "sampling", "with_entropy"),
    [
        ("over the vocabulary", Sampling(0.7), True),
        ("restricted", Sampling(0.7, top_k=5, top_p=0.9), True),
    ],
)
def test_what_torch_needs_for_a_chunk_of_logits_is_near_what_is_counted(
    monkeypatch, kind, sampling, with_entropy, dtype
):
    """Four chunks of a vocabulary so large that nothing else counts, forward and backward."""
    monkeypatch.setattr("agents.policy.head.CHUNK_ROWS", 16)
    monkeypatch.setattr("agents.policy.kernels.fit", lambda *tensors: False)
    rows, vocabulary = 16 * 4 // dtype.itemsize, 20_000
    weight, hidden = torch.randn(vocabulary, 2).to(dtype), torch.randn(4 * rows, 2).to(dtype).requires_grad_()
    target = torch.arange(4 * rows)
    with Peak() as peak:
        logprob, entropy = score_tokens(lambda x: x @ weight.T, hidden, target, sampling, with_entropy=with_entropy)
        (logprob.sum() + (0.0 if entropy is None else entropy.sum())).backward()
    assert 0.8 * LOGIT_BYTES[kind] < peak.most / (rows * vocabulary) < 1.05 * LOGIT_BYTES[kind]


def test_what_the_user_has_decided_is_not_changed():
    demand = Demand(64, 99, 2048, torch.bfloat16, checkpoint_activations=False)
    with pytest.raises(ValueError, match=r"too little memory"):
        plan(SIZE, demand, room(WEIGHTS + 256 * PER_TOKEN))


def test_a_refusal_shows_the_arithmetic_and_the_settings():
    with pytest.raises(ValueError, match=r"too little memory") as refused:
        plan(SIZE, DEMAND, room(WEIGHTS) - 10**6)
    named = ("weights 0.01", "gradients 0.01", "AdamW 0.01", "one row of 99 tokens 0.01", "policy.model", "0.02 GB can")
    for part in named:
        assert part in str(refused.value)


def test_nobody_who_tells_means_that_it_fits():
    assert plan(SIZE, DEMAND, None).changes == ()


def test_a_critic_of_its_own_and_a_reference_and_lora_are_counted():
    def bytes_of(**changes):
        return sum(fixed_parts(SIZE, Demand(64, 99, 2048, torch.bfloat16, **changes)).values())

    assert bytes_of(trained_models=2) == WEIGHTS + 10**6 * 18
    assert bytes_of(frozen_models=1) == WEIGHTS + 10**6 * 2
    assert bytes_of(reward_bytes=77) == WEIGHTS + 77
    assert bytes_of(adapter_parameters=1000) == 10**6 * (2 + 2) + 1000 * 18
    assert bytes_of(adapter_parameters=1000, trained_models=2) == 10**6 * (2 + 2) + 2 * 1000 * 18


def test_a_natural_gradient_takes_nine_vectors_where_adam_takes_two():
    def bytes_of(**changes):
        return sum(fixed_parts(SIZE, Demand(64, 99, 2048, torch.float32, **changes)).values())

    assert bytes_of(natural_gradient=True) - bytes_of() == 10**6 * 4 * (9 - 2)
    assert bytes_of(natural_gradient=True, trained_models=2) - bytes_of(trained_models=2) == 10**6 * 4 * (9 - 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_a_model_is_known_without_building_it(family):
    size = ModelSize.of(FAMILIES[family])
    model = hugging_face_model(family)
    assert size.num_parameters == sum(p.numel() for p in model.parameters())
    assert size.num_layers == 2
    assert size.vocabulary == model.get_output_embeddings().weight.shape[0]


def test_free_memory_is_the_systems_or_what_the_container_leaves():
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    2000 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
        "/sys/fs/cgroup/memory.current": "2500000\n",
        "/sys/fs/cgroup/memory.stat": "anon 2000000\nfile 400000\n",
    }

    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    assert free_bytes(CPU, read) == 900_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_bytes(CPU, read) == 2_048_000
    files.clear()
    assert free_bytes(CPU, read) is None
