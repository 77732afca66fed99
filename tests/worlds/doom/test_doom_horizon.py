"""Long scenarios of Doom start on every training map, and a video keeps its place while it shows that map."""

import numpy as np

from worldcompass.worlds.doom import horizon
from worldcompass.worlds.doom.engine.maps import TRAINING


def test_a_block_starts_once_on_every_map_and_place_is_the_map_of_the_id(monkeypatch):
    some = horizon.scenarios(2, 3)
    maps = [s.id.split("/")[1] for s in some]
    assert maps == [m.name for m in TRAINING] and {s.kind for s in some} == {"combined"}
    assert all(s.id.endswith("/2") and len(s.truth.frames_F3hw) == 9 for s in some)
    monkeypatch.setattr(horizon, "EPISODES_PER_MAP", 1)
    monkeypatch.setattr(horizon, "EPISODE_LATENTS", 2)
    learned = {}

    def learn(footage, seed):
        learned["maps"], learned["frames"] = list(footage.regions), footage.frames
        return None

    monkeypatch.setattr(horizon, "place_network", learn)
    shown = sorted(maps).index(maps[1])
    monkeypatch.setattr(horizon, "shown_region", lambda net, video: np.full(len(video), shown))
    place = horizon.exam().measures["place"]
    assert learned == {"maps": maps, "frames": 5}
    kept = [place(s.truth.frames_F3hw, s).mean() for s in some]
    assert kept == [float(s is some[1]) for s in some]
