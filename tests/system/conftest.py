import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from lib import agent as agent_lib  # noqa: E402
from lib import ca as ca_lib  # noqa: E402
from lib import shortened as shortened_lib  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "sanitize: also run under the sanitizers")
    config.addinivalue_line(
        "markers", "case(id): a case from the field, by its number")


def pytest_terminal_summary(terminalreporter):
    lines = shortened_lib.said()
    if lines:
        terminalreporter.section("shortened (POSTERN_CAMPAIGN=1: in full)")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def folder():
    path = tempfile.mkdtemp(prefix="postern-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def ca():
    return ca_lib.CA()


@pytest.fixture
def agent(folder):
    """A Workload API server that says nothing yet."""
    server = agent_lib.Agent(os.path.join(folder, "agent.sock"))
    yield server
    server.stop()
