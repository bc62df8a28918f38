"""Export of a trained run to a file for another runtime, with a proof that the file does what the network does."""

from unet.export.card import model_card, records
from unet.export.exporter import CALIBRATION_IMAGES, export, rebuild, size_of, with_argmax, with_softmax, write
from unet.export.proof import (
    LARGEST_DIFFERENCE,
    LARGEST_LOSS,
    SAME_CLASS,
    ClassesProof,
    FloatProof,
    Proof,
    QuantizedProof,
    prove,
    prove_classes,
    prove_quantized,
    read_proof,
)

__all__ = [
    "CALIBRATION_IMAGES",
    "LARGEST_DIFFERENCE",
    "LARGEST_LOSS",
    "SAME_CLASS",
    "ClassesProof",
    "FloatProof",
    "Proof",
    "QuantizedProof",
    "export",
    "model_card",
    "prove",
    "prove_classes",
    "prove_quantized",
    "read_proof",
    "rebuild",
    "records",
    "size_of",
    "with_argmax",
    "with_softmax",
    "write",
]
