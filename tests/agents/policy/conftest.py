"""The policy's tests take the products that large models take."""

import pytest


@pytest.fixture(autouse=True)
def _products_of_large_models(monkeypatch):
    monkeypatch.setattr("agents.policy.linear.MIN_WEIGHTS", 0)
