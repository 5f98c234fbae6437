"""What the fork server finds out about its machine at its start: which layers hold, so how to confine programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from rewards.code import landlock, probes, seccomp
from rewards.code.confinement import SYSTEM_FILES, Confinement, hold_open, readable
from rewards.code.layers import LAYERS, NAMESPACES, Layer
from rewards.code.namespaces import enter, enter_user_namespace
from rewards.code.probes import in_child

LEFT_OUT = "left out on request"


@dataclass(frozen=True)
class Surroundings:
    """What holds here."""

    layers: Mapping[str, Layer]
    confinement: Confinement
    first_user: int | None
    """Two users a slot are taken from here on, one for the program, one for its tester."""
    own_pids: bool
    """Every program gets a pid namespace of its own."""
    own_files: bool
    """Every slot gets a file system of its own."""

    @property
    def strays(self) -> bool:
        """Whether a program can leave processes behind that have to be looked for."""
        return not (self.own_pids or self.layers["seccomp"].active)

    def users(self, slot: int) -> tuple[int | None, int | None]:
        """Of the program, and of its tester."""
        if self.first_user is None:
            return None, None
        return self.first_user + 2 * slot, self.first_user + 2 * slot + 1


def examine(folder: str, without: frozenset[str], outside: Mapping[str, int], backend: str) -> Surroundings:
    """Enter the namespaces and probe every layer. `outside`: the numbers of the trainer's namespaces, by layer."""
    why, own = _namespaces(folder, without, outside)
    first_user, why["other_user"] = (None, LEFT_OUT) if "other_user" in without else probes.first_user()
    abi, no_landlock = _known(landlock.abi)
    steps, no_seccomp = _known(seccomp.filter_program)
    read = readable([*sys.path, os.path.join(sys.base_prefix, "lib"), *SYSTEM_FILES])
    attempts: dict[str, Callable[[], object]] = {
        "rlimits": probes.rlimits,
        "no_new_privs": probes.no_new_privs,
        "parent_death": probes.parent_death,
        "no_capabilities": probes.no_capabilities,
        "landlock": lambda: probes.landlock_files(abi, read, folder),
        "seccomp": lambda: probes.seccomp_calls(steps),
    }
    why |= {"landlock": no_landlock, "seccomp": no_seccomp}
    for name, attempt in attempts.items():
        if name not in without:
            why[name] = why.get(name) or in_child(attempt)
    why["bubblewrap"] = "" if backend == "bubblewrap" else f"the backend is {backend}"
    why |= dict.fromkeys(without, LEFT_OUT)
    told = {**LAYERS, **({"landlock": landlock.covers(abi)} if abi else {})}
    layers = {name: Layer(name, not why[name], why[name] or told[name]) for name in LAYERS}
    active = frozenset(name for name, layer in layers.items() if layer.active)
    how = Confinement(active, abi or 0, steps or b"", read, _library_for(first_user), "users" in own)
    return Surroundings(layers, how, first_user, "pids" in own, "files" in own)


def _namespaces(folder: str, without: Set[str], outside: Mapping[str, int]) -> tuple[dict[str, str], Set[str]]:
    """Why each is not another than the trainer's ("": it is); and what this server can make: users, pids, files."""
    wanted = frozenset(name for name in NAMESPACES if name not in without)
    own: set[str] = set()
    refused: dict[str, str] = {}
    if os.geteuid() != 0 and wanted:
        no_user = in_child(enter_user_namespace)
        refused = dict.fromkeys(wanted, f"no user namespace: {no_user}")
        if not no_user:
            enter_user_namespace()
            own.add("users")
    if os.geteuid() == 0 or own:
        refused = enter(wanted, folder)
        if refused.get("mount_namespace") == "":
            own.add("files")
    why = {}
    for name in NAMESPACES:
        shared = in_child(partial(probes.namespace, name, outside[name]))
        why[name] = shared and (refused.get(name) or shared)
    if "pid_namespace" in wanted:
        no_pids = probes.pid_namespace(outside["pid_namespace"])
        why["pid_namespace"] = no_pids and why["pid_namespace"] and no_pids
        if not no_pids:
            own.add("pids")
    return why, own


def _known(ask: Callable[[], Any]) -> tuple[Any, str]:
    """What the system says, and else why it does not."""
    try:
        return ask(), ""
    except OSError as error:
        return None, str(error)


def _library_for(user: int | None) -> int | None:
    """The standard library's folder, held open, where this user could not get to it by its path."""
    if user is None or probes.can_read_library(user):
        return None
    return hold_open(os.path.dirname(os.__file__))
