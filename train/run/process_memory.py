"""Measures the peak memory of this process."""

import sys

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_bytes() -> int | None:
    """Bytes at the peak of this process without its parent; None where the system does not say."""
    try:  # ru_maxrss starts at the peak of the parent process, VmHWM does not
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
