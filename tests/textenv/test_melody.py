import pytest

from rewards.listener import Listener
from textenv import TextEnv
from textenv.tasks.melody import Melody


def test_every_beginning_is_in_one_split():
    task = Melody(test_size=50)
    train, test = ([problem.prompt for problem in task.split(name)] for name in ("train", "test"))
    assert (len(train), len(test), len({*train, *test})) == (502, 50, 24 * 23)
    assert train == [problem.prompt for problem in Melody(test_size=50).split("train")]
    assert train != [problem.prompt for problem in Melody(test_size=50, seed=1).split("train")]


def test_the_listener_pays_for_the_melody_at_its_end():
    env = TextEnv(task=Melody(taste=4), max_new_tokens=3)
    env.reset(options={"index": 0})
    rewards = [env.step(token)[1] for token in env.tokenizer.encode("abc")]
    prompt = Melody().split("train")[0].prompt
    assert rewards == [0.0, 0.0, pytest.approx(Listener(seed=4)(prompt, "abc").value)]


@pytest.mark.parametrize("size", [0, 552])
def test_a_split_without_problems_is_refused(size):
    with pytest.raises(ValueError, match=f"test_size must be from 1 to 551, got {size}"):
        Melody(test_size=size)
