"""The options of `onnxc compile`."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="An ONNX file.")]
Out = Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Where library, header and manifest go.")]
Target = Annotated[str, typer.Option(metavar="T[/T...]", help="The machine; of several the library picks at init.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x224x224",
        help="Extents of an input; several times: a library for all of them.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=8",
        help="Fix an input, at numbers or NAME=F.npy: it is none of the library.",
        show_default=False,
    ),
]
Until = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Compile up to this tensor or node; several times.", show_default=False),
]
Begin = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="NAME", help="Compile from this tensor or node on.", show_default=False),
]
Weights = Annotated[
    str, typer.Option(metavar="raw|coded", help="How the library holds its weights; coded is decoded at init.")
]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="The most threads of a handle.")]
Program = Annotated[bool, typer.Option("--program", help="Make a static command-line program too.")]
Wheel = Annotated[bool, typer.Option("--wheel", help="Make a pip package too, which needs NumPy alone.")]
Io = Annotated[str, typer.Option(metavar="float|int8", help="int8: quantised inputs and outputs as their integers.")]
Emit = Annotated[str, typer.Option(metavar="c", help="Write the library as C sources too.")]
Package = Annotated[
    str,
    typer.Option(
        metavar="KIND", help="A package of the C sources: arduino, platformio, zephyr, cmsis-pack or esp-idf."
    ),
]
Optimise = Annotated[
    str,
    typer.Option(metavar="speed|size", help="What the C code of microcontrollers saves: time or bytes of code."),
]
Buffers = Annotated[
    str, typer.Option(metavar="caller|arena", help="arena: inputs and outputs have places in the arena.")
]
Flash = Annotated[
    str | None,
    typer.Option(metavar="256k", help="Flash of the machine: whether the library fits.", show_default=False),
]
Ram = Annotated[
    str | None,
    typer.Option(metavar="96k", help="RAM of the machine: whether the library fits.", show_default=False),
]
Check = Annotated[
    str, typer.Option(metavar="data|shapes", help="data: run the library beside ONNX Runtime before it is written.")
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of the inputs that are drawn.")]
Tune = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="SECONDS", help="Measure the best kernels of each layer on this machine.", show_default=False
    ),
]
TuneCache = Annotated[
    str | None,
    typer.Option(metavar="F.json", help="What --tune has learnt; ~/.cache/onnxc/tune.json.", show_default=False),
]
Report = Annotated[
    str | None,
    typer.Option(
        metavar="F.html",
        help="A page: for microcontrollers RAM over time and all layers, with --profile times.",
        show_default=False,
    ),
]
ListTargets = Annotated[
    bool, typer.Option("--list-targets", help="List the machines, and what this one can link and run.")
]
Json = Annotated[bool, typer.Option("--json", help="With --list-targets or --profile: as JSON.")]
