"""The promises: what is exact, what is biased and how, what is refused. Every cell of the table is summed once."""

import json
from pathlib import Path

import pytest
import torch

from agents import kl, losses
from agents.verify import verdict
from agents.verify.__main__ import main
from agents.verify.cells import Cell, combinations, table
from agents.verify.differences import Difference, differences, error
from agents.verify.estimate import estimate
from agents.verify.exact import gradient
from agents.verify.promises import Promise
from agents.verify.table import markdown
from agents.verify.verdict import judge

REVERSE = [0.167271, -0.198815, 0.031543]
FORWARD = [0.164283, -0.251204, 0.086921]


@pytest.fixture(scope="module")
def verdicts():
    return [judge(cell) for cell in table()]


def of(agent="grpo", scene_name="letters", **options):
    """The verdict on one line of settings."""
    known = {
        name: options.pop(name) for name in ("older", "critic", "scored", "whole_task", "group_size") if name in options
    }
    return judge(Cell("", agent, options, scene_name=scene_name, **known))


def test_every_promise_of_the_table_is_kept(verdicts):
    assert [v.name for v in verdicts if not v.kept] == []
    assert {v.kind for v in verdicts} == {"exact", "other", "biased", "refused"}


def test_the_table_in_the_readme_is_this_one_to_the_last_digit(verdicts):
    """So that what is biased, which promises no number, may not change unseen. A new one: --markdown."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<summary>The whole table</summary>")[2].partition("</details>")[0].strip()
    assert shown.splitlines() == markdown(verdicts).splitlines()


def test_what_is_exact_is_so_to_ten_digits_and_what_is_biased_is_so_visibly(verdicts):
    for v in verdicts:
        if v.kind == "exact":
            assert v.bias < 1e-10, v.name
            assert v.cosine == pytest.approx(1, abs=1e-12), v.name
        if v.kind == "other":
            assert v.own_cosine == pytest.approx(1, abs=1e-12), v.name
        if v.kind in ("other", "biased"):
            assert v.bias > 1e-3, v.name


def test_of_every_combination_each_promise_is_kept():
    """Every 37th of them here, all with `--all`."""
    some = combinations()[::37]
    assert len(some) > 50
    assert [v.name for v in map(judge, some) if not v.kept] == []


def arms(**settings):
    """The gradient of the KL in the three logits, as the agent would descend it."""
    found = of(scene_name="bandit", scored=False, kl_coef=1.0, **settings)
    return found, [-x for x in found.gradient]


@pytest.mark.parametrize("kind", ["k2", "weighted_k3", "full"])
def test_three_of_the_estimators_have_the_reverse_kls_gradient(kind):
    found, slope = arms(kl_estimator=kind)
    assert found.kind == "exact"
    assert slope == pytest.approx(REVERSE, abs=1e-6)


def test_k3_has_the_forward_kls_gradient():
    found, slope = arms(kl_estimator="k3")
    assert found.target == "-stepwise forward KL"
    assert slope == pytest.approx(FORWARD, abs=1e-6)


def test_k1_in_the_loss_is_refused_and_would_have_no_gradient():
    found, slope = arms(kl_estimator="k1")
    assert found.kind == "refused"
    assert "zero in expectation" in found.reasons[0]
    assert slope == pytest.approx([0, 0, 0], abs=1e-15)


def test_k1_in_the_reward_has_the_reverse_kls_gradient():
    found, slope = arms(kl_in="reward")
    assert found.kind == "exact"
    assert slope == pytest.approx(REVERSE, abs=1e-6)


def test_for_an_older_policys_samples_only_the_weighted_estimator_and_the_exact_one_are_right():
    for kind in ("weighted_k3", "full"):
        assert arms(kl_estimator=kind, older=True)[1] == pytest.approx(REVERSE, abs=1e-6)
    for kind in ("k2", "k3"):
        found, _ = arms(kl_estimator=kind, older=True)
        assert found.bias > 0.05


def test_a_loss_per_token_leaves_out_what_a_token_does_to_later_states():
    """The KL in the reward keeps it, and so does the exact one in both places."""
    silent = {"scored": False, "kl_coef": 1.0}
    assert of(**silent).target == "-stepwise KL"
    assert of(**silent).bias > 0.05
    assert of(**silent, kl_in="reward").kind == "exact"
    assert of(**silent, kl_in="both").kind == "exact"


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 1),
        ({"baseline": "group"}, 2 / 3),  # a group of three: (G - 1) / G
        ({"baseline": "batch", "scene_name": "prompts"}, 5 / 6),  # six rows
        ({"aggregation": "constant"}, 1 / 2),  # at most two tokens
        ({"aggregation": "constant", "baseline": "group"}, 1 / 3),
    ],
)
def test_constant_factors_are_those_that_one_works_out(settings, scale):
    found = of(**settings)
    assert found.kind == "exact"
    assert found.scale == pytest.approx(scale, rel=1e-12)


def test_the_groups_mean_takes_a_third_of_the_reward_and_nothing_of_a_kl_in_the_loss():
    assert of(kl_coef=0.1, baseline="group").target == "0.667 E[R] - 0.1 stepwise KL"


def test_a_baseline_lowers_the_variance():
    assert of().variance < of(baseline="none").variance


def test_the_groups_std_makes_a_prompt_that_pays_little_count_as_much_as_another():
    """arXiv 2503.20783: the hard prompt pays .3 at best, its share of the gradient grows by more than two."""
    share = []
    for settings in ({}, {"baseline": "group", "scale_advantages": "group"}):
        easy, hard = torch.tensor(of(scene_name="prompts", **settings).gradient).view(2, -1).norm(dim=1)
        share.append(float(hard / easy))
    assert share[1] > 2 * share[0]


def test_the_batchs_std_fades_with_the_size_of_the_batch_and_the_groups_does_not():
    batch = [of(scene_name="prompts", baseline="batch", scale_advantages="batch", group_size=n).bias for n in (3, 5)]
    group = [of(scene_name="prompts", baseline="group", scale_advantages="group", group_size=n).bias for n in (3, 5)]
    assert batch[1] < 0.75 * batch[0]
    assert group[1] > 0.9 * group[0]


def test_a_mean_over_rows_pushes_a_long_wrong_answer_down_more_weakly():
    """Of the easy prompt's wrong answers one has one token and one has two. Against the plain gradient, a step along
    the mean over rows leaves the long one more probable beside the short one."""
    cell = Cell("", "grpo", scene_name="prompts")
    where = cell.scene
    logprob = where.policy.trajectories()
    long_over_short = torch.autograd.grad(logprob[2] - logprob[0], where.policy.model.weight)[0].flatten()
    plain = estimate(cell).mean
    mean = estimate(Cell("", "grpo", {"aggregation": "sequence_mean"}, scene_name="prompts")).mean
    assert mean @ long_over_short / mean.norm() > plain @ long_over_short / plain.norm()


def test_the_whole_answers_ratio_is_exact_and_noisier_and_a_tokens_is_neither():
    product = of(older=True, ratio="product", objective="plain", aggregation="sequence_mean")
    token = of(older=True, ratio="token", objective="plain")
    assert product.kind == "exact"
    assert token.bias > 0.05
    assert product.variance > token.variance


def test_a_clip_shortens_the_expected_step():
    clipped, free = (of(older=True, ratio="token", objective=kind) for kind in ("clip", "plain"))
    assert clipped.scale < free.scale


def test_a_wrong_critic_costs_variance_with_lambda_1_and_bias_below():
    """Any V is a baseline; bootstrapping from it is something else, the more the smaller lambda."""
    whole, right = of("ppo", critic="wrong"), of("ppo")
    assert whole.kind == right.kind == "exact"
    assert whole.variance > 10 * right.variance
    found = [of("ppo", critic="wrong", lam=lam) for lam in (0.95, 0.5, 0.0)]
    assert [round(v.bias, 3) for v in found] == sorted(round(v.bias, 3) for v in found)
    assert whole.variance > found[0].variance > found[1].variance > found[2].variance
    assert of("ppo", lam=0.5).kind == "exact"


def test_what_the_budget_cuts_is_bootstrapped_exactly_or_counts_as_it_was_paid():
    cut = {"scene_name": "cut", "whole_task": True}
    assert of("ppo", truncation="bootstrap", **cut).kind == "exact"
    assert of("ppo", truncation="bootstrap", critic="wrong", **cut).bias > 0.1
    assert of("ppo", truncation="terminal", **cut).target == "E[R]"
    assert of("ppo", truncation="penalty", truncation_penalty=0.5, **cut).target == "E[R] - 0.5 P(cut)"
    assert of("ppo", truncation="mask", **cut).kind == "biased"
    assert of("grpo", truncation="keep", **cut).target == "E[R]"
    assert of("grpo", truncation="mask", aggregation="constant", **cut).target == "0.5 E[R - mean; ended]"


def test_every_loss_has_the_slope_of_its_finite_differences():
    found = differences()
    assert [one.name for one in found if not one.kept] == []
    assert len(found) > 25


def test_no_loss_is_forgotten():
    """Every public function of the two modules of formulas that carries a gradient has its finite differences."""
    made = {one.name.split()[0] for one in differences()}
    without = {
        "sampler_correction", "token_weights", "weighted_sum", "masked_mean", "surrogate_report",
        "shaped_reward", "placed_estimator", "check_renewal",
    }  # fmt: skip
    for module in (losses, kl):
        public = {
            name
            for name, x in vars(module).items()
            if callable(x) and getattr(x, "__module__", "") == module.__name__ and name[0].islower() and name[0] != "_"
        }
        assert public - without <= made


def test_a_slope_that_is_missing_is_seen():
    assert error(lambda x: x.square() + x.detach(), torch.ones(2, 2, dtype=torch.float64)) == pytest.approx(1, abs=1e-6)


def test_the_command_prints_a_table_and_is_content(capsys, tmp_path):
    path = tmp_path / "found.json"
    assert main(["whole", "answers", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "exactly that of -stepwise forward KL" in out
    assert "0 broken" in out
    cells = json.loads(path.read_text())["cells"]
    found = next(c for c in cells if c["name"] == "grpo kl_coef=1 kl_in=reward")
    assert found["kind"] == "exact"
    expected = -gradient(Cell("", "grpo").scene, "kl")
    assert found["gradient"] == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_table_in_markdown(capsys):
    assert main(["lam", "wrong", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("|") == lines[-1].count("|") == 7
    assert lines[2] == "| **Credit by a critic that is wrong** | | | | | |"
    assert lines[-1].startswith("| `ppo lam=0 V wrong` |")


def test_words_that_no_cell_has_are_an_error(capsys):
    assert main(["nonsense"]) == 1
    assert "no cell has all of: nonsense" in capsys.readouterr().out


def test_an_estimator_that_goes_wrong_fails_the_command(monkeypatch, capsys):
    """The weight forgotten: what every peer has shipped once."""
    monkeypatch.setattr(kl, "weighted_k3", lambda logprob, reference, old: kl.k3(logprob, reference))
    assert main(["three", "arms"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_a_promise_that_nobody_keeps_fails_the_command(monkeypatch, capsys):
    monkeypatch.setattr(verdict, "promise", lambda cell: Promise({"reward": 1.0}))
    assert main(["aggregation=token_mean"]) == 1
    assert "BROKEN: it promises the true gradient and is not" in " ".join(capsys.readouterr().out.split())


def test_a_loss_that_differs_from_its_differences_fails_the_command(monkeypatch, capsys):
    monkeypatch.setattr("agents.verify.__main__.table", lambda: [Cell("One", "grpo", scene_name="bandit")])
    monkeypatch.setattr("agents.verify.__main__.differences", lambda: [Difference("a loss", 0.1)])
    assert main([]) == 1
    assert "1.0e-01" in capsys.readouterr().out
