"""Dynamic sampling: groups without variance are replaced by those of further problems, on fakes and in a run."""

import json

import pytest
import torch
from small import make_rollout, prompts_of
from test_train import SMALL, curve, same

from agents.collect import Collected
from agents.dynamic_sampling import outcome_without, paid, refilled, sampling_metrics
from agents.metrics import read_metrics
from agents.rollout import joined
from rewards.combine import Part
from rewards.scoring import Verdict
from rewards.types import Sample
from textenv.ended import Ended


class Source:
    """A fake policy in a fake environment: problem k's two answers are paid 1 and `worth[k]`, the later problems'
    answers are longer, and every draw is written down."""

    def __init__(self, *worth, valid=None):
        self.worth, self.valid = worth, valid or {}
        self.draws = []

    def __call__(self, first, count):
        self.draws.append((first, count))
        problems = [k for k in range(first, first + count) for _ in range(2)]
        responses = [prompts_of((k % 3 + 1,))[0] for k in problems]
        returns = [1.0 if row % 2 == 0 else self.worth[k] for row, k in enumerate(problems)]
        rollout = make_rollout([prompts_of((k + 1,))[0] for k in problems], responses, problem=problems)
        last = rollout.mask.sum(1) - 1
        reward = rollout.reward.index_put((torch.arange(len(problems)), last), torch.tensor(returns))
        rollout = rollout.with_(
            reward=reward,
            episode=torch.arange(len(problems)) + 2 * first,
            valid=torch.tensor([self.valid.get(k, True) for k in problems]),
            parts=torch.tensor([[x, 0.0] for x in returns]),
            part_weight=torch.ones(len(problems), 2),
        )
        ended = [Ended(Sample("", str(k)), Verdict(0.0, {}), row) for row, k in enumerate(problems)]
        return Collected(rollout, ended)


def test_groups_without_variance_are_replaced_until_there_are_enough():
    """Problems 0, 2, 4 and 6 are always solved: of four, two are missing, then one, then one again."""
    source = Source(1, 0, 1, 0, 1, 0, 1, 0)
    said = []
    found = refilled(source, 4, rounds=10, on_round=said.append)
    assert source.draws == [(0, 4), (4, 2), (6, 1), (7, 1)]
    assert found.rollout.problem.tolist() == [1, 1, 3, 3, 5, 5, 7, 7]
    assert [ended.sample.completion for ended in found.ended] == list("11335577")
    assert found.rounds == 4
    assert found.dropped.rollout.problem.tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert sampling_metrics(found) == {"groups/dropped_share": 0.5, "groups/rounds": 4.0}
    assert said == [f"{n} of 4 groups vary, round {k} of 11" for n, k in ((2, 2), (3, 3), (3, 4))]


def test_everything_that_was_generated_is_there_to_be_counted():
    found = refilled(Source(1, 0, 1, 0, 1, 0, 1, 0), 4, rounds=10)
    whole = found.everything
    assert sorted(whole.rollout.episode.tolist()) == list(range(16))
    # problem k's answers have k % 3 + 1 tokens: 1 2 3 1 2 3 1 2, twice each
    assert int(whole.rollout.mask.sum()) == 30
    assert len(whole.ended) == 16


def test_rollouts_of_other_widths_are_the_same_rows_beside_each_other():
    source = Source(*[0] * 9)
    whole, parts = source(0, 9).rollout, [source(0, 1).rollout, source(1, 4).rollout, source(5, 4).rollout]
    assert len({(part.tokens.shape[1], part.mask.shape[1]) for part in parts}) == 3
    together = joined(parts)
    for name in ("tokens", "mask", "reward", "length", "problem", "episode", "valid", "parts", "part_weight"):
        assert torch.equal(getattr(together, name), getattr(whole, name)), name
    assert together.old_logprob is None
    with pytest.raises(ValueError, match="value must be in all rollouts or in none, got 1 of 2"):
        joined([whole, whole.with_(value=torch.zeros(whole.mask.shape))])
    with pytest.raises(ValueError, match="at least one rollout"):
        joined([])


def test_where_the_rounds_are_spent_what_there_is_is_learned_from():
    found = refilled(Source(1, 0, 1, 1, 1, 1, 1, 1), 4, rounds=1)
    assert found.rollout.problem.tolist() == [1, 1]
    assert found.rounds == 2
    assert len(found.everything.rollout) == 14  # four problems, and the three that were missing


def test_where_nothing_varies_the_first_draw_is_handed_over():
    source = Source(*[1] * 9)
    found = refilled(source, 3, rounds=2)
    assert source.draws == [(0, 3), (3, 3), (6, 3)]
    assert found.rollout.problem.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.dropped.rollout.problem.unique().tolist() == [3, 4, 5, 6, 7, 8]


def test_without_rounds_it_is_the_first_draw():
    source = Source(1, 1)
    found = refilled(source, 2, rounds=0)
    assert source.draws == [(0, 2)]
    assert found.dropped is None
    assert found.rollout.problem.tolist() == [0, 0, 1, 1]


def test_a_group_that_nobody_could_grade_is_replaced():
    found = refilled(Source(0, 0, 0, valid={0: False}), 2, rounds=3)
    assert found.rollout.problem.unique().tolist() == [1, 2]


PARTS = {"right": Part(len), "short": Part(len, weight=0.5), "form": Part(len, gate=True)}


def test_the_outcome_leaves_out_the_parts_that_only_shape_the_reward():
    rollout = make_rollout(
        prompts_of((2, 2)),
        [[9], [10]],
        returns=[1.0, 0.5],
        parts=torch.tensor([[1.0, 0.0, 0.0], [1.0, -1.0, 0.0]]),  # right, short, what else was paid
        part_weight=torch.tensor([[1.0, 0.5, 1.0]] * 2),
    )
    assert outcome_without([], PARTS) is paid
    assert paid(rollout).tolist() == [1.0, 0.5]
    assert outcome_without(["short"], PARTS)(rollout).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (["length"], r"must name parts of the reward \(right, short\), got length"),
        (["form"], r"must name parts of the reward \(right, short\), got form"),
        (["right", "short"], "must leave a part of the reward, got right, short"),
    ],
)
def test_parts_that_are_not_there_or_all_parts_cannot_be_left_out(ignored, message):
    with pytest.raises(ValueError, match=f"agent.resample_ignores {message}"):
        outcome_without(ignored, PARTS)


RESAMPLED = [
    *(word for word in SMALL if not word.startswith("task")),
    "task=digits",
    "reward=function",
    "reward.function.fn._target_=small.solved_when_even",
    "+reward.function.execution=inline",
    "agent.prompts=3",
    "agent.resample_rounds=6",
    "logging.tensorboard=false",
    "agent.optim.decay=constant",
    "evaluation.every=0",
    "evaluation.problems=4",
    "evaluation.samples=0",
]


def test_a_run_refills_its_groups_counts_all_tokens_and_goes_on_where_it_was(run, tmp_path):
    """Even numbers are always solved, odd ones are paid by chance: half of the groups are replaced."""
    assert run(*RESAMPLED, "name=whole", "iterations=4")[0] == 0
    records = read_metrics(tmp_path / "runs/whole/metrics.jsonl")
    assert all(record["groups/zero_variance_share"] == 0 for record in records)
    assert sum(record["groups/rounds"] for record in records) > 4
    assert any(record["groups/dropped_share"] > 0 for record in records)
    lines = [json.loads(x) for x in (tmp_path / "runs/whole/completions.jsonl").read_text().splitlines()]
    assert len(lines) == records[-1]["num_episodes"]
    assert sorted(line["episode"] for line in lines) == list(range(len(lines)))  # each keyed once
    of_last = [line["reward"] for line in lines if line["iteration"] == 4]
    assert records[-1]["reward/mean"] == pytest.approx(sum(of_last) / len(of_last))
    prompts = [line["prompt"] for line in sorted(lines, key=lambda line: line["episode"])][::4]
    assert len(set(prompts)) == len(prompts)  # no problem comes twice in a pass
    assert records[-1]["num_tokens"] == json.loads((tmp_path / "runs/whole/summary.json").read_text())["tokens"]

    run(*RESAMPLED, "name=parts", "iterations=2")
    run("resume=runs/parts", "iterations=4")
    same(curve(tmp_path / "runs/whole"), curve(tmp_path / "runs/parts"))


def test_a_part_that_is_not_there_is_named_before_any_weight_is_loaded(run, monkeypatch):
    monkeypatch.setattr("agents.run.build_policy", None)
    code, _, err = run(*RESAMPLED, "agent.resample_ignores=[soft_overlong]", "name=one", "iterations=1")
    assert code not in (0, None)
    assert "error: agent.resample_ignores must name parts of the reward (function), got soft_overlong" in err
