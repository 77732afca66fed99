"""Folders of recordings: sliding textures with a path each."""

import json

from judged import moving_pictures

from worldcompass.media.video import fit, write_mp4


def record(folder, count=16, frames=61, size=(48, 64), path="right-8, w-7", fps=24):
    """Videos ``walk00.mp4``, ... with their JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, video in enumerate(moving_pictures(count, frames, "recordings")):
        write_mp4(folder / f"walk{number:02}.mp4", fit(video, size), fps)
        (folder / f"walk{number:02}.json").write_text(json.dumps({"path": path}))
    return folder
