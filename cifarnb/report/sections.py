"""The report's sections: a notebook, its parameters for a profile, and the runs that it asks for."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from cifarnb.config import Config, ConfigError, Number, unknown_name
from cifarnb.report import changes as one_change
from cifarnb.report import recipes
from cifarnb.runs import project_root

PROFILES = ("smoke", "quick", "full")
WELL = "03b_trained_well"
ONE_CHANGE = "03c_one_change"
WHY = "05_why_batchnorm"
SEES = "03d_what_networks_see"
SUMMARY = "06_summary"
READERS = (SEES, SUMMARY)  # read the runs of the others, so they are executed when those are done
WRITE_UP = ("simple_cnn", "resnet6", "resnet9")  # its networks of section 1

# Where each network of the report is trained.
NETWORKS = {
    "simple_cnn": "01_simple_cnn",
    "resnet6": "02_residual_cnn",
    "resnet9": "03_deeper_residual_cnn",
    "vgg_a": "04_batchnorm",
    "vgg_a_bn": "04_batchnorm",
}

NARROW = 0.25  # the width of the networks whose loss landscape is also shown over all seeds: a sixteenth of the cost

# What a report gives to all its sections; one that has no use for it does not declare it.
GIVEN_TO_ALL = ("profile", "data", "runs_dir", "train")
USED_BY_TRAINING = ("runs_dir", "train")  # so every section that trains must declare them

# What some parameters of notebooks, which are no fields of a config, must be at least; of lists, how long.
LOWEST = {
    "jobs": 1,
    "augmented_copies": 1,
    "image": 0,
    "smoothing": 1,
    "draw_every": 1,
    "line_points": 3,
    "surface_points": 3,
    "landscape_images": 1,
    "held_out": 1,
    "tried_cutout": 1,
    "seen_images": 20,
    "attributed": 1,
    "mapped": 20,
    "disturbed": 1,
    "own_steps": 1,
}
SHORTEST = {
    "seeds": 1,
    "vgg_seeds": 1,
    "sgd_seeds": 1,
    "tried_seeds": 1,
    **dict.fromkeys((rates for rates, _ in one_change.OPTIMIZERS.values()), 1),
    "landscape_seeds": 1,
    "landscape_lrs": 1,
    "lrs": 1,
    "direction_seeds": 2,
}

# Parameters that take the place of a field of a config in some of a section's runs; 0 leaves out those of LEFT_OUT.
IN_PLACE_OF = {
    "plain_batch_size": "batch_size",
    "landscape_lrs": "lr",
    "landscape_seeds": "seed",
    "narrow_epochs": "epochs",
    "sgd_lr": "lr",
    "second_sgd_lr": "lr",
    "lrs": "lr",
    "walk_width": "width",
    "walk_epochs": "epochs",
    "rate_epochs": "epochs",
    "skip_epochs": "epochs",
    "simple_epochs": "epochs",
    "simple_lr": "lr",
    "tried_cutout": "cutout",
    "vgg_epochs": "epochs",
    "vgg_lr": "lr",
    "vgg_seeds": "seed",
    "fast_epochs": "epochs",
    "fast_batch_size": "batch_size",
    "fast_sgd_lr": "lr",
    "sgd_seeds": "seed",
    "tried_epochs": "epochs",
    "tried_seeds": "seed",
    "tried_width": "width",
    "tried_lrs": "lr",
    "tried_weight_decays": "weight_decay",
    "held_out": "validation_size",
    "write_up_lr": "lr",
    **dict.fromkeys((rates for rates, _ in one_change.OPTIMIZERS.values()), "lr"),
    "write_up_batch_size": "batch_size",
    "seeds": "seed",
}
LEFT_OUT = ("plain_batch_size", "narrow_epochs")


def _read_truth(value: object) -> object:
    """``true`` or ``false``, which papermill's ``-p`` passes on as text, as what is meant; anything else as it is."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


_Truth = Annotated[bool, BeforeValidator(_read_truth)]
_TYPES: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    for name, kind in {
        "bool": _Truth,
        "int": int,
        "float": Number,
        "str": str,
        "list[int]": list[int],
        "list[float]": list[Number],
    }.items()
}
_PAPERMILLS = "# Parameters\n"  # how the cell begins in which papermill puts what it was given


@dataclass(frozen=True)
class Parameter:
    """A parameter that a notebook declares in its parameters cell."""

    type: str  # one of _TYPES
    default: Any
    help: str


def names() -> list[str]:
    """All sections, in the report's order: notebooks whose name begins with a number, as in ``01_simple_cnn``.

    A letter behind the number puts one between two others.  Others, such as Jupyter's ``Untitled`` and
    ``01_simple_cnn-Copy1``, are somebody's drafts.
    """
    stems = sorted(path.stem for path in (project_root() / "notebooks").glob("*.ipynb"))
    return [stem for stem in stems if re.match(r"\d+[a-z]?_", stem) and not re.search(r"-Copy\d+$", stem)]


def notebook(section: str) -> Path:
    """The notebook of a section.  Raises ConfigError for a section that does not exist."""
    if section not in names():
        raise ConfigError(f"section {unknown_name(section, names())}")
    return project_root() / "notebooks" / f"{section}.ipynb"


def cells(section: str) -> list[tuple[str, list[str]]]:
    """The cells of a section's notebook, each its source and its tags.

    As JSON, without nbformat: that takes a second to import, which every kernel would take longer to start.  Raises
    ConfigError, naming the file, for one that cannot be read.
    """
    file = notebook(section)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["cells"]
        return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = "it has no cells" if isinstance(error, KeyError | TypeError) else " ".join(str(error).split())[:80]
        raise ConfigError(f"{file}: is not a notebook ({told})") from None


def title(section: str) -> str:
    """The section's number and name, in English: the last heading of its notebook's first cell; its name if none."""
    first = "".join(source for source, _ in cells(section)[:1])
    headings = re.findall(r"^#+ (.+?)(?: \([^()]*[^\x00-\x7f][^()]*\))?$", first, re.MULTILINE)
    return str(headings[-1]) if headings else section


def declared(section: str) -> dict[str, Parameter]:
    """The parameters that a section's notebook declares: name → type, default, help.

    Raises ConfigError, naming notebook and line, for a parameters cell that cannot be read.
    """
    file = notebook(section)
    tagged = [source for source, tags in cells(section) if "parameters" in tags]
    if len(tagged) != 1:
        raise ConfigError(f"{file}: one cell must have the tag parameters, not {len(tagged)}")
    try:
        return read_declarations(tagged[0])
    except ConfigError as error:
        raise ConfigError(f"{file}: parameters cell, {error}") from None


def read_declarations(cell: str) -> dict[str, Parameter]:
    """What a parameters cell declares, in lines ``name: type = value  # what it is``.

    Raises ConfigError with the line that is none of these.  Papermill's own reader would leave that line out.
    """
    try:
        statements = ast.parse(cell).body
    except SyntaxError as error:
        raise ConfigError(f"line {error.lineno}: is not Python ({error.msg})") from None
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(cell).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for statement in statements:
        where = f"line {statement.lineno}"
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                kind = ast.unparse(annotation)
            case _:
                raise ConfigError(f"{where}: expected is 'name: type = value  # what it is'")
        if name in found:
            raise ConfigError(f"{where}: {name} is declared twice")
        if kind not in _TYPES:
            raise ConfigError(f"{where}: type {unknown_name(kind, _TYPES)}")
        try:
            default = _read_value(name, ast.literal_eval(value), kind)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        except (ValueError, TypeError):
            raise ConfigError(f"{where}: {name}: expected is a plain value, but it is {ast.unparse(value)}") from None
        lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        found[name] = Parameter(kind, default, " ".join(comments[line] for line in lines if line in comments))
    return found


def validate_parameters(section: str, namespace: dict[str, Any]) -> None:
    """Check the parameters of a section's notebook that runs, and convert them in place, whoever has set them.

    ``namespace`` is its ``globals()``.  Papermill alone checks nothing: it passes on ``false`` as text, and sets what a
    notebook does not declare.  Raises ConfigError as ``changes`` does.
    """
    allowed = declared(section)
    for cell in namespace.get("In", []):  # what the kernel has executed, if it keeps a history
        if cell.startswith(_PAPERMILLS):
            for name in re.findall(r"^(\w+) = ", cell, re.MULTILINE):
                if name not in allowed:
                    raise ConfigError(unknown_name(name, allowed))
    if missing := [name for name in allowed if name not in namespace]:
        raise ConfigError(f"{missing[0]}: is not set, but {notebook(section)} declares it")
    namespace |= _checked({name: namespace[name] for name in allowed}, allowed, section)


def parameter_file(section: str, profile: str) -> Path | None:
    """The YAML file of a section in a profile; None for quick, which is the notebooks' own defaults."""
    if profile not in PROFILES:
        raise ConfigError(f"profile {unknown_name(profile, PROFILES)}")
    return None if profile == "quick" else project_root() / "params" / profile / f"{section}.yaml"


def changes(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the profile and the overrides set, checked against what the notebook declares.

    Of the overrides those of GIVEN_TO_ALL are left out where the notebook has no use for them.  Raises ConfigError,
    naming the file, the key and what is allowed, for an unknown key, a wrong type, or a value that no run can have.
    """
    allowed = declared(section)
    file = parameter_file(section, profile)
    given = read_parameters(file, allowed) if file else {}
    for name, value in (overrides or {}).items():
        if name in USED_BY_TRAINING and name not in allowed and "epochs" in allowed:
            raise ConfigError(f"{notebook(section)}: trains, so it must declare {name}")
        if name in allowed or name not in GIVEN_TO_ALL:
            given[name] = value
    return _checked(given, allowed, section)


def read_parameters(file: Path, allowed: Mapping[str, Parameter]) -> dict[str, Any]:
    """The parameters in a YAML file, checked.  Raises ConfigError as ``changes`` does."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.compose(text, yaml.SafeLoader)
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two for a date or a nesting too deep
        raise ConfigError(f"{file}: is not YAML ({' '.join(str(error).split())})") from None
    if tree is None:  # nothing but comments
        return {}
    if not isinstance(given, dict):
        raise ConfigError(f"{file}: expected are lines of the form 'name: value'")
    keys = [str(key.value) for key, _ in tree.value]
    if twice := [key for key in keys if keys.count(key) > 1]:  # which PyYAML does not mind
        raise ConfigError(f"{file}: {twice[0]}: stands there twice")
    try:
        return _checked(given, allowed, file.stem)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _checked(given: Mapping[str, Any], allowed: Mapping[str, Parameter], section: str) -> dict[str, Any]:
    """The same, each of the type that is declared; with the other parameters' defaults it makes runs that can be."""
    for name in given:
        if name not in allowed:
            raise ConfigError(unknown_name(str(name), allowed))
    checked = {name: _read_value(name, value, allowed[name].type) for name, value in given.items()}
    check_values({name: parameter.default for name, parameter in allowed.items()} | checked, section)
    return checked


def _read_value(name: str, value: object, kind: str) -> Any:
    try:
        return _TYPES[kind].validate_python(value)
    except ValidationError:
        raise ConfigError(f"{name}: expected is {kind}, but it is {value!r}") from None


def check_values(given: Mapping[str, Any], section: str) -> None:
    """Raise ConfigError unless every run that a section's parameters ask for is one that can be."""
    model = next((model for model, home in NETWORKS.items() if home == section), "vgg_a")
    if given.get("profile", "quick") not in PROFILES:
        raise ConfigError(f"profile: {unknown_name(given['profile'], PROFILES)}")
    for name, shortest in SHORTEST.items():
        if name in given and len(given[name]) < shortest:
            raise ConfigError(f"{name}: at least {shortest} must be in it, but it is {given[name]}")
    for name, lowest in LOWEST.items():
        if given.get(name, lowest) < lowest:
            raise ConfigError(f"{name}: at least {lowest} is needed, but it is {given[name]}")
    if given.get("radius", 1.0) <= 0:
        raise ConfigError(f"radius: it must be above 0, but it is {given['radius']}")
    Config.from_parameters(given, model=model)
    for name, field in IN_PLACE_OF.items():
        values = given.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if value == 0 and name in LEFT_OUT:
                continue
            try:
                Config.from_parameters(given, model=model, **{field: value})
            except ConfigError as error:
                raise ConfigError(str(error).replace(field, name, 1)) from None
    if "sgd_lr" in given:
        why_configs(given)
    if "write_up_lr" in given:
        recipes.all_configs(given)
    if "momentum_lrs" in given:
        one_change.all_configs(given)


def configs(model: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """The runs of a network in its section, one a seed; the first is the headline's."""
    if model == recipes.FAST:
        return recipes.network_configs(values(WELL, profile, overrides))[model]
    return network_configs(values(NETWORKS[model], profile, overrides), model)


def network_configs(given: Mapping[str, Any], model: str) -> list[Config]:
    """The runs of a network, one a seed, from the parameters of its section."""
    return [Config.from_parameters(given, model=model, seed=seed) for seed in given["seeds"]]


def landscape_configs(given: Mapping[str, Any], model: str) -> list[Config]:
    """The runs of a network's loss landscape, every learning rate with every seed; none where it has none."""
    rates, seeds = given.get("landscape_lrs", []), given.get("landscape_seeds", [])
    return [Config.from_parameters(given, model=model, seed=seed, lr=lr) for seed in seeds for lr in rates]


def narrow_configs(given: Mapping[str, Any], model: str) -> list[Config]:
    """The same of the network a quarter as wide, over all seeds, where its section has them in this profile."""
    if not given.get("narrow_epochs"):
        return []
    narrow = {"width": NARROW, "epochs": given["narrow_epochs"]}
    return landscape_configs({**given, **narrow, "landscape_seeds": given["seeds"]}, model)


def plain_configs(given: Mapping[str, Any], model: str) -> list[Config]:
    """The run of a network without augmentation, where its section has one in this profile."""
    if not given.get("plain_batch_size"):
        return []
    plain = {"augment": False, "batch_size": given["plain_batch_size"]}
    return [Config.from_parameters(given, model=model, seed=given["seeds"][0], **plain)]


def why_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """The runs of the section on why batch norm helps, by what they are for, from its parameters.

    - ``sgd``, ``second_sgd``: plain SGD at the paper's learning rate and at another, with walks along the gradient;
    - ``adam``: Adam, with walks along the gradient and along its own step;
    - ``noise_sgd``, ``noise_adam``: VGG-A without, with, and with noisy batch norm; those with Adam keep their path;
    - ``rates``: every learning rate; ``skip``: nine residual blocks with and without skip connections.

    The walks have a width of their own; the residual networks are as wide as in section 1.3.
    """
    pair, noisy = ("vgg_a", "vgg_a_bn"), ("vgg_a", "vgg_a_bn", "vgg_a_noisy_bn")

    def make(models: Sequence[str], **changes: Any) -> list[Config]:
        fields = {"probe_every": 0} | changes
        return [Config.from_parameters(given, model=m, seed=seed, **fields) for m in models for seed in given["seeds"]]

    walks = {"width": given["walk_width"], "epochs": given["walk_epochs"], "probe_every": given["probe_every"]}
    sgd = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False}
    paper, second = sgd | {"lr": given["sgd_lr"]}, sgd | {"lr": given["second_sgd_lr"]}
    rates = [make(pair, lr=lr, epochs=given["rate_epochs"]) for lr in given["lrs"]]
    return {
        "sgd": make(pair, **walks, **paper),
        "second_sgd": make(pair, **walks, **second),
        "adam": make(pair, **walks, probe_along=("gradient", "step")),
        "noise_sgd": make(noisy, **paper),
        "noise_adam": make(noisy, keep_path=True),
        "rates": [config for same in rates for config in same],
        "skip": make(("resnet9", "resnet9_no_skip"), width=1.0, epochs=given["skip_epochs"]),
    }


def all_configs(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> list[Config]:
    """Every run that a section asks for, each once."""
    given = values(section, profile, overrides)
    kinds = (network_configs, landscape_configs, narrow_configs, plain_configs)
    models = [model for model, home in NETWORKS.items() if home == section]
    wanted = [config for model in models for kind in kinds for config in kind(given, model)]
    if section == WELL:
        wanted = recipes.all_configs(given)
    if section == ONE_CHANGE:
        wanted = one_change.all_configs(given)
    if section == WHY:
        wanted = [config for same in why_configs(given).values() for config in same]
    return list(dict.fromkeys(wanted))


def values(section: str, profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All parameters of a section: its notebook's defaults under what the profile and the overrides set."""
    defaults = {name: parameter.default for name, parameter in declared(section).items()}
    return defaults | changes(section, profile, overrides)
