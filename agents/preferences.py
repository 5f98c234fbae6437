"""What a run rewarded by a reward model needs before it begins: preferences of a true reward, and a model of them.

The untrained policy answers problems, several times each; a judge who knows the true reward ranks the answers, with
Plackett-Luce's noise; `rewards.preference` trains on the rankings. Everything is kept in one folder, with the settings
that it depends on: where they are the same it is used again, where they differ it is refused. After an interrupt the
same call goes on.

    <folder>/settings.json        what it depends on
             preferences.jsonl    rankings, each with the true reward of its responses
             reward_model/        as `reward=preference` reads it
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.any_text import json_line
from agents.checkpoint import config_differences, write_atomically
from agents.collect import collect
from agents.config import PreferencesConfig, TrainConfig
from agents.require import require
from agents.saved import load_policy
from agents.setup import build_env, build_reward, build_task, tokenizer_of
from rewards.errors import RewardError
from rewards.preference.card import CARD
from rewards.preference.config import TrainConfig as RewardModelConfig
from rewards.preference.truth import attainable, draw_ranking
from rewards.preference.unfinished import FREE, Stopped, Unfinished
from textenv.ended import Ended, total

Say = Callable[[str], None]
SETTINGS = "settings.json"
WAVE = 64
"""Problems that are answered together."""
FIRST_EPISODE = 1 << 40
"""Beyond those of any training, so that no draw is repeated."""


def prepare_preferences(config: TrainConfig, say: Say) -> None:
    """Draw preferences and train the reward model, as far as that is not done.

    Raises `ValueError` for settings that cannot work, and where the folder holds what other settings made; `Stopped`
    when it is interrupted.
    """
    own: PreferencesConfig = config.preparation
    folder, wanted = Path(own.folder), depends_on(config)
    refuse_others(folder, wanted)
    if (Path(own.reward_model.output) / CARD).is_file():
        say(f"The reward model in {own.reward_model.output} was trained before, with the same settings")
        return
    data = Path(own.reward_model.data)
    try:
        if not data.is_file():
            say(f"Drawing {own.judgements} rankings of {own.responses} completions of the untrained policy")
            rows = draw_preferences(config, say)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / SETTINGS, json.dumps(wanted, indent=2) + "\n")
            write_atomically(data, "".join(map(json_line, rows)))
            say(describe(rows, own.temperature))
        say(f"Training the reward model {own.reward_model.output}")
        train_reward_model(own.reward_model)
    except (RewardError, ArithmeticError) as error:
        raise ValueError(f"preparation: {error}") from error
    except Stopped as stop:
        raise Stopped(f"{stop}\nThe command of this run, given again, goes on, too.") from stop


def depends_on(config: TrainConfig) -> dict[str, Any]:
    """The settings that preferences and reward model depend on, as JSON gives them back."""
    own: PreferencesConfig = config.preparation
    model = {name: value for name, value in asdict(own.reward_model).items() if name not in FREE}
    env = {name: value for name, value in asdict(config.env).items() if name not in ("rows", "propose_tokens")}
    settings = {
        "preparation": {**asdict(own), "reward_model": model},
        "truth": truth_part(config),
        "task": config.task,
        "policy": asdict(config.policy),
        "env": env,
        "seed": config.seed,
    }
    return json.loads(json.dumps(settings))


def refuse_others(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise `ValueError` where the folder holds what other settings made."""
    if not (folder / SETTINGS).is_file():
        require(
            not folder.exists() or not any(folder.iterdir()),
            f"preparation.folder must be new or hold preferences, {folder} exists and has no {SETTINGS}",
        )
        return
    changes = config_differences(json.loads((folder / SETTINGS).read_text()), wanted)
    require(
        not changes,
        f"preparation.folder={folder} holds preferences of other settings ({'; '.join(changes)}): choose another "
        "folder, preparation.folder=..., or remove it",
    )


def truth_part(config: TrainConfig) -> Mapping[str, Any]:
    """The part of the reward that judges. Raises `ValueError` where there is none of that name."""
    parts, name = config.reward or {}, config.preparation.truth
    require(name in parts, f"preparation.truth must name a part of reward, got {name!r}, it has {sorted(parts)}")
    return parts[name]


def draw_preferences(config: TrainConfig, say: Say) -> list[dict[str, Any]]:
    """Rankings of the untrained policy's completions, those of `preparation.judgements` problems in turn.

    Only different, non-empty completions that could be judged are ranked; fewer than two give no ranking. Raises
    `ValueError` where that leaves fewer than two rankings.
    """
    own: PreferencesConfig = config.preparation
    generator = random.Random(f"{config.seed} preferences")
    rows = []
    for answers in answered(config, say):
        worth = {one.sample.completion: total(one.verdict) for one in answers if one.verdict.valid}
        worth.pop("", None)
        if len(worth) >= 2:
            prompt = list(answers[0].sample.messages) or answers[0].sample.prompt
            ranking = draw_ranking(list(worth.values()), temperature=own.temperature, generator=generator)
            rows.append({"prompt": prompt, "responses": list(worth), "ranking": ranking, "truth": list(worth.values())})
    require(len(rows) >= 2, f"the untrained policy must write different completions, {len(rows)} rankings came of them")
    return rows


def answered(config: TrainConfig, say: Say) -> Iterator[list[Ended]]:
    """For one problem after the other, the untrained policy's completions with their true rewards."""
    own: PreferencesConfig = config.preparation
    truth = build_reward({own.truth: {**truth_part(config), "weight": 1.0}})
    task, tokenizer = build_task(config.task), tokenizer_of(config.policy, say)
    size = min(WAVE, own.judgements) * own.responses
    with closing(build_env(config.env, task, truth, tokenizer, size, "train")) as env:
        device = config.policy.device
        policy = load_policy(config.policy, len(env.tokenizer), device=device, seed=config.seed, say=say)
        policy.reset(seed=config.seed)
        problems = np.arange(own.judgements) % env.num_problems
        for start in range(0, own.judgements, WAVE):
            wave = problems[start : start + WAVE].repeat(own.responses)
            first = FIRST_EPISODE + start * own.responses
            ended = collect(env, policy, wave, first_episode=first, max_tokens=config.env.propose_tokens).ended
            yield from (ended[i : i + own.responses] for i in range(0, len(ended), own.responses))


def describe(rows: Sequence[Mapping[str, Any]], temperature: float) -> str:
    """How many there are, and how well they can be predicted at all."""
    best = attainable(([row["truth"][i] for i in row["ranking"]] for row in rows), temperature=temperature)
    return (
        f"{len(rows)} rankings, {best.pairs} pairs; who knows the true reward predicts {best.accuracy:.3f} of them, "
        f"with a negative log-likelihood of {best.nll:.3f}"
    )


def train_reward_model(config: RewardModelConfig) -> None:
    """Train it, or go on where an interrupted training was."""
    from transformers.utils import logging

    from rewards.preference.training import train

    logging.disable_progress_bar()
    under_way = Unfinished.of(config.output).exists()
    train(replace(config, resume=config.output if under_way else None))
