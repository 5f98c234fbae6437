"""Worlds that can be written down: how many trajectories, how probable, what a rollout of them holds."""

import math
from itertools import product

import pytest
import torch

from agents.verify.scene import scene
from agents.verify.world import TablePolicy, enumerated, written
from textenv.types import FinishReason

SCENES = ["bandit", "letters", "cut", "prompts", "long"]


def test_everything_that_can_be_written_is_written_once():
    """Two letters and an end, two tokens: the end; a letter and an end; two letters."""
    assert list(written(3, 2)) == [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert len(list(written(4, 3))) == 1 + 3 + 3 * 3 * 4


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("older", [False, True])
def test_probabilities_sum_to_one(name, older):
    where = scene(name, older=older)
    assert where.probability().sum().item() == pytest.approx(where.world.num_prompts, abs=1e-12)
    assert where.batches()[1].sum().item() == pytest.approx(1, abs=1e-12)


def test_a_batch_is_as_probable_as_all_orders_of_its_rows():
    """The 27 ordered triples of each of two prompts, summed by hand."""
    where = scene("prompts")
    chance = where.probability().tolist()
    expected: dict[tuple[int, ...], float] = {}
    for easy, hard in product(product(range(3), repeat=3), product(range(3, 6), repeat=3)):
        key = (*sorted(easy), *sorted(hard))
        expected[key] = expected.get(key, 0.0) + math.prod(chance[k] for k in (*easy, *hard))
    rows, probability = where.batches()
    found = {tuple(row): p for row, p in zip(rows.tolist(), probability.tolist(), strict=True)}
    assert found == pytest.approx(expected, abs=1e-14)


def test_a_rollout_holds_the_tokens_the_score_and_how_it_ended():
    world = enumerated(3, 2, group_size=2)
    rollout = world.rollout(torch.tensor([0, 2]))
    assert rollout.tokens.tolist() == [[3, 0, 0], [3, 1, 1]]  # token 3 is the prompt
    assert rollout.mask.tolist() == [[True, False], [True, True]]
    assert rollout.length.tolist() == [2, 3]
    assert rollout.truncated.tolist() == [False, True]
    assert rollout.finish_reason.tolist() == [FinishReason.EOS, FinishReason.BUDGET]
    assert rollout.returns.tolist() == world.score[[0, 2]].tolist()
    torch.testing.assert_close((rollout.parts * rollout.part_weight).sum(1), rollout.returns)
    assert rollout.reward.isnan().tolist() == [[False, True], [False, False]]  # not to be read


def test_a_table_policy_looks_up_the_state_that_it_is_in():
    """Logits log 1, log 1, log 2 at the start and log 3, 0, 0 behind the letter 1: .25 x .6 for it and an end."""
    world = enumerated(3, 2, group_size=2)
    logits = torch.zeros(world.num_states, 3, dtype=torch.float64)
    logits[world.state[0, 0], 2] = math.log(2)
    logits[world.state[1, 1], 0] = math.log(3)
    policy = TablePolicy(world, logits)
    assert policy.trajectories()[1].exp().item() == pytest.approx(0.25 * 0.6)
    uniform = TablePolicy(world, torch.zeros_like(logits))
    scores = policy.evaluate(world.rollout(torch.tensor([1])), with_entropy=True, kl_to=uniform)
    first = [0.25, 0.25, 0.5]
    entropy = -sum(p * math.log(p) for p in first)
    assert scores.entropy[0, 0].item() == pytest.approx(entropy)
    assert scores.kl[0, 0].item() == pytest.approx(math.log(3) - entropy)


def test_values_are_mean_scores_and_occupancies_are_visits():
    where = scene("letters")
    chance, score = where.probability(), where.world.score
    value, visits = where.value(score), where.occupancy()
    start, behind = where.world.state[0, 0], where.world.state[1, 1]
    assert value[start].item() == pytest.approx(float(chance @ score))
    after = chance[1:4]  # those that began with letter 1
    assert value[behind].item() == pytest.approx(float(after @ score[1:4] / after.sum()))
    assert visits[start].item() == pytest.approx(1)
    assert visits[behind].item() == pytest.approx(float(after.sum()))


def test_an_unknown_scene_is_refused():
    with pytest.raises(ValueError, match="scene must be one of bandit, .* got 'nowhere'"):
        scene("nowhere")
