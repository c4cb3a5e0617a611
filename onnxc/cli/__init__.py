"""The command `onnxc`: one file for a command and its drawing; `app` names them all."""

from onnxc.cli.app import main

__all__ = ["main"]
