"""Sources: videos that do not belong together are refused in one sentence."""

import dataclasses

import pytest
from judged import sources

from worldcompass.errors import UnfitInputs
from worldcompass.judging.sources import windows


def models(found, name, change):
    return {"models_KSF3hw": {**found.models_KSF3hw, name: change(found.models_KSF3hw[name])}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"reachable_SF3hw": s.reachable_SF3hw[:, :-1]}, "videos of reachable"),
        (lambda s: {"other_SF3hw": s.other_SF3hw.float()}, "videos of other"),
        (lambda s: models(s, "trained", lambda v: v[..., 1:]), "videos of trained"),
        (lambda s: models(s, "base", lambda v: v.repeat(2, 1, 1, 1, 1, 1)), "numbers of seeds"),
        (lambda s: {"groups": s.groups[1:]}, "groups"),
        (lambda s: {"scenarios": (s.scenarios[1], *s.scenarios[1:])}, "occurs twice"),
    ],
)
def test_videos_that_do_not_belong_together_are_refused(change, words):
    found = sources(count=8, frames=26)
    with pytest.raises(UnfitInputs, match=words):
        dataclasses.replace(found, **change(found))


def test_too_few_scenarios_are_refused():
    with pytest.raises(UnfitInputs, match="8 scenarios or more"):
        sources(count=6, frames=26)


def test_windows_cover_the_video_without_the_start_image():
    found = windows(125)
    assert found.starts[0] == 1 and found.starts[-1] + found.length == 125
    assert found.depth_of == tuple(i // 2 for i in range(16))
    with pytest.raises(UnfitInputs, match="25 or more"):
        windows(24)


def test_a_selection_keeps_the_scenarios_with_their_videos():
    found = sources(count=12, frames=26).select([3, 1, 5, 2, 4, 6, 7, 8])
    whole = sources(count=12, frames=26)
    assert found.scenarios[:2] == ("3", "1") and found.regions[0] == whole.regions[3]
    assert found.flat("base")[0].equal(whole.flat("base")[3])
