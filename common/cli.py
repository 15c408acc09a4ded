"""The decorator of every command: Hydra config, help from the yaml comments, errors as one line."""

import difflib
import functools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.command_help import CONFIG, comments_of, help_text
from common.errors import UserError, commands_as_installed, import_message, user_message
from common.files import LATEST, ROOT, follow_latest, results_in
from common.renamed_keys import rename_keys, rename_override
from common.value_ranges import check_values, leaves

SWEPT = "XRAY2CT_SWEPT"  # environment of the jobs of a sweep: its keys
MAX_NAME = 120  # characters of the name of a folder
HYDRA = (  # the Hydra keys of each command's yaml
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=stdout",
    "hydra.job_logging.formatters.simple.format='%(message)s'",
    "hydra.job_logging.root.level=WARNING",
)


def command(config_name: str) -> Callable:
    """Makes `main(cfg)` a command with the options of `config/<config_name>.yaml`; `--help` lists them.

    A `UserError` and an error of Hydra end the command with one line on stderr and exit code 1.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            logging.captureWarnings(True)
            with _errors_as_lines():
                sys.argv[1:] = [expand_home(rename_override(word)) for word in sys.argv[1:]]
            arguments = get_args_parser().parse_args()
            own = arguments.config_path is None and arguments.config_name is None
            if arguments.help and own:
                _refuse_bad_overrides(config_name, arguments.overrides)
                print(help_text(config_name, arguments.overrides))
                return
            if not own:
                _add_hydra_keys(arguments)
            if arguments.multirun:
                os.environ[SWEPT] = " ".join(_swept(arguments.overrides))
                # jobs of a launcher may start in another folder
                os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            if own and not (arguments.hydra_help or arguments.info or arguments.config_dir):
                words = arguments.overrides
                _refuse_bad_overrides(config_name, _first_values(words) if arguments.multirun else words)
            hydra.main(version_base="1.3", config_path=str(CONFIG), config_name=config_name)(
                _guard(main, config_name, own)
            )()

        return run

    return decorate


def swept_keys() -> list[str]:
    """Keys of which the sweep that runs takes several values."""
    return os.environ.get(SWEPT, "").split()


def sweep_run() -> tuple[Path, str] | None:
    """The folder of the sweep and the name of this run in it; None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir), run_name(list(hydra.overrides.task), swept_keys()) or str(hydra.job.num)


def run_name(words: list[str], keys: list[str]) -> str:
    """The values of the swept `keys` among overrides, as `dim-64_seed-1`, in letters that every file system takes."""
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    values = {key: value for key, _, value in (word.lstrip("+~").partition("=") for word in words)}
    plain = {key: re.sub(r"[^\w.+-]+", "-", value).strip("-") for key, value in values.items()}
    return "_".join(f"{short[key].replace('/', '-')}-{plain[key]}" for key in keys if key in plain)[:MAX_NAME]


def _swept(words: list[str]) -> list[str]:
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException:  # Hydra names it
        return []
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def _first_values(words: list[str]) -> list[str]:
    """The overrides of the first run of a sweep."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException:  # `_refuse_bad_overrides` names it
        return words
    first = []
    for word, override in zip(words, parsed, strict=True):
        if not override.is_sweep_override():
            first.append(word)
        elif not isinstance(override.value(), Glob | IntervalSweep):  # Hydra and its sweeper know their values
            first.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    return first


def _guard(main: Callable[[DictConfig], None], config_name: str, own: bool = True) -> Callable[[DictConfig], None]:
    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> None:
        with _errors_as_lines(), _terminable():
            rename_keys(cfg)
            _follow_paths(cfg)
            defaults = _defaults(config_name)
            if own and all(map(_is_ours, _chosen_groups())):  # options of --config-dir have keys of their own
                _refuse_unknown_keys(cfg, defaults)
            check_values(cfg, defaults, config_name)
            with results_in(Path(*run) if (run := sweep_run()) else None):
                main(cfg)

    return guarded


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        _stop(user_message(str(error)))
    except KeyboardInterrupt:
        _stop("interrupted; the same command continues, a training with model.resume=auto")
    except InstantiationException as error:  # a constructor rejected a value
        if not isinstance(error.__cause__, ValueError | TypeError | UserError | ImportError):
            raise
        _stop((isinstance(error.__cause__, ImportError) and import_message(error.__cause__)) or str(error.__cause__))
    except ModuleNotFoundError as error:
        if (line := import_message(error)) is None:
            raise
        _stop(line)
    except OmegaConfBaseException as error:
        _stop(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}")


def expand_home(text: str) -> str:
    """A word or value with the home folder in place of `~` at the start of each path."""
    return re.sub(r"(?:^|(?<=[=\[,;\"']))~(?=/|$)", lambda _: str(Path.home()), text)


def _follow_paths(cfg: DictConfig) -> None:
    """Replaces, in each path among the values, `~` by the home folder and a text file `latest` by what it names."""
    for key, value in leaves(cfg):
        if isinstance(value, str) and (LATEST in value or "~" in value):
            followed = follow_latest(expand_home(value))
            if followed != value:
                OmegaConf.update(cfg, key, followed)


def _defaults(config_name: str) -> DictConfig:
    """The config of a command with its chosen groups; no values of an experiment, which may be set to null again."""
    return recompose(config_name, [word for word in _chosen_groups() if _is_ours(word)])


def _chosen_groups() -> list[str]:
    """`group=option` of each group but `experiment`."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return [f"{k}={v}" for k, v in choices.items() if v and k != "experiment" and not k.startswith("hydra/")]


def _is_ours(word: str) -> bool:
    """Whether the option of a word `group=option` stands in `config/`."""
    group, _, choice = word.partition("=")
    return (CONFIG / group.partition("@")[0] / f"{choice}.yaml").is_file()


def _refuse_unknown_keys(cfg: DictConfig, defaults: DictConfig) -> None:
    """UserError for a key of an experiment that the command does not have; `+key=` on the command line adds one."""
    words, choice = [], None
    if HydraConfig.initialized():
        words, choice = HydraConfig.get().overrides.task, HydraConfig.get().runtime.choices.get("experiment")
    added = [word.lstrip("+").partition("=")[0] for word in words if word.startswith("+")]
    known = _keys(OmegaConf.to_container(defaults))
    for key in _keys(OmegaConf.to_container(cfg)):
        if key not in known and not any(f"{key}.".startswith(f"{a}.") or a.startswith(f"{key}.") for a in added):
            where = f"experiment={choice}: " if choice else ""
            raise UserError(f"{where}{key}: unknown key{_close_to(key, known)}, or an experiment of another command")


def recompose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of a command with other options, also while a command runs."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG), version_base="1.3"):
            return compose(config_name, overrides)
    finally:
        GlobalHydra.instance().hydra = running


def _add_hydra_keys(arguments) -> None:
    """Adds the Hydra keys to the command line, which the stored config of a run lacks, and resolves its folder."""
    given = list(arguments.overrides)
    options = [word for word in sys.argv[1:] if word not in given]
    folder = arguments.config_path
    if folder is not None and Path(folder).is_dir():
        options += ["--config-path", str(Path(folder).resolve())]  # the last one counts
    ours = [word for word in HYDRA if not any(o.startswith(word.partition("=")[0]) for o in given)]
    sys.argv[1:] = [*options, *given, *ours]


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C, so that temporary files are removed."""
    main_thread = threading.current_thread() is threading.main_thread()
    default = main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if default:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(message: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(commands_as_installed(message).split())}\n")
    sys.exit(1)


def _refuse_bad_overrides(config_name: str, overrides: list[str]) -> None:
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        try:
            _refuse_foreign_groups(config_name, overrides)
            compose(config_name, overrides, return_hydra_config=True)
        except OverrideParseException as error:
            _stop(_explain_word(config_name, str(error.override), overrides))
        except MissingConfigException as error:
            group, _, name = str(error.missing_cfg_file).rpartition("/")
            if group == "hydra/launcher":
                _stop(f"{group}={name}: not installed; pip install hydra-submitit-launcher hydra-joblib-launcher")
            choices = sorted(p.stem for p in (CONFIG / group).glob("*.yaml"))
            _stop(f"{group}={name}: no such choice; there are {', '.join(choices)}")
        except (HydraException, OmegaConfBaseException) as error:
            _stop(_explain(config_name, overrides, error))


def _explain(config_name: str, overrides: list[str], error: Exception) -> str:
    if ambiguous := re.match(r"Ambiguous value for argument '(.+)'", str(error)):
        return _explain_word(config_name, ambiguous.group(1), overrides)
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not found:
        return str(error).splitlines()[0]
    key = found.group(1)
    if (CONFIG / key).is_dir():
        return f"{key}: this command has no such group; --help lists those that it has"
    groups = [o for o in overrides if (CONFIG / o.partition("=")[0]).is_dir()]
    if option := _option_with(config_name, key):
        return f"{key}: not a key of the chosen {option.partition('=')[0]}; add {option}"
    return f"{key}: unknown key{_close_to(key, _keys(OmegaConf.to_container(compose(config_name, groups))))}"


def _close_to(key: str, known: list[str]) -> str:
    """The end of a message: which of the known keys may be meant."""
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    close = close or [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    return f"; did you mean {' or '.join(close)}?" if close else "; --help lists every option"


def _explain_word(config_name: str, word: str, overrides: list[str]) -> str:
    """What to write in place of a word that Hydra cannot parse."""
    key, equals, value = word.partition("=")
    if not equals:
        first = next(iter(comments_of(CONFIG / f"{config_name}.yaml")))[0]
        return f"{word}: options are written key=value, for example {first}={word}"
    if value.startswith("[") and "]" not in value:
        rest = overrides[overrides.index(word) + 1 :]
        whole = " ".join([word, *rest[: next((i for i, w in enumerate(rest) if "]" in w), -1) + 1]])
        return f"{word}: a list in several words; write it without spaces, as in {whole.replace(' ', '')}"
    if re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", value):
        return f"{word}: write a list in brackets, as in {key}=[{value}]"
    quoted = f"""'{key}="{value}"'""" if "'" not in value else f"""\"{key}=\\"{value}\\"\""""
    letters = "letters such as = , ( ) [ ] ü need it"
    return f"{word}: Hydra cannot parse this value; quote it twice, as in {quoted} ({letters})"


def _refuse_foreign_groups(config_name: str, overrides: list[str]) -> None:
    """Ends the command for an option of a group that belongs to another command, as model=ddpm to train_ddpm."""
    for group, _, choice in (word.partition("=") for word in overrides if word.startswith("model=")):
        owners = [file.stem for file in CONFIG.glob("*.yaml") if _default_choice(file, group) == choice]
        own = _default_choice(CONFIG / f"{config_name}.yaml", group)
        if owners and own is not None and config_name not in owners:
            commands = " or ".join(f"train/{name}.py" for name in sorted(owners) if name.startswith("train_"))
            _stop(f"{group}={choice}: for {commands}; this command takes {group}={own}")


def _default_choice(file: Path, group: str) -> str | None:
    """The option of a group in the defaults list of a command."""
    defaults = OmegaConf.to_container(OmegaConf.load(file)).get("defaults", [])
    return next((entry[group] for entry in defaults if isinstance(entry, dict) and group in entry), None)


def _option_with(config_name: str, key: str) -> str | None:
    """`group=option` of the first option of the key's group that has the key, `default` first."""
    group = key.partition(".")[0]
    options = sorted((p.stem for p in (CONFIG / group).glob("*.yaml")), key=lambda name: (name != "default", name))
    for option in options if _default_choice(CONFIG / f"{config_name}.yaml", group) else ():
        with suppress(HydraException):
            if OmegaConf.select(compose(config_name, [f"{group}={option}"]), key, default=...) is not ...:
                return f"{group}={option}"
    return None


def _keys(tree: dict, prefix: str = "") -> list[str]:
    inner = ((f"{prefix}{name}", value) for name, value in tree.items())
    return [k for key, value in inner for k in (key, *(_keys(value, f"{key}.") if isinstance(value, dict) else ()))]
