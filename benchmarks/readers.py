"""How fast critic and judge lose sight of the motion: with blur, noise, colour, and on the base model's own frames.

``python benchmarks/readers.py`` plays videos on the unseen maps, spoils them, and prints for each kind and strength
how often the embedded critic and the held-out judge read the engine's own label (percent of latents, 95% Wilson
intervals with the videos as the sample). Then the base's own frames:

- drawn: the engine's frames through the base's encoder and decoder, so that the motion stays known;
- imagined: a chunk by the base, after the engine's own past or after its own. What it shows is not known; given are
  the share of latents in which each reader sees the command, and the share in which both see the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from worldcompass.audit.clips import CHUNK, PER_LATENT, Clip
from worldcompass.audit.degradations import PICTURE, STRENGTHS
from worldcompass.audit.measures import share, shown
from worldcompass.evaluate import imagine_all
from worldcompass.rollout import chunk_actions, chunk_noise, imagine_chunk
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.doom.audits import engine_clips
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.world import DoomWorld, load_doom_world

SPOILT = ("blurred", "noisy", "tinted", "flickering")


def with_lead(clip: Clip) -> Tensor:
    """A clip's frames after the one before it."""
    return torch.cat([clip.past_F3hw[-1:], clip.frames_F3hw])


@torch.no_grad()
def drawn(world: DoomWorld, video_F3hw: Tensor) -> Tensor:
    """A video through the base's encoder and decoder."""
    code = world.autoencoder.encode_video(video_F3hw[None].float() / 255)
    frames = world.autoencoder.decode_chunk(code, None)[0]
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def imagined_after_truth(world: DoomWorld, scenarios: Sequence[Scenario], chunk: int, seed: int) -> Tensor:
    """One chunk of every scenario after the engine's own past, its last drawn frame first; (V, 1 + F, 3, h, w)."""
    videos = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
    code = world.autoencoder.encode_video(videos.float() / 255)
    context = world.begin(scenarios)
    lead = torch.empty(0)
    for index in range(chunk):
        actions = chunk_actions(world, scenarios, index, CHUNK)
        attended = world.attend(context, actions)
        true = code[:, :, index * CHUNK : (index + 1) * CHUNK]
        lead = world.decode(true, attended)[:, -1:]
        context = world.remember(attended, true, actions)
    actions = chunk_actions(world, scenarios, chunk, CHUNK)
    attended = world.attend(context, actions)
    noise = chunk_noise(world, CHUNK, [("readers", seed, s.id, chunk) for s in scenarios])
    clean = imagine_chunk(world, attended, actions, noise, world.spec.sigmas(None))
    return torch.cat([lead, world.decode(clean, attended)], 1)


class Table:
    """Reads with both readers and prints rows as it goes."""

    def __init__(self, videos: Sequence[str]) -> None:
        self.readers = (LabelReader(load_critics().motion), load_judge())
        self.videos = videos

    def seen(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Labels (V, K) that each reader sees after the first frame of every clip."""
        frames = torch.stack(list(clips))
        return [reader.labels(frames)[:, 1:].cpu() for reader in self.readers]

    def row(self, words: str, clips: Sequence[Tensor], labels_VK: Tensor) -> None:
        """Shares of latents seen as ``labels_VK`` by each reader and alike by both."""
        critic, judge = self.seen(clips)
        hits = (critic == labels_VK, judge == labels_VK, critic == judge)
        cells = (shown(share(h.double().mean(1).numpy(), self.videos)) for h in hits)
        print(f"| {words} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=8, help="of every map (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenarios, clips = engine_clips(args.seed, args.videos)
    labels = torch.stack([clip.actions.labels_K for clip in clips])
    table = Table([clip.video for clip in clips])
    print(
        f"{len(clips)} clips of {len(scenarios)} videos\n\n"
        "| clips | critic | judge | both alike |\n|---|---|---|---|"
    )
    table.row("engine", [with_lead(clip) for clip in clips], labels)
    for kind in SPOILT:
        for strength in STRENGTHS:
            made = []
            for clip in clips:
                generator = generator_for(args.seed, "readers", kind, clip.name)
                made.append(PICTURE[kind](with_lead(clip), clip.past_F3hw, strength, generator))
            table.row(f"{kind}, strength {strength:g}", made, labels)
    world = load_doom_world()
    pictures = {s.id: drawn(world, s.truth.frames_F3hw) for s in scenarios if s.truth is not None}

    def cut(videos: dict[str, Tensor], clip: Clip) -> Tensor:
        start = PER_LATENT * (clip.chunk * CHUNK - 1)
        return videos[clip.video][start : start + 1 + PER_LATENT * CHUNK]

    table.row("drawn by the base", [cut(pictures, clip) for clip in clips], labels)
    after = {
        (s.id, chunk): video
        for chunk in (1, 2)
        for s, video in zip(scenarios, imagined_after_truth(world, scenarios, chunk, args.seed), strict=True)
    }
    own = dict(zip((s.id for s in scenarios), imagine_all(world, scenarios, args.seed), strict=True))
    table.row("imagined after the engine's past", [after[clip.video, clip.chunk] for clip in clips], labels)
    table.row("imagined after its own past", [cut(own, clip) for clip in clips], labels)
    scorers = {"critic": load_critics().realism.score, "judge": load_judge().realism}
    for who, score in scorers.items():
        for words, videos in (("drawn", pictures), ("imagined", own)):
            hits = [
                float(score(cut(videos, clip)[1:]).mean() < score(clip.frames_F3hw).mean()) for clip in clips
            ]
            below = shown(share(torch.tensor(hits).numpy(), table.videos))
            print(f"realism by the {who}: {words} clips below the engine's own {below}")


if __name__ == "__main__":
    main()
