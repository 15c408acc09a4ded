"""Hydra reads and parses each config file once a process, not once for each config that it composes."""

import copy
import functools

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.plugins.config_source import ConfigResult, ConfigSource

from common.files import ROOT

LASTING = (str(ROOT / "config"), "hydra")  # folders and packages of files that no test changes


def remember_configs() -> None:
    """Replaces `load_config` of the sources in Hydra."""
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        source.load_config = _remembering(source.load_config)


def _remembering(load):
    @functools.cache
    def kept(kind: type, provider: str, path: str, config_path: str) -> ConfigResult:
        return load(kind(provider, f"{kind.scheme()}://{path}"), config_path)

    @functools.wraps(load)
    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        if not self.path.startswith(LASTING):
            return load(self, config_path)
        return copy.deepcopy(kept(type(self), self.provider, self.path, config_path))

    return load_config
