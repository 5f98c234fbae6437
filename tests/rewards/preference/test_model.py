import copy
import math

import pytest
import torch
from transformers import AutoModel, GPT2Config

from rewards.preference.config import TinyConfig, TrainConfig
from rewards.preference.encoding import Encoded, EncodedPreference, pad_right
from rewards.preference.evaluation import best_of_k, calibration_error, evaluate, reference_statistics, wins
from rewards.preference.fitting import accumulate_gradient, batches, rate_factor
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


def ranked(*rows, places=None, levels=None):
    encoded = tuple(Encoded(tuple(row), len(row)) for row in rows)
    return EncodedPreference(encoded, places or tuple(range(len(rows))), levels or (0.0,) * len(rows))


JUDGED = [
    ranked([1, 2, 3], [4]),
    ranked([5], [6, 7], levels=(0.5, 0.0)),
    ranked([8, 9], [10], [3], [1, 1]),
    ranked([3], [1], [2, 2], places=(0, 1, 1)),
    ranked([2, 2], [1, 1]),
]


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradient_does_not_depend_on_microbatch_size(network, loss, size):
    def gradient(microbatch_size):
        fresh = copy.deepcopy(network)
        settings = TrainConfig(microbatch_size=microbatch_size, loss=loss, ties="half")
        metrics = accumulate_gradient(fresh, JUDGED, settings)
        return metrics, [p.grad for p in fresh.parameters() if p.grad is not None]

    (metrics, gradients), (expected_metrics, expected) = gradient(size), gradient(None)
    assert metrics == pytest.approx(expected_metrics, abs=1e-5)
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_each_judgement_counts_the_same_however_many_pairs_it_has(network):
    def loss(*preferences):
        settings = TrainConfig(ties="drop", centering=0.0)
        return accumulate_gradient(copy.deepcopy(network), preferences, settings)["loss"]

    assert loss(JUDGED[0], JUDGED[2]) == pytest.approx((loss(JUDGED[0]) + loss(JUDGED[2])) / 2, abs=1e-6)


def test_the_responses_of_a_judgement_stay_together():
    settings = TrainConfig(batch_size=2, epochs=2, seed=3)
    every = batches(JUDGED, settings)
    assert [len(batch) for batch in every[:3]].count(1) == 1
    assert sorted(index for batch in every[:3] for index in batch) == [0, 1, 2, 3, 4]
    assert sorted(index for batch in every[3:] for index in batch) == [0, 1, 2, 3, 4]
    assert every == batches(JUDGED, settings)


def test_learning_rate_climbs_and_falls_as_computed_by_hand():
    def factors(**kind):
        return [rate_factor(step, 10, **kind) for step in range(10)]

    assert factors(warmup_share=0.2, schedule="linear") == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert factors(warmup_share=0.2, schedule="cosine")[6] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factors(warmup_share=0.0, schedule="constant") == [1.0] * 10
    assert factors(warmup_share=1.0, schedule="linear") == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_evaluation_of_pairs_as_computed_by_hand():
    pairs = [ranked([1, 1], [1]), ranked([1], [1, 1]), ranked([1], [1]), ranked([1, 1, 1], [1])]
    scores = torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 0.0, 1.0])
    metrics = evaluate(scores, pairs)
    assert wins(scores[::2], scores[1::2]).tolist() == [1.0, 0.0, 0.5, 0.0]
    assert (metrics["judgements"], metrics["pairs"]) == (4, 4)
    assert metrics["accuracy"] == pytest.approx(1.5 / 4)
    # -log sigmoid of 1, -1, 0, -1
    assert metrics["nll"] == pytest.approx((0.313262 + 1.313262 + math.log(2) + 1.313262) / 4, abs=1e-5)
    assert metrics["accuracy_chosen_longer"] == pytest.approx(0.5)
    assert metrics["accuracy_chosen_shorter"] == 0.0
    assert metrics["accuracy_equal_length"] == 0.5
    # lengths differ by 1, 1 and 2 where they differ: the median is 1
    assert metrics["accuracy_lengths_close"] == 0.5
    assert metrics["accuracy_lengths_apart"] == 0.0
    # lengths 2 1 1 2 1 1 3 1: means 7/8 and 12/8, covariance sum -1.5, squared deviations 4.875 and 4
    assert metrics["score_length_correlation"] == pytest.approx(-1.5 / math.sqrt(4.875 * 4))
    assert metrics["ranking_nll"] is metrics["best_of_k"] is None


def test_evaluation_of_rankings_as_computed_by_hand():
    scores = torch.tensor([math.log(3), math.log(2), 0.0, 1.0, 0.0])
    metrics = evaluate(scores, [ranked([1], [2], [3]), ranked([1], [2], places=(0, 0))])
    assert (metrics["judgements"], metrics["pairs"], metrics["accuracy"]) == (2, 3, 1.0)
    # chances 3:2, 3:1, 2:1
    assert metrics["nll"] == pytest.approx(-(math.log(3 / 5) + math.log(3 / 4) + math.log(2 / 3)) / 3)
    # 3/6 x 2/3 for the ranking; nothing is said where everything is tied
    assert metrics["ranking_nll"] == pytest.approx(math.log(3) / 2)
    assert (metrics["best_of_k"], metrics["best_of_k_by_chance"]) == (1.0, pytest.approx(1 / 3))


def test_best_of_k_shares_the_point_among_equal_scores():
    judged = [ranked([1], [2], [3], [4]), ranked([1], [2], [3], places=(0, 0, 1)), ranked([1], [2])]
    scores = torch.tensor([5.0, 5.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0])
    # first: one of the two highest is the best; second: the highest is the worst; a pair is no ranking of 3 or more
    found = best_of_k(scores, judged)
    assert found == {"best_of_k": pytest.approx(0.25), "best_of_k_by_chance": pytest.approx((1 / 4 + 2 / 3) / 2)}


def test_calibration_error_as_computed_by_hand():
    logit = {p: math.log(p / (1 - p)) for p in (0.52, 0.91, 0.93)}
    # one bin holds 0.52 (wrong: -0.52); another, from 0.9 to 0.95, holds 0.91 and 0.93 (right: 0.09 and 0.07)
    difference = torch.tensor([-logit[0.52], logit[0.91], logit[0.93]])
    assert calibration_error(difference) == pytest.approx((0.52 + 0.16) / 3, abs=1e-6)
    assert calibration_error(torch.tensor([0.0])) == 0.0
    assert calibration_error(torch.tensor([50.0])) == pytest.approx(0.0)
    assert calibration_error(torch.tensor([])) is None


def test_probabilities_that_come_true_are_calibrated_and_bolder_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    size = 2 * torch.randn(20_000, generator=generator)
    honest = torch.where(torch.rand(len(size), generator=generator) < size.sigmoid(), size, -size)
    assert calibration_error(honest) < 0.01
    assert calibration_error(3 * honest) > 0.05


def test_a_constant_score_is_a_coin_without_correlation():
    metrics = evaluate(torch.zeros(4), [ranked([1, 1], [1]), ranked([1, 1], [1])])
    assert metrics["accuracy"] == 0.5
    assert metrics["calibration_error"] == 0.0
    assert metrics["score_length_correlation"] is None
    assert metrics["accuracy_equal_length"] is None
    assert reference_statistics(torch.zeros(4)) == {"mean": 0.0, "std": 1.0}
