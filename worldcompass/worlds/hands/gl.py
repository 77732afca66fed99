"""An OpenGL context without a window: EGL or OSMesa on Linux, CGL on macOS, GLFW on Windows.

MuJoCo chooses its library when it is imported, by an environment variable; this module sets that variable first
where nobody has, and says in one sentence what to install where no library works.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import warnings
from typing import Any

from worldcompass.errors import UserError

VARIABLE = "MUJOCO_GL"
EGL_FILE, OSMESA_FILE = "libEGL.so.1", "libOSMesa.so.8"
INSTALL = {
    "linux": "install EGL (Debian and Ubuntu: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri)"
    " or OSMesa (libosmesa6)",
    "darwin": "log in at the desktop, or set MUJOCO_GL=glfw and install glfw with pip",
    "win32": "install the graphics card's driver, and glfw with pip",
}


def load_mujoco() -> Any:
    """The ``mujoco`` package, imported with the drawing library that this machine has.

    Raises:
        UserError: when the package is not installed or cannot be loaded.
    """
    if VARIABLE not in os.environ and sys.platform.startswith("linux"):
        library = "egl" if _loads(EGL_FILE) else "osmesa" if _loads(OSMESA_FILE) else None
        if library is not None:
            os.environ[VARIABLE] = library
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as why:
        raise UserError(
            f"the Hands engine needs the package mujoco ({why}): install it with"
            " 'pip install \"worldcompass[hands]\"'"
        ) from why
    except (ImportError, AttributeError, RuntimeError, OSError) as why:
        raise UserError(_sentence(why)) from why


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def open_renderer(mujoco: Any, model: Any, size: int) -> tuple[Any, Any]:
    """An OpenGL context made current, and MuJoCo's renderer in it, drawing ``size`` x ``size`` pixels off screen.

    Raises:
        UserError: saying what to install, where no OpenGL library works.
    """
    try:
        with warnings.catch_warnings():  # GLFW warns of what the error below says better
            warnings.simplefilter("ignore")
            context = mujoco.GLContext(size, size)
        context.make_current()
        renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, renderer)
    except (ImportError, AttributeError, RuntimeError, OSError, mujoco.FatalError) as why:
        raise UserError(_sentence(why)) from why
    return context, renderer


def _sentence(why: BaseException) -> str:
    first = (str(why).strip().splitlines() or [type(why).__name__])[0].rstrip(".")
    platform = "linux" if sys.platform.startswith("linux") else sys.platform
    mend = INSTALL.get(platform, "install EGL or OSMesa")
    chosen = f" with {VARIABLE}={os.environ[VARIABLE]}" if os.environ.get(VARIABLE) else ""
    return f"the Hands engine cannot draw here: no OpenGL library works{chosen} ({first}) - {mend}"
