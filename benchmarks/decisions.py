"""Figures of docs/decisions.md: `python benchmarks/decisions.py [PART ...] [--seeds 20]`.

Parts: tools, evaluation, routing, latency, http, kills, fuzz; default: all. Each prints its lines
and writes them to benchmarks/results/decisions.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.decisions import evaluation, simulated, simulation
from actorcritic.decisions.agent import Decider

RESULTS = Path(__file__).parent / "results" / "decisions.json"
WORDS = [
    "what",
    "is",
    "the",
    "price",
    "of",
    "a",
    "flight",
    "to",
    "lisbon",
    "on",
    "friday",
    "morning",
    "convert",
    "miles",
    "plan",
    "my",
    "week",
]


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=12)) + f" {rng.randrange(10_000)}"


# ------------------------------------------------------------------------------------ learning


def tools(seeds: int) -> dict[str, Any]:
    """The share of the way from random to best, in the last 1,000 of 5,000 decisions."""
    found = {}
    for count in (5, 20):
        begun = time.perf_counter()

        def tell(done: int, what: str, count: int = count) -> None:
            print(f"\r{count} tools: {what}   ", end="", file=sys.stderr)

        names = (simulation.AGENT, simulation.LINUCB, simulation.LOGISTIC)
        world = simulation.ToolWorld(count)
        result = simulation.simulate(world, 5_000, tuple(range(seeds)), names=names, tell=tell)
        found[str(count)] = {
            "shares": {name: result.shares(name).tolist() for name in names},
            "said": simulated.sentences(result),
            "seconds": time.perf_counter() - begun,
        }
    return found


def evaluation_coverage(logs: int) -> dict[str, Any]:
    """How often 95 % intervals contain the truth, of a fixed policy, in logs of a fixed policy."""
    world, rows = simulation.ToolWorld(5, 32), 1_000
    inside = {"dr": 0, "snips": 0, "ips": 0}
    width = dict.fromkeys(inside, 0.0)
    for seed in range(logs):
        rng = np.random.default_rng([seed, 3])
        tasks = world.draw(rows + 20_000, rng)
        weights = rng.normal(size=(32, 2, 5)) * 4
        policies = [_softmax(tasks.features @ weights[:, k]) for k in range(2)]
        behaviour = 0.8 * policies[0] + 0.2 / 5
        truth = float((policies[1] * tasks.mean).sum(1)[rows:].mean())
        early = slice(0, rows)
        action = (rng.random((rows, 1)) > np.cumsum(behaviour[early], 1)).sum(1).clip(0, 4)
        every = np.arange(rows)
        logged = evaluation.Logged(
            tasks.features[early],
            np.ones((rows, 5), bool),
            action,
            behaviour[every, action],
            tasks.reward[every, action],
        )
        result = evaluation.evaluate(logged, policies[1][early])
        for name in inside:
            interval = getattr(result, name)
            inside[name] += interval.low <= truth <= interval.high
            width[name] += (interval.high - interval.low) / logs
    return {"logs": logs, "rows": rows, "inside": {k: v / logs for k, v in inside.items()},
            "width": width}  # fmt: skip


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def routing(seeds: int) -> dict[str, Any]:
    """Exact returns of the preset's deterministic policies, as shares of the best one."""
    import actorcritic as ac
    from actorcritic.algorithms.presets import PRESETS
    from actorcritic.envs import Routing
    from actorcritic.studies.s11_decisions_and_routing import exact_share

    preset = PRESETS["ppo", "routing"]
    begun = time.perf_counter()
    run = ac.train("ppo", "routing", seeds=seeds, evaluation_episodes=0, quiet=True)
    seconds = time.perf_counter() - begun
    shares = [exact_share(Routing(), run.policy(seed)) for seed in run.seeds]
    return {"steps": preset.total_steps, "shares": shares, "seconds": seconds}


# ------------------------------------------------------------------------------------ latency


def latency(decisions: int = 100_000) -> dict[str, Any]:
    """Of `choose` with a text, beside learning in the background; and of opening a large log.

    One in five of the decisions has feedback.
    """
    rng, found = random.Random(0), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tools.db"
        with Decider(path, [f"tool {k}" for k in range(8)]) as agent:
            for measured in (False, True):
                taken = []
                for i in range(5_000):
                    begun = time.perf_counter()
                    choice = agent.choose(text(rng))
                    taken.append(time.perf_counter() - begun)
                    if i % 10 == 0:
                        agent.feedback(choice.id, success=rng.random() < 0.5)
                if measured:
                    ms = 1e3 * np.percentile(taken, [50, 99, 100])
                    found["choose_ms"] = dict(zip(("median", "p99", "largest"), ms, strict=True))
            found["loop_ms"] = loop_of_the_same_length()
            from actorcritic.decisions.agent import Request

            for _ in range((decisions - 10_000) // 500):
                choices = agent.choose_many([Request(text(rng)) for _ in range(500)])
                told = [(c.id, float(rng.random() < 0.5)) for c in choices[::5]]
                agent.feedback_many(told)
            begun = time.perf_counter()
            agent.learn()
            found["catching_up_seconds"] = time.perf_counter() - begun
            state = agent._learner.state()  # type: ignore[union-attr]
        script = (
            "import time; t = time.perf_counter(); import actorcritic as ac; "
            f"agent = ac.Decider({str(path)!r}); agent.choose('hello'); "
            "print(time.perf_counter() - t, agent.learned); agent.close()"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        seconds, learned = done.stdout.split()
        found |= {"opening_seconds": float(seconds), "opened_with": int(learned)}
        copy = Path(folder) / "copy.db"
        with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            target.execute("DELETE FROM snapshots")
        with Decider(copy, learning="on call") as agent:
            begun = time.perf_counter()
            agent.learn()
            found["rebuild_seconds"] = time.perf_counter() - begun
            found["rebuild_is_the_same"] = agent._learner.state() == state  # type: ignore[union-attr]
    return found


def loop_of_the_same_length() -> dict[str, float]:
    """Arithmetic of about 0.1 ms, again and again: what other processes on the machine cost it."""
    taken = []
    for _ in range(5_000):
        begun = time.perf_counter()
        sum(range(5_000))
        taken.append(time.perf_counter() - begun)
    return dict(zip(("median", "p99"), 1e3 * np.percentile(taken, [50, 99]), strict=True))


# ------------------------------------------------------------------------------------ service


class Client:
    """One connection that is kept, and as little as it takes to speak HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        top = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(top.split("content-length:")[1].split("\r\n")[0])
        return int(top.split()[1]), json.loads(await self.reader.readexactly(length))


class Server:
    """`actorcritic decide serve` in a process of its own."""

    def __init__(self, path: Path) -> None:
        words = ["decide", "serve", str(path), "--port", "0", "--actions", "a", "b", "c", "d"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actorcritic", *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.port = int(line.split("http://")[1].split()[0].rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def http(seconds: float = 60.0, clients: int = 16) -> dict[str, Any]:
    """Decisions a second, each with its feedback; what is in the log afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tools.db"
        server = Server(path)

        async def client(number: int, until: float) -> tuple[int, int, list[float]]:
            rng, done, wrong, taken = random.Random(number), 0, 0, []
            connection = Client(server.port)
            await connection.open()
            while time.perf_counter() < until:
                begun = time.perf_counter()
                status, choice = await connection.post("/choose", {"context": text(rng)})
                taken.append(time.perf_counter() - begun)
                wrong += status != 200
                good = {"id": choice["id"], "success": rng.random() < 0.5}
                status, _ = await connection.post("/feedback", good)
                wrong += status != 200
                done += 1
            return done, wrong, taken

        async def everyone() -> list[tuple[int, int, list[float]]]:
            until = time.perf_counter() + seconds
            return await asyncio.gather(*(client(i, until) for i in range(clients)))

        begun = time.perf_counter()
        found = asyncio.run(everyone())
        took = time.perf_counter() - begun
        code = server.stop()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        done, wrong = (sum(each[k] for each in found) for k in (0, 1))
        rows = sqlite3.connect(path).execute(
            "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM feedback)"
        )
        decisions, feedback = rows.fetchone()
        ms = 1e3 * np.percentile(np.concatenate([each[2] for each in found]), [50, 99])
    return {
        "decisions_per_second": done / took,
        "errors": wrong,
        "acknowledged": done,
        "decisions_in_log": decisions,
        "feedback_in_log": feedback,
        "choose_ms": dict(zip(("median", "p99"), ms, strict=True)),
        "exit_code": code,
        "server_cpu_ms_per_decision": 1e3 * (used.ru_utime + used.ru_stime) / done,
    }


def kills(count: int = 100) -> dict[str, Any]:
    """Kill the server (SIGKILL) at random moments; look for every acknowledged row."""
    rng, acknowledged, rewarded = random.Random(0), set(), set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tools.db"
        for turn in range(count):
            server = Server(path)

            async def client(number: int, port: int, turn: int = turn) -> None:
                own, connection = random.Random(turn * 100 + number), Client(port)
                await connection.open()
                while True:
                    _, choice = await connection.post("/choose", {"context": text(own)})
                    acknowledged.add(choice["id"])
                    await connection.post("/feedback", {"id": choice["id"], "success": True})
                    rewarded.add(choice["id"])

            async def everyone(server: Server = server) -> None:
                clients = [asyncio.create_task(client(i, server.port)) for i in range(8)]
                await asyncio.sleep(rng.uniform(0.05, 0.6))
                server.process.kill()
                await asyncio.gather(*clients, return_exceptions=True)

            asyncio.run(everyone())
            server.process.wait()
            print(f"\rkill {turn + 1} of {count}", end="", file=sys.stderr)
        log = sqlite3.connect(path)
        query = "SELECT d.number || '-' || d.token FROM decisions d"
        decisions = {row[0] for row in log.execute(query)}
        joined = f"{query} JOIN feedback f ON f.decision = d.number"
        feedback = {row[0] for row in log.execute(joined)}
        sound = log.execute("PRAGMA integrity_check").fetchone()[0]
    return {
        "kills": count,
        "acknowledged_decisions": len(acknowledged),
        "acknowledged_feedback": len(rewarded),
        "lost_decisions": len(acknowledged - decisions),
        "lost_feedback": len(rewarded - feedback),
        "integrity": sound,
    }


MALFORMED: list[bytes] = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff\xfe", b"{'a': 1}", b"NaN", b"[" * 5000,
    b'{"context": 1}', b'{"context": null}', b'{"context": []}', b'{"context": {}}',
    b'{"context": {"a": [1]}}', b'{"context": {"a": NaN}}', b'{"context": {"a": 1e999}}',
    b'{"vector": []}', b'{"vector": [1, 2]}', b'{"vector": "x"}', b'{"vector": [null]}',
    b'{"vector": [[1]]}', b'{"vector": {"a": 1}}', b'{"context": "a", "vector": [1]}',
    b'{"context": "a", "allowed": []}', b'{"context": "a", "allowed": ["zz"]}',
    b'{"context": "a", "allowed": "a"}', b'{"context": "a", "allowed": [1]}',
    b'{"context": "a", "allowed": [[]]}', b'{"context": "a", "other": 1}', b'{"id": "1"}',
    b'{"id": "1-2", "success": true}', b'{"id": "", "success": true}', b'{"id": 1, "reward": 1}',
    b'{"id": "1-x", "reward": "1"}', b'{"id": "1-x", "reward": 1e999}', b'{"id": "1-x"}',
    b'{"id": "1-x", "reward": true}', b'{"id": "1-x", "success": 1}', b'{"context": "\\ud800"}',
    b'{"id": "1-x", "success": true, "reward": 1}', b'{"id": "1-\\ud800", "reward": 1}',
    b'{"context": {"\\ud800": 1}}', b'{"context": "' + b"x" * 40_000 + b'"}',
    b"x" * 1_100_000, b'{"context": ' + b"9" * 5000 + b"}", 
    b'{"context": {"a": ' + b"9" * 400 + b"}}",
    b'{"id": "99999999999999999999-a", "reward": 1}', b'{"id": "-1-a", "reward": 1}',
]  # fmt: skip


async def answered(port: int, raw: bytes) -> int:
    """The status that a raw request is answered with; 0 where the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        line = await asyncio.wait_for(reader.readline(), 15)
        return int(line.split()[1]) if line else 0
    except (ConnectionError, TimeoutError):
        return 0
    finally:
        writer.close()


def raw_post(path: str, body: bytes, headers: str = "") -> bytes:
    top = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return top.encode() + body


def fuzz(count: int = 10_000) -> dict[str, Any]:
    """Malformed and mutated requests: each is to have a 4xx, and the server to stay alive."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "tools.db")
        malformed = [
            raw_post(path, body)
            for body in MALFORMED
            for path in ("/choose", "/feedback", "/choose?x=1", "/feedback?")
        ][:200]
        statuses = [asyncio.run(answered(server.port, raw)) for raw in malformed]
        seeds = [b'{"context": "what is it", "allowed": ["a", "b"]}', b'{"id": "1-a", "reward": 1}']

        def mutated() -> bytes:
            path = rng.choice(["/choose", "/feedback"])
            body = bytearray(rng.choice(seeds))
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(len(body) + 1)
                match rng.randrange(3):
                    case 0:
                        body[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
                    case 1:
                        del body[at : at + rng.randrange(1, 9)]
                    case _:
                        body[at : at + 1] = bytes([rng.randrange(256)])
            body += b"\x00"  # so that none of them is JSON by accident
            return raw_post(path, bytes(body))

        async def many() -> list[int]:
            found = []
            for first in range(0, count, 50):
                part = [answered(server.port, mutated()) for _ in range(min(50, count - first))]
                found += await asyncio.gather(*part)
            return found

        fuzzed = asyncio.run(many())
        garbage = [bytes(rng.randrange(256) for _ in range(300)) + b"\r\n\r\n" for _ in range(100)]
        broken = [asyncio.run(answered(server.port, raw)) for raw in garbage]
        alive = asyncio.run(answered(server.port, raw_post("/choose", b'{"context": "a"}')))
        code = server.stop()
    return {
        "malformed": len(statuses),
        "malformed_4xx": sum(400 <= s < 500 for s in statuses),
        "fuzzed": len(fuzzed),
        "fuzzed_4xx": sum(400 <= s < 500 for s in fuzzed),
        "not_http": len(broken),
        "not_http_4xx": sum(400 <= s < 500 for s in broken),
        "alive": alive == 200,
        "exit_code": code,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("tools", "evaluation", "routing", "latency", "http", "kills", "fuzz")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    for name in options.parts or parts:
        match name:
            case "tools":
                found = tools(options.seeds)
            case "evaluation":
                found = evaluation_coverage(200)
            case "routing":
                found = routing(10)
            case "latency":
                found = latency()
            case "http":
                found = http()
            case "kills":
                found = kills()
            case "fuzz":
                found = fuzz()
            case _:
                parser.error(f"no part {name!r}; known: {', '.join(parts)}")
        load = os.getloadavg()[0]
        print(json.dumps({name: found | {"load_before": load}}, indent=1), flush=True)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[name] = found | {"load": load}
        RESULTS.write_text(json.dumps(known, indent=1, default=float) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
