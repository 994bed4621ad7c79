"""tox reads this: the environment `gpu` is skipped, before anything is installed for it, where there is no CUDA device."""

import ctypes
import sys
from typing import Any

from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.errors import Skip


def cuda_devices() -> int:
    """As the driver has it. torch, which could be a build without CUDA, must then find them too."""
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
def tox_on_install(tox_env: ToxEnv, arguments: Any, section: str, of_type: str) -> None:  # noqa: ARG001
    skip_without_cuda(tox_env)


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    skip_without_cuda(tox_env)
