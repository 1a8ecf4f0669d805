"""Ctrl-C and SIGTERM at any moment: saved, one line, the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from command_line import ENVIRONMENT, command, newest_update, start

from actorcritic.runs import checkpoints, interruption

pytestmark = pytest.mark.faults


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("host", [(), ("--host",)], ids=["compiled", "host"])
@pytest.mark.long
def test_sigterm_saves_and_ends_with_143(host, tmp_path):
    run = tmp_path / "run"
    words = ("train", "ppo", "CartPole-v1", "--total-steps", 50_000_000, "--out", run, *host)
    process = start(*words, "--checkpoint-seconds", 0)
    wait_until(process, lambda: newest_update(run) > 0)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 143
    assert f"SIGTERM came. Everything is saved; go on: actorcritic resume {run}" in err
    assert "Traceback" not in err
    assert checkpoints.newest(run / "checkpoints") is not None
    assert command("evaluate", run, "--episodes", 2).returncode == 0


@pytest.mark.long
def test_sigterm_in_the_middle_of_a_long_batch(tmp_path):
    """A batch that takes minutes is left, not waited for."""
    (tmp_path / "slow.py").write_text(
        textwrap.dedent("""
        import gymnasium, time
        class Slow(gymnasium.Wrapper):
            def __init__(self):
                super().__init__(gymnasium.make("CartPole-v1"))
            def step(self, action):
                time.sleep(0.05)
                return super().step(action)
        """)
    )
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "actorcritic", "train", "ppo", "slow:Slow", "--num-envs", "1",
         "--num-steps", "4096", "--total-steps", "8192", "--out", str(run)],
        cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(process, lambda: newest_update(run) >= 0)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Everything is saved" in err


def test_sigterm_stops_a_comparison_which_goes_on_when_repeated(tmp_path):
    folder = tmp_path / "compared"
    words = ("compare", "ppo", "a2c", "--env", "CartPole-v1", "--seeds", 3, "--out", folder)
    process = start(*words, "--total-steps", 50_000_000)
    wait_until(process, lambda: any(folder.glob("variants/*/metrics.csv")))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM came. What was trained is saved" in err
    assert "Traceback" not in err


@pytest.mark.long
def test_a_handler_of_the_program_s_own_still_sees_sigterm(tmp_path):
    """Training gives the signal on, after it has saved."""
    program = textwrap.dedent(f"""
        import os, signal, threading, time
        from pathlib import Path
        import actorcritic as ac
        from actorcritic.runs import checkpoints
        out = Path({str(tmp_path / "run")!r})
        seen = []
        signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
        def kill():
            while not (out / "metrics.csv").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=kill, daemon=True).start()
        run = ac.train("ppo", "CartPole-v1", total_steps=50_000_000, out=out, quiet=True)
        print(seen, run.finished)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=90
    )
    assert done.stdout.strip() == "['mine'] False", done.stderr


# The signal comes so many seconds after `main` began: while this and that is imported.
MOMENTS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.long
def test_ctrl_c_at_the_start_is_one_line(moment, tmp_path):
    program = textwrap.dedent(f"""
        import os, signal, sys, threading, time
        def interrupt():
            # Until it is ours: a process in the background may have begun with it ignored.
            while getattr(signal.getsignal(signal.SIGINT), "__name__", "") != "_leave":
                time.sleep(0.001)
            time.sleep({moment})
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        out = {str(tmp_path / "run")!r}
        words = ["train", "ppo", "CartPole-v1", "--total-steps", "5000000", "--out", out]
        sys.argv = ["actorcritic", *words]
        from actorcritic.__main__ import main
        sys.exit(main())
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    before = re.search("^actorcritic: (interrupted|stopped while compiling)", done.stderr, re.M)
    assert before or "Stopped and saved" in done.stdout


def test_ctrl_c_while_compiling_is_answered_at_once(tmp_path):
    """As inside of XLA, where a thread hears no signal and cannot be stopped."""
    run = tmp_path / "runs" / "run"
    program = textwrap.dedent(f"""
        import signal, sys, time
        import jax
        def compile(*_, **__):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            print("compiling", flush=True)
            time.sleep(60)
        jax.stages.Lowered.compile = compile
        sys.argv = ["actorcritic", "train", "ppo", "CartPole-v1", "--out", {str(run)!r}]
        from actorcritic.__main__ import main
        sys.exit(main())
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "compiling\n"
        time.sleep(0.5)  # until both programs are under way
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "actorcritic: stopped while compiling. Nothing is lost" in err
    assert "Traceback" not in err
    assert not run.exists()


def test_a_ctrl_c_that_c_code_lost_still_stops():
    with contextlib.suppress(KeyboardInterrupt):  # as a callback from C does
        interruption.interrupt(signal.SIGINT, None)
    with interruption.interruptible() as interrupted:
        assert interrupted()
    with interruption.interruptible() as interrupted:
        assert not interrupted()
