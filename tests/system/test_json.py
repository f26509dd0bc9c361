"""What programs read: each --json against its schema, and exit codes."""

import json
import os
import socket
import subprocess

import grpc
import jsonschema
import pytest

from lib import agent as agent_lib
from lib.ca import CA
from lib.estate import Echo, Inbound, INBOUND, Listener, Outbound
from lib.proxy import BINARY, Postern, free_port, wait_for
from lib.real import ROOT

pytestmark = pytest.mark.sanitize

SCHEMAS = os.path.join(ROOT, "docs", "schema")
VERBS_WITH_JSON = ["check", "close", "connections", "explain", "identity",
                   "status", "version"]


def schema(name):
    with open(os.path.join(SCHEMAS, name + ".json"), encoding="utf-8") as f:
        return json.load(f)


def valid(name, answer):
    # What the schema does not name is a change that readers must be told.
    jsonschema.validate(answer, schema(name),
                        cls=jsonschema.Draft202012Validator)
    assert answer["schema"] == "postern.%s/1" % name
    return answer


def postern(*words, prefix=()):
    return subprocess.run([*prefix, BINARY, *words], capture_output=True,
                          text=True, timeout=60, check=False)


@pytest.fixture
def echo():
    e = Echo()
    yield e
    e.listener.close()


def test_each_verb_with_json_has_a_schema_and_no_other():
    files = sorted(f[:-5] for f in os.listdir(SCHEMAS))
    assert files == VERBS_WITH_JSON
    verbs = [line.split()[0] for line in postern("--help").stdout.splitlines()
             if line.startswith("  ") and not line.strip()[0].isdigit()]
    with_json = [v for v in verbs if "--json" in postern(v, "--help").stdout]
    assert sorted(with_json) == VERBS_WITH_JSON
    for name in files:
        jsonschema.Draft202012Validator.check_schema(schema(name))


def test_status_and_identity(ca, agent, echo):
    with Inbound(ca, agent, echo.listener.addr) as a:
        code, answer = a.postern.ask("status", json_output=True)
        assert code == 0
        status = valid("status", answer)
        assert status["ready"] and status["services"][0]["name"] == "a"
        assert status["identity"]["svid"]["id"] == a.server_id
        code, answer = a.postern.ask("identity", json_output=True)
        assert code == 0
        identity = valid("identity", answer)
        assert [s["in_use"] for s in identity["svids"]] == [True]
        assert int(identity["svids"][0]["serial"], 16) == \
            a.svid.leaf.serial_number
        assert identity["bundles"] == [{
            "trust_domain": "example.org", "authorities": 1, "dropped": 0,
            "generation": identity["bundles"][0]["generation"]}]


def test_status_and_identity_of_a_bigger_estate(ca, agent, echo):
    """Hints, several SVIDs, federation, a revocation list, audit mode, a
    refused reload."""
    other = CA("partner.org")
    svids = [ca.svid("spiffe://example.org/srv"),
             ca.svid("spiffe://example.org/other", key_kind="ed25519")]
    with Inbound(ca, agent, echo.listener.addr, extra="mode = audit") as a:
        agent.push(agent_lib.response(
            [agent_lib.x509_svid(svids[0], ca.der(), hint='a "hint"\n\x01é'),
             agent_lib.x509_svid(svids[1], ca.der(), hint="second")],
            {"spiffe://partner.org": other.der()}, [ca.crl([7])]))
        wait_for(lambda: len(a.postern.ask(
            "identity", json_output=True)[1]["svids"]) == 2, "both SVIDs")
        answer = valid("identity", a.postern.ask("identity",
                                                 json_output=True)[1])
        # Each byte by itself: nothing that an agent sends can spoil a line.
        assert answer["svids"][0]["hint"].encode("latin-1").decode() == \
            'a "hint"\n\x01é'
        assert answer["crl_entries"] == 1
        assert [b["trust_domain"] for b in answer["bundles"]] == [
            "example.org", "partner.org"]
        a.postern.write(a.config + "nonsense = 1\n")
        assert a.postern.ask("reload")[0] == 3
        code, answer = a.postern.ask("status", json_output=True)
        status = valid("status", answer)
        assert not status["config"]["last_reload_ok"]
        assert status["services"][0]["mode"] == "audit"
        assert len(status["banners"]) == 3


def test_status_without_an_identity_is_degraded(agent, echo):
    agent.refuse(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")
    with Postern(INBOUND.format(
            agent=agent.path, mesh=free_port(), forward=echo.listener.addr,
            rules="allow = example.org/web", extra="", extra_global="",
            threads=2)) as p:
        wait_for(lambda: p.ask("status", json_output=True)[1]["agent"][
            "state"] == "stopped", "the agent's answer")
        code, answer = p.ask("status", json_output=True)
        assert code == 7
        status = valid("status", answer)
        assert not status["ready"]
        assert status["identity"]["svid"] is None
        assert status["services"][0]["reason"] == "no valid identity"
        assert "no such thing" in status["agent"]["last_error"]
        code, answer = p.ask("identity", json_output=True)
        assert code == 5 and valid("identity", answer)["svids"] == []


def test_connections_and_close(ca, agent, echo):
    with Inbound(ca, agent, echo.listener.addr) as a:
        code, answer = a.postern.ask("connections", json_output=True)
        assert code == 0 and valid("connections", answer)["connections"] == []
        peers = [a.connect() for _ in range(3)]
        for peer in peers:
            peer.send(b"abc")
            assert peer.recv_exactly(3) == b"abc"
        half = socket.create_connection(("127.0.0.1", a.mesh))
        wait_for(lambda: len(a.postern.ask(
            "connections", json_output=True)[1]["connections"]) == 4, "all")
        code, answer = a.postern.ask("connections", json_output=True)
        rows = valid("connections", answer)["connections"]
        assert code == 0 and answer["complete"]
        assert sorted(str(r["peer"]) for r in rows) == [
            "None"] + ["spiffe://example.org/web"] * 3
        relays = [r for r in rows if r["state"] == "RELAY"]
        assert {(r["bytes_in"], r["bytes_out"]) for r in relays} == {(3, 3)}
        code, answer = a.postern.ask("close", "--conn", relays[0]["conn_id"],
                                     json_output=True)
        assert code == 0 and valid("close", answer)["ended"] == 1
        code, answer = a.postern.ask(
            "close", "--peer", "spiffe://example.org/web", json_output=True)
        assert code == 0 and valid("close", answer)["ended"] == 2
        a.postern.wait_line("event=close", "close=admin")
        code, answer = a.postern.ask("close", "--service", "a",
                                     json_output=True)
        assert code == 0 and valid("close", answer)["ended"] == 1
        code, answer = a.postern.ask("close", "--service", "nobody",
                                     json_output=True)
        assert valid("close", answer)["ended"] == 0
        half.close()


def test_explain_check_and_version(ca, agent, echo):
    with Inbound(ca, agent, echo.listener.addr) as a:
        for who, want in (("web", 0), ("other", 4)):
            code, answer = a.postern.ask(
                "explain", "inbound", "a", "spiffe://example.org/" + who,
                json_output=True)
            assert code == want
            decision = valid("explain", answer)["answers"][0]["decision"]
            assert decision == ("allow" if want == 0 else "deny")
        done = postern("check", "--json", a.postern.config_path)
        assert done.returncode == 0
        assert valid("check", json.loads(done.stdout))["errors"] == 0
        a.postern.write(a.config + 'wrong = "é"\n')
        done = postern("check", "--json", a.postern.config_path)
        assert done.returncode == 3
        assert valid("check", json.loads(done.stdout))["errors"] == 1
    done = postern("version", "--json")
    assert done.returncode == 0
    valid("version", json.loads(done.stdout))


def test_explain_of_an_outbound_service(ca, agent):
    target = Listener()
    with Outbound(ca, agent, target.addr) as b:
        for words, want in ((["--uid", "7"], 0),
                            (["--peer", "spiffe://example.org/srv"], 0),
                            (["--peer", "spiffe://example.org/no"], 4),
                            (["--uid", "7", "--peer",
                              "spiffe://example.org/no"], 4)):
            code, answer = b.postern.ask("explain", "outbound", "b", *words,
                                         json_output=True)
            assert code == want, words
            assert len(valid("explain", answer)["answers"]) == len(words) // 2


# ---- Exit codes that scripts rely on


def test_codes_of_usage_and_of_no_daemon(folder):
    nowhere = os.path.join(folder, "none.sock")
    for words in (["status"], ["identity"], ["connections"], ["metrics"],
                  ["reload"], ["close", "--service", "a"], ["dump"]):
        done = postern(words[0], "--control", nowhere, *words[1:])
        assert done.returncode == 6, words
        assert nowhere in done.stderr and done.stdout == ""
    for words in (["statsu"], ["status", "--nonsense"], ["close"], [],
                  ["close", "--service", "a", "--peer", "b"],
                  ["explain", "inbound"], ["completion", "tcsh"],
                  ["explain-error", "C999"], ["status", "--watch=1"]):
        assert postern(*words).returncode == 2, words
    for words in (["version"], ["--help"], ["explain-error", "C104"],
                  ["explain-error", "no_rule"], ["completion", "bash"],
                  ["dump", "--defaults"], ["status", "--help"]):
        done = postern(*words)
        assert done.returncode == 0 and done.stderr == "", words


def test_codes_of_run(folder):
    path = os.path.join(folder, "postern.ini")
    done = postern("run", "--config", path, "--control", folder + "/c.sock",
                   "--user", "65111")
    assert done.returncode == 3 and path in done.stderr
    with open(path, "w", encoding="utf-8") as f:
        f.write("[inbound a]\nlisten = 127.0.0.1:0\n")
    done = postern("run", "--config", path, "--control", folder + "/c.sock",
                   "--user", "65111")
    assert done.returncode == 3 and "[C" in done.stderr
    if os.geteuid() == 0:
        with open(path, "w", encoding="utf-8") as f:
            f.write("[global]\nworkload_api = unix:%s/api.sock\n" % folder)
        done = postern("run", "--config", path, "--user", "no-such-user")
        assert done.returncode == 2 and "no-such-user" in done.stderr


def test_verbs_that_change_are_for_owner_and_root(ca, agent, echo):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Inbound(ca, agent, echo.listener.addr) as a:
        os.chmod(a.postern.folder, 0o755)
        os.chmod(a.postern.control, 0o777)
        before = a.postern.metric("postern_config_generation")
        peer = a.connect()
        for words in (["reload"], ["close", "--service", "a"]):
            done = postern(words[0], "--control", a.postern.control,
                           *words[1:], prefix=[
                               "setpriv", "--reuid=65113", "--regid=65113",
                               "--clear-groups"])
            assert done.returncode == 1, (words, done.stdout, done.stderr)
        assert a.postern.metric("postern_config_generation") == before
        peer.send(b"x")
        assert peer.recv_exactly(1) == b"x"
        peer.rst()
