"""What a trained network sees, from its weights alone: plain arrays, computed in float32, and what follows from them.

``look`` computes what takes time; a ``Seen`` holds it, rounded as it is kept beside a run, and answers from that.  So
two machines that round differently show the same numbers of the same record.

Grad-CAM is that of Selvaraju et al. 2017 (arXiv:1610.02391), occlusion that of Zeiler & Fergus 2014 (arXiv:1311.2901),
both from captum; temperature scaling and the expected calibration error are those of Guo et al. 2017
(arXiv:1706.04599).  captum and scikit-learn are imported where they are needed: together they take seconds.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from cifarnb.data import normalize
from cifarnb.metrics import predict

CLASSES = 10
BINS = 15  # of the reliability diagram, as in Guo et al.
PATCH, STRIDE = 8, 4  # pixels, of the grey square that occludes and of its steps
SMALLEST_MAP = 4  # pixels along a side, of the activations that Grad-CAM weighs: smaller ones are nowhere in particular
NEIGHBOURS = 10  # of an image in the plane of its features
STRENGTHS: dict[str, tuple[float, ...]] = {  # of what is done to the images, rising
    "shift": (1, 2, 4, 8),  # pixels to the right, black behind
    "noise": (8, 16, 32, 64),  # standard deviation, in levels of 255
    "blur": (0.5, 1, 1.5, 2),  # standard deviation of the Gaussian, in pixels
    "contrast": (0.25, 0.5, 0.75, 0.9),  # the share of it that is taken away
}


@dataclass(frozen=True)
class Seen:
    """What a network makes of the first N test images.

    The images that are attributed are the first that it has right and its most confident mistakes, as many each.
    """

    labels: np.ndarray  # (N,) int
    filters: np.ndarray  # (F, 3, k, k) float: the weights of its first layer
    logits: np.ndarray  # (N, 10) float16
    attributed: np.ndarray  # (2 A,) int: which images
    grad_cam: np.ndarray  # (2 A, 32, 32) float16, 0 to 1 each: for the class that it predicts
    occlusion: np.ndarray  # (2 A, 32, 32) float16: the fall of its logit, over the largest; rises are below 0
    plane: np.ndarray  # (M, 2) float32: the penultimate features of the first M images by t-SNE
    undisturbed: np.ndarray  # () int: of the first T images so many right
    disturbed: np.ndarray  # (4, 4) int: the same under each kind (row) and strength (column) of STRENGTHS
    tried: np.ndarray  # () int: T

    @cached_property
    def predictions(self) -> np.ndarray:
        """The class (N,) that each image is taken for."""
        return self.logits.argmax(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether that is its own, (N,) bool."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """The share that is right, 0 to 1."""
        return float(self.right.mean())

    @cached_property
    def confusion(self) -> np.ndarray:
        """How many images of each class (row) are taken for each (column), (10, 10) int."""
        from sklearn.metrics import confusion_matrix

        return np.asarray(confusion_matrix(self.labels, self.predictions, labels=range(CLASSES)))

    @cached_property
    def class_accuracy(self) -> np.ndarray:
        """The share of each class that is right, (10,); NaN for one of which no image is there."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / self.confusion.sum(axis=1)

    @cached_property
    def mistakes(self) -> np.ndarray:
        """Which images are wrong, (W,) int, the most confident first."""
        return most_confident(self.logits, ~self.right)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the class that each image is taken for, (N,)."""
        return softmax(self.logits.astype(np.float64), axis=1).max(axis=1)

    @cached_property
    def temperatures(self) -> tuple[float, float]:
        """That which fits the images at even places, and that which fits those at odd ones."""
        even, odd = (fit_temperature(self.logits[half::2], self.labels[half::2]) for half in (0, 1))
        return even, odd

    @cached_property
    def calibrated(self) -> np.ndarray:
        """``confidence`` after temperature scaling, (N,): each half of the images by the other half's temperature."""
        scaled = self.logits.astype(np.float64)
        scaled[::2] /= self.temperatures[1]
        scaled[1::2] /= self.temperatures[0]
        return softmax(scaled, axis=1).max(axis=1)


def look(
    model: nn.Module, images: Tensor, labels: Tensor, *, attributed: int, mapped: int, tried: int
) -> dict[str, np.ndarray]:
    """The arrays of a Seen but the labels: of images (N, 32, 32, 3) in uint8 and labels (N,), on the model's device.

    ``attributed`` images that are right and as many mistakes are attributed, as far as there are so many; the features
    of the first ``mapped`` are laid out in the plane, and the first ``tried`` are disturbed.  Leaves the model in eval
    mode.
    """
    logits = predict(model, images, "float32").cpu().numpy().astype(np.float16)
    truth = labels.cpu().numpy()
    right = logits.argmax(1) == truth
    chosen = np.concatenate([np.flatnonzero(right)[:attributed], most_confident(logits, ~right)[:attributed]])
    inputs, targets = normalize(images[chosen]), torch.from_numpy(logits.argmax(1)[chosen]).to(images.device)
    return {
        "filters": first_filters(model),
        "logits": logits,
        "attributed": chosen,
        "grad_cam": grad_cam(model, inputs, targets).astype(np.float16),
        "occlusion": occlusion(model, inputs, targets).astype(np.float16),
        "plane": in_the_plane(penultimate(model, images[:mapped])),
        "undisturbed": right[:tried].sum(),
        "disturbed": count_right(model, images[:tried], labels[:tried]),
        "tried": np.array(len(images[:tried])),
    }


# --------------------------------------------------------------------------- from the network


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """The layer that sees the image."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def first_filters(model: nn.Module) -> np.ndarray:
    """The weights (F, 3, k, k) of the first convolution."""
    return first_convolution(model).weight.detach().float().cpu().numpy()


def penultimate(model: nn.Module, images: Tensor) -> np.ndarray:
    """What the last linear layer gets to see of images (N, 32, 32, 3) in uint8: features (N, D)."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    found: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].float().cpu()))
    try:
        predict(model, images, "float32")
    finally:
        hook.remove()
    return torch.cat(found).numpy()


def last_map(model: nn.Module, image: Tensor) -> nn.Module:
    """The module that ends last of those whose activations are still a map, SMALLEST_MAP pixels a side or more."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if output.dim() == 4 and min(output.shape[2:]) >= SMALLEST_MAP:
            found.append(module)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


def grad_cam(model: nn.Module, inputs: Tensor, targets: Tensor) -> np.ndarray:
    """Grad-CAM (N, 32, 32), 0 to 1, for each of inputs (N, 3, 32, 32) and the logit of its class in targets (N,)."""
    from captum.attr import LayerGradCam

    if not len(inputs):
        return np.zeros((0, 32, 32), np.float32)
    cam = LayerGradCam(model, last_map(model, inputs[:1])).attribute(inputs, targets, relu_attributions=True)
    large = F.interpolate(cam.detach().float(), size=inputs.shape[2:], mode="bilinear", align_corners=False)
    return _over_largest(large[:, 0].cpu().numpy())


def occlusion(model: nn.Module, inputs: Tensor, targets: Tensor) -> np.ndarray:
    """By how much a class's logit falls where a grey square lies, (N, 32, 32), over each one's largest fall or rise."""
    from captum.attr import Occlusion

    if not len(inputs):
        return np.zeros((0, 32, 32), np.float32)
    with torch.no_grad():
        falls = Occlusion(model).attribute(
            inputs, (3, PATCH, PATCH), (3, STRIDE, STRIDE), baselines=0, target=targets, perturbations_per_eval=8
        )
    return _over_largest(falls[:, 0].float().cpu().numpy())


def _over_largest(maps: np.ndarray) -> np.ndarray:
    largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    return maps / np.where(largest > 0, largest, 1)


def in_the_plane(features: np.ndarray) -> np.ndarray:
    """Features (N, D) by t-SNE (van der Maaten & Hinton 2008) in two dimensions: (N, 2) float32, always the same."""
    from sklearn.manifold import TSNE

    if len(features) < 4 or not np.ptp(features, axis=0).any():  # too few for neighbours, or all in one place
        return np.zeros((len(features), 2), np.float32)
    layout = TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=0)
    return layout.fit_transform(features).astype(np.float32)


def disturb(images: Tensor, kind: str, strength: float) -> Tensor:
    """Images (N, 32, 32, 3) in uint8 after what STRENGTHS names, the same; noise is drawn from a fixed seed."""
    from torchvision.transforms.functional import adjust_contrast, gaussian_blur

    if kind == "shift":
        pixels = int(strength)
        return F.pad(images[:, :, : images.shape[2] - pixels], (0, 0, pixels, 0))
    if kind == "noise":
        noise = strength * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images.float() + noise.to(images.device)).round().clamp(0, 255).to(torch.uint8)
    upright = images.permute(0, 3, 1, 2)
    if kind == "blur":
        changed = gaussian_blur(upright, [2 * math.ceil(3 * strength) + 1] * 2, [strength] * 2)
    elif kind == "contrast":
        changed = adjust_contrast(upright, 1 - strength)
    else:
        raise ValueError(f"kind {kind!r}: it is one of {', '.join(STRENGTHS)}")
    return changed.permute(0, 2, 3, 1)


def count_right(model: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """How many images (N, 32, 32, 3) are taken for what they are, under each kind and strength of STRENGTHS, (4, 4)."""
    rows = []
    for kind, strengths in STRENGTHS.items():
        found = (predict(model, disturb(images, kind, strength), "float32").argmax(1) for strength in strengths)
        rows.append([int((predictions == labels).sum()) for predictions in found])
    return np.array(rows)


# --------------------------------------------------------------------------- from what was kept


def most_confident(logits: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The places of ``among`` (N,) bool in logits (N, 10), the highest probability of any class first."""
    places = np.flatnonzero(among)
    # By log p rather than by p, which is 1 for more than one where a network is very sure.
    above = logits[places].astype(np.float64)
    above = np.sort(above - above.max(axis=1, keepdims=True), axis=1)[:, :-1]
    return places[np.argsort(np.log1p(np.exp(above).sum(axis=1)), kind="stable")]


def colour_share(filters: np.ndarray) -> np.ndarray:
    """How much of each filter (F, 3, k, k) is colour, (F,): from 0, three channels alike, to 1, they add up to 0."""
    grey = 3 * (filters.mean(axis=1) ** 2).sum(axis=(1, 2))
    energy = (filters**2).sum(axis=(1, 2, 3))
    return 1 - grey / np.where(energy > 0, energy, 1)


def colour_by_chance(size: int) -> float:
    """The share of random filters (3, size, size) of which more than half is colour, by ``colour_share``.

    Of independent normal weights two thirds are colour: the share follows Beta(size², size²/2).
    """
    return float(stats.beta(size**2, size**2 / 2).sf(0.5))


def agreement(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pearson's correlation of maps (N, …) with others, one by one, (N,); 0 where one of the two is flat."""
    a, b = (m.reshape(len(m), -1).astype(np.float64) for m in (maps, others))
    a, b = (m - m.mean(axis=1, keepdims=True) for m in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(norms > 0, norms, np.inf)


def confused_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """Pairs of classes and how many images of the two are taken for the other, from the most on; ties as they stand."""
    both = confusion + confusion.T
    pairs = [(i, j, int(both[i, j])) for i in range(len(both)) for j in range(i + 1, len(both))]
    return sorted(pairs, key=lambda pair: -pair[2])


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T for which logits (N, 10) / T are likeliest to give the labels (N,), between 1/20 and 20."""
    exact = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(exact / math.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean())

    return math.exp(minimize_scalar(loss, bounds=(-math.log(20), math.log(20)), method="bounded").x)


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``bins`` equal intervals of confidence: the mean confidence, the share right, and how many, (bins,).

    confidence (N,) lies in 0…1 and right (N,) is bool; mean and share are NaN where none is.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means, shares = (np.bincount(place, weights, bins) / count for weights in (confidence, right))
    return means, shares, count


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error: how far confidence and accuracy are apart, the mean over the images, 0 to 1."""
    means, shares, count = reliability(confidence, right, bins)
    return float(np.nansum(count * np.abs(means - shares)) / count.sum())


def accuracies_disturbed(seen: Seen) -> np.ndarray:
    """The share right under each kind of STRENGTHS (row), first undisturbed, then at each strength, (4, 1 + 4)."""
    undisturbed = np.full((len(seen.disturbed), 1), seen.undisturbed)
    return np.hstack([undisturbed, seen.disturbed]) / seen.tried


def neighbours_of_one_class(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each of points (N, 2) the share of its NEIGHBOURS nearest that are of its class, (N,)."""
    from sklearn.neighbors import NearestNeighbors

    number = min(NEIGHBOURS, len(points) - 1)
    _, nearest = NearestNeighbors(n_neighbors=number).fit(points).kneighbors()
    return (labels[nearest] == labels[:, None]).mean(axis=1)
