"""No attack wins a pass, does harm, or stays behind: with all layers, with the two that every kernel of late has, as
root in a container that has no rights, as an ordinary user, and in bubblewrap. Each round runs in a process of its own,
which the attacks may try to kill."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rewards.code import bubblewrap, sandbox
from rewards.code.layers import NAMESPACES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OTHER = 65534
MISTAKES = ("attack: NameError", "attack: SyntaxError", "attack: AttributeError", "attack: TypeError", "attack: Import")
"""What a mistake in an attack would raise, and no layer does."""
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_TOKEN": "hf_secret",
}
ON_DISK = ["deep folders", "many files", "large files"]
"""Without a file system in memory they only take long to clear away."""
ROUNDS = {
    "all layers": {},
    "Landlock and seccomp": {"without": [*NAMESPACES, "other_user"], "leave_out": ON_DISK},
    "root without rights": {"leave_out": ON_DISK, "before": ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]},
    "an ordinary user": {"user": OTHER},
    "bubblewrap": {"backend": "bubblewrap"},
}


def skip_without(*names, backend="fork_server"):
    found = sandbox.layers(sandbox.Settings(backend))
    for name in names:
        if not found[name].active:
            pytest.skip(f"{name} is inactive here: {found[name].detail}")


def interpreter_for(user):
    """A Python that this user may run; the one of this process may lie in a home folder."""
    found = [
        shutil.which(name, path="/usr/bin:/usr/local/bin:/bin") for name in ("python3", "python3.12", "python3.11")
    ]
    for python in dict.fromkeys([sys.executable, *filter(None, found)]):
        look = [python, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(look, user=user, group=user, extra_groups=[], cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    return pytest.skip(f"no Python of 3.11 or newer that user {user} may run")


def outcome(name):
    how = ROUNDS[name]
    user = how.get("user")
    if user is not None and os.geteuid() != 0:
        pytest.skip("an ordinary user runs these tests already")
    before = how.get("before", [])
    if before and (os.geteuid() != 0 or not shutil.which(before[0])):
        pytest.skip(f"only root can give up rights, with the program {before[0]}")
    python = sys.executable if user is None else interpreter_for(user)
    home = tempfile.mkdtemp(prefix="home-")
    as_user = {}
    if user is not None:
        as_user = {"user": user, "group": user, "extra_groups": []}
        os.chown(home, user, user)
    settings = {key: how[key] for key in ("without", "backend", "leave_out") if key in how}
    done = subprocess.run(
        [*before, python, "-s", str(HERE / "attacks.py"), json.dumps(settings)],
        env={**ENVIRONMENT, "HOME": home},
        cwd="/",
        stdout=subprocess.PIPE,
        timeout=300,
        **as_user,
    )
    shutil.rmtree(home)
    assert done.returncode == 0, f"the trainer ended with {done.returncode}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ROUNDS)
def test_no_attack_wins_or_leaves_a_trace(name):
    backend = ROUNDS[name].get("backend", "fork_server")
    if backend == "bubblewrap":
        try:
            bubblewrap.find()
        except ValueError as error:
            pytest.skip(str(error))
    skip_without("landlock", "seccomp", backend=backend)
    found = outcome(name)
    assert {attack: score for attack, score in found["scores"].items() if score[0] != 0.0} == {}
    assert all(reason for _, _, reason in found["scores"].values())
    assert [a for a, (_, _, told) in found["scores"].items() if any(mistake in told for mistake in MISTAKES)] == []
    assert (found["harm"], found["left"]) == ([], [])
    assert found["same_server"], "an attack killed the fork server"
    assert found["right"] == 1.0, "no program is graded any more"
    assert len(found["scores"]) >= 45
    assert found["user"] == ROUNDS[name].get("user", os.getuid())


def test_the_attacks_are_real_ones(tmp_path):
    """Without any layer many of them work; here the harmless ones. What they start is found and ended all the same."""
    attacks = run_without_layers(tmp_path)
    assert {name for name, (value, _, _) in attacks["scores"].items() if value == 1.0} == set(attacks["scores"])
    assert {"files", "contents", "tcp", "udp", "unix", "abstract"} <= set(attacks["harm"])
    assert attacks["left"] == []


def run_without_layers(home):
    settings = {"without": sorted(set(sandbox.layers()) - {"bubblewrap", "rlimits"}), "only": HARMLESS}
    done = subprocess.run(
        [sys.executable, str(HERE / "attacks.py"), json.dumps(settings)],
        env={**ENVIRONMENT, "HOME": str(home)},
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
    )
    return json.loads(done.stdout)


HARMLESS = [
    "read a file", "read the users", "list home", "environment of the trainer", "command line of the trainer",
    "write beside", "overwrite", "symbolic link", "hard link", "make a folder", "leave a pipe", "mode", "times",
    "set-user-id copy", "TCP", "TCP by number", "UDP", "netlink", "Unix socket", "abstract socket",
    "server of its own", "fork", "fork by ctypes", "daemon", "spawn", "shell", "subprocess", "multiprocessing",
    "memory of the trainer", "outlive the server", "be traceable",
]  # fmt: skip
