"""The yaml of each rule, of the judges and of entry points composes, takes settings and builds."""

from pathlib import Path

import hydra
import pytest
from fake_package import install
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from rewards import Sample, Scorer, as_parts

CONF = str(Path(__file__).parents[2] / "conf")


def composed(*overrides):
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        return hydra.compose(overrides=list(overrides)).reward


def chosen(*overrides):
    return as_parts(hydra.utils.instantiate(composed(*overrides), _convert_="all"))


@pytest.mark.parametrize("name", ["json", "repetition"])
def test_each_choice_builds_one_part_of_its_name(name):
    assert list(chosen(f"+reward={name}")) == [name]


@pytest.mark.parametrize("name", ["length", "soft_overlong", "lexicon", "entry_point", "judge", "local_judge"])
def test_what_only_the_user_can_say_is_mandatory(name):
    with pytest.raises(MissingMandatoryValue):
        OmegaConf.to_container(composed(f"+reward={name}"), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    ("overrides", "name", "completion", "value"),
    [
        (["+reward=json", "reward.json.fn.schema={type: object, required: [a]}"], "json", '{"a": 1}', 1.0),
        (
            ["+reward=length", "reward.length.fn.max_length=5", "reward.length.fn.unit=characters"],
            "length",
            "a" * 30,
            -0.25,
        ),
        (
            [
                "+reward=soft_overlong",
                "reward.soft_overlong.fn.max_tokens=10",
                "reward.soft_overlong.fn.cache_tokens=4",
            ],
            "soft_overlong",
            "a" * 28,  # about 7 tokens: (6 - 7) / 4
            -0.25,
        ),
        (["+reward=repetition", "reward.repetition.fn.ngram=1"], "repetition", "a b a b", -0.5),
        (["+reward=lexicon", "reward.lexicon.fn.words={please: 0.5}"], "lexicon", "please", 0.5),
        (["+reward=lexicon", "reward.lexicon.fn.words=[please]"], "lexicon", "please", 1.0),
    ],
)
def test_each_rule_is_chosen_and_set_on_the_command_line(overrides, name, completion, value):
    with Scorer(chosen(*overrides)) as scorer:
        assert scorer.score([Sample("", completion)])[0].parts[name].value == pytest.approx(value)


def test_a_class_of_the_users_works_where_a_function_is_asked_for():
    parts = chosen(
        "+reward=function", "reward.function.fn._target_=user_rewards.Batch", "+reward.function.fn.results=[0.5]"
    )
    assert Scorer(parts).score([Sample("", "ab")])[0].value == 0.5
    with pytest.raises(ValueError, match=r"fn Batch cannot be built from \[\]"):
        chosen("+reward=function", "reward.function.fn._target_=user_rewards.Batch")


def test_a_judge_is_built_from_its_yaml():
    settings = ["reward.judge.fn.backend.model=m", "reward.judge.fn.rubric.best=5", "reward.judge.timeout_seconds=9"]
    part = chosen("+reward=judge", *settings)["judge"]
    assert (part.timeout_seconds, part.fn.backend.model, part.fn.rubric.best) == (9, "m", 5)
    part = chosen("+reward=local_judge", "reward.judge.fn.backend.model=folder", "reward.judge.fn.rubric.high=2")[
        "judge"
    ]
    assert (part.fn.backend.model, part.fn.rubric.high) == ("folder", 2)


def test_an_entry_point_is_chosen_on_the_command_line(tmp_path, monkeypatch):
    install(tmp_path, "mine", "[textenv.rewards]\nshort = user_rewards:brevity\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = ["reward.entry_point.fn.name=short", "+reward.entry_point.fn.limit=4"]
    with Scorer(chosen("+reward=entry_point", *name)) as scorer:
        assert scorer.score([Sample("", "ab")])[0].value == 0.5
