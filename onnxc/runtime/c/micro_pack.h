/* micro_pack.h: floats become packed bits, and packed bits are pooled. */
#ifndef ONNXC_MICRO_PACK_H
#define ONNXC_MICRO_PACK_H

#include "micro.h"

/* How floats of `c` channels become bits: x >= 0 (bits 1, mode 0), clip(round(x / scale)) with one scale (1) or c (2), residual
 * planes (3). A pixel has `line` words, a group `words` of those; `plane` words lie between planes. Padding has the bits of `pad`. */
typedef struct {
  int16_t n, h, w, c, groups, top, left, rows, columns, line, words, bits, mode, low, high, pad;
  int16_t sh, sw, xh, xw; /* the pixel (i, j) is that of row i sh and column j sw of x, of xh rows and xw columns */
  int32_t plane;
} onnxc_pack_layer;

/* All of a packed tensor as its padding is. */
ONNXC_KERNEL void onnxc_padding(const onnxc_pack_layer *s, uint32_t *to) {
  int p, i, g, k, each = s->c / s->groups;
  for (p = 0; p < s->bits; p++, to += s->plane) {
    uint32_t *at = to;
    if (!(s->pad >> p & 1)) {
      memset(to, 0, 4 * (size_t)s->plane);
      continue;
    }
    for (i = s->plane / s->line; i > 0; i--)
      for (g = 0; g < s->groups; g++)
        for (k = 0; k < s->words; k++) {
          int left = each - 32 * k;
          *at++ = left >= 32 ? 0xffffffffu : left > 0 ? (1u << left) - 1 : 0;
        }
  }
}

#ifdef ONNXC_MVE
/* The bits of 16 codes, plane by plane. P0 is the compiler's, too; GCC 12 fails on predicates of vectors that it knows to be 0 or 1. */
ONNXC_INLINE void onnxc_put16(const uint8_t *codes, int bits, int plane, uint16_t *to) {
  uint8x16_t v = vldrbq_u8(codes), tested;
  uint32_t bit, made, p0;
  for (bit = 1; bits > 0; bits--, bit *= 2, to += 2 * plane) {
    __asm__("vmrs %2, p0\n\tvdup.8 %q1, %4\n\tvand %q1, %q1, %q3\n\tvcmp.i8 ne, %q1, zr\n\tvmrs %0, p0\n\tvmsr p0, %2"
            : "=&r"(made), "=&w"(tested), "=&r"(p0) : "w"(v), "r"(bit));
    *to = (uint16_t)made;
  }
}

/* 1 where a number is negative, else 0. */
ONNXC_INLINE int32x4_t onnxc_below4(int32x4_t v) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), 31)); }

/* 1 where a float is 0 or more, else 0. By its bits, as vectors take tiny numbers for 0. */
ONNXC_INLINE int32x4_t onnxc_signs4(float32x4_t v) {
  const int32x4_t bits = vreinterpretq_s32_f32(v), size = vandq_s32(bits, vdupq_n_s32(0x7fffffff));
  const int32x4_t negative = vbicq_s32(onnxc_below4(bits), onnxc_below4(vsubq_n_s32(size, 1))); /* not -0 */
  return vbicq_s32(onnxc_below4(vsubq_n_s32(size, 0x7f800001)), negative);                       /* no NaN */
}

/* A pixel of floats, 16 channels at a time; not of residual planes. */
ONNXC_KERNEL void onnxc_pack_pixel16(const onnxc_pack_layer *s, const float *x, const float *scale, uint32_t *to) {
  const int each = s->c / s->groups, step = s->mode == 2 ? 4 : 0;
  const float32x4_t low = vdupq_n_f32((float)s->low), high = vdupq_n_f32((float)s->high);
  const float own[4] = {scale ? scale[0] : 1, scale ? scale[0] : 1, scale ? scale[0] : 1, scale ? scale[0] : 1};
  const float *by = step ? scale : own;
  uint8_t codes[16];
  int g, c, i;
  for (g = 0; g < s->groups; g++, to += s->words)
    for (c = 0; c < each; c += 16) {
      for (i = 0; i < 16; i += 4, x += 4, by += step) {
        float32x4_t v = vldrwq_f32(x);
        int32x4_t code;
        if (s->mode == 0) {
          code = onnxc_signs4(v);
        } else {
          v[0] /= by[0], v[1] /= by[1], v[2] /= by[2], v[3] /= by[3]; /* vectors do not divide */
          v = vpselq_f32(low, v, vcmpltq_f32(v, low));
          code = vcvtnq_s32_f32(vpselq_f32(high, v, vcmpgtq_f32(v, high)));
        }
        vstrbq_s32((int8_t *)codes + i, code);
      }
      onnxc_put16(codes, s->bits, s->plane, (uint16_t *)(void *)to + (c >> 4));
    }
}
#endif

/* A pixel of floats. */
ONNXC_KERNEL void onnxc_pack_pixel(const onnxc_pack_layer *s, const float *x, const float *scale, uint32_t *to) {
  const int bits = s->bits;
  int p, c, g, each = s->c / s->groups;
#ifdef ONNXC_MVE
  if (each % 32 == 0 && s->mode != 3) {
    onnxc_pack_pixel16(s, x, scale, to);
    return;
  }
#endif
  for (g = 0; g < s->groups; g++, to += s->words)
    for (c = 0; c < each;) {
      uint32_t made[8] = {0}, bit = 1;
      int word = c >> 5;
      for (; bit && c < each; bit <<= 1, c++) {
        float v = *x++;
        if (s->mode == 0) {
          made[0] |= v >= 0 ? bit : 0;
        } else if (s->mode == 3) {
          for (p = 0; p < s->bits; p++)
            if (v >= 0)
              made[p] |= bit, v -= scale[p];
            else
              v += scale[p];
        } else {
          int32_t code;
          v /= s->mode == 1 ? scale[0] : scale[g * each + c];
          code = onnxc_round(v < s->low ? s->low : v > s->high ? s->high : v);
          for (p = 0; p < bits; p++) made[p] |= ((uint32_t)code >> p & 1u) << (c & 31);
        }
      }
      for (p = 0; p < s->bits; p++) to[p * s->plane + word] = made[p];
    }
}

ONNXC_INLINE uint32_t *onnxc_pixel(const onnxc_pack_layer *s, uint32_t *to, int n, int row, int column) {
  return to + ((n * s->rows + s->top + row) * s->columns + s->left + column) * s->line;
}

ONNXC_KERNEL void onnxc_pack(const onnxc_pack_layer *s, const void *x, const void *scale, void *y) {
  int n, row, column;
  onnxc_padding(s, (uint32_t *)y);
  for (n = 0; n < s->n; n++)
    for (row = 0; row < s->h; row++)
      for (column = 0; column < s->w; column++) {
        const float *from = (const float *)x + ((n * s->xh + row * s->sh) * s->xw + column * s->sw) * s->c;
        onnxc_pack_pixel(s, from, (const float *)scale, onnxc_pixel(s, (uint32_t *)y, n, row, column));
      }
}

/* The greatest of +-1 over windows: the or of bits. x has `xh` rows and `xw` columns without padding. */
typedef struct {
  onnxc_pack_layer pack;
  int16_t kh, kw, sh, sw, dh, dw, top, left;
} onnxc_pool_bits_layer;

ONNXC_KERNEL void onnxc_pool_bits(const onnxc_pool_bits_layer *s, const void *x, void *y) {
  const onnxc_pack_layer *p = &s->pack;
  int n, row, column, i, j, k;
  onnxc_padding(p, (uint32_t *)y);
  for (n = 0; n < p->n; n++)
    for (row = 0; row < p->h; row++)
      for (column = 0; column < p->w; column++) {
        uint32_t *to = onnxc_pixel(p, (uint32_t *)y, n, row, column);
        for (k = 0; k < p->line; k++) {
          uint32_t bits = 0;
          for (i = 0; i < s->kh; i++) {
            int r = row * s->sh - s->top + i * s->dh;
            if (r < 0 || r >= p->xh) continue;
            for (j = 0; j < s->kw; j++) {
              int c = column * s->sw - s->left + j * s->dw;
              if (c >= 0 && c < p->xw) bits |= ((const uint32_t *)x)[((n * p->xh + r) * p->xw + c) * p->line + k];
            }
          }
          to[k] = bits;
        }
      }
}

#endif
