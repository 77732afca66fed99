"""Exports a run's weights as safetensors with a model card, and pushes them to a hub."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import safe_open
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.pictures import small_webp
from worldcompass.parallel.sharding import all_finite
from worldcompass.report.runs import KINDS, MEASURES, Run, headline, load_run, walked_text
from worldcompass.runs.atomic import check_name, write_tensors, writing
from worldcompass.runs.checkpoint import CheckpointState, latest_checkpoint, newest_usable, read_state
from worldcompass.runs.final import final_weights
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics
from worldcompass.runs.pickled import ENDINGS, read_plain, tensors_in
from worldcompass.runs.results import Evaluation
from worldcompass.statistics import percent
from worldcompass.version import __version__

CARD, WEIGHTS = "README.md", "model.safetensors"
EMBEDDED_LICENSE = "apache-2.0"
UNSTATED = "other"  # the hub's word for a license outside its list
MOST_PICTURES, PICTURE_WIDTH = 4, 1600  # on the card; pixels
FEW = 5  # rows at the start and at the end of a run for the means on the card
AVERAGE = "policy/checkpoint/"
SETTINGS = (
    "steps", "seed", "prompts_per_step", "group_size", "best", "worst", "first_chunk", "last_chunk",
    "denoising_steps", "noise_levels", "updates_per_rollout", "beta", "advantage_clip", "explore", "kl_weight",
    "mean_weight", "lr", "lr_end", "weight_decay", "checkpoint_decay", "lora", "autocast_bf16", "objective",
    "rollout", "make_optimizer",
)  # fmt: skip


def export_run(
    run_dir: Path,
    out: Path,
    license_name: str | None = None,
    base: str | None = None,
    embedded: Collection[str] = (),
) -> int:
    """Write the final weights of a run and a model card to the new folder ``out``; return the step of the weights.

    Files that the recipe exported from the newest checkpoint are copied in the formats of its world
    (``runs.final``). Without such files the weights are the checkpoint average: every trained parameter by its name
    in ``world.net``, in float32.

    Args:
        license_name: of the weights, as the hub spells it; by default that of an embedded world, or "other".
        base: the base model, such as a repository of the hub.
        embedded: names of the worlds whose weights this package ships under its license.

    Raises:
        UserError: when ``run_dir`` is no run with a checkpoint, its weights are not finite, or ``out`` is in use.
    """
    check_name(out)
    run = load_run(run_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose another --out")
    folder = RunFolder(run_dir)
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        raise UserError(f"{run_dir} holds no checkpoint yet: export it after its first checkpoint")
    exported = final_weights(folder)
    average, state = ({}, read_state(newest)) if exported else _average(folder)
    step = state.step
    with writing(out, shared=True) as unfinished:
        unfinished.mkdir()
        for file in exported:
            copy = unfinished / file.relative_to(folder.weights)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        if not exported:
            write_tensors(unfinished / WEIGHTS, average, {"format": "pt"})
        _check_finite(unfinished)
        whole = (path for path in unfinished.rglob("*") if path.is_file() and path.name != CARD)
        files = sorted(path.relative_to(unfinished) for path in whole)
        pictures = _pictures(run, step, bool(exported))
        for name, (_, picture) in pictures.items():
            (unfinished / name).write_bytes(small_webp(picture, PICTURE_WIDTH))
        shown = {name: caption for name, (caption, _) in pictures.items()}
        card = model_card(
            run, state, step, [str(file) for file in files], license_name, base, embedded, shown
        )
        (unfinished / CARD).write_text(card, encoding="utf-8")
    return step


def _pictures(run: Run, step: int, final: bool) -> dict[str, tuple[str, bytes]]:
    """Caption and picture of the card's files: of the comparison of the final weights, else of the newest look.

    Args:
        run: with filmstrips of the comparison, and of clips during training.
        step: of the weights that are given away; a later clip shows others.
        final: whether they are those that the comparison shows.
    """
    if final and run.filmstrips:
        strips = list(run.filmstrips.items())[:MOST_PICTURES]
        return {f"before_after_{i}.webp": strip for i, strip in enumerate(strips, 1)}
    looks = [look for look in run.looks if look <= step]
    if not looks:
        return {}
    return {"before_after.webp": (f"Before training and after step {looks[-1]}", run.looks[looks[-1]])}


def _check_finite(folder: Path) -> None:
    """Refuse to give away weights that are not finite.

    Raises:
        UserError: naming the file and the first such tensor, or a file that holds code.
    """
    for path in sorted(folder.rglob("*")):
        broken = next((name for name, tensor in _tensors(path) if not all_finite([tensor])), None)
        if broken is not None:
            raise UserError(
                f"{path.name} holds weights that are not finite ({broken}): delete the checkpoints of the last"
                " steps and resume the run with a lower learning rate"
            )


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file of weights, by name; of other files none."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                yield name, file.get_tensor(name)
    elif path.suffix in ENDINGS:
        yield from tensors_in(read_plain(path))


def _average(run: RunFolder) -> tuple[dict[str, Tensor], CheckpointState]:
    """The checkpoint average of the newest intact checkpoint, with its state."""
    found = newest_usable(run.checkpoints, lambda text: warnings.warn(text, stacklevel=2))
    assert found is not None, "no usable checkpoint"
    tensors, state = found
    average = {n.removeprefix(AVERAGE): t.contiguous() for n, t in tensors.items() if n.startswith(AVERAGE)}
    return average, state


def model_card(
    run: Run,
    state: CheckpointState,
    step: int,
    files: Sequence[str],
    license_name: str | None,
    base: str | None,
    embedded: Collection[str],
    pictures: Mapping[str, str],
) -> str:
    """The model card in Markdown: recipe, seeds, steps, results and licenses, all from the run's folder.

    ``pictures`` are captions by file.
    """
    world = str(state.run.get("world", "unknown"))
    spelled = license_name or (EMBEDDED_LICENSE if world in embedded else UNSTATED)
    head = [f"license: {spelled}", "library_name: worldcompass"]
    head += [f"base_model: {base}"] if base else []
    head += ["tags:", "- world-model", "- reinforcement-learning", "- video"]
    sections = {
        "Weights": _weights(world, step, files, base, world in embedded),
        "Before and after": _shown_before_and_after(pictures),
        "Recipe": _recipe(run, state.critics),
        "Results": _results(run),
        "Licenses": _licenses(spelled),
    }
    title = f"# {run.folder.resolve().name}: {world}, post-trained with WorldCompass"
    written = {name: "\n".join(lines) for name, lines in sections.items()}
    body = [f"## {name}\n\n{text}" for name, text in written.items() if text]
    return "\n".join(["---", *head, "---", "", title, "", "\n\n".join(body)]) + "\n"


def _weights(world: str, step: int, files: Sequence[str], base: str | None, embedded: bool) -> Iterator[str]:
    yield (
        f"The checkpoint average after {step} training steps of the world `{world}`"
        + (f", post-trained from `{base}`: " if base else ": ")
        + ", ".join(f"`{file}`" for file in files)
        + "."
    )
    if files == [WEIGHTS]:
        yield "Every trained parameter, named as in `world.net`: `load_state_dict(load_file(...), strict=False)`."
    elif embedded:
        yield (
            f"Play: `worldcompass play --world {world} --after FOLDER`; score: `worldcompass evaluate"
            f" --world {world} --checkpoint FOLDER`."
        )


def _shown_before_and_after(pictures: Mapping[str, str]) -> Iterator[str]:
    if pictures:
        yield "The same starts, commands and noise. Time runs from left to right; below are the commanded keys."
    for name, caption in pictures.items():
        plain = "".join(letter if letter.isalnum() or letter in " .,+-" else " " for letter in caption)
        yield f"\n![{plain}]({name})\n\n{plain}"


def _recipe(run: Run, critics: Sequence[str]) -> Iterator[str]:
    config = run.config
    named, seed = config.recipe or "the user's own", "unknown" if config.seed is None else config.seed
    yield f"Recipe: {named}. Seed {seed}; critics: {', '.join(critics) or 'unknown'}."
    if run.record.command:
        yield f"Command: `{run.record.command}`."
    if evaluated := run.record.evaluation_seeds:
        yield f"Seeds of the evaluation: {', '.join(map(str, evaluated))}."
    yield f"Made with worldcompass {run.record.version or __version__}."
    weights = config.values.get("weights")
    rows = {name: config.values[name] for name in SETTINGS if name in config.values}
    yield from ["", "| setting | value |", "| --- | --- |"]
    yield from (f"| {name} | {_shown(value)} |" for name, value in rows.items())
    for name, value in weights.items() if isinstance(weights, Mapping) else ():
        yield (
            f"| weight of {name} | {value:g} |"
            if isinstance(value, float)
            else f"| weight of {name} | {value} |"
        )


def _results(run: Run) -> Iterator[str]:
    by_way = run.results.evaluation.by_way()
    headlines = [
        text for way, found in by_way.items() for kind in KINDS if (text := headline(found, kind, way))
    ]
    yield from headlines
    if headlines:
        yield from [
            "",
            "| way | actions | measure | base | trained | difference (95%) |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for way, found in by_way.items():
            yield from (f"| {way} {row}" for row in _measured(found))
        yield ""
        if run.results.walking:
            yield f"Ways of walking: {'; '.join(walked_text(run.results, way) for way in by_way)}."
            yield ""
    rows = run.metrics
    if not rows:
        return
    yield f"Rewards during training, means of the first and the last {min(FEW, len(rows))} of {len(rows)} steps:"
    yield from ["", "| reward | first | last |", "| --- | --- | --- |"]
    for name in rows[-1].rewards:
        yield f"| {name} | {_mean_of(name, rows[:FEW])} | {_mean_of(name, rows[-FEW:])} |"
    looks = [row.judge.mean for row in rows if row.judge is not None and row.judge.mean is not None]
    if looks:
        yield f"\nHeld-out judge (not a reward): {looks[0]:.4f} at its first look, {looks[-1]:.4f} at its last."
    if run.diagnosis is not None:
        found = ", ".join(finding.name for finding in run.diagnosis.findings) or "nothing"
        yield f"\nThe run doctor found: {found}."


def _mean_of(reward: str, rows: Sequence[StepMetrics]) -> str:
    """The mean of a reward over the steps with a score; a dash without any."""
    means = [row.rewards[reward].mean for row in rows if reward in row.rewards]
    known = [mean for mean in means if mean is not None]
    return f"{fmean(known):.4f}" if known else "–"


def _measured(found: Evaluation) -> Iterator[str]:
    for kind in KINDS:
        for name, (words, share) in MEASURES.items():
            base, trained, change = (
                found.score(side, kind, name) for side in ("base", "trained", "difference")
            )
            if not base.known:
                continue
            show = percent if share else "{:.3f}".format
            interval = f"{show(change.mean)} [{show(change.low)}, {show(change.high)}]"
            yield f"| {kind} | {words} | {show(base.mean)} | {show(trained.mean)} | {interval} |"


def _licenses(spelled: str) -> Iterator[str]:
    if spelled == UNSTATED:
        yield "Weights: the license of the base model applies; this export does not state it."
    else:
        yield f"Weights: {spelled}."
    yield "Training code, WorldCompass: Apache-2.0."


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value).removeprefix("worldcompass.")


def push(folder: Path, repository: str, public: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub, private unless ``public``; return its address.

    Raises:
        UserError: when the package or a login is missing, or the hub refuses.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise UserError(
            "pushing needs the extra hub: pip install 'worldcompass[hub]' (the exported folder is complete)"
        ) from None
    # Its base class is the error of the hub client's HTTP library, such as a lost connection.
    failures = (OSError, ValueError, *errors.HfHubHTTPError.__bases__)
    api = hub.HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by WorldCompass")
    except failures as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"the Hugging Face hub refused {repository} ({first}): log in with `hf auth login` as a user with write"
            f" access; the exported folder {folder} is complete"
        ) from error
    return str(address)
