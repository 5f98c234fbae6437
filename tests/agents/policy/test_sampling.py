"""The distribution that is sampled from, and the keyed sampler."""

import math

import numpy as np
import pytest
import torch
from small import ACTIONS, prompts_of, small_policy, write

from agents.policy import Sampling
from agents.policy.sampling import draw, entropy_of, uniforms

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(temperature=1.7),
    Sampling(top_k=5),
    Sampling(top_p=0.7),
    Sampling(temperature=0.8, top_k=6, top_p=0.8),
]


def truncated(logits, sampling):
    """Probabilities after temperature, top-k and top-p, token by token, in plain Python."""
    weights = [math.exp(z / sampling.temperature) for z in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    order = order[: sampling.top_k or None]
    total, kept, mass = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if mass >= sampling.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    return [weights[i] / mass if i in kept else 0.0 for i in range(len(weights))]


def drawn(logits, uniform, **options):
    """Token, log-probability and entropy."""
    result = draw(logits, uniform, with_entropy=True, **options)
    return result.token, result.logprob, result.entropy


@torch.no_grad()
def distributions(policy, prompt, completion, sampling):
    """The truncated distribution before each token of the completion, from transformers' own forward pass."""
    policy.model.model.set_attn_implementation("eager")
    text = torch.tensor([prompt + completion])
    logits = policy.model.model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1, :ACTIONS]
    return [truncated(row.tolist(), sampling) for row in logits]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_act_and_evaluate_report_the_distribution_that_is_sampled_from(sampling):
    policy = small_policy(sampling=sampling)
    written = write(policy, prompts_of((5, 9, 5, 1, 12, 9)))
    rollout = written.rollout()
    with torch.no_grad():
        scores = policy.evaluate(rollout, with_entropy=True)
    fresh = small_policy(sampling=sampling)
    for row, (prompt, completion) in enumerate(zip(written.prompts, written.completions, strict=True)):
        for a, mass in enumerate(distributions(fresh, prompt, completion, sampling)):
            expected = math.log(mass[completion[a]])
            entropy = -sum(p * math.log(p) for p in mass if p)
            assert written.logprobs[row][a] == pytest.approx(expected, abs=1e-4)
            assert float(scores.logprob[row, a]) == pytest.approx(expected, abs=1e-4)
            assert written.entropies[row][a] == pytest.approx(entropy, abs=1e-4)
            assert float(scores.entropy[row, a]) == pytest.approx(entropy, abs=1e-4)


def test_top_k_and_top_p_by_hand():
    """Probabilities 0.5 0.3 0.15 0.05: top_k=2 keeps 0.5 0.3 (5/8, 3/8); top_p=0.81 needs the third as well."""
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    two = Sampling(top_k=2).logits(logits).softmax(-1)
    assert two[0].tolist() == pytest.approx([0, 0.625, 0, 0.375])
    three = Sampling(top_p=0.81).logits(logits).softmax(-1)
    assert three[0].tolist() == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95])
    assert Sampling(top_p=0.4).logits(logits).softmax(-1)[0].tolist() == [0, 1, 0, 0]
    both = Sampling(top_k=3, top_p=0.6).logits(logits).softmax(-1)
    assert both[0].tolist() == pytest.approx([0, 0.625, 0, 0.375])


def test_a_chosen_token_that_top_k_excludes_now_keeps_a_finite_log_probability():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    scored = Sampling(top_k=2).logits(logits, torch.tensor([2])).log_softmax(-1)
    assert float(scored[0, 2]) == pytest.approx(math.log(0.05 / 0.85))


def test_greedy_takes_the_most_probable_token_and_reports_the_untempered_distribution():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    token, logprob, entropy = drawn(Sampling(temperature=0).logits(logits), torch.tensor([0.99]).double(), greedy=True)
    assert token.tolist() == [1]
    assert logprob.tolist() == pytest.approx([math.log(0.5)])
    assert entropy.tolist() == pytest.approx([-sum(p * math.log(p) for p in (0.15, 0.5, 0.05, 0.3))])


def test_a_token_is_the_inverse_of_the_cumulative_distribution():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log().expand(6, -1)
    points = torch.tensor([0.0, 0.149, 0.151, 0.649, 0.69, 0.71]).double()
    assert draw(logits, points).token.tolist() == [0, 0, 1, 1, 2, 3]


def test_the_largest_uniform_never_chooses_an_excluded_token():
    """1 - 2^-53 rounds to 1 in float32, which no cumulative probability exceeds."""
    logits = torch.tensor([[2.0, 1.0, -math.inf], [0.0, -math.inf, -math.inf]])
    token, logprob, _ = drawn(logits, torch.full((2,), 1 - 2.0**-53).double())
    assert token.tolist() == [1, 0]
    assert logprob.isfinite().all()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 1000])
def test_a_token_of_many_is_where_a_plain_cumulative_sum_in_float64_passes_the_point(size):
    """A third of the tokens have no mass, the first and the last among them; 500 points."""
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(size, generator=generator)
    if size > 1:
        logits[::3] = logits[-1] = -math.inf
    points = torch.rand(500, generator=generator, dtype=torch.float64)
    cumulative = np.cumsum(logits.double().exp().numpy())
    expected = np.searchsorted(cumulative, points.numpy() * cumulative[-1], side="right")
    result = draw(logits.expand(500, -1), points)
    unsure = np.abs(points.numpy()[:, None] - cumulative / cumulative[-1]).min(1) < 1e-6  # float32 may differ there
    assert unsure.mean() < 0.02
    assert (result.token.numpy() == expected)[~unsure].all()
    assert logits[result.token].isfinite().all()
    assert result.entropy is None
    torch.testing.assert_close(result.logprob, logits.log_softmax(-1)[result.token])


def test_frequencies_match_the_probabilities():
    """20,000 draws; Pearson's statistic has 3 degrees of freedom and stays below 16.27 with probability 0.999."""
    mass = torch.tensor([0.15, 0.5, 0.05, 0.3])
    episode = torch.arange(200).repeat_interleave(100)
    position = torch.arange(100).repeat(200)
    tokens = draw(mass.log().expand(20_000, -1), uniforms(3, episode, position)).token
    expected = mass * 20_000
    assert float(((tokens.bincount(minlength=4) - expected) ** 2 / expected).sum()) < 16.27


def test_uniforms_are_in_the_unit_interval_and_spread_evenly():
    """65,536 numbers in 16 bins: Pearson's statistic with 15 degrees of freedom stays below 37.7 (0.999)."""
    episode, position = torch.arange(256).repeat_interleave(256), torch.arange(256).repeat(256)
    for seed in (0, 1, 2**63 - 1, 2**64 - 1):
        u = uniforms(seed, episode, position)
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        counts = (u * 16).long().bincount(minlength=16)
        assert float(((counts - 4096) ** 2 / 4096).sum()) < 37.7


def test_neighbouring_keys_give_unrelated_uniforms():
    index = torch.arange(4096)
    zero = torch.zeros_like(index)
    base = uniforms(0, index, zero)
    assert base.unique().numel() == 4096
    others = [uniforms(0, index, zero + 1), uniforms(1, index, zero), uniforms(0, zero, index), base.roll(1)]
    for other in others:
        assert abs(float(np.corrcoef(base, other)[0, 1])) < 0.06  # four standard errors of 1 / 64
        assert (base == other).float().mean() < 0.01


def test_two_seeds_share_no_uniform_at_any_episode():
    """Shifted streams would look unrelated row by row and still make runs of different seeds the same draw."""
    index = torch.arange(4096)
    drawn = torch.cat([uniforms(seed, index, torch.full_like(index, 50)) for seed in range(4)])
    assert drawn.unique().numel() == 4 * 4096


def test_uniforms_do_not_depend_on_who_else_is_asked():
    index = torch.arange(10)
    together = uniforms(5, index, index + 3)
    assert torch.equal(torch.cat([uniforms(5, index[i : i + 1], index[i : i + 1] + 3) for i in range(10)]), together)
    assert uniforms(5, -index, index).isfinite().all()  # evaluation draws use negative episodes


def test_entropy_of_excluded_tokens_is_nothing():
    logprob = torch.tensor([[math.log(0.25), math.log(0.75), -math.inf]])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(entropy_of(logprob.exp(), logprob)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, r"sampling\.temperature must be at least 0, got -1\.0"),
        ({"top_k": -1}, r"sampling\.top_k must be at least 0 \(0: off\), got -1"),
        ({"top_p": 0.0}, r"sampling\.top_p must be in \(0, 1\], got 0\.0"),
        ({"top_p": 1.1}, r"sampling\.top_p must be in \(0, 1\], got 1\.1"),
    ],
)
def test_bad_sampling_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
