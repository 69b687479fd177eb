"""What the tests share."""

import json
import os
from pathlib import Path

import numpy
import pytest

import predictive_coding as pc

HERE = Path(__file__).resolve().parent


def read_tensors(path):
    """The tensors of a safetensors file, by name."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            values = numpy.frombuffer(data[start + first : start + end], types[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def golden_directory():
    """The folder of the golden cases: the environment's, or the repository's."""
    named = os.environ.get("PREDICTIVE_CODING_GOLDEN")
    return Path(named) if named else HERE.parents[1] / "tests/golden"


def relative_error(got, want):
    """|got - want| / |want| in the 2-norm."""
    got, want = (numpy.asarray(values, numpy.float64) for values in (got, want))
    assert got.shape == want.shape
    norm = numpy.linalg.norm(want)
    return numpy.linalg.norm(got - want) / norm if norm else numpy.abs(got).max(initial=0.0)


MODEL = """
input = [1, 6, 6]
loss = "cross_entropy"
[[layer]]
ops = [{ type = "conv2d", out_channels = 3, kernel_size = 3 }, { type = "relu" }, { type = "flatten" }]
[[layer]]
ops = [{ type = "linear", out_features = 9 }, { type = "tanh" }]
[[layer]]
ops = [{ type = "linear", out_features = 3 }]
"""


@pytest.fixture
def network():
    return pc.Network.from_toml(MODEL)


@pytest.fixture
def batch():
    generator = numpy.random.default_rng(1)
    return generator.standard_normal((5, 1, 6, 6), numpy.float32), generator.integers(0, 3, 5)
