"""TorchRL's `GymWrapper` around our vector environment, in the two modes that it accepts."""

import numpy as np
import pytest

torchrl = pytest.importorskip("torchrl")
torch = pytest.importorskip("torch")

import textenv  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_a_rollout(mode):
    from torchrl.envs import GymWrapper

    env = GymWrapper(textenv.make_vec("textenv/Target-v0", 4, autoreset_mode=mode))
    torch.manual_seed(0)
    rollout = env.rollout(40, break_when_any_done=False)
    assert rollout.batch_size == torch.Size([4, 40])
    done = rollout["next", "done"][..., 0]
    assert done.sum() >= 8
    tokens, length = rollout["next", "tokens"], rollout["next", "length"][..., 0]
    assert tokens.shape[:2] == (4, 40)
    action = rollout["action"]
    action = action.argmax(-1) if action.ndim == 3 else action
    written = tokens.gather(-1, (length - 1).clamp(min=0).long()[..., None])[..., 0]
    alive = ~done & (length > 0)  # a row that ended shows what torchrl makes of `final_obs`
    assert torch.equal(written[alive].long(), action[alive].long())
    reward = rollout["next", "reward"][..., 0]
    assert np.isclose(float(reward[alive].sum()), 0.0)
    env.close()


def test_next_step_is_refused_by_torchrl_not_by_us():
    from torchrl.envs import GymWrapper

    with pytest.raises(RuntimeError, match="SAME_STEP or DISABLED"):
        GymWrapper(textenv.make_vec("textenv/Target-v0", 2)).reset()
