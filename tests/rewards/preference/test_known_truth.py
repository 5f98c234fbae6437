"""A preference whose truth is known: what is learned is held against what can be learned at all (Bayes)."""

import io
import json
import random

import pytest
from rich.console import Console

from rewards.listener import NOTES, Listener
from rewards.preference.config import TrainConfig
from rewards.preference.training import train
from rewards.preference.truth import Attainable, attainable, draw_ranking

LISTENER = Listener(patience=None, steps=0.3, seed=1)
"""Sequences over 24 tokens, worth (sum of tokens + sum of neighbours) / sqrt(length). The neighbours' part is small:
who knows the tokens alone is 2.3 points and .03 nats short of Bayes here, with steps=0.7 7.6 points and .12. The tiny
model learns the tokens in a few seconds, and of the 576 neighbours little even in 1,500 steps of 128 rows (6.5 to 7
points and .11 nats short with steps=0.7), so a harder truth would test patience."""


def write(path, count, responses, *, seed):
    """Rankings of random melodies of 6 to 14 notes, drawn by Plackett-Luce; what can be known of them."""
    generator = random.Random(seed)
    worths = []
    with path.open("w") as lines:
        for _ in range(count):
            prompt = "".join(generator.sample(NOTES, 2))
            texts = ["".join(generator.choices(NOTES, k=generator.randint(6, 14))) for _ in range(responses)]
            worth = [LISTENER(prompt, text).value for text in texts]
            ranking = draw_ranking(worth, temperature=0.7, generator=generator)
            worths.append([worth[number] for number in ranking])
            lines.write(json.dumps({"prompt": prompt, "responses": texts, "ranking": ranking}) + "\n")
    return attainable(worths, temperature=0.7)


@pytest.mark.parametrize(("loss", "points"), [("pairs", 0.05), ("plackett_luce", 0.04)])
def test_it_comes_close_to_what_can_be_known(tmp_path, loss, points):
    write(tmp_path / "train.jsonl", 4000, 4, seed=0)
    bayes = write(tmp_path / "eval.jsonl", 4000, 2, seed=1)
    config = TrainConfig(
        data=str(tmp_path / "train.jsonl"),
        eval_data=str(tmp_path / "eval.jsonl"),
        output=str(tmp_path / "rm"),
        loss=loss,
        max_length=32,
        learning_rate=4e-3,
        seed=0,
    )
    found = train(config, console=Console(file=io.StringIO()))["eval"]
    assert found["accuracy"] > bayes.accuracy - points
    assert found["nll"] < bayes.nll + 0.06
    assert abs(found["score_length_correlation"]) < 0.2


def test_rankings_are_drawn_with_plackett_luce_s_probabilities():
    # worths ln 3, ln 2, ln 1 at temperature 1: order 0 1 2 has 3/6 x 2/3 = 1/3; at temperature 1/2, 9/14 x 4/5 = 18/35
    worths = [1.0986123, 0.6931472, 0.0]
    for temperature, expected in ((1.0, 1 / 3), (0.5, 18 / 35)):
        generator = random.Random(0)
        draws = [draw_ranking(worths, temperature=temperature, generator=generator) for _ in range(20_000)]
        assert draws.count([0, 1, 2]) / len(draws) == pytest.approx(expected, abs=0.01)


def test_a_draw_depends_on_its_generator_alone():
    first, second = (draw_ranking([0.0] * 8, temperature=1.0, generator=random.Random(5)) for _ in range(2))
    assert first == second
    assert sorted(first) == list(range(8))


def test_what_can_be_known_by_hand():
    # differences 1, 3, 2 in order; the pair of equal worths is a coin
    found = attainable([(3.0, 2.0, 0.0), (1.0, 1.0)], temperature=1.0)
    assert found == Attainable(4, 0.875, pytest.approx((0.313262 + 0.048587 + 0.126928 + 0.693147) / 4, abs=1e-6))
    halved = attainable([(0.0, 2.0)], temperature=2.0)
    assert halved == Attainable(1, 0.0, pytest.approx(1.313262, abs=1e-6))
    with pytest.raises(ValueError, match="at least one pair"):
        attainable([(1.0,)], temperature=1.0)
