"""Writes blocks of every format that foretoken reads, and the weights that the package `gguf` dequantises them to.

    python3 tests/golden/blocks/make.py      (pip install gguf)

For each format NAME.blocks has the blocks: random bits with scales that are finite, then extremes (zeros, all bits set, scales that
are denormal, negative and the largest); NAME.f32 has their weights, f32.
"""

from pathlib import Path

import gguf
import numpy as np

FOLDER = Path(__file__).parent
# Bytes of the f16 scales of a block; MXFP4 has an exponent in byte 0.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}


def with_scales(name, block, scales):
    for at, scale in zip(SCALES[name], scales):
        block[at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return block


def main():
    rng = np.random.default_rng(7)
    for name, places in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = [
            with_scales(name, rng.integers(0, 256, size, np.uint8), rng.normal(0, 0.01, len(places)))
            for _ in range(6)
        ]
        blocks += [
            with_scales(name, np.zeros(size, np.uint8), [0.0] * len(places)),
            with_scales(name, np.full(size, 255, np.uint8), [1.0] * len(places)),
            with_scales(name, rng.integers(0, 256, size, np.uint8), [6e-8] * len(places)),
            with_scales(name, rng.integers(0, 256, size, np.uint8), [-65504.0, -1.5][: len(places)]),
            with_scales(name, rng.integers(0, 256, size, np.uint8), [65504.0, 65504.0][: len(places)]),
        ]
        if name == "MXFP4":
            for block, exponent in zip(blocks, [127, 120, 130, 100, 2, 3, 0, 252, 1, 128, 251]):
                block[0] = exponent
        blocks = np.stack(blocks)
        weights = gguf.dequantize(blocks.reshape(-1), kind).astype(np.float32)
        assert np.isfinite(weights).all(), name
        (FOLDER / f"{name.lower()}.blocks").write_bytes(blocks.tobytes())
        (FOLDER / f"{name.lower()}.f32").write_bytes(weights.tobytes())


if __name__ == "__main__":
    main()
