import numpy as np
import pytest

from textenv import TextVectorEnv
from textenv.stopping import StopMatcher, may_complete
from textenv.tokenizer import ByteTokenizer, TinyTokenizer
from textenv.types import FinishReason


class Pieces:
    """Three-letter tokens beside letters, so that stop strings begin and end inside a token."""

    name, pad_id, end_ids, start_ids = "pieces", 9, frozenset({9}), ()
    texts = ("a", "b", "ST", "OP", "aST", "OPb", "xSTOPy", "é", "S", "")

    def __init__(self):
        self.calls = 0

    def __len__(self):
        return len(self.texts)

    def encode(self, text):
        return [self.texts.index(character) for character in text]

    def decode(self, ids, *, skip_special=True):
        return "".join(self.texts[i] for i in ids)

    def decode_batch(self, rows):
        self.calls += 1
        return [self.decode(row) for row in rows]

    def render_chat(self, messages, *, add_generation_prompt=True):
        return None

    def token_texts(self):
        return list(self.texts)


def environment(tokenizer, prompt="a", **settings):
    task = {"_target_": "textenv.tasks.text.Problems", "problems": [{"prompt": prompt, "answer": "a"}]}
    env = TextVectorEnv(1, task=task, tokenizer=tokenizer, **settings)
    env.reset()
    return env


def written(env, tokens):
    """The completion, its end and how many tokens were taken."""
    result = env.step_many(np.array([tokens]))
    reason = FinishReason(int(result.infos["finish_reason"][0]))
    return env.decode([0])[0], reason, int(result.consumed[0])


@pytest.mark.parametrize(
    ("tokens", "completion", "consumed"),
    [
        ([0, 2, 3, 1], "a", 3),  # spans two tokens
        ([4, 5, 1], "a", 2),  # starts inside one, ends inside another
        ([1, 6, 1], "bx", 2),  # lies inside one
        ([2, 0, 2, 3], "STa", 4),  # a false start
        ([8, 2, 3], "S", 3),  # the first S is not its beginning
    ],
)
def test_stop_string_is_found_wherever_it_lies(tokens, completion, consumed):
    env = environment(Pieces(), stop_strings=["STOP"])
    assert written(env, tokens) == (completion, FinishReason.STOP, consumed)


def test_stop_string_is_kept_on_request():
    assert written(environment(Pieces(), stop_strings=["STOP"], include_stop=True), [4, 5])[0] == "aSTOP"


def test_stop_string_in_the_prompt_does_not_count():
    env = environment(ByteTokenizer(), prompt="say STOP", stop_strings=["STOP"], max_new_tokens=8)
    assert written(env, list(b"STO")) == ("STO", FinishReason.RUNNING, 3)
    assert written(env, list(b"P")) == ("", FinishReason.STOP, 1)
    env.reset()
    assert written(env, list(b"TOP"))[1] is FinishReason.RUNNING


def test_the_first_of_several_stop_strings_counts():
    env = environment(ByteTokenizer(), stop_strings=["xyz", "b"])
    assert written(env, list(b"aab xyz")) == ("aa", FinishReason.STOP, 3)


@pytest.mark.parametrize("stops", [["TOP", "STOP"], ["OPy", "ST"], ["STOP", "STOPy", "OP"]])
def test_overlapping_stop_strings_that_one_token_completes_are_cut_at_the_first(stops):
    assert written(environment(Pieces(), stop_strings=stops), [1, 6, 1]) == ("bx", FinishReason.STOP, 2)


def test_stop_string_of_several_bytes_a_character():
    env = environment(ByteTokenizer(), stop_strings=["é!"])
    assert written(env, list("ée é!x".encode())) == ("ée ", FinishReason.STOP, 7)


def test_end_token_wins_over_what_stands_behind_it_and_stop_over_budget():
    env = environment(Pieces(), stop_strings=["STOP"], max_new_tokens=2)
    assert written(env, [9, 3])[1] is FinishReason.EOS
    env.reset()
    assert written(env, [2, 3])[1] is FinishReason.STOP


def test_special_tokens_inside_a_stop_string_are_looked_through():
    tokenizer = Pieces()
    tokenizer.end_ids = frozenset()  # token 9 is silent but ends nothing
    assert written(environment(tokenizer, stop_strings=["STOP"]), [0, 2, *[9] * 20, 3]) == ("a", FinishReason.STOP, 23)


def test_a_step_without_a_hit_or_an_end_does_not_touch_the_tokenizer():
    tokenizer = Pieces()
    env = environment(tokenizer, stop_strings=["STOP"])
    before = tokenizer.calls
    env.step_many(np.array([[0, 1, 2, 0, 1]]))
    assert tokenizer.calls == before
    env.step_many(np.array([[3]]))  # could complete it, does not
    assert tokenizer.calls == before + 1


def test_prefilter_never_misses():
    """Random texts over random tokens: the matcher agrees with searching the whole text after every token."""
    generator = np.random.default_rng(0)
    tokenizer = TinyTokenizer("abc")
    for stop in ("ab", "aab", "abcab"):
        matcher = StopMatcher([stop], tokenizer)
        for _ in range(50):
            ids = generator.integers(0, 3, 30)
            found = next(
                t for t in range(31) if t == 30 or (matcher.may_complete[ids[t]] and matcher.matches([ids[: t + 1]])[0])
            )
            text = tokenizer.decode(ids)
            assert found == (text.index(stop) + len(stop) - 1 if stop in text else 30)


def test_prefilter_with_characters_split_over_tokens():
    assert may_complete("\ufffd", ["é"])
    assert not may_complete("\ufffd", ["ab"])


@pytest.mark.model
def test_stop_strings_with_a_real_vocabulary(smol_folder):
    env = environment(smol_folder, prompt="hi", stop_strings=["</answer>", "\n\n"], max_new_tokens=32, chat=False)
    text = " The answer is <answer>12</answer> and more"
    completion, reason, _ = written(env, env.tokenizer.encode(text))
    assert (completion, reason) == (" The answer is <answer>12", FinishReason.STOP)
    env.reset()
    assert written(env, env.tokenizer.encode("one\n\ntwo"))[:2] == ("one", FinishReason.STOP)
    assert env._kernel._stops.may_complete.mean() < 0.2
