import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textenv import TextEnv, TextVectorEnv
from textenv.tokenizer import ByteTokenizer

CHAT = [{"role": "user", "content": "hi"}]
INFO_KEYS = {
    "prompt_index",
    "group_id",
    "episode_index",
    "finish_reason",
    "num_injected",
    "valid",
    "reward/longer",
}


@pytest.fixture
def make(longer):
    return lambda rows=4, **settings: TextVectorEnv(rows, **({"reward": longer, "max_new_tokens": 5} | settings))


def ends(env, row_or_rows=slice(None)):
    actions = np.zeros(env.num_envs, dtype=np.int64)
    actions[row_or_rows] = env.tokenizer.eos_id
    return actions


@pytest.mark.parametrize("obs_mode", ["dict", "packed"])
@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_equals_sync_vector_env(longer, obs_mode, budget):
    settings = {"reward": longer, "max_new_tokens": 6, "obs_mode": obs_mode, "budget": budget}
    native = TextVectorEnv(5, **settings)
    sync = SyncVectorEnv([lambda: TextEnv(**settings)] * 5)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata == sync.metadata
    generator = np.random.default_rng(1)
    mask = np.array([True, False, True, False, False])
    for seed in (3, [5, None, 7, 7, 9], None):
        assert data_equivalence(native.reset(seed=seed), sync.reset(seed=seed))
        for step in range(250):
            actions = generator.integers(0, len(native.tokenizer), 5)
            assert data_equivalence(native.step(actions), sync.step(actions)), step
            if step % 50 == 20:
                options = {"reset_mask": mask, "index": 3, "max_new_tokens": 2}
                assert data_equivalence(native.reset(options=options), sync.reset(options=dict(options)))
        if seed is None:
            break
    assert native.np_random_seed == sync.np_random_seed


def test_disabled_equals_sync_vector_env(longer):
    settings = {"reward": longer, "max_new_tokens": 4}
    native = TextVectorEnv(3, autoreset_mode="Disabled", **settings)
    sync = SyncVectorEnv([lambda: TextEnv(**settings)] * 3, autoreset_mode="Disabled")
    assert data_equivalence(native.reset(seed=0), sync.reset(seed=0))
    generator = np.random.default_rng(0)
    for _ in range(200):
        actions = generator.integers(0, len(native.tokenizer), 3)
        result = native.step(actions)
        assert data_equivalence(result, sync.step(actions))
        done = result[2] | result[3]
        if done.any():
            options = {"reset_mask": done}
            assert data_equivalence(native.reset(options=options), sync.reset(options=dict(options)))


def test_info_keys_are_the_same_at_every_reset_and_step(make):
    env = make()
    expected = INFO_KEYS | {f"_{key}" for key in INFO_KEYS}
    infos = [env.reset(seed=0)[1]]
    infos += [env.step(ends(env, step % 4))[4] for step in range(8)]
    infos.append(env.reset(options={"reset_mask": np.array([True, False, False, False])})[1])
    for info in infos:
        assert set(info) == expected
        assert all(values.dtype.kind in "ifb" for values in info.values())
    assert infos[-1]["_valid"].tolist() == [True, False, False, False]
    assert all(info["_valid"].all() for info in infos[:-1])


def test_arrays_are_fresh_at_every_call(make):
    env = make()
    first, first_infos = env.reset(seed=0)
    kept = copy.deepcopy(first)
    second, *_, infos = env.step([1, 2, 3, 4])
    assert data_equivalence(first, kept)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)
    assert not any(np.shares_memory(first_infos[key], infos[key]) for key in infos)


def test_segment_length_and_remaining(make):
    env = make(1, max_prompt_tokens=20)
    env.reset(options={"prompt": {"prompt": "What", "answer": 1}})
    env.step([1])
    observation, *_ = env.step([2])
    assert observation["segment"][0, :7].tolist() == [1, 1, 1, 1, 2, 2, 0]
    assert observation["tokens"][0, 4:7].tolist() == [1, 2, env.tokenizer.pad_id]
    assert [int(observation[name][0, 0]) for name in ("length", "prompt_length", "remaining")] == [6, 4, 3]
    assert observation in env.observation_space


@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_a_spent_budget(make, budget):
    env = make(2, budget=budget)
    env.reset(seed=0)
    result = env.step_many(np.ones((2, 5), dtype=int))
    assert result.terminated.tolist() == [budget == "terminate"] * 2
    assert result.truncated.tolist() == [budget == "truncate"] * 2
    assert result.infos["finish_reason"].tolist() == [3, 3]
    answer = env.scored([0])[0].sample.row["answer"]
    assert result.rewards[0].tolist() == [0, 0, 0, 0, 5 / 7 + answer]


@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_end_token_as_last_of_the_budget_terminates(make, budget):
    env = make(1, budget=budget)
    env.reset(seed=0)
    result = env.step_many([[1, 1, 1, 1, env.tokenizer.eos_id]])
    assert (bool(result.terminated[0]), bool(result.truncated[0])) == (True, False)
    assert result.infos["finish_reason"][0] == 1


def test_end_token_as_first_action_scores_the_empty_completion(make):
    env = make(1)
    env.reset(seed=0)
    _, rewards, terminated, _, _ = env.step(ends(env))
    ended = env.scored([0])[0]
    assert terminated[0]
    assert ended.sample.completion == ""
    assert ended.sample.completion_ids.tolist() == [env.tokenizer.eos_id]
    assert rewards[0] == ended.sample.row["answer"] == ended.verdict.value


def test_padding_with_the_end_token_changes_nothing(make):
    from textenv.tokenizer import TinyTokenizer

    tokenizer = TinyTokenizer("0123456789+ Whatis?")
    tokenizer.pad_id = tokenizer.eos_id
    env = make(1, tokenizer=tokenizer)
    observation, _ = env.reset(seed=0)
    assert observation["tokens"][0, -1] == tokenizer.eos_id
    observation, _, terminated, _, _ = env.step([1])
    assert not terminated[0]
    observation, _, terminated, _, _ = env.step(ends(env))
    assert terminated[0]
    assert observation["segment"][0].tolist().count(2) == 2


def test_rows_take_the_queue_in_order_and_then_idle(make):
    env = make(3)
    indices, groups = np.array([7, 7, 8, 8, 9]), np.array([70, 70, 80, 80, 90])
    observation, infos = env.reset(options={"indices": indices, "group_ids": groups})
    assert infos["prompt_index"].tolist() == [7, 7, 8]
    assert infos["episode_index"].tolist() == [0, 1, 2]
    env.step(ends(env, 1))
    *_, infos = env.step(ends(env, 2))  # row 1 takes entry 3 while row 2 ends
    assert infos["episode_index"].tolist() == [0, 3, 2]
    assert infos["group_id"].tolist() == [70, 80, 80]
    env.step(ends(env, 0))  # row 2 takes entry 4 while row 0 ends
    observation, rewards, terminated, truncated, infos = env.step(ends(env, 1))  # nothing is left for row 0
    assert infos["episode_index"].tolist() == [-1, 3, 4]
    assert observation["length"][:, 0].tolist()[0] == 0
    assert not observation["segment"][0].any()
    for _ in range(9):
        observation, rewards, terminated, truncated, infos = env.step(ends(env))
        assert not np.array([terminated[0], truncated[0], rewards[0]]).any()
    assert infos["episode_index"].tolist() == [-1, -1, -1]
    assert env.step_many(np.zeros((3, 2), dtype=int)).consumed.tolist() == [0, 0, 0]
    assert env.reset(seed=0)[1]["episode_index"].tolist() == [0, 0, 0]


def test_a_short_queue_leaves_rows_idle(make):
    env = make(4, autoreset_mode="Disabled")
    observation, infos = env.reset(options={"indices": [5, 6]})
    assert observation["length"][2:].tolist() == [[0], [0]]
    assert infos["episode_index"].tolist() == [0, 1, -1, -1]
    assert infos["group_id"].tolist() == [0, 1, -1, -1]
    result = env.step_many(np.ones((4, 5), dtype=int))
    assert result.consumed.tolist() == [5, 5, 0, 0]
    assert result.terminated.tolist() == [True, True, False, False]
    assert env.render() is None


def test_a_queue_longer_than_the_rows_needs_autoreset(make):
    with pytest.raises(ValueError, match=r"at most 4 entries.*got 5"):
        make(4, autoreset_mode="Disabled").reset(options={"indices": np.arange(5)})


def test_prompts_of_the_callers(make):
    env = make(2, max_prompt_tokens=20)
    prompts = [{"prompt": "What is 1", "answer": 1}, {"prompt": "is", "answer": 2}, {"prompt": "at", "answer": 3}]
    observation, infos = env.reset(options={"prompts": prompts, "max_new_tokens": [5, 2, 3]})
    assert infos["prompt_index"].tolist() == [-1, -1]
    assert observation["prompt_length"].tolist() == [[9], [2]]
    assert observation["remaining"].tolist() == [[5], [2]]
    env.step(ends(env, 0))
    observation, *_ = env.step(ends(env, []))
    assert observation["remaining"][0] == 3
    assert env.scored([0])[0].sample.prompt == "What is 1"


def test_options_hold_for_the_reset_alone(make):
    env = make(2)
    _, infos = env.reset(seed=0, options={"index": 3, "group_id": 8, "max_new_tokens": 1})
    assert infos["prompt_index"].tolist() == [3, 3]
    assert infos["group_id"].tolist() == [8, 8]
    env.step([0, 0])
    observation, *_, infos = env.step([0, 0])
    assert observation["remaining"].tolist() == [[5], [5]]
    assert infos["group_id"].tolist() == [-1, -1]
    assert infos["episode_index"].tolist() == [1, 1]


def test_the_test_split_on_request(make):
    env = make(1)
    env.reset(options={"indices": [0], "split": "test"})
    env.step(ends(env))
    assert env.scored([0])[0].sample.row == env.task.split("test")[0].row


def test_options_are_not_written_to(make):
    env = make(2)
    env.reset(seed=0)
    options = {"reset_mask": np.array([True, False]), "indices": np.array([1]), "group_ids": [4]}
    before = copy.deepcopy(options)
    _, infos = env.reset(options=options)
    assert data_equivalence(options, before)
    assert infos["prompt_index"].tolist() == [1, 0]
    assert infos["_prompt_index"].tolist() == [True, False]


def test_seeds_decide_and_none_goes_on(make):
    def prompts(env, seed):
        return env.reset(seed=seed)[1]["prompt_index"].tolist()

    env = make(3)
    assert prompts(env, 5) == prompts(make(3), [5, 6, 7]) == prompts(env, 5)
    assert [prompts(env, seed) for seed in (5, None)] == [prompts(env, seed) for seed in (5, [None] * 3)]
    assert prompts(make(2), 6) == prompts(make(3), 5)[1:]
    with pytest.raises(ValueError, match="seeds must have one for each of the 3 rows, got 2"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize(
    ("actions", "error"),
    [
        ([0, 0, 0, 10_000], InvalidAction),
        ([-1, 0, 0, 0], InvalidAction),
        ([0.0, 1.0, 2.0, float("nan")], InvalidAction),
        ([True, False, True, False], InvalidAction),
        ([0, 0, 0], ValueError),
        ([0] * 5, ValueError),
        (np.zeros((4, 1), dtype=int), ValueError),
        (3, TypeError),
    ],
)
def test_an_invalid_action_raises_and_changes_nothing(make, actions, error):
    env, twin = make(), make()
    for each in (env, twin):
        each.reset(seed=0)
        each.step(ends(each, 1))  # with a reset pending in row 1
    with pytest.raises(error):
        env.step(actions)
    assert data_equivalence(env.step([1, 2, 3, 4]), twin.step([1, 2, 3, 4]))


def test_only_tokens_that_are_fed_are_checked(make):
    env = make(2)
    env.reset(seed=0)
    env.step_many(np.array([[1, -1], [1, 1]]), [1, 2])
    with pytest.raises(ValueError, match=r"lengths must be from 0 to 1, .* got \[2, 0\]"):
        env.step_many(np.zeros((2, 1), dtype=int), [2, 0])
    with pytest.raises(ValueError, match=r"actions must have shape \(2, T\), got \(2,\)"):
        env.step_many([1, 1])


def test_a_finished_row_cannot_be_stepped_in_disabled(make):
    env = make(2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(ends(env, 0))
    with pytest.raises(AssertionError, match=r"rows \[0\] are finished"):
        env.step([0, 0])
    assert env.step_many([[0], [1]], [0, 1]).consumed.tolist() == [0, 1]


def test_reset_comes_first(make):
    with pytest.raises(ResetNeeded):
        make().step([0] * 4)
    with pytest.raises(ResetNeeded):
        make(2).reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indexes": [1]}, "reset options must be among .*, got 'indexes'"),
        ({"indices": [1], "prompt": "x"}, "name the problems in one way, got indices and prompt"),
        ({"indices": [10_000_000]}, r"options\['indices'\] must be from 0 to \d+, got 10000000"),
        ({"indices": [0.5]}, r"options\['indices'\] must be integers"),
        ({"indices": []}, "K at least 1"),
        ({"indices": 3}, r"must have shape \(K,\)"),
        ({"indices": [1], "group_ids": [1, 2]}, r"options\['group_ids'\] must have shape \(1,\), got \(2,\)"),
        ({"group_ids": [1]}, "needs 'indices' or 'prompts'"),
        ({"max_new_tokens": 6}, "must be from 1 to 5, got 6"),
        ({"max_new_tokens": [1, 2]}, r"must have shape \(4,\), got \(2,\)"),
        ({"split": "exam"}, "split must be one of train, test, got 'exam'"),
        ({"prompt": "<generator object _iterable>"}, "a wrapper that converts arrays has replaced it"),
        ({"prompt": 3}, "a prompt must be text or a list of messages"),
        ({"reset_mask": np.zeros(4, dtype=bool)}, "at least one True"),
        ({"reset_mask": np.ones(3, dtype=bool)}, r"must have shape `\(4,\)`, got \(3,\)"),
    ],
)
def test_a_wrong_option_is_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make().reset(options=options)


def test_a_reset_mask_of_a_wrong_type_is_a_type_error(make):
    for mask in ([True] * 4, np.ones(4, dtype=int)):
        with pytest.raises(TypeError, match="reset_mask"):
            make().reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_prompt_tokens": 2.5}, "max_prompt_tokens must be an integer of at least 1, got 2.5"),
        ({"budget": "stop"}, "budget must be one of terminate, truncate, got 'stop'"),
        ({"obs_mode": "box"}, "obs_mode must be one of dict, packed, got 'box'"),
        ({"scoring": "later"}, "scoring must be one of immediate, deferred, got 'later'"),
        ({"on_long_prompt": "cut"}, "on_long_prompt must be one of error, left, right, got 'cut'"),
        ({"stop_strings": "stop"}, "stop_strings must be a list of non-empty texts, got 'stop'"),
        ({"stop_strings": [""]}, "stop_strings must be a list of non-empty texts"),
        ({"autoreset_mode": "Never"}, "autoreset_mode must be one of NextStep, SameStep, Disabled, got 'Never'"),
        ({"render_mode": "rgb_array"}, "render_mode must be None or one of ansi, human, got 'rgb_array'"),
        ({"rows": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"split": "exam"}, "split must be one of train, test, got 'exam'"),
        ({"task": "arithmetics"}, "task must be one of arithmetic, .* got 'arithmetics'"),
        ({"chat": True}, "chat=True needs a tokenizer with a chat template, got 'tiny:"),
        ({"system_prompt": "Be brief."}, "system_prompt needs chat"),
        ({"prompt_template": "no place"}, "prompt_template must contain {prompt} once, got 'no place'"),
        ({"max_prompt_tokens": 5}, r"max_prompt_tokens=5 tokens .* got 16 tokens: 'What is"),
        ({"task": {"_target_": "text", "problems": [{"prompt": CHAT, "answer": 1}]}}, "needs chat"),
        ({"tokenizer": "tiny:abc"}, "encodes only the characters of its alphabet 'abc'"),
        (
            {"reward": {"r": {"fn": lambda solution: 0.0, "execution": "inline"}}},
            "asks for column 'solution', which the task does not provide",
        ),
        ({"on_error": "ignore"}, "on_error must be raise, invalid or a finite number, got 'ignore'"),
    ],
)
def test_a_wrong_setting_is_named_at_construction(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_an_unknown_setting_is_a_type_error(make):
    with pytest.raises(TypeError, match="max_tokens"):
        make(max_tokens=3)


@pytest.mark.parametrize(("policy", "shown"), [("left", "+ 2?"), ("right", "What")])
def test_a_prompt_that_is_too_long_is_cut_where_told(make, policy, shown):
    env = make(1, max_prompt_tokens=4, on_long_prompt=policy)
    observation, _ = env.reset(options={"prompt": {"prompt": "What is 1 + 2?", "answer": 3}})
    assert env.tokenizer.decode(observation["tokens"][0, :4]) == shown


def test_a_prompt_of_the_callers_that_is_too_long_is_an_error(make):
    with pytest.raises(ValueError, match=r"max_prompt_tokens=24 tokens .* got 30 tokens: 'aaa"):
        make(1).reset(options={"prompt": "a" * 30})


def test_an_empty_prompt_needs_a_start_token(make):
    with pytest.raises(ValueError, match="a prompt must have at least one token"):
        make(1).reset(options={"prompt": ""})
    env = make(1, tokenizer="byte")
    assert env.reset(options={"prompt": ""})[0]["length"].tolist() == [[1]]


def test_prompt_template_is_filled_and_braces_stay(make):
    env = make(1, tokenizer="byte", prompt_template="{x} {prompt} =", max_prompt_tokens=30)
    env.reset(options={"prompt": {"prompt": "{y}", "answer": 1}})
    env.step(ends(env))
    assert env.scored([0])[0].sample.prompt == "{x} {y} ="


def test_autoreset_mode_stands_in_metadata_of_the_instance(make):
    for mode in (AutoresetMode.DISABLED, "Disabled", "DISABLED"):
        env = make(autoreset_mode=mode)
        assert env.metadata["autoreset_mode"] is env.autoreset_mode is AutoresetMode.DISABLED
    assert "autoreset_mode" not in TextVectorEnv.metadata
    assert make().metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_an_environment_in_the_middle_of_an_episode_pickles_and_copies(make):
    env = make(3)
    env.reset(seed=0)
    env.step([1, 2, env.tokenizer.eos_id])
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    generator = np.random.default_rng(0)
    for _ in range(30):
        actions = generator.integers(0, len(env.tokenizer), 3)
        expected = env.step(actions)
        assert all(data_equivalence(twin.step(actions), expected) for twin in twins)


def test_render_tells_prompt_and_completion_apart(make, capsys):
    env = make(2, render_mode="ansi")
    env.reset(options={"index": 0})
    env.step_many(np.array([[1, 2], [1, env.tokenizer.eos_id]]))
    first, second = env.render()
    prompt = env.task.split("train")[0].prompt
    assert first == f"prompt: {prompt}\ncompletion: {env.tokenizer.decode([1, 2])}"
    assert second.splitlines()[2].startswith("ended: eos, reward ")
    env = make(1, render_mode="human")
    env.reset(options={"index": 0})
    env.step(ends(env))
    assert f"\033[2m{prompt}\033[0m\033[32m" in capsys.readouterr().out
    assert env.render() is None


def test_a_graders_failure_is_marked_and_pays_nothing(make):
    class Fails:
        execution = "inline"

        def __call__(self, completion, answer):
            raise RuntimeError("out of order")

    env = make(2, reward={"longer": Fails()})
    env.reset(seed=0)
    _, rewards, terminated, _, infos = env.step(ends(env, 0))
    assert (infos["valid"].tolist(), rewards.tolist()) == ([False, True], [0.0, 0.0])
    assert terminated[0]
    assert "out of order" in env.scored([0])[0].verdict.reason
    with pytest.raises(ValueError, match="row 1 has not"):
        env.scored([1])


def test_spans_are_paid_in_sum_on_the_last_token():
    env = TextVectorEnv(1, task={"_target_": "target", "dense": True}, max_new_tokens=10)
    env.reset(seed=0)
    right = env.tokenizer.encode(env.task.answer)
    rewards = env.step_many([[*right[:9], 0]]).rewards[0]
    assert rewards.tolist() == [0.0] * 9 + [pytest.approx(0.9)]


@pytest.mark.model
def test_a_chat_model_sees_a_chat(smol_folder, longer):
    env = TextVectorEnv(2, tokenizer=smol_folder, reward=longer, system_prompt="Be brief.", max_new_tokens=4)
    observation, _ = env.reset(options={"indices": [0, 1]})
    length = int(observation["length"][0, 0])
    question = env.task.split("train")[0].prompt
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    assert observation["tokens"][0, :length].tolist() == env.tokenizer.render_chat(messages)
    env.step([2, 2])
    sample = env.scored([0])[0].sample
    assert sample.messages == tuple(messages)
    assert sample.prompt.endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.model
def test_chat_can_be_left_out(smol_folder, longer):
    env = TextVectorEnv(1, tokenizer=smol_folder, reward=longer, chat=False)
    observation, _ = env.reset(options={"index": 0})
    text = env.tokenizer.decode(observation["tokens"][0, : observation["length"][0, 0]])
    assert text == env.task.split("train")[0].prompt


def test_gymnasiums_wrappers_work(make):
    from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

    env = RecordEpisodeStatistics(make(3))
    env.reset(seed=0)
    infos = env.step(ends(env.unwrapped, 1))[4]
    assert infos["episode"]["l"].tolist() == [0, 1, 0]
    env = DictInfoToList(make(3))
    assert [info["episode_index"] for info in env.reset(seed=0)[1]] == [0, 0, 0]
    assert isinstance(env, gymnasium.vector.VectorEnv)


def test_equals_async_vector_env():
    """In other processes too (fork; the kernel holds nothing that does not travel)."""
    native, other = (
        gymnasium.make_vec("textenv/Target-v0", 2, vectorization_mode=mode) for mode in ("vector_entry_point", "async")
    )
    assert data_equivalence(native.reset(seed=1), other.reset(seed=1))
    native.action_space.seed(0)
    for _ in range(40):
        actions = native.action_space.sample()
        assert data_equivalence(native.step(actions), other.step(actions))
    other.close()


def prompts_of(env, times=1):
    return [env.reset()[1]["prompt_index"].tolist() for _ in range(times)]


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (5, {"index": 10**9}),
        (5, {"indices": [1, 2], "max_new_tokens": 10**6}),
        ([1, -1], None),
        (5, {"prompts": "abc"}),
        (5, {"index": 0, "group_id": 1.7}),
        (5, {"index": [0, 1]}),
    ],
)
def test_a_refused_reset_changes_nothing(make, seed, options):
    env, twin = make(2), make(2)
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises((ValueError, TypeError, gymnasium.error.Error)):
        env.reset(seed=seed, options=options)
    assert env.np_random_seed == twin.np_random_seed
    assert prompts_of(env, 3) == prompts_of(twin, 3)


def test_a_refused_reset_leaves_the_queue(make):
    env = make(2)
    env.reset(options={"indices": [1, 2, 3, 4]})
    for options in ({"index": 0, "max_new_tokens": 10**6}, {"split": "test"}, {"group_id": 7}, {"max_new_tokens": 1}):
        with pytest.raises(ValueError, match=r"max_new_tokens|split|group_id"):
            env.reset(options=options | {"reset_mask": np.array([True, False])})
    _, infos = env.reset(options={"reset_mask": np.array([True, False])})
    assert infos["prompt_index"][0] == 3


def test_a_limit_from_outside_is_refused_and_none_is_taken(make):
    with pytest.raises(ValueError, match=r"max_episode_steps must be left out.*set max_new_tokens, got 5"):
        make(1, max_episode_steps=5)
    make(1, max_episode_steps=-1)


def test_end_tokens_outside_the_vocabulary_are_named():
    class Strange(ByteTokenizer):
        end_ids = frozenset({257, 5000})

    with pytest.raises(ValueError, match=r"end_ids of tokenizer 'byte' must be from 0 to 258, got \[5000\]"):
        TextVectorEnv(1, tokenizer=Strange())
