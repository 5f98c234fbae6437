import pytest

from benchmarks.contenders import compose_run, contenders, unequal
from benchmarks.typed_lists import quoted

COMMON = ["task=digits", "policy=tiny", "threads=1"]
SETTINGS = {"grpo": ["agent.prompts=4", "agent.clip_high=0.3"], "ppo": ["agent.lam=0.9"]}


def found(names, common=COMMON, settings=SETTINGS, **variants):
    return contenders(names, common=common, settings=settings, variants=variants)


def test_a_name_is_an_agent_or_an_experiment_or_a_variant():
    ppo, seed, slow = found(
        ["ppo", "seed", "slow"], slow=["agent=grpo", "agent.optim.learning_rate=0", "agent.prompts=2"]
    )
    assert (ppo.choice, ppo.algorithm, ppo.settings["agent"]["lam"]) == (("agent=ppo",), "ppo", 0.9)
    assert (seed.choice, seed.algorithm) == (("experiment=seed",), "ppo")
    assert seed.settings["agent"]["gamma"] == 0.99  # the experiment's
    assert seed.settings["agent"]["lam"] == 0.9  # the algorithm's settings for this model are on top of it
    assert (slow.choice, slow.algorithm) == (("agent=grpo",), "grpo")
    assert slow.settings["agent"]["clip_high"] == 0.3
    assert slow.settings["agent"]["prompts"] == 2  # a variant's own are the last word
    assert slow.overrides[-2:] == ("agent.optim.learning_rate=0", "agent.prompts=2")
    assert "seed" not in slow.settings


def test_settings_of_a_name_come_on_top_of_its_algorithms():
    (seed,) = found(["seed"], settings={**SETTINGS, "seed": ["agent.lam=0.5"]})
    assert seed.settings["agent"]["lam"] == 0.5


@pytest.mark.parametrize(
    ("names", "variants", "message"),
    [
        (["pop"], {}, r"agents must be among grpo, ppo.*, the experiments .*seed.*, got 'pop'"),
        (["mine"], {"mine": ["agent.prompts=3"]}, r"variants.mine must choose agent=NAME or experiment=NAME"),
        (["mine"], {"mine": ["agent=grpo", "agent.group_size=1"]}, r"agent.group_size must be at least 2"),
        (["mine"], {"mine": ["agent=grpo", "agent.lam=1"]}, r"lam"),
        (["ppo", "mine"], {"mine": ["agent=ppo", "policy.tiny.num_layers=3"]}, r"policy.tiny must be the same for all"),
        (["ppo", "mine"], {"mine": ["agent=ppo", "max_tokens=3"]}, r"max_tokens must be the same for all"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(names, variants, message):
    with pytest.raises(ValueError, match=message):
        found(names, **variants)


def test_settings_and_variants_for_nobody_are_refused():
    with pytest.raises(ValueError, match=r"settings.gpro is for nobody: it must be one of grpo, ppo"):
        found(["ppo"], settings={"gpro": ["agent.prompts=4"]})
    with pytest.raises(ValueError, match=r"variants.slow does not run: add it to agents=\[ppo,grpo\]"):
        found(["ppo", "grpo"], slow=["agent=grpo"])


def test_what_differs_outside_of_the_agent_is_listed():
    two = found(["ppo", "mine"], mine=["agent=ppo", "env.max_new_tokens=3"])
    assert unequal(two) == {"env.max_new_tokens": {"ppo": 24, "mine": 3}}
    assert unequal(found(["ppo", "grpo"])) == {}


def test_a_list_of_settings_is_typed_without_quotes():
    typed = quoted("+variants.slow=[agent=grpo,agent.optim.betas=[0.9,0.95]]")
    assert typed == "+variants.slow=['agent=grpo','agent.optim.betas=[0.9,0.95]']"
    assert quoted("agents=[ppo,grpo]") == "agents=[ppo,grpo]"


def test_composing_leaves_an_application_of_hydras_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose_run(["agent=grpo", *COMMON])
    assert GlobalHydra.instance().hydra is before
