"""bnncc train as a user types it."""

import json

import numpy as np
import onnxruntime

from bnncc.train.recipe import names

SHORT = ("--epochs", 1, "--threads", 1, "--accelerator", "cpu")


def test_trains_exports_and_resumes(run, tmp_path):
    done = run("train", "digits", *SHORT, "--out", tmp_path)
    assert done.code == 0
    assert "accuracy_exit3" in done.out
    kept = {p.name for p in tmp_path.iterdir()}
    files = {"model.onnx", "summary.md", "plots.png", "result.json", "settings.json", "metrics.csv", "steps.csv"}
    assert files | {"checkpoint.ckpt", "tensorboard"} == kept
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["recipe"], result["seed"], result["epochs"], result["threads"]) == ("digits", 0, 1, 1)
    page = (tmp_path / "summary.md").read_text()
    assert "epochs = 1" in page
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [o.name for o in session.get_outputs()] == ["exit1", "exit2", "exit3"]

    refused = run("train", "digits", *SHORT, "--out", tmp_path)
    assert refused.code == 2
    assert "E0711" in refused.err
    model = (tmp_path / "model.onnx").read_bytes()
    again = run("train", "digits", *SHORT, "--out", tmp_path, "--resume", "--json")
    assert again.code == 0
    assert json.loads(again.out)["test"] == result["test"]
    assert (tmp_path / "model.onnx").read_bytes() == model


def test_changes_of_the_command_line_reach_the_run(run, tmp_path):
    changes = ("--seed", 3, "--set", "optimizer.binary.tau=1e-7", "--set", "batch=100")
    done = run("train", "digits", *SHORT, *changes, "--out", tmp_path, "--json")
    settings = json.loads(done.out)["settings"]
    assert settings["seed"] == 3
    assert settings["batch"] == 100
    assert settings["optimizer"]["binary"]["tau"] == 1e-7
    assert np.loadtxt(tmp_path / "metrics.csv", delimiter=",", skiprows=1, usecols=1) == 15


def test_the_list_names_every_recipe(run):
    done = run("train", "--list")
    assert all(name in done.out for name in names())
    rows = json.loads(run("train", "--list", "--json").out)
    assert [row["name"] for row in rows] == names()


def test_wrong_recipes_are_refused(run, tmp_path):
    file = tmp_path / "mine.toml"
    for arguments, code in (
        ([], "E0710"),
        (["nothing"], "E0710"),
        (["digits", "nothing"], "E0710"),
        (["digits", "--set", "colour=3"], "E0710"),
        (["digits", "--set", "epochs=many"], "E0710"),
        (["digits", "--set", "batch=0"], "E0710"),
        (["digits", "--set", "batch"], "E0710"),
        (["digits", "--set", "network.depth=3"], "E0710"),
        (["digits", "--set", "network.name=Net"], "E0710"),
        (["digits", "--set", "data.name=none"], "E0710"),
        (["digits", "--set", "loss=none"], "E0710"),
        (["digits", "--set", "optimizer.binary.name=none"], "E0710"),
        (["digits", "--width", "2"], "E0710"),
        ([file], "E0710"),
    ):
        done = run("train", *arguments, "--out", tmp_path / "out")
        assert done.code == 2, arguments
        assert code in done.err, arguments
    file.write_text("title = 3 = 4")
    assert "mine.toml" in run("train", file).err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("bnncc.cli.train.find_spec", lambda name: None if name == "lightning" else name)
    done = run("train", "digits")
    assert done.code == 3
    assert "E0701" in done.err
    assert "bnncc[train]" in done.err
