"""A plugin that tox loads from this file.

It skips the environment `gpu` if there is no CUDA device, before tox installs anything for it.
"""

import ctypes
import sys
from typing import Any

from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.errors import Skip


def cuda_devices() -> int:
    """Ask the driver how many devices there are: torch may be a build without CUDA."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return (
        count.value if driver.cuInit(0) == driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
    )


def skip_without_cuda(tox_env: ToxEnv) -> None:
    if tox_env.name == "gpu" and not cuda_devices():
        raise Skip("there is no CUDA device")


@impl
def tox_on_install(
    tox_env: ToxEnv,
    arguments: Any,  # noqa: ARG001
    section: str,  # noqa: ARG001
    of_type: str,  # noqa: ARG001
) -> None:
    skip_without_cuda(tox_env)


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    skip_without_cuda(tox_env)
