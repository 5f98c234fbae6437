"""`check_vector_env`: the contract of a vector environment, as a test that any environment can run.

Gymnasium checks a single environment (`check_env`) and nothing checks a vector of them. Here a native vector
environment is held against `SyncVectorEnv` of its single ones (and `AsyncVectorEnv`, where given): from one seed and
one stream of actions both must return equal observations, rewards, flags and infos, types and dtypes included.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

MakeVec = Callable[[AutoresetMode], VectorEnv]
Actions = Callable[[np.random.Generator], Any]
UNSUPPORTED = (ValueError, TypeError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class VectorEnvReport:
    """What was compared."""

    modes: tuple[AutoresetMode, ...]
    num_steps: int
    """Steps of all rows, over all modes."""
    num_episodes: int
    """Episodes that ended in them."""
    unsupported: tuple[str, ...] = ()
    """Modes that were left out, each with the error of the environment that could not be made."""


def check_vector_env(
    make_sync: MakeVec,
    make_native: MakeVec,
    *,
    others: Sequence[MakeVec] = (),
    modes: Sequence[AutoresetMode] | None = None,
    actions: Actions | None = None,
    num_steps: int = 300,
    seed: int = 0,
) -> VectorEnvReport:
    """Compare `make_native(mode)` with `make_sync(mode)` and with each of `others` in every mode that all support.

    `modes` given: these must be supported. `actions(generator)` makes the actions of one step (default: samples of the
    action space); let episodes end often. Seeds are an integer, a list with None in it, and None; rows are reset by
    mask, with and without seeds, in between. Also checked of the native one, and stricter than what Gymnasium's own
    keep: equal spaces, `metadata["autoreset_mode"]`, fresh arrays at every call that later calls do not touch, options
    that are left as they were, errors for a wrong number of actions (no row has moved then) and for a finished row in
    DISABLED.

    Raises `AssertionError` that names the mode, the step and the first value that differs.

        check_vector_env(
            lambda mode: gymnasium.make_vec(name, 4, "sync", vector_kwargs={"autoreset_mode": mode}),
            lambda mode: gymnasium.make_vec(name, 4, "vector_entry_point", autoreset_mode=mode.value),
        )
    """
    checked: list[AutoresetMode] = []
    refused: list[str] = []
    required = modes is not None
    steps = episodes = 0
    for mode in modes or tuple(AutoresetMode):
        envs: list[VectorEnv] = []
        try:
            for make in (make_native, make_sync, *others):
                envs.append(make(mode))
        except UNSUPPORTED as error:
            for env in envs:
                env.close()
            if required:
                raise AssertionError(f"{mode.name} is not supported: {error}") from error
            refused.append(f"{mode.name}: {type(error).__name__}: {error}")
            continue
        try:
            comparison = Comparison(mode, envs, actions or sampled(envs[0], seed), seed)
            comparison.run(num_steps)
        finally:
            for env in envs:
                env.close()
        checked.append(mode)
        steps, episodes = steps + comparison.steps, episodes + comparison.episodes
    assert checked, f"no autoreset mode is supported by every one of the environments: {'; '.join(refused)}"
    assert episodes, f"no episode ended in {steps} steps: pass `actions` that end some"
    return VectorEnvReport(tuple(checked), steps, episodes, tuple(refused))


def sampled(env: VectorEnv, seed: int) -> Actions:
    """Samples of the environment's action space."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return lambda _: space.sample()


class Comparison:
    """A native environment and others that must do the same, step by step."""

    def __init__(self, mode: AutoresetMode, envs: Sequence[VectorEnv], actions: Actions, seed: int) -> None:
        self.mode, self.envs, self.actions, self.seed = mode, envs, actions, seed
        self.native = envs[0]
        self.steps = self.episodes = 0
        self._generator = np.random.default_rng(seed)
        self._earlier: list[tuple[Any, Any]] = []
        """The last results, each with a copy of what it was."""
        self._num_resets = 0

    def run(self, num_steps: int) -> None:
        """Three stretches of steps, each behind another kind of seed."""
        self._check_attributes()
        n = self.native.num_envs
        seeds = (self.seed, [None if row % 2 else self.seed + 7 * row for row in range(n)], None)
        for number, seed in enumerate(seeds):
            done = np.zeros(n, dtype=np.bool_)
            self._both(f"reset(seed={seed})", functools.partial(reset_with, seed))
            for step in range(-(-num_steps // len(seeds))):
                if self.mode is AutoresetMode.DISABLED and done.any():
                    self._check_finished(done)
                    self._masked_reset(done)
                elif step % 40 == 20:
                    self._masked_reset(np.arange(n) % 2 == number % 2)
                done = self._step(step)
            self._check_number_of_actions(done)

    def _step(self, step: int | str) -> np.ndarray:
        actions = self.actions(self._generator)
        _, _, terminated, truncated, _ = self._both(f"step {step}", lambda env: env.step(copy.deepcopy(actions)))
        self.steps += self.native.num_envs
        self.episodes += int((terminated | truncated).sum())
        return terminated | truncated

    def _masked_reset(self, mask: np.ndarray) -> None:
        if mask.any():
            n, self._num_resets = self.native.num_envs, self._num_resets + 1
            seeds = (None, self._num_resets, [None if row % 3 == 0 else 5 * row for row in range(n)])
            seed = seeds[self._num_resets % len(seeds)]
            what = f"{self.mode.name}, reset with a mask of {type(self.native.unwrapped).__name__}"
            self._both(
                "reset with a mask", lambda env: reset_by_mask(env, mask, seed, what if env is self.native else "")
            )

    def _both(self, what: str, call: Callable[[VectorEnv], Any]) -> Any:
        """Do the same in every environment; the native one's result must be equal to the others', and fresh."""
        results = [call(env) for env in self.envs]
        for env, other in zip(self.envs[1:], results[1:], strict=True):
            found = difference(results[0], other)
            assert found is None, f"{self.mode.name}, {what}: native against {type(env.unwrapped).__name__}: {found}"
        if getattr(self.native.unwrapped, "copy", True):
            self._check_fresh(results[0], what)
        return results[0]

    def _check_fresh(self, result: Any, what: str) -> None:
        """The result shares no memory with the last ones, and those are as they were."""
        for earlier, as_it_was in self._earlier:
            shared = any(np.shares_memory(a, b) for a in arrays(earlier) for b in arrays(result))
            assert not shared, f"{self.mode.name}, {what}: an array of an earlier call is used again"
            changed = difference(earlier, as_it_was)
            assert changed is None, f"{self.mode.name}, {what}: changed what an earlier call returned: {changed}"
        self._earlier = [*self._earlier[-2:], (result, copy.deepcopy(result))]

    def _check_attributes(self) -> None:
        for name in (
            "num_envs",
            "observation_space",
            "action_space",
            "single_observation_space",
            "single_action_space",
        ):
            values = [getattr(env, name) for env in self.envs]
            assert all(value == values[0] for value in values), f"{name} differs: {values}"
        for env in self.envs:
            assert env.metadata["autoreset_mode"] is self.mode, f"metadata['autoreset_mode'] of {env}"
        own = getattr(self.native.unwrapped, "autoreset_mode", self.mode)
        assert own is self.mode, f"autoreset_mode must be {self.mode}, got {own}"

    def _check_number_of_actions(self, done: np.ndarray) -> None:
        """One action too few is an error, and no row has moved: the next step is as if it had not been tried."""
        few = np.asarray(self.actions(self._generator))[:-1]
        assert raises(lambda: self.native.step(few)), f"{self.mode.name}: step() takes {len(few)} actions"
        if self.mode is AutoresetMode.DISABLED:
            self._masked_reset(done)
        self._step("after too few actions")

    def _check_finished(self, done: np.ndarray) -> None:
        actions = self.actions(self._generator)
        refused = raises(lambda: self.native.step(actions), AssertionError)
        assert refused, f"DISABLED: step() takes actions for the finished rows {np.flatnonzero(done).tolist()}"


def reset_with(seed: Any, env: VectorEnv) -> Any:
    """A reset of all rows."""
    return env.reset(seed=copy.deepcopy(seed))


def reset_by_mask(env: VectorEnv, mask: np.ndarray, seed: Any, unchanged: str) -> Any:
    """`reset` of the rows in `mask`; `unchanged`: the options must be as they were, else this is said before what is
    wrong (`SyncVectorEnv` takes the mask out of the caller's dict, which no environment should)."""
    options = {"reset_mask": mask.copy()}
    result = env.reset(seed=copy.deepcopy(seed), options=options)
    if unchanged:
        assert list(options) == ["reset_mask"], (
            f"{unchanged}: reset() must leave its options as they are, got {options}"
        )
        assert (options["reset_mask"] == mask).all(), f"{unchanged}: reset() must leave the mask as it is"
    return result


def raises(call: Callable[[], Any], kind: type[Exception] = Exception) -> bool:
    """Whether `call` raises an exception of this kind."""
    try:
        call()
    except kind:
        return True
    return False


def difference(a: Any, b: Any, path: str = "result") -> str | None:
    """The first place where two results differ in type, dtype, shape or value; None where they are equal."""
    if type(a) is not type(b):
        return f"{path} is a {type(a).__name__}, not a {type(b).__name__}"
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return f"{path} has the keys {sorted(a)}, not {sorted(b)}"
        return first(difference(a[key], b[key], f"{path}[{key!r}]") for key in a)
    if isinstance(a, tuple | list):
        if len(a) != len(b):
            return f"{path} has {len(a)} entries, not {len(b)}"
        return first(difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, np.ndarray):
        return array_difference(a, b, path)
    return None if a == b or (a != a and b != b) else f"{path} is {a!r}, not {b!r}"


def array_difference(a: np.ndarray, b: np.ndarray, path: str) -> str | None:
    """The same for two arrays."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{path} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
    if a.dtype == object:
        return difference(a.ravel().tolist(), b.ravel().tolist(), path)
    equal = (a == b) | ((a != a) & (b != b))
    if equal.all():
        return None
    place = tuple(int(i) for i in np.argwhere(~equal)[0])
    return f"{path}{list(place)} is {a[place]!r}, not {b[place]!r}"


def first(found: Any) -> str | None:
    """The first that is not None."""
    return next((text for text in found if text is not None), None)


def arrays(x: Any) -> list[np.ndarray]:
    """All arrays of numbers in a result."""
    if isinstance(x, Mapping):
        return [array for value in x.values() for array in arrays(value)]
    if isinstance(x, tuple | list):
        return [array for value in x for array in arrays(value)]
    if isinstance(x, np.ndarray):
        return arrays(x.ravel().tolist()) if x.dtype == object else [x]
    return []
