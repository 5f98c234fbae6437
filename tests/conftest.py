"""For all tests: no network, and the shapes that signatures promise are checked at run time."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import jaxtyping
import pytest

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("agents", CHECKER)


@pytest.fixture
def unchecked():
    """As in production, where a wrong argument meets the function's own check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
