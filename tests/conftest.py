"""Options of the test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--networks", type=int, default=0, help="random networks for tests/test_networks.py, new ones each time"
    )
    parser.addoption("--regenerate", action="store_true", help="write tests/golden anew instead of comparing with it")
