/* Encoder of adaptive planes, for `onnxc pack`; libraries hold the decoder alone. The format: docs/archive.md. */
#include "adaptive.h"
#include "encode.h"

struct writer {
  uint8_t *at, *end;
  uint32_t low, high;
  int full;
};

static void put(struct writer *out, unsigned byte)
{
  if (out->at == out->end) out->full = 1;
  else *out->at++ = (uint8_t)byte;
}

size_t onnxc_encode_adaptive(const uint8_t *symbols, const uint32_t *segments, size_t segment_count, unsigned bits,
                             unsigned centre, uint8_t *out, size_t out_size, void *memory)
{
  struct adaptive *model = memory;
  struct writer writer = {out, out + out_size, 0, 0xffffffffu, 0};
  size_t i;
  uint32_t k;
  int level;
  adaptive_start(model, bits, centre);
  for (i = 0; i < segment_count; i++) {
    model->since = 0, model->stride = segments[2 * i + 1];
    for (k = 0; k < segments[2 * i] && !writer.full; k++, symbols++) {
      adaptive_symbol(model);
      for (level = (int)bits - 1; level >= 0; level--) {
        uint32_t middle = writer.low + ((writer.high - writer.low) >> 12) * (uint32_t)adaptive_chance(model);
        unsigned bit = *symbols >> level & 1;
        if (bit) writer.high = middle;
        else writer.low = middle + 1;
        adaptive_learn(model, bit);
        for (; (writer.low ^ writer.high) >> 24 == 0; writer.low <<= 8, writer.high = writer.high << 8 | 255)
          put(&writer, writer.high >> 24);
      }
      adaptive_remember(model, *symbols);
    }
  }
  /* One more byte, zeros behind it, stands for a number between the bounds. */
  put(&writer, writer.low ? (writer.low >> 24) + 1 : 0);
  return writer.full ? 0 : (size_t)(writer.at - out);
}
