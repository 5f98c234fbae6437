"""A table of logits is no `Policy` by its type: here the numbers are checked, everywhere else the shapes."""

import jaxtyping
import pytest


@pytest.fixture(scope="package", autouse=True)
def _any_policy():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
