"""Choosing a Keras backend; name and memory of the device it computes on."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
from pathlib import Path

from unet.console import quiet_stderr
from unet.environment import environment_variables
from unet.errors import InputError
from unet.files import CACHE, expanded

BACKENDS = {"tensorflow": "cpu", "jax": "jax", "torch": "torch"}
"""Backends in the order of preference, with the optional dependency that installs each."""
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"
"""Flag of XLA: what it computes with YNNPACK on a CPU; by default also convolutions."""
YNNPACK_SINCE, YNNPACK_UNTIL = (0, 10), (0, 13)
"""First version of jaxlib that convolves with YNNPACK, and the first that was not tried."""


def use_backend() -> str:
    """Import Keras on the backend in KERAS_BACKEND, else on the first one installed; return its name.

    Variables that are read while Keras is imported are set for that time: KERAS_BACKEND, TF_CPP_MIN_LOG_LEVEL,
    TF_ENABLE_ONEDNN_OPTS, without which TensorFlow trains at less than half the speed on processors without AVX-512,
    where JAX keeps compiled programs, and how XLA convolves. Values that the user has set are kept.

    Raises:
        InputError: The backend is unknown or not installed; the message says how to install it.
    """
    wanted = os.environ.get("KERAS_BACKEND")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if wanted and wanted not in BACKENDS:
        raise InputError(f"KERAS_BACKEND: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted and wanted not in installed:
        raise InputError(
            f"KERAS_BACKEND: {wanted} is not installed: pip install '.[{BACKENDS[wanted]}]' "
            f"(installed here: {', '.join(installed) or 'none'})"
        )
    if not installed:
        raise InputError("no backend is installed: pip install '.[cpu]' (or '.[cuda]', '.[jax]', '.[torch]')")
    name = wanted or installed[0]
    defaults = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if platform.machine() in ("x86_64", "AMD64"):
        defaults["TF_ENABLE_ONEDNN_OPTS"] = "1"
    if name == "jax":
        defaults |= _kept_programs()
    settings = {key: os.environ.get(key, value) for key, value in defaults.items()}
    flags = _xla_flags() if name == "jax" else {}
    with environment_variables(KERAS_BACKEND=name, **settings, **flags), quiet_stderr():
        import keras

        if flags:
            _read_xla_flags()
    return keras.backend.backend()


def _kept_programs() -> dict[str, str]:
    """Variables with which JAX keeps what it compiles for a GPU or another accelerator, for later processes.

    Not on CPUs: with AVX-512, XLA prints an error for each program that it loads and compiles it again
    (github.com/openxla/xla/issues/44565).
    """
    folder = expanded(CACHE) / "xla"
    accelerated = importlib.metadata.entry_points(group="jax_plugins") and os.environ.get("JAX_PLATFORMS") != "cpu"
    if not accelerated or not folder.is_absolute():  # without a home directory
        return {}
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}


def _xla_flags() -> dict[str, str]:
    """XLA_FLAGS with which XLA leaves convolutions to Eigen instead of YNNPACK, on processors without AVX-512.

    There, whole training steps are 1.2 to 1.7 times as fast; on other processors it was not measured. XLA ends the
    process if it does not know a flag, so only versions that are known to have this one get it.
    """
    flags, version = os.environ.get("XLA_FLAGS", ""), importlib.metadata.version("jaxlib").split(".")
    known = YNNPACK_SINCE <= tuple(map(int, version[:2])) < YNNPACK_UNTIL
    if not known or YNNPACK in flags or not _without_avx512():
        return {}
    return {"XLA_FLAGS": f"{flags} {YNNPACK}=-individual_convolution".strip()}


def _read_xla_flags() -> None:
    """Let XLA read XLA_FLAGS now, which it does once; otherwise it would at the first computation."""
    with contextlib.suppress(ImportError):  # not public
        from jaxlib.xla_client import CompileOptions

        CompileOptions()


def use_backend_without_devices() -> dict[str, str]:
    """Import Keras on the CPU, in a command whose processes do the work; return the environment for them.

    Raises:
        InputError: As in :func:`use_backend`.
    """
    environment = dict(os.environ)
    with environment_variables(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu"):
        name = use_backend()
        if name == "tensorflow":  # JAX and PyTorch have chosen a device by now, TensorFlow has not
            import tensorflow as tf

            tf.config.list_physical_devices()
    return environment | {"KERAS_BACKEND": name}


@functools.cache
def emulates_bfloat16() -> bool:
    """Whether TensorFlow and PyTorch compute on an x86 processor without AVX-512, where bfloat16 is slow for them."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return False
    return _without_avx512()


def _without_avx512() -> bool:
    """Whether this is an x86 processor with AVX2 but without AVX-512."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as features
    except ImportError:  # not public
        return False
    return features.get("AVX2", False) and not features.get("AVX512F", False)


def compiled_by_xla() -> bool:
    """Whether XLA compiles the code that runs now: always on JAX, and in a ``tf.function`` with ``jit_compile``."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend() == "jax"
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_turn(previous, *tensors) -> list:
    """The ``tensors``, but not before those of ``previous`` are computed.

    TensorFlow computes whatever is ready, and would hold the intermediate tensors of independent parts at the same
    time. The other backends and XLA compute in the order of the code, or schedule for little memory.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or compiled_by_xla():
        return list(tensors)
    import tensorflow as tf

    with tf.control_dependencies(list(previous)):
        return [tf.identity(tensor) for tensor in tensors]


def device_name() -> str:
    """Name of the device the backend computes on."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        found = jax.local_devices()[0]
        return found.device_kind if found.platform != "cpu" else _cpu()
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else _cpu()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else _cpu()


def peak_memory() -> float:
    """Peak memory of this process in MiB: on the GPU if there is one, else in RAM."""
    on_gpu = peak_memory_on_gpu()
    if on_gpu is not None:
        return on_gpu
    return _peak_in_ram()


def _peak_in_ram() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident_memory() -> float:
    """Memory of this process in RAM, in MiB: now on Linux, elsewhere its peak so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return _peak_in_ram()


def available_memory() -> float:
    """Memory in MiB that this machine, or the container that this process is in, can still give without swapping.

    Infinite where it cannot be known.
    """
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) / 2**10 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        found.append((limit - taken + sum(int(value) for name, value in files if name == "inactive_file")) / 2**20)
    if len(found) == 1:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # half of a Mac's memory
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**21)
    return min(found)


def peak_memory_on_gpu() -> float | None:
    """Peak memory of the backend on a GPU, in MiB; ``None`` without a GPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


def accelerator_memory() -> float:
    """Memory in bytes of the accelerator that JAX or PyTorch computes on; 0 on a CPU, and with TensorFlow."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, or the machine, has no memory left."""
    names = {parent.__name__ for parent in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"}:
        return True
    # Of JAX, and of PyTorch on a CPU: errors without a class of their own.
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("RESOURCE_EXHAUSTED", "Out of memory", "can't allocate memory")
    )


def _cpu() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return f"CPU: {line.split(':', 1)[1].strip()}"
    return f"CPU: {platform.processor() or platform.machine()}"
