"""What the assignment asks for, and what in the report answers it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifarnb.report.claims import best_of, described_networks

NOT_ANSWERED = "not in this report"


@dataclass(frozen=True)
class Requirement:
    """A point of the assignment and what answers it where the sections that it is from have run."""

    asked: str
    share: str  # of the mark
    evidence: Sequence[str]  # anchors: fig-NAME, table-NAME, or section-NAME for the sentences of a notebook


_ONE_CHANGE = ("section-03c_one_change", "fig-changes", "table-changes")
# {best} stands for the network that does best.
REQUIREMENTS = (
    Requirement("Part 1: the best test error, and the structure that reached it", "",
                ("table-well", "table-networks", "table-layers-{best}")),
    Requirement("Fully-connected layer, 2-D convolution, 2-D pooling, activations", "16 %",
                ("table-layers-simple_cnn", "section-01_simple_cnn")),
    Requirement("Batch norm, dropout, residual connection, or others", "8 %",
                ("table-layers-resnet6", "section-02_residual_cnn", "section-04_batchnorm", "fig-changes")),
    Requirement("Different numbers of neurons or filters", "8 % with the next two", _ONE_CHANGE),
    Requirement("Different loss functions with different regularisation", "", _ONE_CHANGE),
    Requirement("Different activations", "", _ONE_CHANGE),
    Requirement("Different optimizers, or an own one", "8 %",
                (*_ONE_CHANGE, "table-optimizer-rates", "table-own-optimizers", "fig-muon", "fig-gap",
                 "section-03b_trained_well")),
    Requirement("Insights: visualisation of filters", "8 % with the next two", ("fig-filters", "fig-feature-maps")),
    Requirement("Insights: loss landscape", "", ("fig-lines-vgg", "fig-surface-vgg", "fig-surface-skip", "fig-path")),
    Requirement("Insights: network interpretation", "",
                ("section-03d_what_networks_see", "fig-attributions-{best}", "fig-confusion", "fig-calibration",
                 "fig-features", "fig-robustness")),
    Requirement("Performance: parameters, structure, training speed", "12 %",
                ("table-well", "table-networks", "fig-accuracy-parameters")),
    Requirement("Part 2: VGG-A with and without batch norm", "30 % with the next three",
                ("fig-vgg-curves", "table-result-vgg_a", "table-result-vgg_a_bn")),
    Requirement("Loss landscape: the band between the losses at four learning rates", "",
                ("fig-landscape", "table-landscape")),
    Requirement("Gradient predictiveness", "", ("fig-probes-sgd", "table-probes", "section-05_why_batchnorm")),
    Requirement("Largest difference in gradient over the distance moved (effective β)", "",
                ("fig-probes-sgd", "table-probes", "section-05_why_batchnorm")),
    Requirement("The data set", "", ("section-00_data", "fig-images")),
    Requirement("The trained weights", "",
                ("section-01_simple_cnn", "section-02_residual_cnn", "section-03_deeper_residual_cnn",
                 "section-03b_trained_well", "section-04_batchnorm")),
)  # fmt: skip
GIVEN = {"author": "The author", "code_link": "A link to the code"}  # keys of the summary's "hand_in"


def rows(summary: Mapping[str, Any], anchors: Collection[str]) -> list[tuple[str, str, str]]:
    """Every point with its share of the mark and its answers: links to those of its evidence that are ``anchors``."""
    ran = [network for network in described_networks(summary) if network["final_accuracy"]]
    best = best_of(ran)["name"] if ran else ""
    found = []
    for point in REQUIREMENTS:
        evidence = [anchor.format(best=best) for anchor in point.evidence]
        links = [f"[–](#{anchor})" for anchor in evidence if anchor in anchors]  # the report puts in the number
        found.append((point.asked, point.share, ", ".join(links) or NOT_ANSWERED))
    given = summary.get("hand_in", {})
    return found + [(asked, "", "under the title" if given.get(key) else "not stated") for key, asked in GIVEN.items()]
