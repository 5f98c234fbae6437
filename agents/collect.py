"""`collect`: the policy acts in the environment until a queue of problems is answered. The only rollout loop there is.

The policy proposes up to `max_tokens` tokens a row, the environment commits them and alone decides what ended. With
`max_tokens=1` this is the plain Gymnasium loop; any other number gives the same Rollout with fewer round trips.

Where the environment's scoring is deferred, what ended is scored while the other rows decode, and the scores are
written where the steps would have paid them: the Rollout is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from jaxtyping import Int
from torch import Tensor

from agents.parts import reward_parts
from agents.policy import Action, Policy, Sampling
from agents.rollout import Rollout, joined
from textenv.ended import Ended, Scored
from textenv.kernel import POLICY
from textenv.vector_env import StepMany, TextVectorEnv

PROPOSE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Collected:
    """A Rollout and, for people, the texts and verdicts behind it in the same order."""

    rollout: Rollout
    ended: list[Ended]
    dropped: Collected | None = None
    """What was generated beside it and is not learned from (see `agents.dynamic_sampling`)."""
    rounds: int = 1
    """Rollouts that this was put together from, dropped groups included."""

    def __getitem__(self, rows: Int[Tensor, "R"]) -> Collected:
        """The same record for some rows."""
        return Collected(self.rollout[rows], [self.ended[row] for row in rows.tolist()])

    @property
    def everything(self) -> Collected:
        """All that was generated, what was dropped behind the rest."""
        return self if self.dropped is None else merged([self, self.dropped])


def merged(several: Sequence[Collected]) -> Collected:
    """The rows of all as one record."""
    return Collected(joined([one.rollout for one in several]), [ended for one in several for ended in one.ended])


def collect(
    env: TextVectorEnv,
    policy: Policy,
    problems: np.ndarray,
    *,
    group_ids: np.ndarray | None = None,
    first_episode: int = 0,
    max_tokens: int = PROPOSE_TOKENS,
    sampling: Sampling | None = None,
    split: str | None = None,
    with_entropy: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Collected:
    """Answer `problems` (indices into the split), each once; row k of the result is position k of that queue.

    `group_ids` says which rows answer the same problem (default: each stands alone). Episode k is keyed
    `first_episode + k`. With more problems than rows the environment must be in NEXT_STEP or SAME_STEP: a row that
    ends takes the next problem. `with_entropy` records the entropy of every distribution that was sampled from (5 % of
    the time). `on_step(finished, total)` is called after every round. Raises `RewardError` as the environment's
    `on_error` and `max_invalid_share` say, with deferred scoring at the latest before it returns.
    """
    policy.reset()
    group_ids = np.arange(len(problems)) if group_ids is None else group_ids
    options = {"indices": problems, "group_ids": group_ids} | ({"split": split} if split else {})
    observation: Any
    observation, infos = env.reset(options=options)
    record = Record(len(problems), observation["tokens"].shape[1], with_entropy)
    deferred = "reward_pending" in infos
    live, pending = infos["episode_index"] >= 0, np.zeros(env.num_envs, np.bool_)
    while live.any() or pending.any():
        episode = infos["episode_index"]
        action = policy.act(
            observation,
            episode=first_episode + episode,
            live=live,
            max_tokens=max_tokens,
            end_ids=sorted(env.stop_spec.end_ids),
            sampling=sampling,
            with_entropy=with_entropy,
        )
        result = env.step_many(action.token, np.where(pending, 1, action.length))
        record.step(episode, np.flatnonzero(live), observation["length"][:, 0], action, result)
        observation, infos = result.observations, result.infos
        over = live & (result.terminated | result.truncated)
        rows = np.flatnonzero(over)
        record.end(episode[rows], rows, result)
        if deferred:
            record.score(env.scores(wait=False))
        else:
            record.keep(env.scored(rows.tolist()), episode[rows])
        restarted = over if env.autoreset_mode is AutoresetMode.SAME_STEP else pending
        live = (live & ~over) | (restarted & (infos["episode_index"] >= 0))
        pending = over & (env.autoreset_mode is AutoresetMode.NEXT_STEP)
        if on_step is not None:
            on_step(record.num_ended, len(problems))
    if deferred:
        record.score(env.scores())
    collected = record.result(group_ids, first_episode, env.stop_spec.max_new_tokens)
    parts, weight = reward_parts(env.reward_parts, collected.ended)
    return replace(collected, rollout=collected.rollout.with_(parts=parts, part_weight=weight))


def last_seen(result: StepMany, rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Observations and infos in which the episodes of `rows` ended, wherever the autoreset mode puts them."""
    if "final_obs" not in result.infos:
        return pick(result.observations, rows), pick(result.infos, rows)
    final = result.infos["final_obs"][rows]
    observation = {name: np.stack([single[name] for single in final]) for name in result.observations}
    return observation, pick(result.infos["final_info"], rows)


def pick(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The same rows of every array."""
    return {name: values[rows] for name, values in arrays.items()}


class Record:
    """What has been seen of K episodes, at the columns where it stands in the observation."""

    def __init__(self, num_episodes: int, num_columns: int, with_entropy: bool) -> None:
        self.tokens = np.zeros((num_episodes, num_columns), np.int64)
        self.segment = np.zeros((num_episodes, num_columns), np.uint8)
        self.logprob, self.reward = np.zeros((2, num_episodes, num_columns), np.float32)
        self.entropy = np.zeros_like(self.logprob) if with_entropy else None
        self.prompt_length, self.length, self.finish_reason = np.zeros((3, num_episodes), np.int64)
        self.truncated, self.valid = np.zeros((2, num_episodes), np.bool_)
        self.ended: list[Ended | None] = [None] * num_episodes
        self.num_ended = 0

    def step(self, episode: np.ndarray, rows: np.ndarray, length: np.ndarray, action: Action, result: StepMany) -> None:
        """Keep, of each proposal, what the environment took."""
        column = np.arange(action.token.shape[1])
        taken_row, taken_column = np.nonzero(column < result.consumed[rows, None])
        row = rows[taken_row]
        place = episode[row], length[row] + taken_column
        self.logprob[place] = action.logprob[row, taken_column]
        if self.entropy is not None:
            assert action.entropy is not None
            self.entropy[place] = action.entropy[row, taken_column]
        self.reward[place] = result.rewards[row, taken_column]

    def end(self, episode: np.ndarray, rows: np.ndarray, result: StepMany) -> None:
        """Keep the tokens of finished episodes."""
        observation, infos = last_seen(result, rows)
        self.tokens[episode], self.segment[episode] = observation["tokens"], observation["segment"]
        self.prompt_length[episode] = observation["prompt_length"][:, 0]
        self.length[episode] = observation["length"][:, 0]
        self.finish_reason[episode] = infos["finish_reason"]
        self.valid[episode] = infos["valid"]
        self.truncated[episode] = result.truncated[rows]
        self.num_ended += len(rows)

    def keep(self, ended: list[Ended], episode: np.ndarray) -> None:
        """Keep texts and verdicts of episodes that the step has paid."""
        for k, one in zip(episode.tolist(), ended, strict=True):
            self.ended[k] = one

    def score(self, scores: list[Scored]) -> None:
        """Keep what came behind the steps: an episode's last token, which is always the policy's, is paid."""
        for _, ended, reward in scores:
            k = ended.episode_index
            self.ended[k], self.valid[k] = ended, ended.verdict.valid
            self.reward[k, self.length[k] - 1] = reward

    def result(self, group_ids: np.ndarray, first_episode: int, budget: int) -> Collected:
        """The Rollout. It has at least `budget` response columns, more where so much was injected."""
        num_columns = max(int((self.length - self.prompt_length).max()), budget)
        column = self.prompt_length[:, None] + np.arange(num_columns)
        inside = column < self.length[:, None]
        column = np.where(inside, column, 0)

        def response(x: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.where(inside, np.take_along_axis(x, column, 1), 0))

        assert all(ended is not None for ended in self.ended)
        rollout = Rollout(
            tokens=torch.from_numpy(self.tokens[:, : self.length.max()].copy()),
            prompt_length=torch.from_numpy(self.prompt_length),
            length=torch.from_numpy(self.length),
            mask=response(self.segment) == POLICY,
            sampled_logprob=response(self.logprob),
            reward=response(self.reward),
            truncated=torch.from_numpy(self.truncated),
            finish_reason=torch.from_numpy(self.finish_reason),
            problem=torch.from_numpy(np.asarray(group_ids, np.int64)),
            episode=first_episode + torch.arange(len(self.length)),
            valid=torch.from_numpy(self.valid),
            budget=torch.full((len(self.length),), budget),
            entropy=None if self.entropy is None else response(self.entropy),
        )
        return Collected(rollout, [ended for ended in self.ended if ended is not None])
