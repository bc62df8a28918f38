"""Metrics against scikit-learn and scipy."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from unet import metrics
from unet.data.heads import LABELS
from unet.data.images import resize_logits
from unet.data.sources import IGNORE
from unet.errors import InputError, RunError

pytestmark = pytest.mark.backend_free
CLASSES = ("pet", "background", "border")


def blobs(rng, images=5, size=(24, 31)):
    """Truth with an ignored patch, and logits that often agree with it."""
    noise = rng.normal(size=(images, *size, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    truth = smooth.argmax(-1).astype("uint8")
    truth[:, 2:5, 3:9] = IGNORE
    logits = smooth + ndimage.gaussian_filter(rng.normal(size=smooth.shape), (0, 2, 2, 0)) * 0.7
    return truth, logits.astype("float32")


def test_confusion_equals_sklearn(rng):
    truth, logits = blobs(rng)
    prediction = logits.argmax(-1)
    matrices = metrics.confusion(truth, prediction, 3)
    for t, p, matrix in zip(truth, prediction, matrices, strict=True):
        valid = t != IGNORE
        np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(t[valid], p[valid], labels=[0, 1, 2]))


def test_scores_equal_sklearn_for_the_data_set_and_per_image(rng):
    truth, logits = blobs(rng)
    prediction = logits.argmax(-1)
    tally = metrics.Tally(CLASSES)
    tally.add(["a", "b"], truth[:2], logits[:2])
    tally.add(["c", "d", "e"], truth[2:], logits[2:])
    scores = tally.scores()
    assert scores["images"] == 5

    def check(values, score, **options):
        """Dataset: all pixels together. Per image: mean over the scores of the images."""
        valid = truth != IGNORE
        pooled = score(truth[valid], prediction[valid], **options)
        single = [score(t[v], p[v], **options) for t, p, v in zip(truth, prediction, valid, strict=True)]
        assert values["dataset"] == pytest.approx(pooled)
        assert values["per_image"] == pytest.approx(np.mean(single))

    labels = {"labels": [0, 1, 2], "average": "macro"}
    check(scores["mean_iou"], sklearn_metrics.jaccard_score, **labels)
    check(scores["mean_dice"], sklearn_metrics.f1_score, **labels)
    check(scores["pixel_accuracy"], sklearn_metrics.accuracy_score)
    for index, name in enumerate(CLASSES):
        one = {"labels": [index], "average": "macro"}
        check(scores["iou"][name], sklearn_metrics.jaccard_score, **one)
        check(scores["dice"][name], sklearn_metrics.f1_score, **one)


def test_an_absent_class_has_no_score_and_leaves_the_mean():
    truth = np.zeros((2, 4, 4), "uint8")
    truth[1, :2] = 1
    logits = np.eye(3, dtype="float32")[truth]
    tally = metrics.Tally(("a", "b", "c"))
    tally.add(["x", "y"], truth, logits)
    scores = tally.scores()
    assert scores["mean_iou"] == {"dataset": 1.0, "per_image": 1.0}
    assert np.isnan(scores["iou"]["c"]["dataset"])
    assert scores["iou"]["b"]["per_image"] == 1.0
    assert "pet_iou" not in scores


def test_precision_and_recall_equal_their_definition(rng):
    """Counted pixel by pixel; of the pixels that are predicted as a class, and of those that are of it."""
    truth, logits = blobs(rng)
    truth[0][truth[0] == 1] = 0  # class 1 is missing in the truth of the first image,
    logits[1, ..., 2] = -9  # class 2 in the prediction of the second,
    truth[2], logits[2, ..., 1:] = 0, -9  # and both in both of the third
    prediction = logits.argmax(-1)
    tally = metrics.Tally(CLASSES)
    tally.add(list("abcde"), truth, logits)
    scores = tally.scores()

    def share(right, all_pixels, either):
        return right.sum() / all_pixels.sum() if all_pixels.any() else 0 if either.any() else np.nan

    for key in ("precision", "recall"):
        values = np.empty((6, 3))  # of each image and, last, of all
        for image, chosen in enumerate([*range(5), slice(None)]):
            counted = truth[chosen] != IGNORE
            for index in range(3):
                is_true, is_predicted = (counted & (ids[chosen] == index) for ids in (truth, prediction))
                of = is_predicted if key == "precision" else is_true
                values[image, index] = share(is_true & is_predicted, of, is_true | is_predicted)
        for index, name in enumerate(CLASSES):
            assert scores[key][name]["dataset"] == pytest.approx(values[5, index])
            assert scores[key][name]["per_image"] == pytest.approx(np.nanmean(values[:5, index]))
        assert scores[f"mean_{key}"]["dataset"] == pytest.approx(values[5].mean())
        assert scores[f"mean_{key}"]["per_image"] == pytest.approx(np.nanmean(np.nanmean(values[:5], 1)))
        assert (values[:5] == 0).any()
        assert np.isnan(values[2, 1:]).all()
    labels = {"labels": [0, 1, 2], "average": "macro"}
    valid = truth != IGNORE
    pooled = truth[valid], prediction[valid]
    assert scores["mean_precision"]["dataset"] == pytest.approx(sklearn_metrics.precision_score(*pooled, **labels))
    assert scores["mean_recall"]["dataset"] == pytest.approx(sklearn_metrics.recall_score(*pooled, **labels))


def distance_band(mask, pixels):
    """Pixels of the mask within ``pixels`` (chessboard) of the outside; pixels beyond the image count as outside."""
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask & (distance <= pixels)


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_boundary_band_equals_the_distance_transform(rng, pixels):
    for mask in blobs(rng)[0]:
        band = metrics.boundary_band(mask, pixels)
        for index in (0, 1, 2, IGNORE):
            np.testing.assert_array_equal(band & (mask == index), distance_band(mask == index, pixels))


def test_boundary_iou_equals_its_definition(rng):
    """Cheng et al. 2021: IoU of the bands of truth and prediction within 2 % of the diagonal."""
    truth, logits = blobs(rng, size=(90, 120))  # diagonal 150: 3 pixels
    truth[truth == IGNORE] = 0
    prediction = logits.argmax(-1)
    tally = metrics.Tally(CLASSES)
    tally.add(list("abcde"), truth, logits)
    scores = tally.scores()["boundary_iou"]
    assert metrics.boundary_width(90, 120) == 3
    for index, name in enumerate(CLASSES):
        bands = [np.stack([distance_band(m == index, 3) for m in masks]) for masks in (truth, prediction)]
        both, either = bands[0] & bands[1], bands[0] | bands[1]
        assert scores[name]["dataset"] == pytest.approx(both.sum() / either.sum())
        assert scores[name]["per_image"] == pytest.approx(np.mean(both.sum((1, 2)) / either.sum((1, 2))))


@pytest.mark.parametrize(("size", "pixels"), [((128, 128), 4), ((480, 640), 16), ((10, 10), 1), ((1, 1), 1)])
def test_boundary_width_is_two_per_cent_of_the_diagonal(size, pixels):
    assert metrics.boundary_width(*size) == pixels


def test_pet_iou_under_the_three_border_rules(rng):
    truth, logits = blobs(rng)
    prediction = logits.argmax(-1)
    tally = metrics.Tally(CLASSES)
    tally.add(list("abcde"), truth, logits)
    scores = tally.scores()
    valid = truth != IGNORE
    without_border = logits[..., :2].argmax(-1)
    inner = valid & (truth != 2)
    cases = {
        "border_ignored": (truth[inner] == 0, without_border[inner] == 0),
        "border_as_pet": (truth[valid] != 1, prediction[valid] != 1),
        "border_as_background": (truth[valid] == 0, prediction[valid] == 0),
    }
    for rule, (t, p) in cases.items():
        assert scores["pet_iou"][rule]["dataset"] == pytest.approx(sklearn_metrics.jaccard_score(t, p))
        assert scores["pet_dice"][rule]["dataset"] == pytest.approx(sklearn_metrics.f1_score(t, p))
    assert scores["pet_iou"]["border_as_background"] == pytest.approx(scores["iou"]["pet"])


def test_a_perfect_prediction_scores_one_everywhere(rng):
    truth, _ = blobs(rng)
    truth[truth == IGNORE] = 1
    tally = metrics.Tally(CLASSES)
    tally.add(list("abcde"), truth, np.eye(3, dtype="float32")[truth])

    def leaves(value):
        return [leaf for v in value.values() for leaf in leaves(v)] if isinstance(value, dict) else [value]

    assert set(leaves({k: v for k, v in tally.scores().items() if k != "images"})) == {1.0}


def bands(truth, prediction):
    return np.stack([metrics.scored_counts(metrics.image_counts(*pair, 3))["band"] for pair in zip(truth, prediction)])


def test_band_accuracy_equals_its_definition(rng):
    """Pixels within w of a pixel of another class, by looking at every pixel's neighbourhood."""
    truth, logits = blobs(rng, images=3, size=(20, 23))
    truth[2] = 1  # no contour at all
    prediction = logits.argmax(-1)
    counts = bands(truth, prediction)
    assert counts.shape == (3, len(metrics.BAND_WIDTHS), 2)
    for image in range(3):
        mask = truth[image]
        rows, columns = np.indices(mask.shape)
        contour = np.zeros(mask.shape, bool)
        for i, j in np.ndindex(mask.shape):
            near = [(i + a, j + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
            near = [mask[p] for p in near if 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1]]
            contour[i, j] = mask[i, j] != IGNORE and any(n not in (mask[i, j], IGNORE) for n in near)
        for index, width in enumerate(metrics.BAND_WIDTHS):
            band = np.zeros(mask.shape, bool)
            for i, j in zip(*np.nonzero(contour)):
                band |= np.maximum(abs(rows - i), abs(columns - j)) < width
            band &= mask != IGNORE
            assert counts[image, index].tolist() == [(band & (prediction[image] == mask)).sum(), band.sum()]
    tally = metrics.Tally(CLASSES)
    tally.add(["a", "b", "c"], truth, logits)
    scores = tally.scores()["band_accuracy"]
    assert list(scores) == ["1", "2", "4", "8", "16"]
    right, pixels = counts[:, 0].sum(0)
    assert scores["1"]["dataset"] == right / pixels
    assert scores["1"]["per_image"] == pytest.approx(np.mean(counts[:2, 0, 0] / counts[:2, 0, 1]))  # the third has none


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (8, 7), (20, 20)])
def test_an_image_without_contours_is_in_no_band_whatever_its_size(size):
    truth = np.ones((2, *size), "uint8")
    assert not bands(truth, truth.astype("int64")).any()


@pytest.mark.parametrize("distance", [0, 1, 2, 5, 15, 40])
def test_pixels_within_a_distance_are_those_of_the_distance_transform(rng, distance):
    pixels = rng.random((23, 31)) < 0.01
    nearest = ndimage.distance_transform_cdt(~pixels, "chessboard")
    np.testing.assert_array_equal(metrics.within(pixels, distance), nearest <= distance)


def test_logits_are_enlarged_to_the_size_of_each_mask(rng):
    truth, logits = blobs(rng, images=3, size=(40, 52))
    masks = [truth[0], truth[1, :9], truth[2, :, :17]]
    tally, one_by_one = metrics.Tally(CLASSES), metrics.Tally(CLASSES)
    tally.add(["a", "b", "c"], masks, logits[:, :20, :20])
    for name, mask, values in zip("abc", masks, logits[:, :20, :20]):
        one_by_one.add([name], mask[None], resize_logits(values, mask.shape)[None])
    for key in ("confusion", "boundary_union", "band", "pet_ignored", "pet_as_pet"):
        np.testing.assert_array_equal(tally.counts(key), one_by_one.counts(key))
    assert tally.counts("confusion").sum((1, 2)).tolist() == [(mask != IGNORE).sum() for mask in masks]


@pytest.mark.parametrize("wrong", [3, 254, -1])
def test_an_id_that_is_no_class_is_refused_and_counts_in_no_other_image(wrong):
    truth, prediction = np.zeros((2, 4, 4), "int64"), np.zeros((2, 4, 4), "int64")
    for ids, name in ((truth, "truth"), (prediction, "prediction")):
        ids[1, 2, 3] = wrong
        with pytest.raises(ValueError, match=f"{name} of image 1 has the class id {wrong}; ids are 0 to 2"):
            metrics.confusion(truth, prediction, 3)
        ids[1, 2, 3] = 0
    with pytest.raises(ValueError, match="truth must hold class ids as integers, received float64"):
        metrics.confusion(truth.astype(float), prediction, 3)


def test_a_tally_names_the_image_whose_mask_or_logits_are_wrong():
    truth, logits = np.zeros((2, 4, 4), "uint8"), np.zeros((2, 4, 4, 3), "float32")
    tally = metrics.Tally(CLASSES)
    truth[1, 0, 0] = 3
    with pytest.raises(InputError, match="image b: its mask holds 3; expected are the class ids 0 to 2, or 255"):
        tally.add(["a", "b"], truth, logits)
    truth[1, 0, 0], logits[1, 2, 2, 1] = 0, np.nan
    with pytest.raises(RunError, match="image b: the logits are NaN"):
        tally.add(["a", "b"], truth, logits)
    assert tally.names == []
    logits[1, 2, 2] = [-np.inf, np.inf, 0]  # still a prediction
    tally.add(["a", "b"], truth, logits)
    assert tally.confusion.tolist() == [[31, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_images_without_a_valid_pixel_have_no_score_and_leave_the_mean():
    truth = np.full((2, 4, 4), IGNORE, "uint8")
    truth[1] = 0
    tally = metrics.Tally(CLASSES)
    tally.add(["a", "b"], truth, np.eye(3, dtype="float32")[np.zeros((2, 4, 4), int)])
    scores = tally.scores()
    assert scores["mean_iou"] == {"dataset": 1.0, "per_image": 1.0}
    assert np.isnan(tally.per_image_mean_iou()[0])
    assert np.isnan(scores["band_accuracy"]["16"]["dataset"])


def test_a_batch_without_images_has_no_counts():
    truth, logits = np.zeros((0, 4, 4), "uint8"), np.zeros((0, 4, 4, 3), "float32")
    tally = metrics.Tally(CLASSES)
    tally.add([], truth, logits)
    assert tally.confusion.sum() == 0
    assert tally.counts("band").shape == (0, 5, 2)


def test_counting_takes_a_few_bytes_per_pixel(rng):
    truth = np.repeat(np.repeat(rng.integers(0, 3, (30, 20), np.uint8), 100, 0), 100, 1)
    tracemalloc.start()
    metrics.image_counts(truth, truth[::-1], 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * truth.size  # bincount alone takes 8, if it counts all pixels at once


def test_the_scores_of_labels_are_those_of_where_each_is_set(rng):
    """By scikit-learn, over all pixels and as a mean over images; the last image has no valid pixel."""
    labels = ("a", "b", "c")
    truth = rng.integers(0, 8, (4, 9, 12)).astype("uint8")
    truth[:, :2, :3] = IGNORE
    truth[3] = IGNORE
    logits = rng.normal(size=(4, 9, 12, 3)).astype("float32")
    tally = metrics.Tally(labels, LABELS)
    tally.add(list("wxyz"), truth, logits)
    scores = tally.scores()
    valid = truth != IGNORE
    right = []
    for k, label in enumerate(labels):
        pairs = [(truth[i][valid[i]] >> k & 1, logits[i][valid[i]][:, k] > 0) for i in range(3)]
        whole = tuple(np.concatenate(part) for part in zip(*pairs, strict=True))
        for name, score in (
            ("iou", sklearn_metrics.jaccard_score),
            ("dice", sklearn_metrics.f1_score),
            ("precision", sklearn_metrics.precision_score),
            ("recall", sklearn_metrics.recall_score),
        ):
            assert scores[name][label]["dataset"] == pytest.approx(score(*whole))
            assert scores[name][label]["per_image"] == pytest.approx(np.mean([score(*pair) for pair in pairs]))
        right.append(whole[0] == whole[1])
    assert scores["pixel_accuracy"]["dataset"] == pytest.approx(np.mean(right))
    assert scores["mean_iou"]["dataset"] == pytest.approx(np.mean([scores["iou"][k]["dataset"] for k in labels]))
    assert tally.counts("confusion").shape == (4, 3, 2, 2)
    assert np.isnan(tally.per_image_mean_iou()).tolist() == [False, False, False, True]


def test_the_boundary_iou_of_a_label_is_that_of_its_own_mask(rng):
    own = rng.integers(0, 2, (1, 20, 30)).astype("uint8")
    logits = np.stack([own * 2.0 - 1, rng.normal(size=own.shape)], axis=-1)
    shifted = np.roll(own, 3, axis=2)
    both, alone = metrics.Tally(("a", "b"), LABELS), metrics.Tally(("not", "a"))
    both.add(["x"], shifted + 2, logits)
    alone.add(["x"], shifted, np.stack([-logits[..., 0], logits[..., 0]], axis=-1))
    expected = alone.scores()["boundary_iou"]["a"]["dataset"]
    assert both.scores()["boundary_iou"]["a"]["dataset"] == expected
    assert 0 < expected < 1


def test_a_mask_with_an_unknown_label_is_refused():
    with pytest.raises(InputError, match="image x: its mask holds 4; expected are the sets of labels 0 to 3"):
        metrics.Tally(("a", "b"), LABELS).add(["x"], np.full((1, 2, 2), 4, "uint8"), np.zeros((1, 2, 2, 2), "float32"))
