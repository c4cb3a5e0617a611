"""Training as passes: each states what is to be learnt, and is handed the Trainer of `onnxc.torch`, which learns it."""
