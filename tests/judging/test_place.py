"""Place: the network recognises regions it learned from other episodes, and notices when a video leaves its own."""

import torch
from judged import sources

from worldcompass.judging.place import feature_distance, measure_place, place_network, regions_known
from worldcompass.seeding import generator_for

STEPS = 60


def swapped(video, generator):
    """The video with the colours of another region in its second half."""
    half = len(video) // 2
    return torch.cat([video[:half], video[half:].roll(1, 1)])


def test_a_video_that_ends_in_another_region_is_noticed_and_the_truth_is_kept():
    found = sources(trained=swapped, count=12, frames=26, regions=3)
    place = measure_place(found, place_network(found, 0, steps=STEPS))
    assert place.kept["engine"].mean > 0.8 and place.kept["base"].mean > 0.8
    assert place.kept_change.falls and place.kept["trained"].mean < 0.3
    assert place.foreign_change.rises


def test_equal_pictures_have_no_distance_in_the_features_and_other_places_more_than_grain():
    found = sources(count=12, frames=26, regions=3)
    net = place_network(found, 0, steps=STEPS)
    frames = found.engine_SF3hw[0, :4]
    grain = (frames + 3 * torch.randn(frames.shape, generator=generator_for(0))).clamp(0, 255)
    assert feature_distance(net, frames, frames).max() == 0
    assert (
        0
        < feature_distance(net, frames, grain).mean()
        < feature_distance(net, frames, frames.roll(1, 1)).mean()
    )


def test_one_region_alone_cannot_be_told_from_others():
    assert not regions_known(["here", "here"])
