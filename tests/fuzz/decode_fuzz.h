/* One input of decode_fuzz.c, decoded: what libFuzzer and mutate.c share. */
#ifndef ONNXC_DECODE_FUZZ_H
#define ONNXC_DECODE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* The status of the decoder (decode.h). */
int decode_once(const uint8_t *data, size_t size);

#endif
