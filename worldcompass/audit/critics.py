"""The critics that can be audited here: no weights but the package's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worldcompass.audit import ClipKind
from worldcompass.audit.expected import ITEM_LIES, KINDS
from worldcompass.critic import Critic
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
from worldcompass.worlds.doom.engine.maps import CRITIC
from worldcompass.worlds.doom.engine.scenarios import draw_all
from worldcompass.worlds.doom.rewards.cameras import DoomCameras
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.pickup import PickupFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality
from worldcompass.worlds.doom.rewards.realism import EmbeddedRealism
from worldcompass.worlds.doom.world import SPEC

# Commands are not read by those who know the engine's own frames.
LIKE_THE_TRUTH = ",".join(lie for lie in KINDS["both"] if lie != "wrong commands")
CALIBRATION_LATENTS = 12  # of one video of each of the critics' maps


@dataclass(frozen=True)
class Known:
    """How to make a critic, and what it must notice (``audit.expected``)."""

    make: Callable[[], Critic]
    expects: str
    clips: ClipKind = "mixed"
    """What it scores."""


def latency_by_odometry() -> ResponseLatency:
    """The only estimator here that looks frame by frame; its length unit needs a threshold of its own."""
    estimator = Odometry(per_view=True)
    paths, labels = [], []
    for _, scenario in draw_all(CRITIC, ("mixed",), 1, CALIBRATION_LATENTS, 0, "calibration"):
        assert scenario.truth is not None
        frames, intrinsics = scenario.truth.frames_F3hw[None], scenario.actions.intrinsics_K4[0]
        paths.append(estimator(frames, intrinsics, SPEC.frames_per_latent))
        labels.append(scenario.truth.labels_M[1:])
    return ResponseLatency(estimator, calibrated_thresholds(paths, labels, SPEC.thresholds))


def best_of_three_in_map_units() -> BestOfThree:
    """The released choice with the embedded estimator, the world's own threshold in the middle of the three.

    Released thresholds belong to single frames and to another length unit; ``benchmarks/optimism.py`` has them.
    """
    middle = SPEC.thresholds.move / MOVES[1]
    turn_deg = TURN_DEG * SPEC.frames_per_latent
    return BestOfThree(
        DoomCameras(), tuple(middle * move for move in MOVES), turn_deg, every=SPEC.frames_per_latent
    )


KNOWN: dict[str, Known] = {
    "interaction": Known(InteractionFollowing, "motion"),
    "actions": Known(lambda: ActionAccuracy(DoomCameras(), SPEC.thresholds), "motion"),
    "purity": Known(lambda: DirectionPurity(DoomCameras(), SPEC.thresholds), "motion"),
    "pose_error": Known(lambda: PoseError(DoomCameras(), SPEC.motion), "motion"),
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
    "cycle": Known(lambda: CycleClosure(SPEC.thresholds), "both", "out and back"),
    "pickup": Known(PickupFollowing, ",".join(("frozen", *ITEM_LIES)), "pickups"),
}
