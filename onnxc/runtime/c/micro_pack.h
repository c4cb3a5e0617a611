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

/* A pixel of floats. */
ONNXC_KERNEL void onnxc_pack_pixel(const onnxc_pack_layer *s, const float *x, const float *scale, uint32_t *to) {
  const int bits = s->bits;
  int p, c, g, each = s->c / s->groups;
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
