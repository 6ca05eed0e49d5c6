"""All numbers of a report, from the run records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifarnb import experiment
from cifarnb.config import Config
from cifarnb.data import Dataset
from cifarnb.report import changes, recipes, sections
from cifarnb.report.changes import Found
from cifarnb.report.claims import OWN_CLAIMS, judge
from cifarnb.report.describe import (
    describe_landscape,
    describe_learnt,
    describe_network,
    describe_probes,
    describe_rates,
    describe_well,
)
from cifarnb.report.walks import compared_from
from cifarnb.runs import NotRunError, Run, group

LANDSCAPES = {"landscape": sections.landscape_configs, "narrow_landscape": sections.narrow_configs}  # of section 2.2
WALKS = {  # of section 2.3: kind → its runs in ``sections.why_configs``, and the direction
    "sgd": ("sgd", "gradient"),
    "second_sgd": ("second_sgd", "gradient"),
    "adam": ("adam", "gradient"),
    "step": ("adam", "step"),
}


def summarize(
    profile: str, dataset: Dataset, runs_dir: str | Path = "runs", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``summary.json`` holds and section 3 shows: networks, claims, data; trains nothing.

    A network that has no finished run in this profile stands there with ``None`` for what was not measured.
    """
    why = {
        kind: _find(configs, dataset, runs_dir)
        for kind, configs in sections.why_configs(sections.values(sections.WHY, profile, overrides)).items()
    }
    walks = {kind: [run.along(way) for run in why[of]] for kind, (of, way) in WALKS.items()}
    since = {kind: compared_from(runs) for kind, runs in walks.items()}
    networks: list[dict[str, Any]] = []
    landscapes: dict[str, dict[str, list[Run]]] = {}
    for name in sections.NETWORKS:
        given = sections.values(sections.NETWORKS[name], profile, overrides)
        headline = _find(sections.network_configs(given, name), dataset, runs_dir)
        landscapes[name] = {kind: _find(of(given, name), dataset, runs_dir) for kind, of in LANDSCAPES.items()}
        walked = {kind: group(runs, "model").get(name) for kind, runs in walks.items()}
        probes = {kind: describe_probes(runs, since[kind]) for kind, runs in walked.items() if runs}
        rates = group(why["rates"], "model").get(name)
        networks.append(
            describe_network(name, headline)
            | {
                **{kind: describe_landscape(tried) if tried else None for kind, tried in landscapes[name].items()},
                "probes": probes or None,
                "rates": describe_rates(rates) if rates else None,
            }
        )
    for kind in LANDSCAPES:
        learnt = describe_learnt({name: tried[kind] for name, tried in landscapes.items() if tried[kind]})
        for network in networks:
            if learnt and network["name"] in learnt:
                network[kind]["learnt"] = learnt[network["name"]]
    well = describe_well(find_well(sections.values(sections.WELL, profile, overrides), dataset, runs_dir))
    given = sections.values(sections.ONE_CHANGE, profile, overrides)
    one_change = changes.describe(*find_changes(given, dataset, runs_dir))
    return {
        "profile": profile,
        "data": {
            "source": dataset.source,
            "cifar10": dataset.is_cifar10,
            "fingerprint": dataset.fingerprint,
            "train_images": len(dataset.train_images),
            "test_images": len(dataset.test_images),
        },
        "networks": networks,
        "claims": judge(networks, profile),
        "well": well,
        "changes": one_change,
        "own_claims": judge([*well, *one_change["entries"]], profile, OWN_CLAIMS),
    }


def _find(configs: Sequence[Config], dataset: Dataset, runs_dir: str | Path) -> list[Run]:
    """The runs of these configs that are there; none if anything but further seeds is missing."""
    try:
        return experiment.run_all(configs, dataset, runs_dir, train=False)
    except NotRunError:
        return []


def networks_to_look_at(
    profile: str, dataset: Dataset, runs_dir: str | Path = "runs", overrides: Mapping[str, Any] | None = None
) -> dict[str, Run]:
    """The headline runs of the write-up's networks that are there and, if another network does better, of the best one.

    The others are VGG-A, with batch norm and without, and the network made for speed.  One that diverged is left out.
    Raises NotRunError if none is there.
    """
    names = (*sections.NETWORKS, recipes.FAST)
    wanted = {name: sections.configs(name, profile, overrides)[:1] for name in names}
    found = {name: run for name, configs in wanted.items() for run in _find(configs, dataset, runs_dir)}
    found = {name: run for name, run in found.items() if not run.diverged}
    if not {*sections.WRITE_UP} & {*found}:
        raise NotRunError("; ".join(experiment.describe(wanted[name][0]) for name in sections.WRITE_UP))
    best = max(found, key=lambda name: found[name].final_accuracy)
    return {name: run for name, run in found.items() if name in (*sections.WRITE_UP, best)}


def find_well(
    given: Mapping[str, Any], dataset: Dataset, runs_dir: str | Path = "runs", *, required: bool = False
) -> Found:
    """The runs of section 1.4 that are there, from its parameters; trains nothing.

    Raises NotRunError if they are ``required`` and there are none.
    """
    found = _find_in(recipes.by_kind(given), dataset, runs_dir)
    _check(required, found)
    return found


def find_changes(
    given: Mapping[str, Any], dataset: Dataset, runs_dir: str | Path = "runs", *, required: bool = False
) -> tuple[Found, Found]:
    """The same of section 1.5, as ``changes.describe`` takes them: the base and the changes, and what was tried."""
    entries = _find_in(changes.entry_configs(given), dataset, runs_dir)
    tried = _find_in(changes.tried_configs(given), dataset, runs_dir)
    _check(required, entries, tried)
    return entries, tried


def _find_in(asked: Mapping[str, Mapping[str, Sequence[Config]]], dataset: Dataset, runs_dir: str | Path) -> Found:
    return {
        kind: {name: _find(configs, dataset, runs_dir) for name, configs in of.items()} for kind, of in asked.items()
    }


def _check(required: bool, *found: Found) -> None:
    if required and not any(runs for kinds in found for of in kinds.values() for runs in of.values()):
        raise NotRunError("none of its runs")
