"""`onnxc completion`: what shells complete, as a script that needs nothing of ours to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.errors import BadOption
from .options import show

if TYPE_CHECKING:
    import click

SHELLS = ("bash", "zsh", "fish")


def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]
) -> None:
    """Print a script that completes commands and options in a shell."""
    if shell not in SHELLS:
        raise BadOption("there is no such shell", expected=", ".join(SHELLS), found=shell)
    root = context.find_root().command
    words = {name: _options(command) for name, command in root.commands.items()}  # type: ignore[attr-defined]
    show(_fish(words) if shell == "fish" else _bash(words, shell == "zsh"))


def _options(command: click.Command) -> list[str]:
    return [*(o for p in command.params for o in p.opts if o.startswith("--")), "--help"]


def _bash(words: dict[str, list[str]], zsh: bool) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(options)}" ;;' for name, options in words.items())
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{head}_onnxc() {{
  local words current="${{COMP_WORDS[COMP_CWORD]}}"
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(words)} --help --version"
  COMPREPLY=()
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
    *) [ "$COMP_CWORD" -eq 1 ] && COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
  esac
}}
complete -o default -F _onnxc onnxc"""


def _fish(words: dict[str, list[str]]) -> str:
    lines = [f"complete -c onnxc -n __fish_use_subcommand -a {name}" for name in words]
    for name, options in words.items():
        lines += [f"complete -c onnxc -n '__fish_seen_subcommand_from {name}' -l {o[2:]}" for o in options]
    return "\n".join(lines)
