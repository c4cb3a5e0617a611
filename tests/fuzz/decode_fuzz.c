/* The decoder under libFuzzer: every input in a block of its exact size, every output too, so that the address sanitiser
 * sees one byte beyond either. tests/fuzz/run.sh builds and runs it. The first byte chooses width and entry point, the next
 * three the number of elements. */
#include "decode_fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "decode.h"

int decode_once(const uint8_t *data, size_t size)
{
  unsigned width;
  uint32_t count;
  uint8_t *coded, *out;
  int status;
  static uint32_t scratch[ONNXC_DECODE_SCRATCH / 4];
  if (size < 4) return ONNXC_DECODE_TRUNCATED;
  width = 1u << (data[0] & 3);
  count = (data[1] | (uint32_t)data[2] << 8 | (uint32_t)data[3] << 16) & 0x3ffff;
  coded = malloc(size - 4 ? size - 4 : 1);
  out = malloc((size_t)count * width ? (size_t)count * width : 1);
  memcpy(coded, data + 4, size - 4);
  if (data[0] & 4) status = onnxc_decode(coded, size - 4, out, (size_t)count * width, scratch);
  else status = onnxc_decode_slab(coded, size - 4, width, count, out, scratch);
  free(coded);
  free(out);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  decode_once(data, size);
  return 0;
}
