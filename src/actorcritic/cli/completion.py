"""What shells complete: commands, options, algorithms, environments, run folders.

A script holds all words that are known when it is made, so that a shell asks nobody while a person
types. Only folders and files are looked up then.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import get_type_hints

from actorcritic.cli.options import hyperparameters_of

SHELLS = ("bash", "zsh", "fish")
# What the words of each command are; the last kind repeats.
WORDS: dict[str, tuple[str, ...]] = {
    "train": ("algorithm", "environment", "none"),
    "resume": ("run", "none"),
    "evaluate": ("run", "none"),
    "play": ("run", "none"),
    "plot": ("run",),
    "compare": ("variant",),
    "ablate": ("algorithm", "environment", "none"),
    "sweep": ("algorithm", "environment", "none"),
    "study": ("study", "none"),
    "report": ("run",),
    "collect": ("run", "none"),
    "data": ("file", "none"),
    "audit": ("file", "none"),
    "audit-env": ("environment", "none"),
    "decide": ("decision", "file"),
    "language": ("task", "none"),
    "list": ("list",),
    "completion": ("shell", "none"),
}
WHERE = """\
Keep the script where your shell looks for it, once:
  actorcritic completion bash > ~/.local/share/bash-completion/completions/actorcritic
  actorcritic completion zsh  > ~/.zfunc/_actorcritic     (a folder of your fpath)
  actorcritic completion fish > ~/.config/fish/completions/actorcritic.fish
"""


def _names() -> dict[str, list[str]]:
    """The words of each kind, apart from folders and files."""
    import gymnasium

    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.algorithms.presets import PRESETS
    from actorcritic.cli.commands import LISTS
    from actorcritic.cli.decide import SUBCOMMANDS
    from actorcritic.cli.language import TASKS
    from actorcritic.envs.catalogue import COMPILED
    from actorcritic.studies.catalogue import STUDIES

    known = {*COMPILED, *(env for _, env in PRESETS), *gymnasium.registry}
    # A colon means something else to a shell's completion; `list` and the docs name the others.
    environments = sorted(name for name in known if not re.search(r"[^\w.-]", name))
    return {
        "algorithm": list(ALGORITHMS),
        "environment": environments,
        "variant": [*ALGORITHMS, *environments],
        "study": list(STUDIES),
        "decision": list(SUBCOMMANDS),
        "task": list(TASKS),
        "list": list(LISTS),
        "shell": list(SHELLS),
    }


def _options() -> dict[str, list[str]]:
    """The options of each command; of train, for each algorithm with its hyperparameters."""
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.audit.command import audit_env_parser, audit_parser
    from actorcritic.cli import language
    from actorcritic.cli.commands import options_of
    from actorcritic.cli.language import TASKS

    found = {}
    for command in WORDS:
        match command:
            case "list" | "completion" | "language":
                options: list[str] = []
            case "audit" | "audit-env":
                parser = audit_parser() if command == "audit" else audit_env_parser()
                options = re.findall(r"--[a-z-]+", parser.format_usage())
            case _:
                options = _dashed(f.name for f in dataclasses.fields(options_of(command)))
        found[command] = [*options, "--help"]
    found["train"] += ["--config", "--like"]
    for task in TASKS:
        own = _dashed(f.name for f in dataclasses.fields(language.options_of(task)))
        found[f"language {task}"] = [*own, "--help"]
    for name, cls in ALGORITHMS.items():
        own = _dashed(field[0] for field in hyperparameters_of(cls()))
        found[f"train {name}"] = [*found["train"], *own]
    return found


def _flags() -> list[str]:
    """The options that take no value."""
    from actorcritic.algorithms.catalogue import ALGORITHMS
    from actorcritic.cli import language
    from actorcritic.cli.commands import options_of

    found = {"help": None, "json": None, "strict": None, "reused-buffers": None}
    others = ("audit", "audit-env", "list", "language", "completion")
    parsed = [options_of(name) for name in WORDS if name not in others]
    parsed += [language.options_of(task) for task in language.TASKS]
    for kind in [*parsed, *ALGORITHMS.values()]:
        for name, hint in get_type_hints(kind).items():
            if hint is bool:
                found |= {name: None, f"no-{name}": None}
    return _dashed(found)


def _dashed(names: Iterable[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names]


# ------------------------------------------------------------------------------------ shells

# For any POSIX shell: prints what may stand after `actorcritic "$2" …`, where "$1" is begun. A line
# "@files" stands for files.
CANDIDATES = """\
_actorcritic_candidates() {
    current=$1; shift
    [ $# -gt 0 ] || { echo "@COMMANDS@"; return; }
    command=$1; shift
    count=0; option=
    for word in "$@"; do
        case "$word" in
            @FLAGS@) option= ;;
            -*) option=$word ;;
            *) [ -n "$option" ] || count=$((count + 1)); option= ;;
        esac
    done
    case "$current" in
        -*)
            case "$command $1" in
@OPTIONS@
            esac
            return ;;
    esac
    case "$option $command $count" in
        "--env "*) kind=environment ;;
        "--out "*|"--html "*|"--config "*) kind=file ;;
        "--model "*|"--data "*|"--evaluation "*|"--prompts "*) kind=file ;;
        "--like "*|"--start-from "*|"--from "*) kind=run ;;
        -*) kind=none ;;
@KINDS@
        *) kind=none ;;
    esac
    case "$kind" in
@NAMES@
        run)
            found=
            for file in runs/*/run.json runs/*/experiment.json "$current"*/run.json; do
                case "$found " in *" ${file%/*} "*) continue ;; esac
                [ -f "$file" ] && found="$found ${file%/*}" && echo "${file%/*}"
            done
            [ -n "$found" ] || echo @files ;;
        file) echo @files ;;
    esac
}
"""

BASH = """
_actorcritic() {
    local found
    found="$(_actorcritic_candidates "$2" "${COMP_WORDS[@]:1:COMP_CWORD-1}")"
    if [ "$found" = @files ]; then
        COMPREPLY=($(compgen -f -- "$2"))
    else
        COMPREPLY=($(compgen -W "$found" -- "$2"))
    fi
}
complete -o filenames -F _actorcritic actorcritic
"""

ZSH = """
_actorcritic() {
    local found
    local -a before
    before=("${(@)words[2,CURRENT-1]}")
    found="$(emulate sh; _actorcritic_candidates "$PREFIX" "${before[@]}")"
    if [ "$found" = @files ]; then
        _files
    else
        compadd -- ${(u)=found}
    fi
}
if [ "$funcstack[1]" = _actorcritic ]; then _actorcritic; else compdef _actorcritic actorcritic; fi
"""

FISH = """
function __actorcritic
    set -l found (sh -c "$__actorcritic_sh"'; _actorcritic_candidates "$@"' \
        sh (commandline -ct) (commandline -opc)[2..] | string split " ")
    if test "$found" = @files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c actorcritic -f -a '(__actorcritic)'
"""


def script(shell: str) -> str:
    """The script for a shell of `SHELLS`."""
    options = _options()
    filled = {
        "COMMANDS": " ".join(WORDS),
        "FLAGS": "|".join(_flags()),
        # Those of "train ppo" before those of "train" and whatever follows.
        "OPTIONS": "\n".join(
            f"                '{key}'{'*' * (' ' not in key)}) echo '{' '.join(options[key])}' ;;"
            for key in sorted(options, key=lambda key: " " not in key)
        ),
        "KINDS": "\n".join(
            f"""        " {command} {'"*' if k == len(kinds) - 1 else f'{k}"'}) kind={kind} ;;"""
            for command, kinds in WORDS.items()
            for k, kind in enumerate(kinds)
        ),
        "NAMES": "\n".join(
            f"        {kind}) echo '{' '.join(words)}' ;;" for kind, words in _names().items()
        ),
    }
    candidates = CANDIDATES
    for name, text in filled.items():
        candidates = candidates.replace(f"@{name}@", text)
    match shell:
        case "bash":
            return f"{candidates}{BASH}"
        case "zsh":
            return f"#compdef actorcritic\n{candidates}{ZSH}"
    quoted = candidates.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -g __actorcritic_sh '{quoted}_actorcritic_candidates \"$@\"'\n{FISH}"
