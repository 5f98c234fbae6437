"""`step_many(A, lengths)` is the loop of `step` over the columns of A, each row until its first end."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from textenv import TextVectorEnv
from textenv.tokenizer import ByteTokenizer

ROWS = 6
TOKENIZER = "tiny:0123456789-+= Whatis?"


def environment(longer, mode, **settings):
    settings = {"max_new_tokens": 9, "stop_strings": ["12", "0?"], "tokenizer": TOKENIZER} | settings
    return TextVectorEnv(ROWS, reward=longer, autoreset_mode=mode, **settings)


def random_actions(generator, env, columns):
    """Often a digit or `?`, so that stop strings occur; one in eight an end token."""
    actions = generator.choice([0, 1, 2, 20], size=(ROWS, columns))
    return np.where(generator.random((ROWS, columns)) < 0.125, env.tokenizer.eos_id, actions)


def one_by_one(env, actions, lengths):
    """The loop: a row stops taking columns at its first end, which never is a pending reset."""
    rewards = np.zeros(actions.shape)
    terminated, truncated = np.zeros((2, ROWS), dtype=bool)
    consumed = np.zeros(ROWS, dtype=np.int64)
    result = env.step_many(actions[:, :0])
    finals = []
    for column in range(actions.shape[1]):
        feed = (column < lengths) & ~(terminated | truncated)
        result = env.step_many(actions[:, column : column + 1], feed.astype(int))
        finals.append(result.infos)
        rewards[:, column] = result.rewards[:, 0]
        terminated |= result.terminated
        truncated |= result.truncated
        consumed += result.consumed
    infos = {name: values for name, values in result.infos.items() if "final" not in name}
    return result.observations, rewards, terminated, truncated, infos | merged(finals), consumed


def merged(infos):
    """`final_obs` and `final_info` of several calls, each row in at most one of them, as if of one call."""
    infos = [info for info in infos if "final_obs" in info]
    if not infos:
        return {}
    final_obs = np.full(ROWS, None, dtype=object)
    for info in infos:
        final_obs[info["_final_obs"]] = info["final_obs"][info["_final_obs"]]
    ended = np.any([info["_final_obs"] for info in infos], axis=0)
    final_info = {}
    for name, values in infos[0]["final_info"].items():
        parts = [np.where(info["_final_info"], info["final_info"][name], 0) for info in infos]
        final_info[name] = np.sum(parts, axis=0).astype(values.dtype)
    return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("columns", [1, 2, 5, 14])
@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_many_columns_are_the_loop_of_one(longer, mode, columns, budget):
    many, single = (environment(longer, mode, budget=budget) for _ in range(2))
    generator = np.random.default_rng(columns)
    for seed in range(3):
        queue = {"indices": generator.integers(0, many.num_problems, ROWS if mode == "Disabled" else 3 * ROWS)}
        assert data_equivalence(many.reset(options=queue), single.reset(options=queue))
        done = np.zeros(ROWS, dtype=bool)
        for _ in range(60 // columns):
            actions = random_actions(generator, many, columns)
            lengths = generator.integers(0, columns + 1, ROWS)
            if mode == "Disabled":
                lengths[done] = 0
            a, b = many.step_many(actions, lengths), one_by_one(single, actions, lengths)
            assert data_equivalence(tuple(a), b), (seed, a, b)
            done |= a.terminated | a.truncated
        assert data_equivalence(many.decode(range(ROWS)), single.decode(range(ROWS)))


def test_episodes_do_not_depend_on_how_columns_are_cut(longer):
    """Whole episodes from one token matrix, fed 1, 3, 8 and 9 columns at a time."""
    actions = random_actions(np.random.default_rng(0), environment(longer, "Disabled"), 9)
    results = []
    for columns in (1, 3, 8, 9):
        env = environment(longer, "Disabled")
        env.reset(options={"indices": np.arange(ROWS)})
        done, total = np.zeros(ROWS, dtype=bool), np.zeros(ROWS)
        for start in range(0, 9, columns):
            piece = actions[:, start : start + columns]
            result = env.step_many(piece, np.where(done, 0, piece.shape[1]))
            done |= result.terminated | result.truncated
            total += result.rewards.sum(1)
        assert done.all()
        results.append((result.observations, total, result.infos, [e.sample for e in env.scored(range(ROWS))]))
    assert all(data_equivalence(results[0], other) for other in results[1:])


def test_a_pending_reset_takes_column_0_and_the_rest_goes_to_the_new_episode(longer):
    env = environment(longer, "NextStep")
    env.reset(options={"indices": np.arange(2 * ROWS)})
    end = env.tokenizer.eos_id
    env.step([end] * ROWS)
    result = env.step_many(np.tile([end, 3, 4, 5], (ROWS, 1)), np.arange(ROWS) % 5)
    assert result.consumed.tolist() == [0, 1, 2, 3, 4, 0]
    assert result.infos["episode_index"].tolist() == [0, 6, 7, 8, 9, 5]
    policy_tokens = (result.observations["segment"] == 2).sum(1)
    assert policy_tokens.tolist() == [1, 0, 1, 2, 3, 1]
    assert not result.rewards.any()
    assert not result.terminated.any()


def test_length_0_leaves_a_finished_row_as_it_is(longer):
    env = environment(longer, "Disabled")
    env.reset(seed=0)
    first = env.step([env.tokenizer.eos_id, *[0] * (ROWS - 1)])
    result = env.step_many(np.full((ROWS, 1), 1), [0, *[1] * (ROWS - 1)])
    for name, values in first[0].items():
        assert (values[0] == result.observations[name][0]).all()
    assert result.infos["finish_reason"][0] == first[4]["finish_reason"][0] == 1
    assert not result.terminated[0]
    assert result.rewards[0, 0] == 0


def test_what_stands_behind_an_end_leaves_no_trace(longer):
    env = environment(longer, "Disabled", max_new_tokens=9)
    env.reset(seed=0)
    end = env.tokenizer.eos_id
    result = env.step_many(np.tile([3, 4, end, 5, 6, 7], (ROWS, 1)))
    length = result.observations["length"][:, 0]
    assert (length == result.observations["prompt_length"][:, 0] + 3).all()
    for row in range(ROWS):
        assert (result.observations["tokens"][row, length[row] :] == env.tokenizer.pad_id).all()
        assert not result.observations["segment"][row, length[row] :].any()
    assert (result.observations["remaining"] == 6).all()
    assert np.nonzero(result.rewards)[1].tolist() == [2] * ROWS


def test_no_python_runs_per_row_on_a_step_where_nothing_ends(longer):
    """The number of function calls in a step is the same for 4 rows and for 400."""
    import sys

    counts = []
    for rows in (4, 400):
        env = TextVectorEnv(rows, reward=longer, max_new_tokens=9, stop_strings=["12"])
        env.reset(seed=0)
        calls = [0]

        def count(frame, event, argument, calls=calls):
            calls[0] += event in ("call", "c_call")

        sys.setprofile(count)
        env.step(np.zeros(rows, dtype=np.int64))
        sys.setprofile(None)
        counts.append(calls[0])
    assert counts[0] == counts[1]


class Counting(ByteTokenizer):
    calls = 0

    def decode_batch(self, rows):
        self.calls += 1
        return super().decode_batch(rows)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_the_tokenizer_is_called_once_where_something_ends_and_else_not_at_all(mode, longer):
    env = TextVectorEnv(40, reward=longer, tokenizer=Counting(), max_new_tokens=3, autoreset_mode=mode)
    env.reset(seed=0)
    calls = []
    for _ in range(3):
        env.tokenizer.calls = 0
        env.step(np.zeros(40, dtype=np.int64))
        calls.append(env.tokenizer.calls)
    assert calls == [0, 0, 1]
