"""Losses against PyTorch, against their definitions, and at their edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops

from benchmarks.gradients import gradient
from unet import losses
from unet.config import LossConfig
from unet.data.sources import IGNORE
from unet.errors import InputError

CLASSES = 3


@pytest.fixture
def batch(rng):
    """Mask with about a tenth ignored, and logits."""
    mask = rng.integers(0, CLASSES, (2, 5, 7))
    mask[rng.random(mask.shape) < 0.1] = IGNORE
    return mask.astype("int32"), rng.normal(0, 2, (2, 5, 7, CLASSES)).astype("float32")


def value(loss, mask, logits, *args, **kwargs):
    return float(
        ops.convert_to_numpy(loss(ops.convert_to_tensor(mask), ops.convert_to_tensor(logits), *args, **kwargs))
    )


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(batch, weights, smoothing):
    mask, logits = batch
    theirs = F.cross_entropy(
        torch.tensor(logits).permute(0, 3, 1, 2),
        torch.tensor(mask).long(),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE,
        label_smoothing=smoothing,
    )
    assert value(losses.cross_entropy, mask, logits, weights, smoothing) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("hardest", [0.01, 0.3, 0.999])
@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), ([0.5, 1.0, 3.0], 0.1)])
def test_the_hardest_pixels_are_those_with_the_largest_cross_entropy(batch, hardest, weights, smoothing):
    """Selected by numpy; their loss and its gradient are those of PyTorch on these pixels alone."""
    mask, logits = batch
    tensor = torch.tensor(logits, requires_grad=True)
    truth = torch.tensor(mask).long()
    each = F.cross_entropy(tensor.permute(0, 3, 1, 2), truth, ignore_index=IGNORE, reduction="none").detach().numpy()
    each[mask == IGNORE] = -1
    count = int(np.ceil(hardest * (mask != IGNORE).sum()))
    chosen = each >= np.sort(each.ravel())[::-1][count - 1]
    assert chosen.sum() == count
    weight = None if weights is None else torch.tensor(weights)
    theirs = F.cross_entropy(tensor[chosen], truth[chosen], weight, label_smoothing=smoothing)
    theirs.backward()
    options = {"class_weights": weights, "label_smoothing": smoothing, "hardest": hardest}
    assert value(losses.cross_entropy, mask, logits, **options) == pytest.approx(theirs.item(), rel=1e-5)
    ours = gradient(lambda x: losses.cross_entropy(ops.convert_to_tensor(mask), x, **options), logits)
    np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=1e-6)


def test_the_hardest_of_no_pixels_are_none(batch):
    mask, logits = batch
    assert value(losses.cross_entropy, np.full_like(mask, IGNORE), logits, hardest=0.5) == 0


def test_gradient_of_cross_entropy_equals_torch(batch):
    mask, logits = batch
    tensor = torch.tensor(logits, requires_grad=True)
    F.cross_entropy(tensor.permute(0, 3, 1, 2), torch.tensor(mask).long(), ignore_index=IGNORE).backward()
    ours = gradient(lambda x: losses.cross_entropy(ops.convert_to_tensor(mask), x), logits)
    np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, [0.25, 1.0, 2.0]])
def test_focal_equals_its_formula(batch, gamma, weights):
    mask, logits = batch
    p = softmax(logits.astype(float))
    terms = []
    for y, q in zip(mask.ravel(), p.reshape(-1, CLASSES), strict=True):
        if y != IGNORE:
            terms.append((1 if weights is None else weights[y]) * (1 - q[y]) ** gamma * -np.log(q[y]))
    assert value(losses.focal, mask, logits, gamma, weights) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
def test_tversky_equals_its_formula(batch, alpha, beta):
    """alpha = beta = ½ is Dice, alpha = beta = 1 is the soft Jaccard index."""
    mask, logits = batch
    p = softmax(logits.astype(float))[mask != IGNORE]
    truth = np.eye(CLASSES)[mask[mask != IGNORE]]
    tp, fp, fn = (p * truth).sum(0), (p * (1 - truth)).sum(0), ((1 - p) * truth).sum(0)
    expected = np.mean(1 - tp / (tp + alpha * fp + beta * fn))
    assert value(losses.tversky, mask, logits, alpha, beta) == pytest.approx(expected, rel=1e-5)
    if alpha == beta == 0.5:
        assert value(losses.dice, mask, logits) == pytest.approx(np.mean(1 - 2 * tp / (2 * tp + fp + fn)), rel=1e-5)


def jaccard_loss(wrong, truth):
    """Δ(M) = |M| / |truth ∪ M| for a set M of mispredicted pixels (Berman et al. 2018, equation 5)."""
    return wrong.sum() / (truth | wrong).sum()


def test_lovasz_equals_the_integral_that_defines_it(batch):
    """The Lovász extension is ∫₀¹ Δ({i : error_i ≥ t}) dt: sets at every threshold, no sorting trick."""
    mask, logits = batch
    valid = mask != IGNORE
    p = softmax(logits.astype(float))[valid]
    expected = []
    for c in range(CLASSES):
        truth = mask[valid] == c
        errors = np.abs(truth - p[:, c])
        thresholds = np.concatenate([[0.0], np.sort(errors)])
        steps = np.diff(thresholds)
        expected.append(sum(d * jaccard_loss(errors >= t, truth) for d, t in zip(steps, thresholds[1:], strict=True)))
    assert value(losses.lovasz, mask, logits) == pytest.approx(np.mean(expected), rel=1e-5)


def test_lovasz_of_a_hard_prediction_is_one_minus_iou(batch, rng):
    mask, _ = batch
    prediction = rng.integers(0, CLASSES, mask.shape)
    logits = (np.eye(CLASSES)[prediction] * 200 - 100).astype("float32")
    valid = mask != IGNORE
    iou = [
        ((mask == c) & (prediction == c) & valid).sum() / (((mask == c) | (prediction == c)) & valid).sum()
        for c in range(CLASSES)
    ]
    assert value(losses.lovasz, mask, logits) == pytest.approx(1 - np.mean(iou), abs=1e-5)


EVERY = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "dice": losses.dice,
    "tversky": losses.tversky,
    "lovasz": losses.lovasz,
}


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_change_neither_value_nor_gradient(batch, name):
    mask, logits = batch
    other = logits.copy()
    other[mask == IGNORE] += 5.0
    assert value(EVERY[name], mask, other) == pytest.approx(value(EVERY[name], mask, logits), rel=1e-6)
    slope = gradient(lambda x: EVERY[name](ops.convert_to_tensor(mask), x), logits)
    assert np.abs(slope[mask == IGNORE]).max() == 0
    assert np.abs(slope[mask != IGNORE]).max() > 0


@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_the_derivative(batch, name):
    """Compared with a central difference; the Lovász loss is piecewise smooth, and 1e-3 stays within a piece."""
    mask, logits = batch
    direction = np.random.default_rng(1).normal(size=logits.shape).astype("float32")
    slope = (gradient(lambda x: EVERY[name](ops.convert_to_tensor(mask), x), logits) * direction).sum()
    step = np.float32(1e-3)
    ends = [value(EVERY[name], mask, logits + sign * step * direction) for sign in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02, abs=2e-4)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("case", ["all ignored", "one class only", "certain and right", "certain and wrong"])
def test_edges_stay_finite(name, case):
    mask = np.zeros((1, 4, 4), "int32")
    logits = np.zeros((1, 4, 4, CLASSES), "float32")
    if case == "all ignored":
        mask[:] = IGNORE
    if case.startswith("certain"):
        logits[..., 0 if case.endswith("right") else 1] = 1e4
    got = value(EVERY[name], mask, logits)
    slope = gradient(lambda x: EVERY[name](ops.convert_to_tensor(mask), x), logits)
    assert np.isfinite(got)
    assert np.isfinite(slope).all()
    if case in ("all ignored", "certain and right"):
        assert got == pytest.approx(0, abs=1e-5)


def test_overlap_losses_average_over_the_classes_present():
    """Class 2 is absent from the truth; not predicting it is neither rewarded nor penalized."""
    mask = np.array([[[0, 0, 1, 1]]], "int32")
    logits = (np.eye(CLASSES)[[0, 0, 1, 0]] * 200 - 100).astype("float32")[None, None]
    assert value(losses.dice, mask, logits) == pytest.approx(1 - (4 / 5 + 2 / 3) / 2, abs=1e-5)
    assert value(losses.lovasz, mask, logits) == pytest.approx(1 - (2 / 3 + 1 / 2) / 2, abs=1e-5)


def test_the_configured_loss_is_the_weighted_sum(batch):
    mask, logits = batch
    config = LossConfig(cross_entropy=1.0, focal=0.5, dice=2.0, tversky=0.25, lovasz=3.0, class_weights={"b": 2.0})
    weights = [1.0, 2.0, 1.0]
    whole = losses.SegmentationLoss.from_settings(config, ("a", "b", "c"))
    expected = (
        value(losses.cross_entropy, mask, logits, weights)
        + 0.5 * value(losses.focal, mask, logits, 2.0, weights)
        + 2.0 * value(losses.dice, mask, logits, weights)
        + 0.25 * value(losses.tversky, mask, logits, 0.3, 0.7, weights)
        + 3.0 * value(losses.lovasz, mask, logits, weights)
    )
    assert value(whole, mask, logits) == pytest.approx(expected, rel=1e-5)
    again = losses.SegmentationLoss.from_config(whole.get_config())
    assert value(again, mask, logits) == pytest.approx(expected, rel=1e-5)


def test_class_weights_must_name_classes():
    with pytest.raises(InputError, match=r"loss.class_weights: there is no class 'bordr'; did you mean border\?"):
        losses.SegmentationLoss.from_settings(LossConfig(class_weights={"bordr": 2.0}), ("pet", "background", "border"))


# === Several labels per pixel ===


@pytest.fixture
def sets(rng):
    """Sets of three labels, about a tenth ignored, logits, and where labels are set in valid pixels."""
    mask = rng.integers(0, 8, (2, 5, 7))
    mask[rng.random(mask.shape) < 0.1] = IGNORE
    truth = np.stack([mask & 1, mask // 2 & 1, mask // 4 & 1], axis=-1)[mask != IGNORE]
    return mask.astype("int32"), rng.normal(0, 2, (2, 5, 7, 3)).astype("float32"), truth.astype(bool)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_of_labels_is_the_binary_one_of_torch(sets, weights, smoothing):
    mask, logits, truth = sets
    tensor = torch.tensor(logits, requires_grad=True)
    weight = torch.ones(3) if weights is None else torch.tensor(weights)
    target = torch.tensor(truth).float() * (1 - smoothing) + smoothing / 2
    valid = torch.tensor(mask != IGNORE)
    theirs = F.binary_cross_entropy_with_logits(tensor[valid], target, weight, reduction="sum") / (
        weight.sum() * len(truth)
    )
    theirs.backward()
    options = {"class_weights": weights, "label_smoothing": smoothing, "labels": True}
    assert value(losses.cross_entropy, mask, logits, **options) == pytest.approx(theirs.item(), rel=1e-5)
    ours = gradient(lambda x: losses.cross_entropy(ops.convert_to_tensor(mask), x, **options), logits)
    np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=1e-6)


def test_the_hardest_decisions_on_labels_are_those_with_the_largest_cross_entropy(sets):
    mask, logits, truth = sets
    z = torch.tensor(logits[mask != IGNORE])
    each = F.binary_cross_entropy_with_logits(z, torch.tensor(truth).float(), reduction="none").numpy().ravel()
    count = int(np.ceil(0.3 * each.size))
    found = value(losses.cross_entropy, mask, logits, hardest=0.3, labels=True)
    assert found == pytest.approx(np.sort(each)[::-1][:count].mean(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_focal_loss_of_labels_equals_its_formula(sets, gamma):
    mask, logits, truth = sets
    p = 1 / (1 + np.exp(-logits[mask != IGNORE].astype(float)))
    q, weights = np.where(truth, p, 1 - p), np.array([0.25, 1.0, 2.0])
    expected = (weights * (1 - q) ** gamma * -np.log(q)).mean()
    found = value(losses.focal, mask, logits, gamma, weights.tolist(), labels=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_overlap_losses_of_labels_equal_their_formulas(sets):
    """Weights 1, 1 and 3; the Lovász loss is the integral that defines it, of the errors of each label's sigmoid."""
    mask, logits, truth = sets
    p, weights = 1 / (1 + np.exp(-logits[mask != IGNORE].astype(float))), [1.0, 1.0, 3.0]
    tp, fp, fn = (p * truth).sum(0), (p * ~truth).sum(0), ((1 - p) * truth).sum(0)
    tversky = np.average(1 - tp / (tp + 0.3 * fp + 0.7 * fn), weights=weights)
    assert value(losses.tversky, mask, logits, 0.3, 0.7, weights, labels=True) == pytest.approx(tversky, rel=1e-5)
    dice = np.average(1 - 2 * tp / (2 * tp + fp + fn), weights=weights)
    assert value(losses.dice, mask, logits, weights, labels=True) == pytest.approx(dice, rel=1e-5)
    lovasz = []
    for k in range(3):
        errors = np.abs(truth[:, k] - p[:, k])
        levels = np.concatenate([[0.0], np.sort(errors)])
        pairs = zip(np.diff(levels), levels[1:], strict=True)
        lovasz.append(sum(d * jaccard_loss(errors >= level, truth[:, k]) for d, level in pairs))
    found = value(losses.lovasz, mask, logits, weights, labels=True)
    assert found == pytest.approx(np.average(lovasz, weights=weights), rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_change_no_loss_of_labels(sets, name):
    mask, logits, _ = sets
    slope = gradient(lambda x: EVERY[name](ops.convert_to_tensor(mask), x, labels=True), logits)
    assert np.abs(slope[mask == IGNORE]).max() == 0
    assert np.abs(slope[mask != IGNORE]).max() > 0
    assert value(EVERY[name], np.full_like(mask, IGNORE), logits, labels=True) == 0


def test_the_configured_loss_of_labels_is_the_weighted_sum(sets):
    mask, logits, _ = sets
    config = LossConfig(cross_entropy=1.0, focal=0.5, dice=2.0, tversky=0.25, lovasz=3.0, class_weights={"b": 2.0})
    whole = losses.SegmentationLoss.from_settings(config, ("a", "b", "c"), labels=True)
    weights = {"class_weights": [1.0, 2.0, 1.0], "labels": True}
    parts = {name: value(loss, mask, logits, **weights) for name, loss in EVERY.items()}
    expected = sum(getattr(config, name) * part for name, part in parts.items())
    assert float(whole(mask, logits)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.SegmentationLoss.from_config(whole.get_config())(mask, logits)) == pytest.approx(expected)
