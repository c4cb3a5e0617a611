/* Bytes that are read in order, and words of them on machines of either byte order. */
#ifndef ONNXC_BYTES_H
#define ONNXC_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct reader {
  const uint8_t *at, *end;
};

static size_t left(const struct reader *r) { return (size_t)(r->end - r->at); }

static uint32_t get16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static uint32_t get32(const uint8_t *p) { return get16(p) | get16(p + 2) << 16; }

static uint64_t get64(const uint8_t *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  uint64_t v;
  memcpy(&v, p, 8);
  return v;
#else
  return get32(p) | (uint64_t)get32(p + 4) << 32;
#endif
}

static void put32(uint8_t *p, uint32_t v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  memcpy(p, &v, 4);
#else
  p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8), p[2] = (uint8_t)(v >> 16), p[3] = (uint8_t)(v >> 24);
#endif
}

/* The bits of a stream come highest first. */
static uint64_t big64(const uint8_t *p)
{
#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return __builtin_bswap64(get64(p));
#else
  uint64_t v = 0;
  int i;
  for (i = 0; i < 8; i++) v = v << 8 | p[i];
  return v;
#endif
}

static unsigned trailing_zeros(uint64_t v)
{
#if defined(__GNUC__)
  return (unsigned)__builtin_ctzll(v);
#else
  unsigned n = 0;
  while (!(v & 1)) v >>= 1, n++;
  return n;
#endif
}

#endif
