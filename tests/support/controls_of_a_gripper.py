"""Two spaces without a camera: a gripper's four axes, and a mouse with keys that change with every frame."""

from worldcompass.controls import Axis, Controls, button

GRIPPER = Controls(
    (
        Axis("reach", words=("pull", "reach")),
        Axis("side", words=("left", "right")),
        Axis("height", words=("down", "up")),
        Axis("grip", -0.5, 0.5, words=("open", "close")),
    )
)
MOUSE = Controls(
    (
        Axis("yaw", -0.4, 0.4, words=("turn_left", "turn_right"), codes=("ArrowLeft", "ArrowRight")),
        Axis("scroll", words=("back", "forth"), levels=3),
        button("jump", "Space"),
        Axis("unnamed", 0.0, 10.0, levels=11),
    ),
    per_latent=4,
)
