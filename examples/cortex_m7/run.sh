#!/usr/bin/env bash
# From ONNX to a program that runs on a Cortex-M7 without an operating system: the board mps2-an500 in qemu.
# Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. run.sh [FOLDER]: where to build.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/build}
python=${PYTHON:-python3}

mkdir -p "$build"
cp "$("$python" -c 'import onnxc, os; print(os.path.dirname(onnxc.__file__))')/data/resnet20_fashion.onnx" \
  "$build/resnet20.onnx"
"$python" -m onnxc compile "$build/resnet20.onnx" -o "$build" --target cortex-m7
"$python" "$here/../images.py" 5 "$build"
cd "$build"
# start-up code and memory map come with the library's example; rdimon is newlib's semihosting
arm-none-eabi-gcc -mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16 -std=c11 -O2 -Wall -Wextra -I . \
  "$here/main.c" example/startup.c libresnet20.a -lm \
  --specs=rdimon.specs -Wl,-z,noexecstack -T example/board.ld -o classify.elf
arm-none-eabi-size classify.elf
qemu-system-arm -M mps2-an500 -nographic -monitor none -serial none \
  -semihosting-config enable=on,target=native -kernel classify.elf
