"""Bad settings are refused where they are made, with the setting, the rule and the value."""

import re

import pytest

from agents.config import EnvConfig, EvaluationConfig, PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.policy.hardware import pick_device, pick_dtype
from agents.policy.loading import TinyConfig
from agents.ppo import PPOConfig
from agents.trpo import TRPOConfig
from rewards.preference.lora import LoraConfig

NAN = float("nan")
BAD = [
    (OptimConfig, "agent.optim.epochs must be at least 1", 0),
    (OptimConfig, "agent.optim.microbatch_tokens must be at least 1", 0),
    (OptimConfig, "agent.optim.minibatch_rows must be at least 1 or null", 0),
    (OptimConfig, "agent.optim.warmup_steps must be at least 0", -1),
    (OptimConfig, "agent.optim.learning_rate must be a number of at least 0", -1e-5),
    (OptimConfig, "agent.optim.learning_rate must be a number of at least 0", NAN),
    (OptimConfig, "agent.optim.critic_learning_rate must be a number of at least 0", float("inf")),
    (OptimConfig, "agent.optim.weight_decay must be a number of at least 0", -0.1),
    (OptimConfig, "agent.optim.max_grad_norm must be above 0", 0.0),
    (OptimConfig, "agent.optim.max_grad_norm must be above 0", NAN),
    (OptimConfig, "agent.optim.decay must be one of constant, linear, cosine", "square"),
    (OptimConfig, "agent.optim.decay_share must be in (0, 1]", 0.0),
    (OptimConfig, "agent.optim.critic_decay must be one of constant, linear, cosine", "square"),
    (OptimConfig, "agent.optim.aggregation must be one of token_mean, sequence_mean, sequence_sum, constant", "sum"),
    (GRPOConfig, "agent.critic must be none: GRPO compares a completion with the others of its prompt", "shared"),
    (GRPOConfig, "agent.prompts must be at least 1", 0),
    (GRPOConfig, "agent.group_size must be at least 2 (a completion is compared with its group)", 1),
    (GRPOConfig, "agent.scale_advantages must be one of group, batch, none", "std"),
    (GRPOConfig, "agent.clip_low must be in [0, 1]", 1.2),
    (GRPOConfig, "agent.clip_low must be in [0, 1]", NAN),
    (GRPOConfig, "agent.clip_high must be at least 0", -0.2),
    (GRPOConfig, "agent.kl_coef must be at least 0", -0.1),
    (GRPOConfig, "agent.kl_in must be one of reward, loss, both", "advantage"),
    (GRPOConfig, "agent.kl_estimator must be one of k1, k2, k3, weighted_k3, full or null", "k4"),
    (GRPOConfig, "agent.reference_every must be at least 1 or null", 0),
    (PPOConfig, "agent.prompts must be at least 1", 0),
    (PPOConfig, "agent.group_size must be at least 1", 0),
    (PPOConfig, "agent.gamma must be in [0, 1]", 1.01),
    (PPOConfig, "agent.lam must be in [0, 1]", -0.1),
    (PPOConfig, "agent.clip_low must be in [0, 1]", 2.0),
    (PPOConfig, "agent.clip_high must be at least 0", -0.2),
    (PPOConfig, "agent.value_coef must be at least 0", -1.0),
    (PPOConfig, "agent.entropy_coef must be at least 0", -1.0),
    (PPOConfig, "agent.kl_coef must be at least 0", -1.0),
    (PPOConfig, "agent.penalty_coef must be at least 0", -1.0),
    (PPOConfig, "agent.kl_in must be one of reward, loss, both", "advantage"),
    (PPOConfig, "agent.kl_estimator must be one of k1, k2, k3, weighted_k3, full or null", "k4"),
    (PPOConfig, "agent.reference_every must be at least 1 or null", 0),
    (PPOConfig, "agent.value_clip must be positive or null", 0.0),
    (PPOConfig, "agent.max_kl_old must be positive or null", 0.0),
    (PPOConfig, "agent.max_kl_reference must be positive or null", -1.0),
    (PPOConfig, "agent.objective must be one of clip, penalty", "plain"),
    (PPOConfig, "agent.critic must be one of shared, separate", "none"),
    (PPOConfig, "agent.value_loss must be one of squared, huber", "l1"),
    (PPOConfig, "agent.kl_controller must be one of fixed, horizon, halving", "pid"),
    (PPOConfig, "agent.truncation must be one of bootstrap, terminal, penalty, mask", "ignore"),
    (PPOConfig, "agent.ratio_cap must be above 1 + clip_high = 1.2", 1.2),
    (PPOConfig, "agent.penalty_controller must be one of fixed, horizon, halving", "pid"),
    (PPOConfig, "agent.critic_warmup must be at least 0", -1),
    (PPOConfig, "agent.reward_clip must be positive or null", 0.0),
    (PPOConfig, "agent.whiten_rewards must be one of null, tokens, returns", "rows"),
    (PPOConfig, "agent.entropy_target must be positive or null", 0.0),
    (PPOConfig, "agent.truncation_penalty must be null with agent.truncation=bootstrap", 1.0),
    (TRPOConfig, "agent.prompts must be at least 1", 0),
    (TRPOConfig, "agent.gamma must be in [0, 1]", 1.5),
    (TRPOConfig, "agent.max_kl must be positive", 0.0),
    (TRPOConfig, "agent.damping must be at least 0", -0.1),
    (TRPOConfig, "agent.conjugate_gradient_steps must be at least 1", 0),
    (TRPOConfig, "agent.conjugate_gradient_tolerance must be at least 0", NAN),
    (TRPOConfig, "agent.fisher_share must be in (0, 1]", 0.0),
    (TRPOConfig, "agent.line_search_steps must be at least 1", 0),
    (TRPOConfig, "agent.line_search_shrink must be in (0, 1)", 1.0),
    (TRPOConfig, "agent.critic must be one of shared, separate", "none"),
    (TRPOConfig, "agent.truncation must be one of bootstrap, terminal, penalty, mask", "ignore"),
    (PolicyConfig, "policy.temperature must be above 0 to explore", 0.0),
    (PolicyConfig, "policy.top_k must be at least 0", -1),
    (PolicyConfig, "policy.top_p must be in (0, 1]", 0.0),
    (PolicyConfig, "policy.precision must be one of auto, float32, bfloat16", "float16"),
    (TinyConfig, "policy.tiny.num_layers must be at least 1", 0),
    (TinyConfig, "policy.tiny.hidden_size must be a multiple of 2 * num_heads = 8", 20),
    (EnvConfig, "env.rows must be at least 1 or null", 0),
    (EnvConfig, "env.propose_tokens must be at least 1", 0),
    (EnvConfig, "env.max_new_tokens must be at least 1", 0),
    (EnvConfig, "env.timeout_seconds must be positive", 0.0),
    (EnvConfig, "env.reward_workers must be at least 1 or null", 0),
    (EnvConfig, "env.worker_memory_mb must be at least 64 or null", 8),
    (EnvConfig, "env.cache_size must be at least 0", -1),
    (EvaluationConfig, "evaluation.every must be at least 0", -1),
    (EvaluationConfig, "evaluation.problems must be at least 1", 0),
    (EvaluationConfig, "evaluation.samples must be at least 0", -1),
    (TrainConfig, "iterations must be at least 1", 0),
    (TrainConfig, "checkpoint_every must be at least 1", 0),
    (TrainConfig, "keep_checkpoints must be at least 1", 0),
    (TrainConfig, "max_seconds must be positive", 0.0),
    (TrainConfig, "threads must be at least 1 or null", 0),
    (TrainConfig, "seed must be at least 0", -1),
]


@pytest.mark.parametrize(("settings", "message", "value"), BAD, ids=lambda x: getattr(x, "__name__", str(x))[:60])
def test_a_setting_out_of_range_is_named_with_its_rule_and_its_value(settings, message, value):
    name = message.split()[0].rsplit(".", 1)[-1]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*got .*{re.escape(str(value))}"):
        settings(**{name: value})


@pytest.mark.parametrize(
    "settings", [OptimConfig, GRPOConfig, PPOConfig, TRPOConfig, PolicyConfig, EnvConfig, EvaluationConfig, TrainConfig]
)
def test_the_defaults_are_in_range(settings):
    settings()


def test_k1_in_the_loss_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"must not be k1 with agent\.kl_in=loss: its gradient in a loss is zero"):
        GRPOConfig(kl_estimator="k1")
    with pytest.raises(ValueError, match=r"must not be k3 with agent\.kl_in=reward: nothing is differentiated"):
        PPOConfig(kl_estimator="k3")


@pytest.mark.parametrize("agent", [GRPOConfig, PPOConfig])
def test_what_a_changing_or_exact_reference_needs_is_asked_for(agent):
    with pytest.raises(ValueError, match=r"agent\.reference_every=5 needs a reference policy: set agent\.kl_coef"):
        agent(reference_every=5)
    with pytest.raises(ValueError, match=r"under an adapter .* policy\.lora\.rank must be 0, got 8"):
        TrainConfig(agent(kl_coef=0.1, reference_every=5), policy=PolicyConfig(lora=LoraConfig(rank=8)))
    with pytest.raises(ValueError, match=r"policy\.top_k must be 0 and policy\.top_p 1, got 0 and 0\.9"):
        TrainConfig(agent(kl_coef=0.1, kl_in="loss", kl_estimator="full"), policy=PolicyConfig(top_p=0.9))


def test_a_limit_on_the_kl_to_a_reference_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"agent\.max_kl_reference=0\.1 needs a reference policy: set agent\.kl_coef"):
        PPOConfig(max_kl_reference=0.1)


@pytest.mark.parametrize("controller", ["horizon", "halving"])
@pytest.mark.parametrize(("setting", "value"), [("kl_coef", 0.0), ("kl_target", 0.0)])
def test_an_adaptive_beta_that_could_not_adapt_is_refused(controller, setting, value):
    with pytest.raises(ValueError, match=f"agent.{setting} must be positive .*got 0.0"):
        PPOConfig(kl_controller=controller, **{"kl_coef": 0.1, setting: value})


def test_an_objective_whose_penalty_could_not_adapt_is_refused():
    with pytest.raises(ValueError, match=r"agent\.penalty_coef must be positive .*got 0\.0"):
        PPOConfig(objective="penalty", penalty_coef=0.0)
    with pytest.raises(ValueError, match=r"agent\.penalty_target must be positive .*got 0\.0"):
        PPOConfig(objective="penalty", penalty_target=0.0)


@pytest.mark.parametrize("config", [PPOConfig, TRPOConfig])
@pytest.mark.parametrize("penalty", [None, 0.0, -1.0])
def test_a_penalty_for_being_cut_must_be_one(config, penalty):
    with pytest.raises(ValueError, match=r"agent\.truncation_penalty must be positive .*=penalty, got"):
        config(truncation="penalty", truncation_penalty=penalty)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "penalty", "ratio_cap": 3.0}, "agent.ratio_cap must be null with agent.objective=penalty"),
        ({"penalty_controller": "fixed"}, "agent.penalty_controller=fixed needs agent.objective=penalty, got 'clip'"),
        (
            {"objective": "penalty", "penalty_controller": "horizon", "penalty_horizon": 0.0},
            "agent.penalty_horizon must be positive to adapt",
        ),
        (
            {"kl_coef": 0.1, "kl_controller": "horizon", "kl_horizon": 6.4, "prompts": 8, "group_size": 4},
            "agent.kl_horizon must be more than a fifth of the 32 completions an iteration",
        ),
        (
            {"objective": "penalty", "penalty_controller": "horizon", "penalty_horizon": 6.4, "prompts": 32}
            | {"group_size": 1},
            "agent.penalty_horizon must be more than a fifth of the 32 completions an iteration",
        ),
        ({"critic_warmup": 3, "value_coef": 0.0}, "agent.critic_warmup=3 needs a critic that learns"),
        ({"critic_warmup": 3, "optim": OptimConfig(critic_learning_rate=0.0)}, "agent.critic_warmup=3 needs a critic"),
    ],
)
def test_settings_of_ppo_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        PPOConfig(**settings)


@pytest.mark.parametrize("config", [GRPOConfig, PPOConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entropy_coef": NAN}, "agent.entropy_coef must be at least 0, got nan"),
        ({"entropy_target": 0.0}, "agent.entropy_target must be positive or null, got 0.0"),
        ({"entropy_target": 0.2, "entropy_step": 0.0}, "agent.entropy_step must be positive, got 0.0"),
        ({"entropy_target": 0.2, "entropy_coef": 2.0}, "agent.entropy_coef must be at most agent.entropy_max = 1.0"),
    ],
)
def test_a_bonus_that_could_not_work_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config(**settings)


def test_a_penalty_that_is_fixed_needs_no_target():
    assert PPOConfig(objective="penalty", penalty_controller="fixed", penalty_coef=0.0).penalty().beta == 0


def test_what_an_agent_cannot_do_in_a_run_is_refused_when_the_run_is_composed():
    with pytest.raises(ValueError, match=r"policy\.precision must be float32 or auto with agent=trpo .*got 'bfloat16'"):
        TrainConfig(agent=TRPOConfig(), policy=PolicyConfig(precision="bfloat16"))
    with pytest.raises(ValueError, match=r"agent\.critic_warmup must be below iterations = 5 .*got 5"):
        TrainConfig(agent=PPOConfig(critic_warmup=5), iterations=5)
    one_step = PPOConfig(objective="penalty", prompts=2, optim=OptimConfig(minibatch_rows=8))
    with pytest.raises(ValueError, match=r"agent\.objective=penalty needs several optimizer steps .*got 1 and 8"):
        TrainConfig(agent=one_step)
    groups_stay_together = PPOConfig(objective="penalty", prompts=3, group_size=8, optim=OptimConfig(minibatch_rows=20))
    with pytest.raises(ValueError, match=r"minibatch_rows of at most 16 \(groups stay together\), got 1 and 20"):
        TrainConfig(agent=groups_stay_together)
    assert TrainConfig(agent=PPOConfig(objective="penalty"))


def test_a_device_and_a_number_format_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"policy\.device must be auto, cpu or cuda, got 'abacus'"):
        pick_device("abacus")
    with pytest.raises(ValueError, match=r"policy\.precision must be auto, float32 or bfloat16, got 'float8'"):
        pick_dtype("float8", pick_device("cpu"))
