"""The report's sections: a notebook, its parameters for a profile, and the runs that it asks for."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cifarnb.config import Config, ConfigError, Number, unknown_name
from cifarnb.runs import project_root

if TYPE_CHECKING:
    from nbformat import NotebookNode

PROFILES = ("smoke", "quick", "full")
WHY = "05_why_batchnorm"
SUMMARY = "06_summary"  # reads the runs of the others, so it comes last

# Where each network of the report is trained.
NETWORKS = {
    "simple_cnn": "01_simple_cnn",
    "resnet6": "02_residual_cnn",
    "resnet9": "03_deeper_residual_cnn",
    "vgg_a": "04_batchnorm",
    "vgg_a_bn": "04_batchnorm",
}

# What some parameters of notebooks, which are no fields of a config, must be at least.
LOWEST = {
    "jobs": 1,
    "smoothing": 1,
    "draw_every": 1,
    "line_points": 3,
    "surface_points": 3,
    "landscape_images": 1,
}

_TYPES = {"bool": bool, "int": int, "float": Number, "str": str, "list[int]": list[int], "list[float]": list[Number]}


@dataclass(frozen=True)
class Parameter:
    """A parameter that a notebook declares in its parameters cell."""

    type: str  # one of _TYPES
    default: Any
    help: str


def names() -> list[str]:
    """All sections, in the report's order: notebooks whose name begins with a number, as in ``01_simple_cnn``.

    Others, such as Jupyter's ``Untitled`` and ``01_simple_cnn-Copy1``, are somebody's drafts.
    """
    stems = sorted(path.stem for path in (project_root() / "notebooks").glob("*.ipynb"))
    return [stem for stem in stems if re.match(r"\d+_", stem) and not re.search(r"-Copy\d+$", stem)]


def notebook(section: str) -> Path:
    """The notebook of a section.  Raises ConfigError for a section that does not exist."""
    if section not in names():
        raise ConfigError(f"section {unknown_name(section, names())}")
    return project_root() / "notebooks" / f"{section}.ipynb"


def read(section: str) -> "NotebookNode":
    """The notebook of a section.  Raises ConfigError, naming the file, for one that cannot be read."""
    import nbformat  # a second, which every kernel that only asks for runs would take longer to start

    file = notebook(section)
    try:
        found = nbformat.read(file, as_version=4)
        found.cells[:1]
    except Exception as error:  # what it raises has no common base
        reason = " ".join(str(error).split())[:80]
        raise ConfigError(f"{file}: is not a notebook ({reason})") from None
    return found


def title(section: str) -> str:
    """The section's number and name, in English: the last heading of its notebook's first cell; its name if none."""
    first = "".join(cell.source for cell in read(section).cells[:1])
    headings = re.findall(r"^#+ (.+?)(?: \([^()]*[^\x00-\x7f][^()]*\))?$", first, re.MULTILINE)
    return str(headings[-1]) if headings else section


def declared(section: str) -> dict[str, Parameter]:
    """The parameters that a section's notebook declares: name → type, default, help."""
    import papermill  # more than a second, which every kernel that only asks for runs would take longer to start

    read(section)
    found = papermill.inspect_notebook(str(notebook(section)))
    return {
        name: Parameter(p["inferred_type_name"], ast.literal_eval(p["default"]), p["help"]) for name, p in found.items()
    }


def parameter_file(section: str, profile: str) -> Path | None:
    """The YAML file of a section in a profile; None for quick, which is the notebooks' own defaults."""
    if profile not in PROFILES:
        raise ConfigError(f"profile {unknown_name(profile, PROFILES)}")
    return None if profile == "quick" else project_root() / "params" / profile / f"{section}.yaml"


def changes(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the profile and the overrides set, checked against what the notebook declares.

    An override that the notebook does not declare is passed over.  Raises ConfigError, naming the file, the key and
    what is allowed, for an unknown key, a wrong type, or a value that no run can have.
    """
    file = parameter_file(section, profile)
    given = read_parameters(file, declared(section)) if file else {}
    given |= {name: value for name, value in (overrides or {}).items() if name in declared(section)}
    return given


def read_parameters(file: Path, allowed: Mapping[str, Parameter]) -> dict[str, Any]:
    """The parameters in a YAML file, checked.  Raises ConfigError as ``changes`` does."""
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two for a date or a nesting too deep
        raise ConfigError(f"{file}: is not YAML ({' '.join(str(error).split())})") from None
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ConfigError(f"{file}: expected are lines of the form 'name: value'")
    checked = {}
    for name, value in given.items():
        if name not in allowed:
            raise ConfigError(f"{file}: {unknown_name(str(name), allowed)}")
        kind = allowed[name].type
        adapter: TypeAdapter[Any] = TypeAdapter(_TYPES[kind], config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError:
            raise ConfigError(f"{file}: {name}: expected is {kind}, but it is {value!r}") from None
    merged = {name: parameter.default for name, parameter in allowed.items()} | checked
    try:
        check_values(merged)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return checked


def check_values(given: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every run that a section's parameters ask for is one that can be."""
    if given.get("profile", "quick") not in PROFILES:
        raise ConfigError(f"profile: {unknown_name(given['profile'], PROFILES)}")
    for name in ("seeds", "landscape_lrs", "lrs", "direction_seeds"):
        if name in given and not given[name]:
            raise ConfigError(f"{name}: at least one is needed, but it is an empty list")
    for name, lowest in LOWEST.items():
        if given.get(name, lowest) < lowest:
            raise ConfigError(f"{name}: at least {lowest} is needed, but it is {given[name]}")
    for name, field in {"plain_batch_size": "batch_size", "sgd_lr": "lr", "lrs": "lr", "landscape_lrs": "lr"}.items():
        values = given.get(name) or []
        for value in values if isinstance(values, list) else [values]:
            try:
                Config.from_parameters(given, model="vgg_a", **{field: value})
            except ConfigError as error:
                raise ConfigError(str(error).replace(field, name, 1)) from None
    if "sgd_lr" in given:
        why_configs(given)
    for seed in given.get("seeds", [0]):
        Config.from_parameters(given, model="vgg_a", seed=seed)


def configs(model: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """The runs of a network in its section, one a seed; the first is the headline's."""
    given = values(NETWORKS[model], profile, overrides)
    return [Config.from_parameters(given, model=model, seed=seed) for seed in given["seeds"]]


def landscape_configs(model: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """The runs of a network's loss landscape, every learning rate with every seed; none where it has none."""
    given = values(NETWORKS[model], profile, overrides)
    rates = given.get("landscape_lrs", [])
    return [Config.from_parameters(given, model=model, seed=seed, lr=lr) for seed in given["seeds"] for lr in rates]


def plain_configs(model: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """The run of a network without augmentation, where its section has one in this profile."""
    given = values(NETWORKS[model], profile, overrides)
    if not given.get("plain_batch_size"):
        return []
    plain = {"augment": False, "batch_size": given["plain_batch_size"]}
    return [Config.from_parameters(given, model=model, seed=given["seeds"][0], **plain)]


def why_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """The runs of the section on why batch norm helps, by what they are for, from its parameters.

    - ``sgd``: the paper's plain SGD, probed along the gradient; ``adam`` the same with Adam, which keeps the path;
      ``step``: Adam, probed along its own step;
    - ``noise_sgd``, ``noise_adam``: the network with noisy batch norm;
    - ``rates``: every learning rate; ``skip``: nine residual blocks with and without skip connections.

    Probes are in float32: bfloat16 would round away what a short walk changes.
    """
    pair, seeds = ("vgg_a", "vgg_a_bn"), given["seeds"]

    def make(model: str, seed: int, **changes: Any) -> Config:
        return Config.from_parameters(given, model=model, seed=seed, **{"probe_every": 0} | changes)

    probes = {"probe_every": given["probe_every"], "precision": "float32"}
    sgd = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "lr": given["sgd_lr"]}
    return {
        "sgd": [make(model, seed, **sgd, **probes) for model in pair for seed in seeds],
        "adam": [make(model, seed, **probes, keep_path=True) for model in pair for seed in seeds],
        "step": [make(model, seed, **probes, probe_along="step") for model in pair for seed in seeds],
        "noise_sgd": [make("vgg_a_noisy_bn", seed, **sgd, precision="float32") for seed in seeds],
        "noise_adam": [make("vgg_a_noisy_bn", seed, precision="float32") for seed in seeds],
        "rates": [make(model, seed, lr=lr) for model in pair for lr in given["lrs"] for seed in seeds],
        "skip": [make(model, seed) for model in ("resnet9", "resnet9_no_skip") for seed in seeds],
    }


def all_configs(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """Every run that a section asks for, each once."""
    kinds = (configs, landscape_configs, plain_configs)
    models = [model for model, home in NETWORKS.items() if home == section]
    wanted = [config for model in models for kind in kinds for config in kind(model, profile, overrides)]
    if section == WHY:
        wanted = [config for same in why_configs(values(WHY, profile, overrides)).values() for config in same]
    return list(dict.fromkeys(wanted))


def values(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All parameters of a section: its notebook's defaults under what the profile and the overrides set."""
    defaults = {name: parameter.default for name, parameter in declared(section).items()}
    return defaults | changes(section, profile, overrides)
