"""Sessions, parameters and methods."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy
import pytest
from conftest import MODEL, relative_error

import predictive_coding as pc


def test_networks_tell_of_themselves(network):
    assert network.input_shape == (1, 6, 6)
    assert network.output_shape == (3,)
    assert network.layer_shapes == [(48,), (9,), (3,)]
    assert network.layers[0] == ["conv2d", "relu", "flatten"]
    assert network.loss == "cross_entropy"
    assert len(network) == 3
    assert list(network.parameters.items())[:2] == [("0.0.weight", (3, 1, 3, 3)), ("0.0.bias", (3,))]
    assert network.with_precision(1, 2.0).precisions == [2.0, 1.0, 1.0]
    assert pickle.loads(pickle.dumps(network)) == network != network.with_precision(1, 2.0)
    assert hash(network) == hash(pc.Network.from_toml(network.to_toml()))
    # 2 for each multiply-add of forward pass, gradients and what is pulled back to hidden layers.
    products = [3 * 9 * 16, 48 * 9, 9 * 3]
    assert network.flops(pc.Exact(), 10) == 10 * 2 * (2 * sum(products) + sum(products[1:]))


def test_what_is_not_understood_is_told_in_a_line(tmp_path):
    with pytest.raises(ValueError, match="operation 0.0: linear takes a flat input"):
        pc.Network.from_toml(MODEL.replace('"conv2d", out_channels = 3, kernel_size = 3', '"linear", out_features = 3'))
    with pytest.raises(OSError, match="nothing.toml"):
        pc.Network.from_file(tmp_path / "nothing.toml")
    with pytest.raises(ValueError, match="layer 7 of 3"):
        pc.Network.from_toml(MODEL).with_precision(7, 1.0)


def test_parameters_are_views_of_one_buffer(network, tmp_path):
    parameters = network.initialize(seed=3)
    assert list(parameters) == list(network.parameters) == parameters.keys()
    assert len(parameters) == 6 and "1.0.bias" in parameters and "2" not in parameters and 2 not in parameters
    assert parameters["1.0.weight"].shape == (9, 48)
    assert numpy.abs(parameters["1.0.weight"]).max() <= 48**-0.5
    copy = parameters.copy()
    parameters["0.0.bias"][:] = [1.0, 2.0, 3.0]
    assert parameters.flat[27:30].tolist() == [1.0, 2.0, 3.0]
    assert copy["0.0.bias"].tolist() != [1.0, 2.0, 3.0]
    parameters.save(tmp_path / "w.safetensors")
    loaded = pc.Parameters.load(network, tmp_path / "w.safetensors")
    assert all(numpy.array_equal(tensor, loaded[name]) for name, tensor in parameters.items())
    assert numpy.array_equal(network.initialize(seed=3)["0.0.weight"], parameters["0.0.weight"])
    with pytest.raises(KeyError):
        parameters["0.1.weight"]
    # Views keep their owner.
    weight = network.initialize(seed=3)["0.0.weight"]
    gc.collect()
    assert numpy.array_equal(weight, parameters["0.0.weight"])


def test_parameters_come_in_three_ways(network, batch):
    own = network.initialize(seed=1)
    session = pc.Session(network, 5)
    loss = session.infer(own, *batch)
    gradients = {name: gradient.copy() for name, gradient in session.gradients.items()}
    for other in (dict(own.items()), own.values(), tuple(tensor.astype(numpy.float64) for tensor in own.values())):
        assert session.infer(other, *batch) == loss
        assert all(numpy.array_equal(gradient, gradients[name]) for name, gradient in session.gradients.items())
    with pytest.raises(ValueError, match="5 parameters, expected 6"):
        session.infer(own.values()[1:], *batch)
    with pytest.raises(ValueError, match="there is no parameter 0.0.bias"):
        session.infer({name: own[name] for name in own if name != "0.0.bias"}, *batch)
    with pytest.raises(ValueError, match=r"0.0.weight has shape \[1, 3, 3, 3\], expected \[3, 1, 3, 3\]"):
        session.infer([own["0.0.weight"].reshape(1, 3, 3, 3), *own.values()[1:]], *batch)
    with pytest.raises(TypeError, match="expected Parameters, a mapping"):
        session.infer(7, *batch)


def test_arrays_of_other_layouts_are_copied_and_of_other_shapes_refused(network, batch):
    x, y = batch
    parameters = network.initialize()
    session = pc.Session(network, 5)
    loss = session.infer(parameters, x, y)
    assert session.infer(parameters, numpy.asfortranarray(x), y.astype(numpy.int32)) == loss
    assert session.infer(parameters, x[::-1].copy()[::-1], y.tolist()) == loss
    with pytest.raises(ValueError, match=r"x has shape \[5, 36\], expected \[samples, 1, 6, 6\]"):
        session.infer(parameters, x.reshape(5, 36), y)
    with pytest.raises(ValueError, match=r"y has shape \[5, 1\], expected \[samples\]"):
        session.infer(parameters, x, y.reshape(5, 1))
    with pytest.raises(ValueError, match="4 labels for 5 samples"):
        session.infer(parameters, x, y[:4])
    with pytest.raises(ValueError, match="y has dtype bool"):
        session.infer(parameters, x, y > 0)
    with pytest.raises(ValueError, match="holds NaN at"):
        session.infer(parameters, numpy.where(x > 0, numpy.nan, x), y)
    with pytest.raises(ValueError, match="expected 36 for each of 1 to 5 samples"):
        session.infer(parameters, numpy.concatenate([x, x]), numpy.concatenate([y, y]))


def test_what_a_session_holds_fits_together(network, batch):
    x, y = batch
    parameters = network.initialize()
    session = pc.Session(network, 8, pc.Strict(eta=0.1, iterations=7))
    assert session.trace["energies"].shape == (0, 3) and session.trace["gradient"].shape == (0,)
    session.record_energies(True)
    session.record_trace(True)
    loss = session.infer(parameters, x, y)
    assert session.samples == 5 and session.loss == loss
    for layer, shape in enumerate(network.layer_shapes[:-1], 1):
        got = {name: session.get(name, layer) for name in ("activation", "deviation", "belief", "error")}
        assert all(values.shape == (5, *shape) and values.dtype == numpy.float32 for values in got.values())
        assert relative_error(got["activation"] + got["deviation"], got["belief"]) < 1e-6
    outputs = session.get("activation", 3)
    probabilities = numpy.exp(outputs) / numpy.exp(outputs).sum(1, keepdims=True)
    assert loss == pytest.approx(-numpy.log(probabilities[range(5), y]).mean(), rel=1e-5)
    assert relative_error(session.loss_gradient(), (probabilities - numpy.eye(3)[y]) / 5) < 1e-5
    assert session.energies.shape == (7,) and session.energies[0] == pytest.approx(loss, rel=1e-5)
    assert (numpy.diff(session.energies) < 0).all()
    trace = session.trace
    assert trace["energies"].shape == (7, 3) and (trace["energies"][0, :2] == 0).all()
    assert trace["energies"].sum(1) == pytest.approx(session.energies, rel=1e-6)
    # A small step goes down by eta times the square of the gradient.
    assert -numpy.diff(session.energies) / 0.1 == pytest.approx(trace["gradient"][:-1] ** 2, rel=0.2)
    assert session.descents["iterations"].tolist() == [7] * 5 and not session.descents["diverged"].any()
    with pytest.raises(ValueError, match="layer 3 is the output"):
        session.get("belief", 3)
    with pytest.raises(ValueError, match="unknown quantity"):
        session.get("beliefs", 1)
    assert session.predict(parameters, x).tolist() == outputs.tolist()
    with pytest.raises(ValueError, match="only ran the forward pass"):
        session.get("error", 1)
    assert session.forward(parameters, x, y) == pytest.approx(loss, rel=1e-6)


def test_gradients_are_views_that_follow_the_session(network, batch):
    parameters = network.initialize()
    session = pc.Session(network, 5, pc.Exact())
    session.infer(parameters, *batch)
    gradients = session.gradients
    before = {name: gradient.copy() for name, gradient in gradients.items()}
    norm = numpy.sqrt(sum((gradient.astype(float) ** 2).sum() for gradient in before.values()))
    assert session.clip_gradients(norm / 2) == pytest.approx(norm, rel=1e-6)
    assert all(relative_error(gradients[name], before[name] / 2) < 1e-5 for name in before)
    assert not gradients["0.0.weight"].flags.writeable
    del session
    gc.collect()
    assert gradients["0.0.weight"].shape == (3, 1, 3, 3)


def test_gradients_that_are_taken_stay_as_they_are(network, batch):
    x, y = batch
    parameters = network.initialize()
    session, other = pc.Session(network, 5, pc.Exact()), pc.Session(network, 5, pc.Exact())

    def taken(count):
        session.infer(parameters, x[:count], y[:count])
        other.infer(parameters, x[:count], y[:count])
        gradients = session.take_gradients()
        assert [gradient.shape for gradient in gradients] == list(network.parameters.values())
        assert all(numpy.array_equal(*pair) for pair in zip(gradients, other.gradients.values()))
        return gradients

    first = taken(5)
    kept = [gradient.copy() for gradient in first]
    address = taken(4)[0].ctypes.data
    # Nobody uses those of the second call any more, and somebody the first.
    taken(3)
    assert address in {taken(2)[0].ctypes.data for _ in range(3)}
    last = first[-1]
    del first
    many = [taken(count) for count in (1, 2, 3, 4)]
    assert numpy.array_equal(last, kept[-1]) and len({gradients[0].ctypes.data for gradients in many}) == 4
    last += 1
    del session
    gc.collect()
    assert not numpy.array_equal(many[0][0], many[1][0])
    with pytest.raises(RuntimeError, match="were viewed in an earlier call, so that they can not be taken"):
        other.take_gradients()
    session = pc.Session(network, 5)
    session.take_gradients()
    with pytest.raises(RuntimeError, match="were taken in an earlier call, so that they can not be viewed"):
        session.gradients


def test_a_step_of_exact_lowers_the_loss_by_the_squared_gradient(network, batch):
    parameters = network.initialize()
    session = pc.Session(network, 5, pc.Exact())
    loss = session.infer(parameters, *batch)
    square = sum((gradient.astype(float) ** 2).sum() for gradient in session.gradients.values())
    pc.Sgd(parameters, lr=1e-3).step(parameters, session.gradients)
    assert loss - session.forward(parameters, *batch) == pytest.approx(1e-3 * square, rel=0.02)


def test_methods_and_options_reach_the_library(network, batch):
    x, y = batch
    parameters = network.initialize()

    def errors(method, **options):
        session = pc.Session(network, 5, method, **options)
        session.infer(parameters, x, y)
        return session.get("error", 1)

    exact = errors(pc.Exact())
    fixed = errors(pc.FixedPrediction(eta=1.0, iterations=3))
    assert relative_error(fixed, exact) < 1e-5
    assert relative_error(errors(pc.FixedPrediction(eta=1.0, iterations=3, literal=True)), exact) < 1e-5
    strict = errors(pc.Strict())
    assert 1e-3 < relative_error(strict, exact)
    assert relative_error(errors(pc.Strict(eta=[0.1, 0.1])), strict) < 1e-5
    assert relative_error(errors(pc.Strict(solver="published-2022")), strict) > 1e-3
    equilibrium = errors(pc.Strict(solver="sweeps", iterations=50))
    assert relative_error(errors(pc.Strict(solver=pc.Automatic(16), iterations=500)), equilibrium) < 1e-3
    assert relative_error(errors(pc.ErrorBased(eta=0.5, iterations=200)), equilibrium) < 1e-4
    assert relative_error(errors(pc.ErrorBased(eta=pc.Automatic(16), iterations=200)), equilibrium) < 1e-4
    assert relative_error(errors(pc.ErrorBased(eta=[0.5, 0.5], iterations=200)), equilibrium) < 1e-4
    assert relative_error(errors(pc.Strict(solver="momentum", momentum=0.0)), strict) < 1e-5
    for solver in ("momentum", "nesterov", "adam"):
        assert relative_error(errors(pc.Strict(solver=solver, iterations=5)), errors(pc.Strict(iterations=5))) > 1e-3
    assert 0 < relative_error(errors(pc.Strict(fresh_errors=True)), strict)
    assert relative_error(errors(pc.Strict(nudge=pc.Nudge(1.0))), strict) < 1e-5
    assert relative_error(errors(pc.Strict(nudge=pc.Nudge(0.5, centred=True))), strict) > 1e-3
    for options in ({"layout": "images"}, {"layout": "channels"}, {"convolution": "direct"}, {"threads": 1}):
        assert relative_error(errors(pc.Strict(), **options), strict) < 1e-5
    for level in pc.levels():
        assert relative_error(errors(pc.Strict(), level=level), strict) < 1e-5
        assert pc.Session(network, 5, level=level).level == level
    session = pc.Session(network, 5, pc.ErrorBased(eta=pc.Automatic(16)))
    session.infer(parameters, x, y)
    descents = session.descents
    assert descents["share_of_limit"] == pytest.approx(0.9)
    assert descents["lambda_max"] * descents["eta"] == pytest.approx(1.8)
    session = pc.Session(network, 5, pc.ErrorBased(eta=0.1, curvature=16))
    session.infer(parameters, x, y)
    assert session.descents["share_of_limit"] == pytest.approx(0.05 * descents["lambda_max"])
    session = pc.Session(network, 5, pc.Strict(tolerance=0.5))
    session.infer(parameters, x, y)
    assert (session.descents["iterations"] < 20).all()


def test_options_that_make_no_sense_are_refused(network):
    for message, method in [
        ("eta is -1", pc.Strict(eta=-1.0)),
        ("iterations is 0", pc.FixedPrediction(iterations=0)),
        ('unknown solver "newton", expected steps', pc.Strict(solver="newton")),
        ("estimated by 0 products", pc.Strict(solver=pc.Automatic(0))),
        ("estimated by 0 products", pc.ErrorBased(eta=pc.Automatic(0))),
        ('unknown action on divergence "go"', pc.Strict(on_divergence="go")),
        ("1 step sizes, expected 2", pc.Strict(eta=[0.1])),
    ]:
        with pytest.raises(ValueError, match=message):
            pc.Session(network, 5, method)
    with pytest.raises(TypeError, match="the method is of type str"):
        pc.Session(network, 5, "strict")
    with pytest.raises(ValueError, match="batch size is 0"):
        pc.Session(network, 0)
    with pytest.raises(ValueError, match="threads is 0"):
        pc.Session(network, 5, threads=0)
    with pytest.raises(ValueError, match="unknown level"):
        pc.Session(network, 5, level="avx1024")


def test_relaxations_start_where_they_are_told(network, batch):
    parameters = network.initialize()
    x, y = batch
    long = pc.Session(network, 5, pc.Strict(iterations=6))
    long.infer(parameters, x, y)
    short = pc.Session(network, 5, pc.Strict(iterations=3))
    short.infer(parameters, x, y)
    deviations = [short.get("deviation", layer) for layer in (1, 2)]
    beliefs = [short.get("belief", layer) for layer in (1, 2)]
    for start in ([pc.Deviation(values) for values in deviations], beliefs, [pc.Deviation(deviations[0]), beliefs[1]]):
        short.infer(parameters, x, y, start=start)
        assert relative_error(short.get("deviation", 1), long.get("deviation", 1)) < 1e-4
    short.infer(parameters, x, y, start=[None, None])
    assert numpy.array_equal(short.get("deviation", 1), deviations[0])
    with pytest.raises(ValueError, match=r"belief 1, has shape \[5, 9\]"):
        short.infer(parameters, x, y, start=beliefs[1:])
    with pytest.raises(ValueError, match=r"deviation 1, has shape \[5, 9\]"):
        short.infer(parameters, x, y, start=[pc.Deviation(deviations[1])])
    with pytest.raises(ValueError, match="always starts at the forward pass"):
        pc.Session(network, 5, pc.Exact()).infer(parameters, x, y, start=beliefs)


DECODER = """
input = [2]
loss = { type = "mse", reduction = "sum", weight = 0.5 }
[[layer]]
ops = [{ type = "linear", out_features = 6 }, { type = "tanh" }]
[[layer]]
ops = [{ type = "linear", out_features = 4 }]
"""


def test_a_free_input_finds_what_makes_the_targets_that_count():
    network = pc.Network.from_toml(DECODER)
    parameters = network.initialize(seed=2)
    latent = numpy.array([[0.6, -0.4], [-0.3, 0.8]], numpy.float32)
    session = pc.Session(network, 2, pc.Strict(eta=0.2, iterations=5000, free_input=pc.FreeInput()))
    target = session.predict(parameters, latent)
    session.infer(parameters, numpy.zeros_like(latent), target)
    assert relative_error(session.get("belief", 0), latent) < 1e-3
    assert relative_error(session.get("deviation", 0), latent) < 1e-3
    # Two of four values are enough; a mask may be of bools.
    known = numpy.array([[True, False, False, True]] * 2)
    session.infer(parameters, numpy.zeros_like(latent), numpy.where(known, target, 9), mask=known)
    assert relative_error(session.get("belief", 0), latent) < 1e-2
    # What is clamped stays, and what is not completes it.
    clamped = numpy.array([[1.0, 0.0]] * 2)
    session.infer(parameters, latent * clamped, target, input_mask=clamped)
    assert numpy.array_equal(session.get("belief", 0)[:, 0], latent[:, 0])
    assert relative_error(session.get("belief", 0), latent) < 1e-3
    # An input that is tied to x hardly moves.
    tied = pc.Session(network, 2, pc.Strict(eta=1e-4, iterations=20, free_input=pc.FreeInput(precision=1000.0)))
    tied.infer(parameters, latent, 2 * target)
    assert 0 < numpy.abs(tied.get("deviation", 0)).max() < 1e-2
    with pytest.raises(ValueError, match="the input has no Error"):
        session.get("error", 0)


def test_masks_and_free_inputs_that_make_no_sense_are_refused(network, batch):
    x, y = batch
    parameters = network.initialize()
    session = pc.Session(network, 5)
    with pytest.raises(ValueError, match="there is no layer 0"):
        session.get("belief", 0)
    with pytest.raises(ValueError, match="the input is clamped as a whole"):
        session.infer(parameters, x, y, input_mask=numpy.ones_like(x))
    with pytest.raises(ValueError, match="expected the loss mse"):
        session.infer(parameters, x, y, mask=numpy.ones((5, 3)))
    free = pc.Session(network, 5, pc.Strict(free_input=pc.FreeInput()))
    with pytest.raises(ValueError, match=r"input_mask has shape \[5, 36\], expected \[samples, 1, 6, 6\]"):
        free.infer(parameters, x, y, input_mask=numpy.ones((5, 36)))
    with pytest.raises(ValueError, match="the input mask holds 0.5 at 0"):
        free.infer(parameters, x, y, input_mask=numpy.full_like(x, 0.5))
    with pytest.raises(ValueError, match="precision"):
        pc.Session(network, 5, pc.Strict(free_input=pc.FreeInput(precision=-1.0)))
    with pytest.raises(ValueError, match="free input"):
        pc.Session(network, 5, pc.Strict(solver="sweeps", free_input=pc.FreeInput()))


def test_a_divergence_says_where(network, batch):
    parameters = network.initialize()
    parameters.flat[:] *= 6
    session = pc.Session(network, 5, pc.Strict(eta=0.9, iterations=30))
    with pytest.raises(pc.DivergenceError, match="diverged at sample") as caught:
        session.infer(parameters, *batch)
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert 0 <= error.sample < 5 and 1 <= error.layer <= 3 and 1 <= error.iteration <= 30
    assert isinstance(error.finite, bool)
    assert session.descents["diverged"][error.sample]
    assert session.get("error", 1).shape == (5, 48)
    skipping = pc.Session(network, 5, pc.Strict(eta=0.9, iterations=30, on_divergence="skip"))
    skipping.infer(parameters, *batch)
    shrinking = pc.Session(network, 5, pc.Strict(eta=0.9, iterations=30, on_divergence="shrink"))
    shrinking.infer(parameters, *batch)
    assert shrinking.descents["shrunk"].any()


SLOW = """
input = [256]
loss = "mse"
[[layer]]
ops = [{ type = "linear", out_features = 512 }, { type = "tanh" }]
[[layer]]
ops = [{ type = "linear", out_features = 512 }, { type = "tanh" }]
[[layer]]
ops = [{ type = "linear", out_features = 10 }]
"""


def slow():
    """A call that takes a good part of a second."""
    network = pc.Network.from_toml(SLOW)
    generator = numpy.random.default_rng(1)
    session = pc.Session(network, 64, pc.Strict(eta=0.01, iterations=2000), threads=1)
    return session, network.initialize(), generator.standard_normal((64, 256), numpy.float32), numpy.zeros(64, int)


def test_python_runs_while_a_session_computes_and_a_second_thread_is_refused():
    session, parameters, x, y = slow()
    outcomes = []

    def work():
        try:
            outcomes.append(session.infer(parameters, x, y))
        except RuntimeError as error:
            outcomes.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    refused = None
    turns = 0
    while thread.is_alive():
        turns += 1
        try:
            session.samples
        except RuntimeError as error:
            refused = error
        time.sleep(0.001)
    thread.join()
    assert turns > 10
    assert "in use by another thread" in str(refused)
    assert len(outcomes) == 1 and isinstance(outcomes[0], float)


def test_two_threads_with_a_session_each_compute_the_same(network, batch):
    parameters = network.initialize()
    want = pc.Session(network, 5).infer(parameters, *batch)
    losses = []

    def work():
        session = pc.Session(network, 5)
        losses.extend(session.infer(parameters, *batch) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == [want] * 400


def test_a_forked_process_has_threads_of_its_own(network, batch):
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    program = f"""
import os, numpy, predictive_coding as pc
network = pc.Network.from_toml({SLOW!r})
x, y = numpy.ones((64, 256), numpy.float32), numpy.zeros(64, int)
sessions = [pc.Session(network, 64, threads=threads) for threads in (None, 3)]
parameters = network.initialize()
want = [session.infer(parameters, x, y) for session in sessions]
child = os.fork()
if child == 0:
    os._exit(0 if want == [session.infer(parameters, x, y) for session in sessions] else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def resident_kilobytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])


def test_memory_and_references_stay_as_they_are_over_many_calls(network, batch):
    x, y = batch
    parameters = network.initialize()
    session = pc.Session(network, 5, pc.Strict(iterations=2))
    tensors = dict(parameters.items())
    adam = pc.Adam(parameters, lr=1e-6)

    def call():
        session.infer(parameters, x, y)
        session.infer(tensors, x, y)
        adam.step(parameters, session.gradients)
        session.get("error", 1)

    for _ in range(100):
        call()
    counted = [x, y, parameters, session, tensors["0.0.weight"]]
    before = [sys.getrefcount(value) for value in counted]
    resident = resident_kilobytes() if os.path.exists("/proc/self/status") else None
    for _ in range(10_000):
        call()
    assert [sys.getrefcount(value) for value in counted] == before
    if resident:
        assert resident_kilobytes() < resident + 1024


@pytest.mark.parametrize("level", pc.levels())
def test_a_forced_level_imports_and_computes(level, tmp_path):
    (tmp_path / "model.toml").write_text(MODEL)
    program = f"""
import numpy, predictive_coding as pc
network = pc.Network.from_file({str(tmp_path / "model.toml")!r})
session = pc.Session(network, 2)
session.infer(network.initialize(), numpy.ones((2, 1, 6, 6)), [0, 1])
assert session.level == {level!r}
"""
    environment = dict(os.environ, PREDICTIVE_CODING_LEVEL=level)
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
