#ifndef ONNXC_ENCODE_H
#define ONNXC_ENCODE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of scratch memory, aligned to 4. */
#define ONNXC_ENCODE_SCRATCH (32u << 10)

/* Code symbols of `bits` bits, 1 to 8, by adaptive binary arithmetic coding. segments: `segment_count` pairs of a length and a
 * stride, at most 2048 (0: none), that make up the symbols. Returns the bytes written, or 0 if `out_size` is too small. */
size_t onnxc_encode_adaptive(const uint8_t *symbols, const uint32_t *segments, size_t segment_count, unsigned bits,
                             unsigned centre, uint8_t *out, size_t out_size, void *scratch);

#endif
