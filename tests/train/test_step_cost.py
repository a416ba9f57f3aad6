import json
import sys

import pytest

from bnncc.train import bench


@pytest.mark.parametrize("json_wanted", [False, True])
def test_every_optimizer_is_timed(
    json_wanted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--eager", "--rounds", "2", "--width", "4", *(["--json"] if json_wanted else [])]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    bench.main()
    printed = capsys.readouterr().out
    names = ("SGD, momentum", "Bop", "Bop2ndOrder", "CascadedBop")
    if json_wanted:
        costs = json.loads(printed)
        assert [(cost["optimizer"], cost["compiled"]) for cost in costs] == [(name, False) for name in names]
        assert costs[0]["ratio"] == 1
        assert all(cost["ms"] > 0 and cost["ratio"] > 0 for cost in costs)
    else:
        assert all(name in printed for name in names)
