"""Sources of a judge for tests: small moving pictures with a model that equals the truth or differs as planted."""

import torch

from worldcompass.judging.sources import Sources
from worldcompass.seeding import generator_for

SIZE = (32, 48)


def moving_pictures(count, frames, seed, regions=2):
    """Textures of one colour per region that slide sideways; uint8 (count, frames, 3, h, w)."""
    generator = generator_for(seed, "pictures")
    height, width = SIZE
    videos = []
    for number in range(count):
        coarse = torch.randn(1, 1, height // 4, (width + 2 * frames) // 4, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width + 2 * frames), mode="bicubic")[0, 0]
        colour = torch.tensor([1.0, 0.4, 0.4]).roll(number % regions)
        level = 40 * torch.rand(1, generator=generator)
        wide = 100 + level + 30 * colour[:, None, None] * (1 + fine)
        speed = 1 + number % 2
        shown = [wide[..., speed * f : speed * f + width] for f in range(frames)]
        videos.append(torch.stack(shown).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(videos)


def sources(base=None, trained=None, count=16, frames=29, regions=2, seeds=1):
    """Sources of the same scenarios; each model is a function of one truth video and a generator, or the truth."""
    truth = moving_pictures(count, frames, "truth", regions)
    same = lambda video, generator: video  # noqa: E731

    def model(change):
        parts = [
            torch.stack([(change or same)(v, generator_for(k, i)) for i, v in enumerate(truth)])
            for k in range(seeds)
        ]
        return torch.stack(parts)

    names = tuple(str(i) for i in range(count))
    return Sources(
        scenarios=names,
        groups=tuple(f"start {i // 2}" for i in range(count)),
        regions=tuple(f"region {i % regions}" for i in range(count)),
        engine_SF3hw=truth,
        other_SF3hw=moving_pictures(count, frames, "other", regions),
        reachable_SF3hw=truth,
        models_KSF3hw={"base": model(base), "trained": model(trained)},
    )
