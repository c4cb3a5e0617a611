/* Decoder of entropy-coded weights. The format, to the byte: docs/archive.md, section "A coded array".
 *
 * No allocation, no global state, no libc but memcpy and memset. Every byte of the input is untrusted: whatever it holds,
 * nothing outside coded[0, coded_size), out[0, out_size) and the scratch memory is touched, and the time is bounded by
 * out_size. Two threads may decode at once, each with a scratch of its own.
 */
#ifndef ONNXC_DECODE_H
#define ONNXC_DECODE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  ONNXC_DECODE_OK = 0,
  ONNXC_DECODE_TRUNCATED = 1, /* the input ends inside something that it announces */
  ONNXC_DECODE_FORMAT = 2,    /* a field holds what this version does not know */
  ONNXC_DECODE_TABLE = 3,     /* code lengths that are no complete prefix code */
  ONNXC_DECODE_STREAM = 4,    /* a stream holds more or fewer bits than its symbols take, or a symbol out of range */
  ONNXC_DECODE_SIZE = 5       /* the sizes do not agree with those of the output */
};

/* Bytes of scratch memory, aligned to 4, that every call needs; its contents need no preparation. */
#define ONNXC_DECODE_SCRATCH (2 * 2 * 8192 * 4 + 2 * 66048)

/* Decode a whole coded array. `out_size` is its exact size in bytes: elements times width. Returns a status; after
 * an error the output holds anything. */
int onnxc_decode(const uint8_t *coded, size_t coded_size, uint8_t *out, size_t out_size, void *scratch);

/* Decode one slab: `count` elements (1 to 1,048,320) of `width` bytes (1, 2, 4 or 8), into count * width bytes at `out`. */
int onnxc_decode_slab(const uint8_t *slab, size_t slab_size, unsigned width, uint32_t count, uint8_t *out, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
