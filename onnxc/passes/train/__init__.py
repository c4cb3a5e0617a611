"""Training as passes: each states what is to be learnt; the Trainer of `onnxc.torch`, which a pass is handed, learns it."""
