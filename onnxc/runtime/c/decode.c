/* Decoder of entropy-coded weights: slabs of planes (planes.h), sparse or not, with a palette, as fields of bits, of floats.
 * A part of decode.h's format is what `scatter` writes: the bytes of one plane, each where it belongs. */
#include "planes.h"

#define SLAB 1048320u /* elements of a slab: as bytes, whole numbers of 1 to 8 bits */

enum { SPARSE = 1, ROTATED = 2, PALETTE = 4, FIELDS = 8 };

struct scratch {
  union tools tools[2];
  uint8_t symbols[2][BLOCK];
};

typedef char scratch_is_as_announced[sizeof(struct scratch) == ONNXC_DECODE_SCRATCH ? 1 : -1];

struct slab {
  struct reader gaps;         /* at a plane, if the slab is sparse */
  const uint8_t *palette;
  uint32_t count, bytes, stored; /* elements or fields, bytes of them, and how many are coded */
  unsigned width, flags, colours, bits;
};

/* Field number `position` of a stream of bits, lowest first; the stream holds zeros. Whether it fits. */
static int put_field(uint8_t *out, const struct slab *slab, uint64_t position, unsigned symbol)
{
  uint64_t at = position * slab->bits;
  uint32_t byte = (uint32_t)(at >> 3);
  unsigned value = symbol << (at & 7);
  out[byte] = (uint8_t)(out[byte] | value);
  if (value >> 8 && byte + 1 < slab->bytes) out[byte + 1] = (uint8_t)(out[byte + 1] | value >> 8);
  return symbol >> slab->bits == 0 && (value >> 8 == 0 || byte + 1 < slab->bytes);
}

/* Byte `byte` of every coded element, or, with a palette, its index: decoded, and written where it belongs. */
static int scatter(struct reader *in, const struct slab *slab, unsigned byte, uint8_t *out, struct scratch *scratch)
{
  struct plane values, gaps;
  struct reader gap_reader = slab->gaps;
  unsigned width = slab->width, b;
  uint64_t position = 0;
  uint32_t i, n;
  int sparse = slab->flags & SPARSE, status = open_plane(in, &values, slab->stored, &scratch->tools[0]);
  if (!status && sparse) status = open_plane(&gap_reader, &gaps, slab->stored, &scratch->tools[1]);
  while (!status && values.left) {
    const uint8_t *symbol = scratch->symbols[0], *gap = scratch->symbols[1];
    n = values.left < BLOCK ? values.left : BLOCK;
    if (!sparse && width == 1 && !slab->palette && !slab->bits) {
      status = next_symbols(&values, out + position, n);
      position += n;
      continue;
    }
    status = next_symbols(&values, scratch->symbols[0], n);
    if (!status && sparse) status = next_symbols(&gaps, scratch->symbols[1], n);
    for (i = 0; !status && i < n; i++, position++) {
      if (sparse) position += gap[i];
      if (position >= slab->count) return ONNXC_DECODE_STREAM;
      if (slab->bits) {
        if (!put_field(out, slab, position, symbol[i])) return ONNXC_DECODE_STREAM;
        continue;
      }
      if (!slab->palette) {
        out[position * width + byte] = symbol[i];
        continue;
      }
      if (symbol[i] >= slab->colours) return ONNXC_DECODE_STREAM;
      for (b = 0; b < width; b++) out[position * width + b] = slab->palette[symbol[i] * width + b];
    }
  }
  if (!status) status = closed(&values);
  return status || !sparse ? status : closed(&gaps);
}

/* Floats are coded with the sign below the mantissa, so that the exponent has bytes of its own. */
static void rotate_back(uint8_t *out, uint32_t count, unsigned width)
{
  uint32_t i;
  unsigned b;
  for (i = 0; i < count; i++, out += width) {
    uint8_t sign = out[0] & 1;
    for (b = 0; b + 1 < width; b++) out[b] = (uint8_t)(out[b] >> 1 | out[b + 1] << 7);
    out[b] = (uint8_t)(out[b] >> 1 | sign << 7);
  }
}

int onnxc_decode_slab(const uint8_t *data, size_t size, unsigned width, uint32_t count, uint8_t *out, void *memory)
{
  struct reader in = {data, data + size};
  struct slab slab = {{0, 0}, 0, count, 0, 0, width, 0, 0, 0};
  struct scratch *scratch = memory;
  unsigned byte, planes = width;
  int status = ONNXC_DECODE_OK;
  if ((width != 1 && width != 2 && width != 4 && width != 8) || !count || count > SLAB) return ONNXC_DECODE_SIZE;
  if (size < 1) return ONNXC_DECODE_TRUNCATED;
  slab.flags = *in.at++;
  if (slab.flags > 15 || ((slab.flags & PALETTE) && (slab.flags & ROTATED))) return ONNXC_DECODE_FORMAT;
  slab.bytes = count * width;
  if (slab.flags & FIELDS) {
    if (width != 1 || (slab.flags & (PALETTE | ROTATED))) return ONNXC_DECODE_FORMAT;
    if (left(&in) < 1) return ONNXC_DECODE_TRUNCATED;
    slab.bits = *in.at++;
    if (slab.bits < 1 || slab.bits > 7) return ONNXC_DECODE_FORMAT;
    slab.count = (8 * count + slab.bits - 1) / slab.bits;
  }
  if (slab.flags & (SPARSE | FIELDS)) memset(out, 0, slab.bytes);
  slab.stored = slab.count;
  if (slab.flags & SPARSE) {
    if (left(&in) < 4 + 5) return ONNXC_DECODE_TRUNCATED;
    slab.stored = get32(in.at);
    in.at += 4;
    slab.gaps = in;
    if (slab.stored > slab.count) return ONNXC_DECODE_SIZE;
    if (left(&in) - 5 < get32(in.at + 1)) return ONNXC_DECODE_TRUNCATED;
    in.at += 5 + get32(in.at + 1);
  }
  if (slab.flags & PALETTE) {
    if (left(&in) < 1) return ONNXC_DECODE_TRUNCATED;
    slab.colours = *in.at++ + 1u;
    if (left(&in) < (size_t)slab.colours * width) return ONNXC_DECODE_TRUNCATED;
    slab.palette = in.at;
    in.at += slab.colours * width;
    planes = 1;
  }
  for (byte = 0; byte < planes && !status; byte++) status = scatter(&in, &slab, byte, out, scratch);
  if (!status && left(&in)) status = ONNXC_DECODE_SIZE;
  if (!status && (slab.flags & ROTATED)) rotate_back(out, count, width);
  return status;
}

int onnxc_decode(const uint8_t *data, size_t size, uint8_t *out, size_t out_size, void *scratch)
{
  struct reader in = {data, data + size};
  unsigned width;
  uint64_t count;
  if (size < 12) return ONNXC_DECODE_TRUNCATED;
  width = data[1];
  count = get64(data + 4);
  if (data[0] != 1 || get16(data + 2) || (width != 1 && width != 2 && width != 4 && width != 8)) return ONNXC_DECODE_FORMAT;
  if (out_size % width || count != out_size / width) return ONNXC_DECODE_SIZE;
  for (in.at += 12; count;) {
    uint32_t n = count < SLAB ? (uint32_t)count : SLAB;
    size_t bytes;
    int status;
    if (left(&in) < 4) return ONNXC_DECODE_TRUNCATED;
    bytes = get32(in.at);
    in.at += 4;
    if (left(&in) < bytes) return ONNXC_DECODE_TRUNCATED;
    status = onnxc_decode_slab(in.at, bytes, width, n, out, scratch);
    if (status) return status;
    in.at += bytes;
    out += (size_t)n * width;
    count -= n;
  }
  return left(&in) ? ONNXC_DECODE_SIZE : ONNXC_DECODE_OK;
}
