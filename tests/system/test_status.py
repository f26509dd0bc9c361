"""`postern status` and `identity` while the agent is difficult."""

import pytest

from lib.estate import Inbound, Listener

pytestmark = pytest.mark.sanitize


def test_status_says_that_the_identity_is_withdrawn_and_in_grace(ca, agent):
    with Inbound(ca, agent, Listener().addr) as a:
        agent.refuse()
        a.postern.wait_line("event=identity-lost", "cause=")
        _, text = a.postern.ask("identity", check=0)
        assert "withdrawn by the agent, still in grace" in text
        # It can be lost any second: an operator has to see it before.
        _, text = a.postern.ask("status")
        assert "withdrawn by the agent, still in grace" in text
