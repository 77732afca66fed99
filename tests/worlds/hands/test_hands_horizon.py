"""Long scenarios of Hands are carried out exactly, and their own scenes say what is there."""

from worldcompass.worlds.hands.horizon import permanence, scenarios


def test_scenarios_of_a_block_are_carried_out_and_keep_the_things_of_their_own_scenes(engine):
    some, latents = scenarios(1, 8), 8
    assert len({s.id for s in some}) == 4 and {s.kind for s in some} == {"basic"}
    for scenario in some:
        assert scenario.truth.frames_F3hw.shape[0] == 4 * latents - 3
        assert scenario.truth.actions.values_KTA.equal(scenario.actions.values_KTA)
        assert permanence(scenario.truth.frames_F3hw, scenario).tolist() == [1.0] * (4 * latents - 3)
    others = [other.truth.frames_F3hw for other in (*some[1:], some[0])]
    strange = [permanence(video, s).mean() for video, s in zip(others, some, strict=True)]
    assert sum(strange) / len(strange) < 0.7
    assert not {s.id for s in some} & {s.id for s in scenarios(3, 1)}
