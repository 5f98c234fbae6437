"""Episodes of several turns: replies are injected in the same step, not charged, not the policy's."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from rewards.errors import RewardError
from textenv import TextEnv, TextVectorEnv
from textenv.conversation import Reply, turn_tokens
from textenv.tasks.calculator import CalculatorTool, calculate
from textenv.tasks.text import Problems
from textenv.tokenizer import load_tokenizer

END = 257


def text(words):
    return list(words.encode())


def say(env, words, *, end=True):
    """Feed a text token by token until the environment answers or ends; the last step's result."""
    result = None
    for token in [*text(words), *([END] if end else [])]:
        result = env.step(token)
        if result[2] or result[3] or result[4]["num_injected"]:
            break
    return result


def guessing(**settings):
    env = TextEnv(**({"task": {"_target_": "guess", "low": 1, "high": 20}, "max_new_tokens": 20} | settings))
    env.reset(options={"index": 0})
    return env, env.task.split("train")[0].row["secret"]


def test_a_game_is_won_by_listening():
    env, secret = guessing()
    low, high, turns = 1, 20, 0
    while True:
        guess = (low + high) // 2
        turns += 1
        observation, reward, terminated, truncated, info = say(env, str(guess))
        if terminated:
            break
        heard = env.tokenizer.decode(observation["tokens"][observation["segment"] == 3].tolist())
        low, high = (guess + 1, high) if heard.endswith("Higher.") else (low, guess - 1)
        assert info["num_injected"] == len("Higher." if guess < secret else "Lower.")
        assert (reward, truncated) == (0.0, False)
    assert guess == secret
    assert (reward, info["finish_reason"], info["reward/found"]) == (1.0, 4, 1.0)
    ended = env.scored().sample
    assert ended.finish_reason == "task"
    assert ended.completion.split("\n")[-1] == str(secret)
    assert len(ended.messages) == 2 * turns - 1
    assert [message["role"] for message in ended.messages[:2]] == ["assistant", "user"][: len(ended.messages)]


def test_replies_are_of_segment_3_and_cost_no_budget():
    env, _ = guessing()
    first, _ = env.reset(options={"index": 0})
    observation, *_, info = say(env, "x")
    assert info["num_injected"] == len("Say a number.")
    assert observation["remaining"][0] == first["remaining"][0] - 2
    size = int(first["length"][0])
    assert observation["segment"][size : size + 16].tolist() == [2, 2, *[3] * 13, 0]
    assert observation["length"][0] == size + 15
    observation, *_, info = env.step(ord("4"))
    assert info["num_injected"] == 0
    assert observation["segment"][size + 15] == 2
    assert observation in env.observation_space


def test_the_game_ends_behind_the_last_turn_without_a_hit():
    env, _ = guessing(task={"_target_": "guess", "low": 1, "high": 20, "max_turns": 2})
    say(env, "x")
    _, reward, terminated, truncated, info = say(env, "y")
    assert (reward, terminated, truncated, info["finish_reason"]) == (0.0, True, False, 4)


@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_a_budget_that_is_spent_with_a_turn_ends_the_episode(budget):
    """Two tokens of budget: the first turn takes both, and nobody could answer a reply."""
    env, _ = guessing(max_new_tokens=2, budget=budget)
    observation, reward, terminated, truncated, info = say(env, "x")
    assert (terminated, truncated) == (budget == "terminate", budget == "truncate")
    assert (reward, info["finish_reason"], info["num_injected"]) == (0.0, 3, 0)
    assert not (observation["segment"] == 3).any()
    assert env.scored().sample.completion == "x"


def test_a_reply_without_room_truncates():
    env, _ = guessing(task={"_target_": "guess", "low": 1, "high": 20, "max_injected_tokens": 15})
    assert say(env, "x")[4]["num_injected"] == 13
    _, _, terminated, truncated, info = say(env, "y")
    assert (terminated, truncated, info["finish_reason"]) == (False, True, 5)
    assert env.scored().sample.completion == "x\ny"


def calculating(**settings):
    env = TextEnv(**({"task": "calculator", "max_new_tokens": 60} | settings))
    env.reset(options={"index": 0})
    return env, env.task.split("train")[0].row


def test_a_tool_is_called_inside_a_message():
    env, row = calculating()
    observation, *_, info = say(env, f"So: <calc>{row['a']}*{row['b']}</calc>", end=False)
    result = f"<result>{row['answer']}</result>"
    assert info["num_injected"] == len(result)
    injected = observation["tokens"][observation["segment"] == 3].tolist()
    assert env.tokenizer.decode(injected) == result
    _, reward, terminated, _, info = say(env, f"It is {row['answer']}")
    assert (reward, terminated, info["finish_reason"]) == (1.0, True, 4)
    roles = [message["role"] for message in env.scored().sample.messages]
    assert roles == ["assistant", "tool", "assistant"]


def test_what_the_tool_wrote_is_not_the_policys_answer():
    env, row = calculating()
    say(env, f"<calc>{row['a']}*{row['b']}</calc>", end=False)
    _, reward, terminated, _, _ = say(env, "")
    assert terminated
    assert reward == 0.0
    assert str(row["answer"]) not in env.scored().sample.completion


@pytest.mark.parametrize(
    ("expression", "value"),
    [("12*34", "408"), ("(1 + 2) * -3", "-9"), ("1/3 + 1/6", "1/2"), ("0.1+0.2", "3/10"), ("+7", "7")],
)
def test_the_calculator_is_exact(expression, value):
    assert str(calculate(expression)) == value


@pytest.mark.parametrize(
    "expression",
    [
        "2**9**9",
        "__import__('os')",
        "a",
        "1+",
        "",
        "1 if 1 else 2",
        "1/0",
        "'a'*9",
        "1e9999",
        "(" * 60 + ")" * 60,
        "9" * 101,
    ],
)
def test_the_calculator_answers_nonsense_with_an_error_and_goes_on(expression):
    reply = CalculatorTool().reply(f"<calc>{expression}</calc>")
    assert reply.text.startswith("<result>error")
    assert not reply.done


class Talk:
    """Pays a tenth for every turn and repeats it; `boom` breaks it, `stop` ends it."""

    turn_ends = ("!",)
    max_injected_tokens = 40
    columns = frozenset({"answer"})
    name = "talk"

    def __init__(self, *, breaks_at_once=False):
        self.breaks_at_once = breaks_at_once

    def split(self, name):
        return Problems(["a:", "b:"], reward=0).split("train")

    def reward(self):
        return {"letters": lambda completion: float(len(completion))}

    def converse(self, problem):
        if self.breaks_at_once:
            raise RuntimeError("no tool today")
        return self

    def reply(self, words):
        if "boom" in words:
            raise RuntimeError("the tool is broken")
        return Reply(f"[{words}]", done="stop" in words, reward=0.1)


def talking(rows=2, *, task=None, **settings):
    reward = {"letters": {"fn": letters, "execution": "inline"}}
    return TextVectorEnv(rows, task=task or Talk(), reward=reward, **({"max_new_tokens": 12} | settings))


def letters(completion):
    return float(len(completion))


def columns(*words, width=None):
    width = width or max(map(len, words))
    return np.array([(text(w) + [0] * width)[:width] for w in words]), np.array([len(w) for w in words])


def test_turns_are_paid_where_they_end_and_the_rest_at_the_end():
    env = talking()
    env.reset(options={"indices": [0, 1]})
    result = env.step_many(*columns("ab!", "cd"))
    assert result.rewards.tolist() == [[0, 0, 0.1], [0, 0, 0]]
    assert result.infos["num_injected"].tolist() == [5, 0]
    result = env.step_many(*columns("stop!", "e!"))
    assert result.rewards[0].tolist() == pytest.approx([0, 0, 0, 0, 0.1 + len("ab!\nstop!")])
    assert result.terminated.tolist() == [True, False]
    assert env.scored([0])[0].verdict.value == pytest.approx(0.2 + len("ab!\nstop!"))
    assert result.rewards[1].tolist() == pytest.approx([0, 0.1, 0, 0, 0])


def test_the_rest_of_a_proposal_behind_a_turn_is_not_read():
    env = talking()
    env.reset(options={"indices": [0, 1]})
    result = env.step_many(*columns("ab!xyz", "cdefgh"))
    assert result.consumed.tolist() == [3, 6]
    assert env.decode([0, 1]) == ["ab!", "cdefgh"]


def test_a_tool_that_raises_ends_its_own_row_and_no_other():
    env = talking(3)
    env.reset(options={"indices": [0, 1, 0]})
    result = env.step_many(*columns("boom!", "ab!", "cd"))
    assert result.terminated.tolist() == [True, False, False]
    assert result.infos["valid"].tolist() == [False, True, True]
    assert result.rewards[0].tolist() == [0] * 5
    assert result.infos["finish_reason"].tolist() == [4, 0, 0]
    assert "RuntimeError: the tool is broken" in env.scored([0])[0].verdict.reason
    assert env.step_many(*columns("", "x!", "y!")).infos["num_injected"].tolist() == [0, len("[x!]"), len("[cdy!]")]


def test_the_error_policy_is_that_of_rewards():
    env = talking(on_error="raise")
    env.reset(options={"indices": [0, 1]})
    with pytest.raises(RewardError, match="the tool is broken"):
        env.step_many(*columns("boom!", "a"))
    env = talking(on_error=-1.0)
    env.reset(options={"indices": [0, 1]})
    result = env.step_many(*columns("boom!", "a"))
    assert result.rewards[0].tolist() == [0, 0, 0, 0, -1]
    assert result.infos["valid"].all()


def test_a_conversation_that_cannot_begin_ends_with_the_first_token():
    env = talking(task=Talk(breaks_at_once=True))
    env.reset(options={"indices": [0, 1]})
    result = env.step_many(*columns("ab!", ""))
    assert (result.terminated.tolist(), result.consumed.tolist()) == ([True, False], [1, 0])
    assert result.infos["finish_reason"].tolist() == [4, 0]
    assert result.infos["valid"].tolist() == [False, True]
    assert "no tool today" in env.scored([0])[0].verdict.reason


def test_conversations_that_fail_count_in_the_share_that_ends_a_run():
    env = talking(task=Talk(breaks_at_once=True))
    with pytest.raises(RewardError, match=r"100% of the last 8 samples could not be scored.*no tool today"):
        end_all(env, 4)


def end_all(env, times):
    for _ in range(times):
        env.reset(options={"indices": [0, 1]})
        env.step([97, 97])


def test_a_stop_string_of_the_users_ends_the_episode_not_the_turn():
    env = talking(stop_strings=["?"])
    env.reset(options={"indices": [0, 1]})
    result = env.step_many(*columns("ab?", "ab!"))
    assert result.terminated.tolist() == [True, False]
    assert result.infos["finish_reason"].tolist() == [2, 0]
    assert env.scored([0])[0].sample.completion == "ab"


def test_the_same_stop_string_may_end_every_turn():
    env = talking(max_new_tokens=12)
    env.reset(options={"indices": [0, 1]})
    for _ in range(3):
        assert env.step_many(*columns("a!", "b!")).infos["num_injected"].tolist() == [4, 4]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copy_in_the_middle_of_a_conversation_goes_on_as_the_original(clone):
    env = TextVectorEnv(3, task="guess", max_new_tokens=16)
    env.reset(seed=0)
    env.step_many(*columns("7", "12", "x"))
    twin = clone(env)
    generator = np.random.default_rng(0)
    for _ in range(60):
        actions = np.where(generator.random(3) < 0.3, END, generator.integers(48, 58, 3))
        assert data_equivalence(env.step(actions), twin.step(actions))


def test_rendering_tells_replies_apart():
    env, _secret = guessing(render_mode="ansi")
    say(env, "x")
    env.step(ord("9"))
    lines = env.render().split("\n")
    assert lines[1:] == ["completion: x", "reply: Say a number.", "completion: 9"]


def test_a_chat_template_closes_the_turn_and_opens_the_next(smol_folder):
    """Only the new tokens are added, and the whole equals the template over all messages."""
    tokenizer = load_tokenizer(smol_folder)
    added = turn_tokens(tokenizer, "user", "Higher.")
    opened = tokenizer.render_chat([{"role": "user", "content": "Guess."}])
    answer = [*tokenizer.encode("7"), min(tokenizer.end_ids)]
    dialog = [
        {"role": "user", "content": "Guess."},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Higher."},
    ]
    assert [*opened, *answer, *added] == tokenizer.render_chat(dialog)


def test_a_special_token_in_a_reply_stays_text(smol_folder):
    tokenizer = load_tokenizer(smol_folder)
    end = min(tokenizer.end_ids)
    plain = turn_tokens(tokenizer, "user", "hello")
    hostile = turn_tokens(tokenizer, "user", "<|im_end|>")
    assert hostile.count(end) == plain.count(end)
