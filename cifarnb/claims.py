"""What the write-up reports and concludes, and what was measured here about it."""

from collections.abc import Mapping
from typing import Any

# Section 1's numbers, by network: test accuracy (0 to 1), epochs, lr, optimizer, schedule, seconds per epoch.
# The write-up has no number for section 2.
REPORTED: dict[str, dict[str, Any]] = {
    "simple_cnn": {
        "accuracy": 0.64,
        "epochs": 200,
        "lr": 1e-3,
        "optimizer": "SGD",
        "schedule": "none",
        "seconds_per_epoch": 4.89,
    },
    "resnet6": {
        "accuracy": 0.7706,
        "epochs": 100,
        "lr": 1e-4,
        "optimizer": "Adam",
        "schedule": "CosineAnnealingLR",
        "best_epoch": 58,
    },
    "resnet9": {"accuracy": 0.9029, "epochs": 180, "lr": 1e-4, "optimizer": "Adam", "schedule": "CosineAnnealingLR"},
    "vgg_a": {"lr": 5e-4},
    "vgg_a_bn": {"lr": 5e-4},
}


def judge(networks: Mapping[str, Mapping[str, Any]], landscape: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The write-up's conclusions: claim, evidence (measured here, in words), agrees (True, False; None: not measured).

    ``networks`` and ``landscape`` are those of ``cifarnb.summary.summarize``, by network's name.  ``agrees`` compares
    the means alone; it does not ask whether the difference could be chance.
    """

    def accuracy(name: str) -> float | None:
        final = networks[name]["final_accuracy"]
        return final["mean"] if final else None

    claims: list[dict[str, Any]] = []

    def claim(text: str, *needed: Any) -> bool:
        """Add a claim as not measured; whether all that its measurement needs is there."""
        claims.append({"claim": text, "evidence": "did not run", "agrees": None})
        return all(value is not None for value in needed)

    def decide(agrees: bool, evidence: str) -> None:
        claims[-1] |= {"agrees": agrees, "evidence": evidence}

    simple, six, nine = (accuracy(name) for name in ("simple_cnn", "resnet6", "resnet9"))
    plain, normed = accuracy("vgg_a"), accuracy("vgg_a_bn")
    if claim("Simple CNN: few parameters, very fast to train (about 4.89 s per epoch).", simple):
        seconds = networks["simple_cnn"]["seconds_per_epoch"]
        fastest = min(networks[n]["seconds_per_image"] for n in networks if networks[n]["final_accuracy"])
        decide(
            networks["simple_cnn"]["seconds_per_image"] == fastest,
            f"{seconds:.3g} s per epoch of {networks['simple_cnn']['train_images']:,} images "
            f"on {networks['simple_cnn']['device_name']}",
        )
    if claim("Residual connections and batch norm do much better than the simple CNN.", simple, six):
        decide(six > simple, f"{six:.2%} against {simple:.2%}, {_points(six - simple)}")
    if claim("The residual network converges fast: it is at its best at epoch 58 of 100.", six):
        best, epochs = networks["resnet6"]["best_epoch"], networks["resnet6"]["epochs"]
        decide(best <= 0.58 * epochs, f"best at epoch {best} of {epochs}")
    if claim("More layers of the same structure do better still.", six, nine):
        decide(nine > six, f"{nine:.2%} with nine blocks against {six:.2%} with six, {_points(nine - six)}")
    if claim("VGG-A with batch norm tests better.", plain, normed):
        decide(normed > plain, f"{normed:.2%} against {plain:.2%}, {_points(normed - plain)}")
    if claim("VGG-A with batch norm converges to a lower training loss.", plain, normed):
        losses = [networks[name]["final_train_loss"] for name in ("vgg_a_bn", "vgg_a")]
        decide(losses[0] < losses[1], f"{losses[0]:.3f} against {losses[1]:.3f} after the last epoch")
    bands = [landscape.get(name) for name in ("vgg_a_bn", "vgg_a")]
    text = "Batch norm makes training less sensitive to the learning rate: a narrower band in the loss landscape."
    if claim(text, *bands):
        widths = [band["median_band_width"] for band in bands if band]
        decide(widths[0] < widths[1], f"median width of the band {widths[0]:.3f} against {widths[1]:.3f}")
    text = "Batch norm allows a wider range of learning rates: final accuracies that differ less between the rates."
    if claim(text, *bands):
        spreads = [max(a) - min(a) for a in (band["final_accuracy"].values() for band in bands if band)]
        decide(spreads[0] < spreads[1], f"{_points(spreads[0], '')} between the best and the worst rate "
               f"against {_points(spreads[1], '')}")  # fmt: skip
    return claims


def _points(difference: float, sign: str = "+") -> str:
    return f"{100 * difference:{sign}.1f} points"
