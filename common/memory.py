"""Main memory that is free for new data."""

from pathlib import Path

UNKNOWN = 1 << 62


def free_memory() -> int:
    """Bytes that new data can take, with those that the system only caches; `UNKNOWN` where it does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return UNKNOWN
