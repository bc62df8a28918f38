"""Fixtures for tests that start cells."""

import sys

import pytest

from tests.helpers.ablation import executable


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let a script run in place of the cells; the last of its arguments is the run directory."""

    def stand_in(text):
        monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "python", text)))

    return stand_in
