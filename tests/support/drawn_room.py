"""A room of noise, drawn by ray casting: videos with known cameras."""

import numpy as np
import torch

CAMERA = torch.tensor([0.8, 1.0, 0.5, 0.5])


def drawn_video(poses_S44, size=(120, 160)):
    """Frames (S, 3, h, w) of a box of noise seen from inside, by ray casting."""
    height, width = size
    texture = (
        np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    )
    fx, fy = 0.8 * width, 1.0 * height
    ys, xs = np.mgrid[:height, :width]
    rays = np.stack([(xs + 0.5 - width / 2) / fx, (ys + 0.5 - height / 2) / fy, np.ones_like(xs)], -1)
    frames = []
    for pose_44 in poses_S44.double().numpy():
        direction, eye = rays @ pose_44[:3, :3].T, pose_44[:3, 3]
        walls = np.array([10.0, 4.0, 14.0])  # half sizes of the room
        with np.errstate(divide="ignore"):
            far = np.where(direction > 0, (walls - eye) / direction, (-walls - eye) / direction)
        axis = far.argmin(-1)
        hit = eye + np.take_along_axis(far, axis[..., None], -1) * direction
        side = axis * 2 + (np.take_along_axis(direction, axis[..., None], -1)[..., 0] > 0)
        u = np.where(axis == 0, hit[..., 2], hit[..., 0]) * 8 % 128
        v = np.where(axis == 1, hit[..., 2], hit[..., 1]) * 8 % 128
        frames.append(texture[side, v.astype(int), u.astype(int)])
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
