"""RLlib's single-agent runner on our vector environment (`make test-clients`: RLlib pins an older Gymnasium)."""

import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.rllib")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_single_agent_runner_samples_whole_episodes():
    from gymnasium.envs.registration import VectorizeMode
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.connectors.env_to_module import FlattenObservations
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.tune.registry import register_env  # noqa: F401

    import textenv  # noqa: F401

    config = (
        PPOConfig()
        .environment("textenv/Target-v0")
        .env_runners(
            num_envs_per_env_runner=3,
            gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT,
            env_to_module_connector=lambda *_, **__: FlattenObservations(),
        )
    )
    runner = SingleAgentEnvRunner(config=config)
    try:
        episodes = runner.sample(num_episodes=6, random_actions=True)
        assert len(episodes) >= 6
        for episode in episodes[:6]:
            assert episode.is_done
            assert 1 <= len(episode) <= 10
            assert 0.0 <= episode.get_return() <= 1.0
        assert len(runner.sample(num_timesteps=60, random_actions=False)) > 0
    finally:
        runner.stop()
