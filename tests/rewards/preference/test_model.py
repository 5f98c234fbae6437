import copy
import math

import pytest
import torch
from transformers import AutoModel, GPT2Config

from rewards.preference.config import TinyConfig, TrainConfig
from rewards.preference.encoding import Encoded, EncodedPair, pad_right
from rewards.preference.evaluation import evaluate, reference_statistics, wins
from rewards.preference.fitting import accumulate_gradient, rate_factor
from rewards.preference.model import ScalarHead, choose_device, score_rows, tiny_backbone

ROWS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3], [200, 100, 50, 25]]


@pytest.fixture(scope="module")
def network() -> ScalarHead:
    torch.manual_seed(0)
    return ScalarHead(tiny_backbone(TinyConfig(32, 2, 4), vocab_size=258, max_length=64))


def alone(network, row):
    with torch.no_grad():
        return network(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))[0]


def test_head_starts_with_variance_one_over_hidden_size_plus_one():
    torch.manual_seed(0)
    wide = ScalarHead(tiny_backbone(TinyConfig(4096, 1, 1), vocab_size=2, max_length=4))
    assert wide.head.weight.std().item() == pytest.approx(4097**-0.5, rel=0.05)


def test_batch_and_padding_do_not_change_scores(network):
    expected = torch.stack([alone(network, row) for row in ROWS])
    for batch_rows in (1, 2, 4):
        torch.testing.assert_close(score_rows(network, ROWS, batch_rows=batch_rows), expected, atol=1e-5, rtol=0)


def test_left_and_right_padding_give_equal_scores(network):
    ids, mask = pad_right(ROWS, pad_id=0)
    left_ids = torch.stack([row.roll(len(row) - int(m.sum())) for row, m in zip(ids, mask, strict=True)])
    with torch.no_grad():
        torch.testing.assert_close(network(left_ids, mask.flip(1)), network(ids, mask), atol=1e-5, rtol=0)


def test_what_stands_in_padded_slots_does_not_matter(network):
    for pad_id in (0, 17, 256):
        ids, mask = pad_right(ROWS, pad_id=pad_id)
        with torch.no_grad():
            torch.testing.assert_close(network(ids, mask), score_rows(network, ROWS, batch_rows=4), atol=1e-5, rtol=0)


def test_where_padding_and_eos_are_one_token_the_score_is_still_read_at_eos(network):
    eos = 256
    ids, mask = pad_right([[5, 6, eos], [5, 6], [1, 2, 3, 4, eos]], pad_id=eos)
    with torch.no_grad():
        scores = network(ids, mask)
    torch.testing.assert_close(scores[0], alone(network, [5, 6, eos]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[1], alone(network, [5, 6]), atol=1e-5, rtol=0)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_dropout_is_off_in_training_and_gradients_flow():
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0.5, attn_pdrop=0.5)
    network = ScalarHead(AutoModel.from_config(config)).train()
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long)
    first, second = network(ids, mask), network(ids, mask)
    assert torch.equal(first, second)
    first.sum().backward()
    assert network.backbone.wte.weight.grad.abs().sum() > 0


def test_scores_are_float32_when_the_backbone_computes_in_bfloat16(network):
    half = copy.deepcopy(network)
    half.compute = torch.bfloat16
    scores = score_rows(half, ROWS, batch_rows=4)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, score_rows(network, ROWS, batch_rows=4), atol=0.1, rtol=0.05)


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="got toaster"):
        choose_device("toaster")


def pair(chosen, rejected, margin=0.0):
    return EncodedPair(Encoded(tuple(chosen), len(chosen)), Encoded(tuple(rejected), len(rejected)), margin)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_gradient_does_not_depend_on_microbatch_pairs(network, rows):
    pairs = [pair([1, 2, 3], [4]), pair([5], [6, 7], 0.5), pair([8, 9], [10]), pair([3], [1]), pair([2, 2], [1, 1])]

    def gradient(microbatch_pairs):
        fresh = copy.deepcopy(network)
        metrics = accumulate_gradient(fresh, pairs, TrainConfig(microbatch_pairs=microbatch_pairs))
        return metrics, [p.grad for p in fresh.parameters() if p.grad is not None]

    (metrics, gradients), (expected_metrics, expected) = gradient(rows), gradient(None)
    assert metrics == pytest.approx(expected_metrics, abs=1e-5)
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_learning_rate_climbs_and_falls_as_computed_by_hand():
    def factors(**kind):
        return [rate_factor(step, 10, **kind) for step in range(10)]

    assert factors(warmup_share=0.2, schedule="linear") == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert factors(warmup_share=0.2, schedule="cosine")[6] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factors(warmup_share=0.0, schedule="constant") == [1.0] * 10
    assert factors(warmup_share=1.0, schedule="linear") == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_evaluation_as_computed_by_hand():
    pairs = [pair([1, 1], [1]), pair([1], [1, 1]), pair([1], [1]), pair([1, 1, 1], [1])]
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 1.0])
    metrics = evaluate(chosen, rejected, pairs)
    assert wins(chosen, rejected).tolist() == [1.0, 0.0, 0.5, 0.0]
    assert metrics["accuracy"] == pytest.approx(1.5 / 4)
    # -log sigmoid of 1, -1, 0, -1
    assert metrics["nll"] == pytest.approx((0.313262 + 1.313262 + math.log(2) + 1.313262) / 4, abs=1e-5)
    assert metrics["accuracy_chosen_longer"] == pytest.approx(0.5)
    assert metrics["accuracy_chosen_shorter"] == 0.0
    assert metrics["accuracy_equal_length"] == 0.5
    # scores 1 0 0 1 2 2 0 1 with lengths 2 1 1 2 1 1 3 1: means 7/8 and 12/8, covariance sum -1.5,
    # squared deviations 4.875 and 4
    assert metrics["score_length_correlation"] == pytest.approx(-1.5 / math.sqrt(4.875 * 4))


def test_a_constant_score_is_a_coin_without_correlation():
    metrics = evaluate(torch.zeros(2), torch.zeros(2), [pair([1, 1], [1]), pair([1, 1], [1])])
    assert metrics["accuracy"] == 0.5
    assert metrics["score_length_correlation"] is None
    assert metrics["accuracy_equal_length"] is None
    assert reference_statistics(torch.zeros(2), torch.zeros(2)) == {"mean": 0.0, "std": 1.0}
