"""The command line: every command is a function of `actorcritic` with its options spelled out."""

from __future__ import annotations

import sys

from actorcritic.cli.commands import COMMANDS, modules_of
from actorcritic.cli.terminal import loading, say
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest

USAGE = """\
actorcritic: actor-critic reinforcement learning

  actorcritic train ALGORITHM ENV [--total-steps N] [--seeds K] [--seed S] [--out DIR] [--host]
                                  [--HYPERPARAMETER VALUE …]
  actorcritic train bc|iql|cql [ENV] --data DIR     from recorded data
  actorcritic resume RUN [--total-steps N]
  actorcritic evaluate RUN [--episodes N] [--stochastic]
  actorcritic play RUN [--out clip.gif]     a window where there is a screen, else a file
  actorcritic plot RUN… [--out curve.png]
  actorcritic compare VARIANT… ENV [--seeds K] [--total-steps N]
  actorcritic ablate ALGORITHM ENV --vary SETTING=A,B,… [--vary …] [--grid]
  actorcritic sweep ALGORITHM ENV --space SETTING=log:LOW:HIGH [--trials N] [--seeds K]
  actorcritic study [NAME] [--quick]        a study of the field's questions; without NAME, a list
  actorcritic report RUN_OR_EXPERIMENT… [--out report.html]
  actorcritic collect RUN --out DIR [--steps N] [--mix random=0.3,checkpoint-early=0.3]
  actorcritic data DIR                      what is in a data set, and what is wrong with it
  actorcritic audit FILE.py:FUNCTION [--kind KIND] [--map THEIR_NAME=OUR_NAME …] [--json]
  actorcritic audit-env ENV              does an environment keep its promises?
  actorcritic decide simulate|replay|serve|report|export …   decisions in a live application
  actorcritic language TASK [--model DIR] …  language models: sft, reward, ppo, dpo, generate, …
  actorcritic list [algorithms|environments|presets]
  actorcritic completion bash|zsh|fish   a script that completes these words in your shell

Start with:  actorcritic train ppo CartPole-v1
Help on one: actorcritic train ppo --help
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        print(version("actorcritic"))
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise UserError(
                f"There is no command '{name}'.{nearest(name, COMMANDS)} "
                f"Known: {', '.join(COMMANDS)}."
            )
        return COMMANDS[name](rest)
    except UserError as error:
        say(f"actorcritic: {error}", error=True)
        return 1
    except KeyboardInterrupt as stop:
        say(f"actorcritic: {str(stop) or 'interrupted.'}", error=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def prepare(arguments: list[str]) -> None:
    """Import what a command needs, so that it is done before the command begins."""
    import importlib

    # A command alone only says what it can do.
    modules = modules_of(arguments) if len(arguments) > 1 else ()
    if modules:
        with loading(quiet="--quiet" in arguments):
            for module in modules:
                importlib.import_module(module)
