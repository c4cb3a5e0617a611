"""`python -m onnxc` is the `onnxc` command."""

from onnxc.cli import main

raise SystemExit(main())
