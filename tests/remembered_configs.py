"""Hydra reads and parses each config file once a process, not once for each config that it composes."""

import functools
import pickle

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

from common.files import ROOT

LASTING = (str(ROOT / "config"), "hydra")  # folders and packages of files that no test changes


def remember_configs() -> None:
    """Replaces `load_config` of the sources that Hydra has registered: it loads their modules a second time."""
    Plugins.instance()  # registers the sources
    for scheme in ("file", "pkg"):
        source = SourcesRegistry.instance().types[scheme]
        source.load_config = _remembering(source.load_config)


def _remembering(load):
    @functools.cache
    def kept(kind: type, provider: str, path: str, config_path: str) -> bytes:
        return pickle.dumps(load(kind(provider, f"{kind.scheme()}://{path}"), config_path))

    @functools.wraps(load)
    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        if not self.path.startswith(LASTING):
            return load(self, config_path)
        return pickle.loads(kept(type(self), self.provider, self.path, config_path))  # faster than a deep copy

    return load_config
