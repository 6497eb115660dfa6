"""A database with the trajectory store, for each test its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.pipeline_fakes import Ground, memory_directory, open_ground


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    with memory_directory() as home:
        async with open_ground(home) as opened:
            yield opened
