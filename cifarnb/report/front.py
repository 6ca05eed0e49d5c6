"""The words around the sections: banner, front page and provenance, in Markdown, from the summary."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from cifarnb.report import requirements, tables
from cifarnb.report.claims import VERDICTS, best_of, side_by_side, that_ran, well_that_ran
from cifarnb.runs import Run

HAND_IN = {"author": "Author", "student_number": "Student number"}  # keys of the summary's "hand_in"
TITLE = "CIFAR-10: a simple CNN, residual networks, and why batch normalization helps"


def banner(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before anything else, a line each."""
    notices = []
    ran = that_ran(summary)
    if summary["profile"] != "full":
        notices.append(
            f"**Profile {summary['profile']}: the schedule is shortened.** These runs show that everything works and "
            "which way the numbers go; they are not the write-up's experiment (that is the profile full)."
        )
        for verb, kind in {"Trained": "train", "Tested": "test"}.items():
            there = summary["data"][f"{kind}_images"]
            fewer = [(n["label"], n[f"{kind}_images"]) for n in ran if n[f"{kind}_images"] < there]
            if fewer:
                each = "; ".join(f"{label} {count:,}" for label, count in fewer)
                notices.append(f"{verb} on fewer than the {there:,} {kind} images: {each}.")
    if not summary["data"]["cifar10"]:
        notices.append(f"**The data is not known to be CIFAR-10:** {summary['data']['source']}.")
    if diverged := [network["label"] for network in ran if network["diverged"]]:
        notices.append(f"**Diverged:** {', '.join(diverged)}.")
    for status, words in {
        "failed": "failed",
        "timeout": "ran out of time",
        "not run": "did not run, or not to the end",
    }.items():
        if names := [section["title"] for section in summary["sections"] if section["status"] == status]:
            notices.append(f"**Sections that {words}:** {'; '.join(names)}.")
    if missing := [section for section in summary["sections"] if section["runs"] < section["runs_wanted"]]:
        each = "; ".join(f"{s['title']} has {s['runs']} of {s['runs_wanted']}" for s in missing)
        notices.append(f"**Runs that are not there,** so that what they would show is left out: {each}.")
    return notices


def byline(summary: Mapping[str, Any]) -> str:
    """Who hands the report in, and where its code is, in inline Markdown; empty if neither is stated."""
    given = {key: _escape(value) for key, value in summary.get("hand_in", {}).items() if value}
    stated = [f"**{words}:** {given[key]}" for key, words in HAND_IN.items() if key in given]
    if link := summary.get("hand_in", {}).get("code_link"):
        stated.append(f"**Code:** [{_escape(link.partition('://')[2])}](<{link}>)")
    return " · ".join(stated)


def _escape(text: str) -> str:
    """Text as it is, in inline Markdown."""
    return re.sub(r"([\\`*_$~\[\]<>&])", r"\\\1", text)


def front_page(summary: Mapping[str, Any], anchors: Collection[str] = ()) -> str:
    """The verdict in a few lines, the small table, what was asked and where it is answered, and the table of claims.

    ``anchors`` are those that the sections have: nothing else is linked to as an answer.
    """
    summary = side_by_side(summary)
    ran = that_ran(summary)
    lines = ["# Results at a glance (结果概览)", ""]
    if ran:
        best = best_of(ran)
        final = tables.accuracy(best["final_accuracy"])
        error = tables.percent(1 - best["final_accuracy"]["mean"])
        lines.append(
            f"- **Best network:** {best['label']} with {best['parameters']:,} parameters, **{final}** "
            f"test accuracy after the last epoch (test error {error})."
        )
    found = Counter(claim["verdict"] for claim in summary["claims"])
    in_order = sorted(found, key=lambda verdict: [verdict.startswith(known) for known in VERDICTS].index(True))
    counted = ", ".join(f"{found[verdict]} {verdict}" for verdict in in_order)
    lines.append(
        f"- **The write-up's {len(summary['claims'])} claims:** {counted}; decided as in [table](#table-claim-tests)."
    )
    lines.append(f"- **Data:** {summary['data']['source']}.")
    claims = tables.claims(summary).to_markdown(index=False, disable_numparse=True)
    well = well_that_ran(summary)
    note = (
        "Test accuracy: the mean over the seeds, with half of its 95 % confidence interval where there are several. "
        "The result is that after the last epoch; the best epoch is chosen on the test images."
        + (" Trained well: section 1.4; augmented tests: the mean over six views of an image." if well else "")
    )
    asked = tabulate(
        requirements.rows(summary, anchors), ["asked for", "share", "answered in"], "pipe", disable_numparse=True
    )
    parts = [
        "\n".join(lines),
        headline_table(summary),
        note,
        "## What was asked, and where it is answered (要求与证据)",
        asked,
        "## The write-up's claims (报告的结论)",
        claims,
    ]
    return "\n\n".join(parts)


def headline_table(summary: Mapping[str, Any]) -> str:
    """Every network's accuracies, reported, here, and, where it ran, trained well as in section 1.4; in Markdown."""
    columns = ["network", "reported", "last epoch", "best epoch", "parameters"]  # what matters first: phones are narrow
    well = well_that_ran(side_by_side(summary))
    if well:
        columns[3:3] = ["trained well", "augmented tests"]
    table = tables.beside_well(tables.networks(summary), well)[columns]
    align = ("left", *["right"] * (len(columns) - 1))
    return str(table.to_markdown(index=False, disable_numparse=True, colalign=align))


def provenance(summary: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Data, software and machine of this report, and every run in it."""
    origin, data = summary["origin"], summary["data"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    facts = [
        f"- Profile: `{summary['profile']}`",
        f"- Data: {data['source']}; {data['train_images']:,} train and {data['test_images']:,} test images",
        f"- Fingerprint of the data (SHA-256 of images and labels): `{data['fingerprint']}`",
        f"- Rendered from commit {commit(origin)} with {versions}",
    ]
    if apart := _differences(runs):
        facts.append(f"- The runs differ in {apart}")
    rows = [
        "| run | seed | lr | epochs | device | precision | commit | finished (UTC) | wall time |",
        "|:--|--:|--:|--:|:--|:--|:--|:--|--:|",
    ]
    for run in runs:
        made = run.provenance
        rows.append(
            f"| `{run.name}` | {run.config.seed} | {run.config.lr:g} | {len(run.history)} | {run.device} "
            f"| {made['precision']} | {commit(made)} | {made['finished'][:16].replace('T', ' ')} "
            f"| {made['wall_seconds']:,.0f} s |"
        )
    return "\n".join([*facts, "", *(rows if runs else ["No run is finished."])])


def _differences(runs: Sequence[Run]) -> str:
    """In what the runs were made differently, and how many in which way; nothing if in nothing."""
    facts = {
        "precision": [run.provenance["precision"] for run in runs],
        "device": [run.device for run in runs],
        "the copy of the data": [f"`{run.provenance.get('data', {}).get('fingerprint', '?')[:16]}…`" for run in runs],
    }
    counted = {name: Counter(values) for name, values in facts.items()}
    return "; ".join(
        f"{name} ({', '.join(f'{value}: {count}' for value, count in found.items())})"
        for name, found in counted.items()
        if len(found) > 1
    )


def commit(origin: Mapping[str, Any]) -> str:
    """A commit's short name, and whether there were changes beside it."""
    if not origin["git_commit"]:
        return "unknown"
    return f"`{origin['git_commit'][:10]}`" + (" with uncommitted changes" if origin["git_dirty"] else "")
