"""The golden cases, computed in float64 by another program, through numpy's arrays."""

import json

import pytest
from conftest import golden_directory, read_tensors, relative_error

import predictive_coding as pc

BOUND = 1e-5
METHODS = {
    "exact": pc.Exact,
    "fixed-prediction": pc.FixedPrediction,
    "strict": pc.Strict,
    "error-based": pc.ErrorBased,
    "incremental": pc.Incremental,
}


def method_of(run):
    """The method that a run of a case names."""
    if run["method"] == "exact":
        return pc.Exact()
    settings = {"eta": run["eta"], "iterations": run["iterations"]}
    if run["method"] == "strict":
        settings["solver"] = run.get("optimizer", "steps")
        settings["momentum"] = run.get("momentum", 0.0)
        settings["fresh_errors"] = run.get("fresh", False)
        if "nudge" in run:
            settings["nudge"] = pc.Nudge(run["nudge"], run.get("centred", False))
        if run.get("free_input"):
            settings["free_input"] = pc.FreeInput(run.get("input_precision", 0.0))
    return METHODS[run["method"]](**settings)


def cases():
    found = []
    for file in sorted(golden_directory().glob("*/case.json")):
        for run in json.loads(file.read_text())["runs"]:
            found.append(pytest.param(file.parent, run, id=f"{file.parent.name}-{run['expected']}"))
    if not found:
        reason = f"no golden cases in {golden_directory()}; name their folder in PREDICTIVE_CODING_GOLDEN"
        found.append(pytest.param(None, None, marks=pytest.mark.skip(reason=reason)))
    return found


@pytest.mark.parametrize(("folder", "run"), cases())
def test_golden(folder, run):
    network = pc.Network.from_file(folder / "model.toml")
    parameters = pc.Parameters.load(network, folder / "weights.safetensors")
    batch = read_tensors(folder / "batch.safetensors")
    session = pc.Session(network, len(batch["x"]), method_of(run))
    if run["method"] == "incremental":
        optimizer = {"sgd": pc.Sgd, "adam": pc.Adam}[run["parameters"]](parameters, lr=run["lr"])
        loss = session.learn(parameters, optimizer, batch["x"], batch["y"])
    else:
        # A mask of the input is for runs in which it is free.
        masks = {name: batch[name] for name in ("mask", "input_mask") if name in batch}
        if not run.get("free_input"):
            masks.pop("input_mask", None)
        loss = session.infer(parameters, batch["x"], batch["y"], **masks)
    worst = 0.0
    gradients = session.gradients
    for name, want in read_tensors(folder / run["expected"]).items():
        kind, _, rest = name.partition(".")
        if kind == "loss":
            got = [loss]
        elif kind == "grad":
            got = gradients[rest]
        elif kind == "parameter":
            got = parameters[rest]
        else:
            got = session.get(kind, int(rest))
        worst = max(worst, relative_error(got, want))
    assert worst < BOUND
