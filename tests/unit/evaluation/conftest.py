"""A real judge on a real sandbox, at the strongest level that this machine has."""

from __future__ import annotations

import pytest

from engine.config import load_config
from engine.evaluation.judge import Judge
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    settings = load_config().sandbox.model_copy(update={"timeout_s": 20.0, "min_level": "none"})
    return Sandbox(settings, probe(settings))


@pytest.fixture
def judge(sandbox: Sandbox) -> Judge:
    return Judge(sandbox)
