"""minWM keeps the contract on tiny random networks, with a stand-in for the video decoder."""

from causal_wan_tiny import noise, scenario, scenarios, tiny_world

from worldcompass.testing import check_world_model


def test_the_world_keeps_the_contract():
    check_world_model(tiny_world(), scenarios())


def test_a_world_that_goes_on_from_a_given_video_keeps_the_contract():
    batch = [scenario(seed, latents=noise(1, seed, 4)[0]) for seed in range(2)]
    check_world_model(tiny_world("ar_diffusion_tf"), batch)
