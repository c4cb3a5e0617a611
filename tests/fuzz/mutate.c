/* Decode damaged inputs of decode_fuzz.c, so many and the same in every run: mutate CASES SEED... . Each must end with a
 * status of decode.h; what else could go wrong the sanitisers see. Prints how often each status came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "decode_fuzz.h"

#define MOST 65536

static uint64_t state = 88172645463325252u;

static uint32_t below(uint32_t n) /* xorshift64 (Marsaglia 2003) */
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)((state >> 32) % n);
}

/* One to three changes: a bit, an extreme byte, an extreme size, bytes taken out, doubled, or cut off. */
static size_t damage(uint8_t *data, size_t size)
{
  static const uint8_t bytes[] = {0, 1, 127, 128, 255};
  static const uint32_t sizes[] = {0, 1, 0x80000000u, 0xffffffffu};
  unsigned changes = 1 + below(3);
  while (changes-- && size > 16) {
    size_t at = below((uint32_t)size - 12), n = 1 + below(8);
    switch (below(8)) {
    case 0: case 1: case 2: data[at] ^= (uint8_t)(1u << below(8)); break;
    case 3: data[at] = bytes[below(5)]; break;
    case 4: memcpy(data + at, &sizes[below(4)], 4); break;
    case 5:
      memmove(data + at, data + at + n, size - at - n);
      size -= n;
      break;
    case 6:
      memmove(data + at + n, data + at, size - at);
      size += n;
      break;
    default:
      if (below(8) == 0) size = at + 4;
      else data[below(64) % size] = (uint8_t)below(256); /* flags, sizes and tables stand in front */
    }
  }
  return size;
}

int main(int argc, char **argv)
{
  static uint8_t data[MOST + 32];
  long cases = argc > 2 ? atol(argv[1]) : 0, times[6] = {0};
  int seeds = argc - 2;
  for (long i = 0; i < cases; i++) {
    FILE *file = fopen(argv[2 + i % seeds], "rb");
    size_t size = file ? fread(data, 1, MOST, file) : 0;
    int status;
    if (file) fclose(file);
    if (size < 5 || size == MOST) {
      fprintf(stderr, "%s: not a seed of 5 to %d bytes\n", argv[2 + i % seeds], MOST - 1);
      return 2;
    }
    if (i < seeds && decode_once(data, size) != ONNXC_DECODE_OK) {
      fprintf(stderr, "%s: sound, and refused\n", argv[2 + i]);
      return 1;
    }
    status = decode_once(data, damage(data, size));
    if (status < 0 || status > 5) {
      fprintf(stderr, "case %ld: status %d\n", i, status);
      return 1;
    }
    times[status]++;
  }
  printf("%ld mutated: %ld decode, %ld truncated, %ld format, %ld table, %ld stream, %ld size\n", cases, times[0], times[1],
         times[2], times[3], times[4], times[5]);
  return 0;
}
