"""`python -m onnxc` is the `onnxc` command."""

from onnxc.cli.app import main

raise SystemExit(main())
