"""Audits against the Doom engine: clips of unseen maps, and critics that need no downloaded weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from worldcompass.audit.expected import ITEM_LIES, KINDS
from worldcompass.audit.known import Known
from worldcompass.rewards.actions import ActionAccuracy
from worldcompass.rewards.best_of_three import MOVES, TURN_DEG, BestOfThree
from worldcompass.rewards.cameras import calibrated_thresholds
from worldcompass.rewards.cycle import CycleClosure
from worldcompass.rewards.formulas import FormulaCritic, keeps_colours, keeps_exposure, keeps_sharpness
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.latency import ResponseLatency
from worldcompass.rewards.odometry import Odometry
from worldcompass.rewards.pose_error import PoseError
from worldcompass.rewards.purity import DirectionPurity
from worldcompass.rewards.quality import flicker_of
from worldcompass.rewards.reference import TrueContinuation, psnr, ssim
from worldcompass.rewards.stability import PictureStability
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, MOTION, THRESHOLDS
from worldcompass.worlds.doom.engine.maps import CRITIC
from worldcompass.worlds.doom.engine.scenarios import draw_all
from worldcompass.worlds.doom.rewards.cameras import DoomCameras
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.pickup import PickupFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality
from worldcompass.worlds.doom.rewards.realism import EmbeddedRealism
from worldcompass.worlds.doom.world import SPEC

if TYPE_CHECKING:
    from worldcompass.worlds.doom.engine.pickup_scenes import Played
from worldcompass.audit.clips import CHUNK, NO_ITEM, OTHER_ITEM, Clip, clips_of

# Critics that compare with the engine's frames do not read commands.
LIKE_THE_TRUTH = ",".join(lie for lie in KINDS["both"] if lie != "wrong commands")
CALIBRATION_LATENTS = 12  # of one video of each of the critics' maps


def latency_by_odometry() -> ResponseLatency:
    """Latency by odometry, the only estimator of single frames here, with thresholds calibrated to its unit."""
    estimator = Odometry(per_view=True)
    paths, labels = [], []
    for _, scenario in draw_all(CRITIC, ("mixed",), 1, CALIBRATION_LATENTS, 0, "calibration"):
        assert scenario.truth is not None
        frames, intrinsics = scenario.truth.frames_F3hw[None], scenario.actions.cameras.intrinsics_K4[0]
        paths.append(estimator(frames, intrinsics, SPEC.frames_per_latent))
        labels.append(scenario.truth.actions.cameras.labels_K[1:])
    return ResponseLatency(estimator, calibrated_thresholds(paths, labels, THRESHOLDS))


def best_of_three_in_map_units() -> BestOfThree:
    """The released reward with the embedded estimator, and with the world's threshold as the middle of three.

    The released thresholds are for single frames and another length unit.
    """
    middle = THRESHOLDS.move / MOVES[1]
    turn_deg = TURN_DEG * SPEC.frames_per_latent
    return BestOfThree(
        DoomCameras(), tuple(middle * move for move in MOVES), turn_deg, every=SPEC.frames_per_latent
    )


KNOWN: dict[str, Known] = {
    "interaction": Known(InteractionFollowing, "motion"),
    "actions": Known(lambda: ActionAccuracy(DoomCameras(), THRESHOLDS), "motion"),
    "purity": Known(lambda: DirectionPurity(DoomCameras(), THRESHOLDS), "motion"),
    "pose_error": Known(lambda: PoseError(DoomCameras(), MOTION), "motion"),
    "latency": Known(latency_by_odometry, "motion"),
    "best_of_three": Known(best_of_three_in_map_units, "motion"),
    "quality": Known(VisualQuality, "pictures"),
    "stability": Known(PictureStability, "pictures"),
    "sharpness": Known(lambda: FormulaCritic(keeps_sharpness, "sharpness"), "blurred,noisy"),
    "flicker": Known(lambda: FormulaCritic(flicker_of, "flicker"), "flickering"),
    "colours": Known(lambda: FormulaCritic(keeps_colours, "colours"), "tinted"),
    "exposure": Known(lambda: FormulaCritic(keeps_exposure, "exposure"), "flickering"),
    "realism": Known(lambda: FrameScore(EmbeddedRealism()), "blurred,noisy,tinted"),
    "realism_drift": Known(lambda: ScoreDrift(EmbeddedRealism()), "blurred,noisy,tinted"),
    "psnr": Known(lambda: TrueContinuation(psnr, "psnr"), LIKE_THE_TRUTH),
    "ssim": Known(lambda: TrueContinuation(ssim, "ssim"), LIKE_THE_TRUTH),
    "cycle": Known(lambda: CycleClosure(THRESHOLDS), "both", "out and back"),
    "pickup": Known(PickupFollowing, ",".join(("frozen", *ITEM_LIES)), "pickups"),
}


def engine_clips(
    seed: int, per_map: int, on_scenario: Callable[[], None] = lambda: None, out_and_back: bool = False
) -> tuple[list[Scenario], list[Clip]]:
    """Clips on unseen maps, from starts that only audits use.

    With ``out_and_back`` every motion is followed by its opposite.
    """
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.engine.scenarios import draw_all

    drawn = draw_all(UNSEEN, ("mixed",), per_map, 3 * CHUNK, seed, "audit", on_scenario, out_and_back)
    scenarios = [scenario for _, scenario in drawn]
    return scenarios, clips_of(scenarios, [s.truth.frames_F3hw for s in scenarios if s.truth is not None])


def pickup_clips(seed: int, per_map: int, on_scene: Callable[[], None] = lambda: None) -> list[Clip]:
    """Chunks on unseen maps in which an item is taken, with the instruction for that item.

    Their lies are the same walk with the other item taken, and without a pick-up. Pick-ups before the second
    chunk are skipped.
    """
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.engine.pickup_scenes import draw_scenes

    return [
        clip
        for played in draw_scenes(UNSEEN, per_map, seed, "pickups/audit", on_scene)
        for word in played.scene.words
        for clip in _of_scene(played, word)
    ]


def _of_scene(played: Played, word: str) -> list[Clip]:
    """The clip of the chunk in which a scene's item is taken; none in the first chunk."""
    scene, group = played.scene, played.group(word)
    outcomes = {taken and taken[0]: layout for layout, taken in enumerate(scene.taken)}
    (other,) = (w for w in scene.words if w != word)
    (latent,) = (taken[1] for taken in scene.taken if taken is not None and taken[0] == word)
    chunk = latent // CHUNK
    if not chunk:
        return []
    first = FRAMES_PER_LATENT * (chunk * CHUNK - 1) + 1
    actions, before = (
        group.actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK), group.actions.latents(0, chunk * CHUNK)
    )  # fmt: skip
    made = {
        name: Clip(
            video[first : first + FRAMES_PER_LATENT * CHUNK], video[:first], video[0], actions, before, scene.id,
            chunk, group.instruction,
        )
        for name, video in ((name, played.frames_GF3hw[outcomes[name]]) for name in (word, other, None))
    }  # fmt: skip
    return [replace(made[word], denied={OTHER_ITEM: made[other], NO_ITEM: made[None]})]
