"""The service: what it answers, what it refuses, and that it loses nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command_line import benchmark

from actorcritic.core.errors import UserError
from actorcritic.decisions.agent import Decider
from actorcritic.decisions.log import Log
from actorcritic.decisions.server import LARGEST_BODY, application, read_token, serve

needed = ("starlette", "uvicorn", "httpx")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in needed),
        reason=f"needs the extra serve: {', '.join(needed)}",
    ),
]

TOKEN = "a-token-of-enough-characters"


@pytest.fixture
def client(tmp_path: Path):
    from starlette.testclient import TestClient

    agent = Decider(tmp_path / "t.db", ["a", "b", "c"], features=4, learning="on call")
    with TestClient(application(agent, TOKEN)) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


def test_a_decision_and_its_feedback(client):
    for body in (
        {"context": "what is it"},
        {"context": {"plan": "gold", "n": 3}},
        {"vector": [0, 1, 2, 3.5]},
    ):
        choice = client.post("/choose", json=body).json()
        assert choice["action"] in "abc"
        assert 0 < choice["probability"] <= 1
        assert client.post("/feedback", json={"id": choice["id"], "success": True}).json() == {
            "status": "recorded"
        }
        again = client.post("/feedback", json={"id": choice["id"], "reward": 1.0})
        assert (again.status_code, again.json()) == (200, {"status": "repeated"})
        other = client.post("/feedback", json={"id": choice["id"], "success": False})
        assert other.status_code == 409
    only = client.post("/choose", json={"context": "a", "allowed": ["b"]}).json()
    assert (only["action"], only["probability"]) == ("b", 1.0)


def test_pages_for_people_and_machines(client):
    client.post("/choose", json={"context": "a"})
    assert client.get("/health").json() == {"status": "ok", "learned": 0, "learning": "going on"}
    metrics = client.get("/metrics").text
    assert "actorcritic_decisions_total 1" in metrics
    assert 'actorcritic_requests_total{path="/choose",status="200"} 1' in metrics
    report = client.get("/report")
    assert "Decisions of t.db" in report.text
    assert report.headers["content-type"].startswith("text/html")


def test_without_the_token_nothing_is_answered(client):
    for given in ("", "Bearer", "Bearer wrong", f"bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ü"):
        for method, path in (
            ("POST", "/choose"),
            ("POST", "/feedback"),
            ("GET", "/report"),
            ("GET", "/metrics"),
        ):
            found = client.request(
                method,
                path,
                json={"context": "a"},
                headers={"Authorization": given.encode("latin-1")},
            )
            assert found.status_code == 401, (given, path)
            assert found.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/openapi.json"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200
    assert "decisions_total 0" in client.get("/metrics").text


def test_the_description_names_every_path_and_status_that_is_there(client):
    paths = client.get("/openapi.json").json()["paths"]
    routes = {
        route.path: {m.lower() for m in route.methods} - {"head"} for route in client.app.routes
    }
    assert {path: set(methods) for path, methods in paths.items()} == routes
    assert set(paths["/choose"]["post"]["responses"]) >= {"200", "400", "401", "413", "415", "422"}


def malformed() -> list[bytes]:
    return benchmark("decisions").MALFORMED


def test_malformed_requests_get_a_4xx_and_a_sentence(client):
    headers = {"Content-Type": "application/json"}
    for body in malformed():
        for path in ("/choose", "/feedback"):
            found = client.post(path, content=body, headers=headers)
            assert 400 <= found.status_code < 500, (path, body[:60], found.status_code)
            assert len(found.json()["error"]) > 10
    assert client.post("/choose", content=b"x" * (LARGEST_BODY + 1)).status_code == 413
    assert (
        client.post("/choose", content=b"a=1", headers={"Content-Type": "text/plain"}).status_code
        == 415
    )
    assert client.get("/choose").status_code == 405
    assert client.get("/nothing").status_code == 404
    assert "decisions_total 0" in client.get("/metrics").text
    assert client.post("/choose", json={"context": "still there"}).status_code == 200


def test_mutated_requests_never_make_it_fail(client):
    rng = np.random.default_rng(0)
    seeds = [b'{"context": "a", "allowed": ["a", "b"]}', b'{"id": "1-a", "reward": 1}']
    for _ in range(500):
        body = bytearray(seeds[rng.integers(2)])
        for _ in range(rng.integers(1, 6)):
            body[rng.integers(len(body))] = rng.integers(256)
        path = ("/choose", "/feedback")[rng.integers(2)]
        found = client.post(path, content=bytes(body))
        assert found.status_code == 200 or 400 <= found.status_code < 500
    assert client.get("/health").status_code == 200


def test_many_at_once_are_all_kept(client, tmp_path):
    ids, errors = [], []

    def one(number: int) -> None:
        for i in range(10):
            found = client.post("/choose", json={"context": f"task {number} {i}"})
            wrong = client.post(
                "/choose", json={"context": f"task {number} {i}", "allowed": ["zz"]}
            )
            if found.status_code != 200 or wrong.status_code != 422:
                errors.append((found.status_code, wrong.status_code))
            ids.append(found.json()["id"])

    threads = [threading.Thread(target=one, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert logged(tmp_path / "t.db")["d"] == set(ids)
    assert len(set(ids)) == 80


def test_tokens_that_are_none(tmp_path):
    for name, content in (("short", "abc"), ("spaces", "a b " * 10), ("large", "x" * 5000)):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=r"token"):
            read_token(tmp_path / name)
    with pytest.raises(UserError, match="could not be read"):
        read_token(tmp_path / "none")
    (tmp_path / "good").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "good") == TOKEN
    with pytest.raises(UserError, match="--token-file"):
        serve(tmp_path / "t.db", actions=["a"], host="0.0.0.0")


# ------------------------------------------------------------------------------------ processes


def logged(path: Path) -> dict[str, set[str]]:
    """The ids of all decisions, and of those with feedback."""
    log = Log(path)
    rows = list(log.export())
    log.close()
    return {"d": {r["id"] for r in rows}, "f": {r["id"] for r in rows if "reward" in r}}


def started(path: Path) -> tuple[subprocess.Popen, int]:
    words = ["decide", "serve", str(path), "--port", "0", "--actions", "a", "b"]
    process = subprocess.Popen(
        [sys.executable, "-m", "actorcritic", *words], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline().split("http://")[1].split()[0].rpartition(":")[2])


async def talking(port: int, said: dict[str, set[str]]) -> None:
    """Decide and give feedback until the server is gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def post(path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 " in head.split("\r\n")[0]
        return json.loads(
            await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
        )

    while True:
        choice = await post("/choose", {"context": "a"})
        said["d"].add(choice["id"])
        await post("/feedback", {"id": choice["id"], "success": True})
        said["f"].add(choice["id"])


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_was_acknowledged_is_there_however_it_ends(tmp_path, how):
    said: dict[str, set[str]] = {"d": set(), "f": set()}
    for turn in range(3 if how == signal.SIGKILL else 1):
        process, port = started(tmp_path / "t.db")

        async def everyone(process=process, port=port, turn=turn) -> None:
            clients = [asyncio.create_task(talking(port, said)) for _ in range(4)]
            await asyncio.sleep(1 + 0.37 * turn)
            process.send_signal(how)
            await asyncio.gather(*clients, return_exceptions=True)

        asyncio.run(everyone())
        code = process.wait(60)
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    there = logged(tmp_path / "t.db")
    assert said["d"] <= there["d"]
    assert said["f"] <= there["f"]
    assert len(said["f"]) > 20


def test_a_port_that_is_taken_is_told_in_a_sentence(tmp_path):
    process, port = started(tmp_path / "t.db")
    try:
        with pytest.raises(UserError, match="Choose another --port"):
            serve(tmp_path / "other.db", actions=["a"], port=port)
        assert not (tmp_path / "other.db").exists()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
