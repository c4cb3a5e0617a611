#!/usr/bin/env bash
# From ONNX to a running program for a Raspberry Pi 4 (64-bit): on the board itself, or here under qemu.
# Elsewhere it needs gcc-aarch64-linux-gnu and qemu-user-static. run.sh [FOLDER]: where to build.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/build}
python=${PYTHON:-python3}
cc=aarch64-linux-gnu-gcc
emulator="qemu-aarch64-static -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=$build"
if [ "$(uname -m)" = aarch64 ]; then
  cc=gcc
  emulator="env LD_LIBRARY_PATH=$build"
fi

mkdir -p "$build"
cp "$("$python" -c 'import onnxc, os; print(os.path.dirname(onnxc.__file__))')/data/resnet20_fashion.onnx" \
  "$build/resnet20.onnx"
"$python" -m onnxc compile "$build/resnet20.onnx" -o "$build" --target cortex-a72
"$cc" -std=gnu11 -O2 -Wall -Wextra -I "$build" "$here/classify.c" -L "$build" -lresnet20 -lm -o "$build/classify"
"$python" "$here/../images.py" 20 "$build"
$emulator "$build/classify" "$build/images.bin" "$build/labels.bin"
