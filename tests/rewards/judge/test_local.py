import asyncio
import pickle
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rewards import LLMJudge, LocalModel, Rubric, Sample, Scorer
from rewards.preference.tokenizer import byte_tokenizer

SAYS = "Score:7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose next token depends on the last one alone: S c o r e : 7 end, and S after anything else."""
    tokenizer = byte_tokenizer()
    width = len(tokenizer)
    config = LlamaConfig(
        vocab_size=width,
        hidden_size=260,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    chain = [*tokenizer(SAYS)["input_ids"], tokenizer.eos_token_id]
    follows = dict(pairwise(chain))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # attention and feed-forward add nothing
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, :width].copy_(torch.eye(width))
        for token in range(width):
            model.lm_head.weight[follows.get(token, chain[0]), token] = 1.0
    path = tmp_path_factory.mktemp("judge")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def conversation(text):
    return [{"role": "user", "content": text}]


def test_it_answers_each_question_in_batches_of_any_size(folder):
    conversations = [conversation("x" * length) for length in (5, 300, 1, 40, 12)]
    for batch_size in (1, 2, 8):
        replies = asyncio.run(LocalModel(folder, device="cpu", batch_size=batch_size).ask(conversations))
        assert [reply.text for reply in replies] == [SAYS] * 5
        # "user: ", the text, a line's end and "assistant: "
        assert [reply.tokens_in for reply in replies] == [5 + 18, 300 + 18, 1 + 18, 40 + 18, 12 + 18]
        assert [reply.tokens_out for reply in replies] == [8] * 5  # the end token, too


def test_it_is_a_judge(folder):
    judge = LLMJudge(LocalModel(folder, device="cpu"))
    with Scorer({"judge": {"fn": judge, "timeout_seconds": 60}}) as scorer:
        verdicts = scorer.score([Sample("What?", "good"), Sample("What?", "")])
    assert [verdict.value for verdict in verdicts] == [0.7, 0.0]
    assert judge.counters()["tokens_out"] == 8


def test_an_answer_that_is_cut_off_is_no_verdict(folder):
    judge = LLMJudge(LocalModel(folder, device="cpu", max_tokens=6))
    failure = asyncio.run(judge.score_batch([Sample("What?", "good")]))[0]
    assert "no number follows 'Score:'; it is 'Score:'" in failure.reason


def test_a_question_that_does_not_fit_is_a_failure_of_its_own(folder):
    backend = LocalModel(folder, device="cpu", max_prompt_tokens=100)
    short, long = asyncio.run(backend.ask([conversation("x"), conversation("x" * 200)]))
    assert short.text == SAYS
    assert long.failure.reason == "the question must have at most 100 tokens, it has 218"
    fills = LocalModel(folder, device="cpu", max_tokens=4000)
    assert "at most 96 tokens" in asyncio.run(fills.ask([conversation("x" * 200)]))[0].failure.reason


def test_messages_are_joined_where_there_is_no_template(folder):
    backend = LocalModel(folder, device="cpu")
    asyncio.run(backend.ask([conversation("x")]))
    backend._loaded[1].chat_template = None
    (reply,) = asyncio.run(backend.ask([[{"role": "system", "content": "be"}, {"role": "user", "content": "x"}]]))
    assert (reply.text, reply.tokens_in) == (SAYS, 7)  # be, an empty line, x, an empty line


def test_it_can_be_pickled_and_loads_again(folder):
    backend = LocalModel(folder, device="cpu")
    asyncio.run(backend.ask([conversation("x")]))
    data = pickle.dumps(LLMJudge(backend, Rubric(best=7)))
    assert len(data) < 10_000  # no weights
    assert asyncio.run(pickle.loads(data).score_batch([Sample("What?", "good")]))[0].value == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must be a folder or a hub name"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalModel(**{"model": "m", **settings})
