"""Optimisers, data sets, training, and the command line."""

import os
import subprocess
import sys

import numpy
import pytest

import predictive_coding as pc

MODEL = """
input = [1, 8, 8]
loss = "mse"
[[layer]]
ops = [{ type = "conv2d", out_channels = 4, kernel_size = 3 }, { type = "relu" }, { type = "flatten" }]
[[layer]]
ops = [{ type = "linear", out_features = 10 }]
"""


def program(*arguments, **options):
    command = [sys.executable, "-m", "predictive_coding", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_command_line_runs():
    version = program("--version")
    assert version.returncode == 0 and version.stdout.startswith("predictive-coding ")
    wrong = program("train", "--epochs", "many")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --epochs many") and not wrong.stdout


@pytest.mark.parametrize("method", ["strict", "exact"])
def test_train_takes_the_steps_of_the_command_line(method, tmp_path):
    (tmp_path / "model.toml").write_text(MODEL)
    network = pc.Network.from_file(tmp_path / "model.toml")
    run = program(
        "train", "--model", tmp_path / "model.toml", "--method", method, "--epochs", 2, "--batch", 100, "--seed", 3,
        "--schedule", "cosine", "--clip", 0.05, "--out", tmp_path / "out", check=True,
    )  # fmt: skip
    train, test = pc.Dataset.digits()
    method = pc.Exact() if method == "exact" else pc.Strict(on_divergence="shrink")
    steps = 2 * -(-len(train) // 100)
    rate = pc.LearningRate(1e-3, steps, "cosine")
    parameters, history = pc.train(
        network, train, method, epochs=2, batch=100, seed=3, test=test, rate=rate, clip=0.05
    )
    want = pc.Parameters.load(network, tmp_path / "out/weights.safetensors")
    assert numpy.array_equal(parameters.flat, want.flat), run.stderr
    assert [record["step"] for record in history] == list(range(1, steps + 1))
    assert history[-1]["test_loss"] < history[len(history) // 2 - 1]["test_loss"]
    assert 0.1 < history[-1]["test_accuracy"] <= 1


def test_training_ends_early_and_refuses_what_is_not_finite(network, batch):
    x, y = batch
    data = pc.Dataset(x, y)
    _, history = pc.train(network, data, pc.Exact(), epochs=9, batch=2, after_step=lambda record, _: record["step"] < 4)
    assert len(history) == 4
    with pytest.raises((FloatingPointError, ValueError), match="finite"):
        pc.train(network, data, pc.Exact(), optimizer=pc.Sgd(network.initialize(), lr=1e38), epochs=9)


def test_data_sets():
    train, test = pc.Dataset.digits()
    assert (len(train), len(test), train.shape, train.classes) == (1437, 360, (1, 8, 8), 10)
    assert train.images.shape == (1437, 1, 8, 8) and 0 <= train.images.min() and train.images.max() == 1
    assert train.targets.dtype == numpy.int64 and sorted(set(train.targets)) == list(range(10))
    assert not train.images.flags.writeable
    numbered = pc.Dataset(numpy.arange(20.0).reshape(10, 2), numpy.arange(10))
    batches = list(numbered.batches(4, seed=1, epoch=2))
    assert [len(y) for _, y in batches] == [4, 4, 2] and len(numbered.batches(4)) == 3
    assert sorted(numpy.concatenate([y for _, y in batches])) == list(range(10))
    assert all((x[:, 0] == 2 * y).all() for x, y in batches)
    again = [y.tolist() for _, y in numbered.batches(4, seed=1, epoch=2)]
    assert again == [y.tolist() for _, y in batches] != [y.tolist() for _, y in numbered.batches(4, seed=1, epoch=3)]
    values = pc.Dataset(numpy.ones((3, 2)), numpy.arange(6.0).reshape(3, 2))
    assert values.targets.tolist() == [[0, 1], [2, 3], [4, 5]] and values.classes == 2
    assert next(values.batches(3))[1].shape == (3, 2)
    assert len(numbered.first(3)) == 3
    with pytest.raises(ValueError, match="label 9 of image 9 is out of range"):
        pc.Dataset(numpy.ones((10, 2)), numpy.arange(10), classes=9)
    with pytest.raises(OSError, match="MNIST"):
        pc.Dataset.mnist(os.path.dirname(__file__))


def test_optimisers_take_the_steps_of_their_definitions(network):
    parameters = network.initialize()
    gradients = network.initialize(seed=2)
    before, gradient = parameters.flat.astype(float), gradients.flat.astype(float)
    sgd = pc.Sgd(parameters, lr=0.1, momentum=0.5, weight_decay=0.01)
    sgd.step(parameters, gradients)
    direction = gradient + 0.01 * before
    after = before - 0.1 * direction
    assert numpy.allclose(parameters.flat, after, atol=1e-7)
    sgd.lr = 0.2
    sgd.step(parameters, dict(gradients.items()))
    assert numpy.allclose(parameters.flat, after - 0.2 * (0.5 * direction + gradient + 0.01 * after), atol=1e-6)
    assert sgd.steps == 2 and sgd.lr == 0.2
    for optimizer, shrink in [(pc.Adam, 0.0), (pc.AdamW, 1e-2)]:
        parameters = network.initialize()
        optimizer = optimizer(parameters, lr=0.01)
        optimizer.step(parameters, gradients)
        # The first step of Adam has the length of the learning rate.
        assert numpy.allclose(parameters.flat, before * (1 - 0.01 * shrink) - 0.01 * numpy.sign(gradient), atol=1e-5)
    moments = optimizer.moments
    other = pc.AdamW(parameters, lr=0.01)
    other.restore(optimizer.steps, moments)
    copy = parameters.copy()
    optimizer.step(parameters, gradients)
    other.step(copy, gradients)
    assert numpy.array_equal(parameters.flat, copy.flat)
    with pytest.raises(ValueError, match="lr is -1"):
        pc.Adam(parameters, lr=-1.0)
    with pytest.raises(ValueError, match="4 parameters, expected 6"):
        optimizer.step(parameters, parameters.values()[:4])
    other_network = pc.Network.from_toml(MODEL)
    with pytest.raises(ValueError, match="other names or shapes"):
        optimizer.step(other_network.initialize(), gradients)


def test_learning_rates():
    rate = pc.LearningRate(1.0, 12, "step", warmup=2, every=5, factor=0.5)
    assert [rate.at(step) for step in (0, 1, 2, 6, 7, 12)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="every is not given"):
        pc.LearningRate(1.0, 12, "step")
    with pytest.raises(ValueError, match="expected one of constant"):
        pc.LearningRate(1.0, 12, "linear")


def test_learning_is_inference_and_a_step_and_for_incremental_a_step_in_each_iteration(network, batch):
    parameters, other = network.initialize(), network.initialize()
    session = pc.Session(network, 5)
    adam, same = pc.Adam(parameters, lr=1e-3), pc.Adam(other, lr=1e-3)
    for _ in range(3):
        loss = session.infer(parameters, *batch)
        adam.step(parameters, session.gradients)
        assert session.learn(other, same, *batch) == loss
    assert numpy.array_equal(parameters.flat, other.flat) and same.steps == 3
    incremental = pc.Session(network, 5, pc.Incremental(0.1, 4))
    assert incremental.learn(parameters, adam, *batch) < loss
    assert adam.steps == 7
    with pytest.raises(ValueError, match="expected a call of learn"):
        incremental.infer(parameters, *batch)
    with pytest.raises(ValueError, match="other names or shapes"):
        session.learn(pc.Network.from_toml(MODEL).initialize(), adam, *batch)
