"""The processor that the backend computes on: its name, and the memory that was needed."""

import contextlib
import platform
import sys

import keras


def name() -> str:
    """Name of the device the backend computes on."""
    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0]
        return found.device_kind if found.platform != "cpu" else _cpu()
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else _cpu()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else _cpu()


def peak_memory() -> float:
    """Most memory this process has held so far, in MiB: of the GPU if there is one, else of the whole process."""
    on_gpu = peak_memory_on_gpu()
    if on_gpu is not None:
        return on_gpu
    try:
        import resource
    except ImportError:  # Windows does not tell
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peak_memory_on_gpu() -> float | None:
    """Most memory the backend has held on a GPU, in MiB; ``None`` without one."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


def _cpu() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return f"CPU: {line.split(':', 1)[1].strip()}"
    return f"CPU: {platform.processor() or platform.machine()}"
