"""What the parts of a reward brought in: weights, gates, spans, turns, and rows that nobody could grade."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from test_collect import QUEUE, Letters, policy_of

from agents.collect import collect
from agents.parts import reward_parts
from rewards.combine import Part, contributions
from rewards.scoring import Verdict
from rewards.types import Sample, Score
from textenv import TextVectorEnv
from textenv.ended import Ended

PARTS = {
    "right": Part(len, weight=2.0),
    "form": Part(len, gate=True),
    "short": Part(len, weight=-0.5),
}


def ended(value, *, valid=True, spans=(), **scores):
    parts = {name: score if isinstance(score, Score) else Score(score) for name, score in scores.items()}
    return Ended(Sample("", ""), Verdict(value, parts, valid=valid, spans=spans), 0)


def test_parts_come_before_their_weights_and_behind_the_gates():
    """2 x .5 - .5 x 3 = -.5 with an open gate, nothing with a closed one, half with one that is half open."""
    values, weight = reward_parts(
        PARTS,
        [
            ended(-0.5, right=0.5, form=1.0, short=3.0),
            ended(0.0, right=0.5, form=0.0, short=3.0),
            ended(-0.25, right=0.5, form=0.5, short=3.0),
        ],
    )
    assert values.tolist() == [[0.5, 3.0, 0.0], [0.0, 0.0, 0.0], [0.25, 1.5, 0.0]]
    assert weight.tolist() == [[2.0, -0.5, 1.0]] * 3
    assert (values * weight).sum(1).tolist() == [-0.5, 0.0, -0.25]


def test_spans_belong_to_their_part():
    score = Score(0.5, spans=((0, 1, 0.25),))
    one = ended(1.0, spans=((0, 1, 0.5),), right=score, form=1.0, short=0.0)
    assert reward_parts(PARTS, [one])[0].tolist() == [[0.75, 0.0, 0.0]]
    assert contributions(PARTS, one.verdict.parts) == {"right": 0.75, "short": 0.0}


def test_what_no_part_brought_in_has_a_column_of_its_own_and_rounding_is_nothing():
    turns = ended(3.25, right=0.5, form=1.0, short=0.0)  # 1 by the parts, 2.25 by the turns
    failed = ended(-1.0)  # the task failed, and `on_error` is -1
    rounded = ended(2 * 0.1 + 1e-16, right=0.1, form=1.0, short=0.0)
    assert reward_parts(PARTS, [turns, failed, rounded])[0][:, 2].tolist() == [2.25, -1.0, 0.0]


def test_a_row_that_could_not_be_graded_is_nothing():
    assert reward_parts(PARTS, [ended(0.0, valid=False, right=1.0)])[0].tolist() == [[0.0, 0.0, 0.0]]
    assert reward_parts(PARTS, [])[0].shape == (0, 3)


class Long:
    execution = "inline"

    def __call__(self, completion):
        return float(len(completion))


@pytest.mark.parametrize("settings", [{}, {"scoring": "deferred"}], ids=str)
def test_a_rollouts_parts_add_up_to_its_returns(settings):
    reward = {"own": "own", "long": {"fn": Long(), "weight": -0.125}}
    env = TextVectorEnv(
        4, autoreset_mode=AutoresetMode.NEXT_STEP, task=Letters(), reward=reward, max_new_tokens=9, **settings
    )
    done = collect(env, policy_of(), QUEUE)
    rollout = done.rollout
    torch.testing.assert_close((rollout.parts * rollout.part_weight).sum(1), rollout.returns)
    assert rollout.part_weight[0].tolist() == [1.0, -0.125, 1.0]
    lengths = [float(len(one.sample.completion)) for one in done.ended]
    assert rollout.parts[:, 1].tolist() == lengths
    assert np.unique(lengths).size > 2
    assert rollout.parts[:, 2].tolist() == [0.0] * len(rollout)


def test_the_tasks_own_parts_are_joined_with_others_of_other_names_only():
    env = TextVectorEnv(1, task=Letters(), reward={"long": {"fn": Long()}, "own": "own"})
    assert list(env.reward_parts) == ["worth", "long"]
    with pytest.raises(ValueError, match=r"reward\.worth is a part of the own reward of task 'letters' already"):
        TextVectorEnv(1, task=Letters(), reward={"own": "own", "worth": Long()})
