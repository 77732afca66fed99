"""Videos as users get them."""

import pytest

from worldcompass.media import video


@pytest.fixture(autouse=True)
def users_videos(monkeypatch):
    monkeypatch.setattr(video, "PRESET", "medium")
