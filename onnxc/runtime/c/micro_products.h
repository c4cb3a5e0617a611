/* micro_products.h: convolutions, matrix products and depthwise layers of 8-bit integers. */
#ifndef ONNXC_MICRO_PRODUCTS_H
#define ONNXC_MICRO_PRODUCTS_H

#ifdef ONNXC_HELIUM
#include "micro_helium.h"
#else
#include "micro_layers.h"

/* `count` quarters from x on. */
ONNXC_KERNEL uint32_t *onnxc_widen_run(const int8_t *x, uint32_t flip, int count, uint32_t *to, int gap) {
  const int8_t *end = x + 4 * count;
  for (; x != end; x += 4) to = onnxc_widen(onnxc_load(x) ^ flip, to, gap);
  return to;
}

ONNXC_KERNEL uint32_t *onnxc_fill_run(uint32_t pad, int count, uint32_t *to, int gap) {
  for (; count > 0; count--) to = onnxc_widen(pad, to, gap);
  return to;
}

/* The column of output pixel (row, column) at `to`: what the kernel's window covers. `bytes` is scratch. */
ONNXC_KERNEL void onnxc_column(const onnxc_conv_layer *s, const int8_t *x, int row, int column, uint32_t *to,
                               int gap, int8_t *bytes) {
  int ky, kx, c = s->c, iy = row * s->sh - s->top, left = column * s->sw - s->left;
  if ((c & 3) && s->kh == 1 && s->kw == 1 && iy >= 0 && iy < s->h && left >= 0 && left < s->w) { /* a pixel, and its rest */
    const int8_t *from = x + (iy * s->w + left) * c, *end = from + c;
    uint32_t rest = 0; /* what fills it up is multiplied with zero */
    to = onnxc_widen_run(from, s->flip, c >> 2, to, gap);
    while (end != from + (c & ~3)) rest = rest << 8 | (uint8_t)*--end;
    onnxc_widen(rest ^ s->flip, to, gap);
    return;
  }
  if (c & 3) { /* bytes first: windows of a few channels begin and end anywhere */
    int8_t *at = bytes;
    for (ky = 0; ky < s->kh; ky++, iy += s->dh) {
      int ix = left;
      const int8_t *line = x + iy * s->w * c;
      int inside = iy >= 0 && iy < s->h;
      if (inside && s->dw == 1 && ix >= 0 && ix + s->kw <= s->w) {
        const int8_t *from = line + ix * c, *end = from + s->kw * c;
        while (from != end) *at++ = *from++;
        continue;
      }
      for (kx = 0; kx < s->kw; kx++, ix += s->dw) {
        int i;
        if (inside && ix >= 0 && ix < s->w)
          for (i = 0; i < c; i++) *at++ = line[ix * c + i];
        else
          for (i = 0; i < c; i++) *at++ = (int8_t)((uint32_t)s->pad ^ s->flip);
      }
    }
    onnxc_widen_run(bytes, s->flip, s->steps, to, gap);
    return;
  }
  for (ky = 0; ky < s->kh; ky++, iy += s->dh) {
    int ix = left;
    const int8_t *line = x + iy * s->w * c;
    if (iy < 0 || iy >= s->h) {
      to = onnxc_fill_run((uint32_t)s->pad, s->kw * c >> 2, to, gap);
    } else if (s->dw == 1 && ix >= 0 && ix + s->kw <= s->w) {
      to = onnxc_widen_run(line + ix * c, s->flip, s->kw * c >> 2, to, gap);
    } else {
      for (kx = 0; kx < s->kw; kx++, ix += s->dw)
        to = ix >= 0 && ix < s->w ? onnxc_widen_run(line + ix * c, s->flip, c >> 2, to, gap)
                                  : onnxc_fill_run((uint32_t)s->pad, c >> 2, to, gap);
    }
  }
}

/* The products of a column, and of two, with all output channels. w: for each two of them the pairs of a column, a word a
 * pair: bytes (c0 k0) (c1 k0) (c0 k1) (c1 k1). scales: the table. */
#define ONNXC_STEP1(i)                          \
  ONNXC_LOAD2(x, 2 * (i), x0, x1);              \
  ONNXC_LOAD2(w, 2 * (i), v, u);                \
  a0 = onnxc_dot2(onnxc_even(v), x0, a0);       \
  a1 = onnxc_dot2(onnxc_odd(v), x0, a1);        \
  a0 = onnxc_dot2(onnxc_even(u), x1, a0);       \
  a1 = onnxc_dot2(onnxc_odd(u), x1, a1);        \
  ONNXC_LOAD2(other, 2 * (i), v, u);            \
  a2 = onnxc_dot2(onnxc_even(v), x0, a2);       \
  a3 = onnxc_dot2(onnxc_odd(v), x0, a3);        \
  a2 = onnxc_dot2(onnxc_even(u), x1, a2);       \
  a3 = onnxc_dot2(onnxc_odd(u), x1, a3)
ONNXC_KERNEL void onnxc_product1(const onnxc_conv_layer *s, const uint32_t *column, const uint32_t *w,
                                 const int32_t *scales, int8_t *y) {
  const int32_t offset = scales[0], shift = scales[1];
  const uint32_t *end = column + 2 * s->steps;
  int left = s->oc, i;
  for (scales += 2; left > 0; left -= 4, y += 4, scales += 8) {
    const uint32_t *x = column, *other = left > 2 ? w + 2 * s->steps : w;
    const int32_t *more = left > 2 ? scales + 4 : scales;
    int32_t a0 = scales[0], a1 = scales[2], a2 = more[0], a3 = more[2];
    uint32_t x0, x1, v, u;
    for (i = s->steps & 3; i > 0; i--) {
      ONNXC_STEP1(0);
      x += 2, w += 2, other += 2;
    }
    while (x != end) {
      ONNXC_STEP1(0);
      ONNXC_STEP1(1);
      ONNXC_STEP1(2);
      ONNXC_STEP1(3);
      x += 8, w += 8, other += 8;
    }
    w = other;
    y[0] = (int8_t)onnxc_requantise(a0, scales[1], offset, shift);
    y[1] = (int8_t)onnxc_requantise(a1, scales[3], offset, shift);
    if (left > 2) {
      y[2] = (int8_t)onnxc_requantise(a2, more[1], offset, shift);
      y[3] = (int8_t)onnxc_requantise(a3, more[3], offset, shift);
    }
  }
}

#define ONNXC_STEP2(i)                                                  \
  ONNXC_LOAD2(x, 4 * (i), x0, x1);                                      \
  ONNXC_LOAD2(w, 2 * (i), v, u);                                        \
  t = onnxc_even(v), v = onnxc_odd(v);                                  \
  a0 = onnxc_dot2(t, x0, a0), b0 = onnxc_dot2(t, x1, b0);               \
  a1 = onnxc_dot2(v, x0, a1), b1 = onnxc_dot2(v, x1, b1);               \
  ONNXC_LOAD2(x, 4 * (i) + 2, x0, x1);                                  \
  t = onnxc_even(u), u = onnxc_odd(u);                                  \
  a0 = onnxc_dot2(t, x0, a0), b0 = onnxc_dot2(t, x1, b0);               \
  a1 = onnxc_dot2(u, x0, a1), b1 = onnxc_dot2(u, x1, b1)
ONNXC_KERNEL void onnxc_product2(const onnxc_conv_layer *s, const uint32_t *columns, const uint32_t *w,
                                 const int32_t *scales, int8_t *y, int line) {
  const int32_t *ends = scales, *last = scales + 2 * s->oc;
  const uint32_t *end = columns + 4 * s->steps;
  for (scales += 2; scales <= last; y += 2, scales += 4) {
    const uint32_t *x = columns;
    int32_t a0 = scales[0], a1 = scales[2], b0 = a0, b1 = a1, m, offset, shift;
    uint32_t x0, x1, v, t, u;
    int i;
    for (i = s->steps & 3; i > 0; i--) {
      ONNXC_STEP2(0);
      x += 4, w += 2;
    }
    while (x != end) {
      ONNXC_STEP2(0);
      ONNXC_STEP2(1);
      ONNXC_STEP2(2);
      ONNXC_STEP2(3);
      x += 16, w += 8;
    }
    m = scales[1], offset = ends[0], shift = ends[1];
    y[0] = (int8_t)onnxc_requantise(a0, m, offset, shift);
    y[line] = (int8_t)onnxc_requantise(b0, m, offset, shift);
    m = scales[3];
    y[1] = (int8_t)onnxc_requantise(a1, m, offset, shift);
    y[line + 1] = (int8_t)onnxc_requantise(b1, m, offset, shift);
  }
}

ONNXC_INLINE void onnxc_product(const onnxc_conv_layer *s, const uint32_t *columns, int pixels, const int8_t *w,
                                const int32_t *scales, int8_t *y, int line) {
  if (pixels > 1)
    onnxc_product2(s, columns, (const uint32_t *)(const void *)w, scales, y, line);
  else
    onnxc_product1(s, columns, (const uint32_t *)(const void *)w, scales, y);
}

/* Convolutions and matrix products; a product of (m, k) has m columns of one row. Two output pixels a time, whose columns
 * stand in `work`: y may lie over the x of a 1x1 layer as long as no pixel is written before it is read. */
ONNXC_KERNEL void onnxc_conv(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, const void *r,
                             void *y, void *work) {
  const int8_t *residual = (const int8_t *)r;
  int8_t *to = (int8_t *)y;
  uint32_t *columns = (uint32_t *)work;
  int8_t *bytes = (int8_t *)(columns + 4 * s->steps); /* a column's, then two pixels of y */
  int left = s->oh * s->ow, row = 0, column = 0, apart = s->end != NULL || (s->oc & 1), i; /* channels are made in pairs */
  while (left > 0) {
    int pixels = left > 1 ? 2 : 1, line = apart ? s->oc + 1 : s->oc;
    int8_t *made = apart ? bytes : to;
    for (i = 0; i < pixels; i++) {
      onnxc_column(s, (const int8_t *)x, row, column, columns + i, pixels, bytes);
      if (++column == s->ow) column = 0, row++;
    }
    onnxc_product(s, columns, pixels, (const int8_t *)w, (const int32_t *)scales, made, line);
    for (i = 0; i < pixels; i++) {
      if (s->end)
        onnxc_more(s->end, made + i * line, residual, to, s->oc);
      else if (apart)
        memcpy(to, made + i * line, (size_t)s->oc);
      to += s->oc;
      if (residual) residual += s->oc;
    }
    left -= pixels;
  }
}

ONNXC_KERNEL void onnxc_plane(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to) {
  int i, c = s->c, row;
  uint32_t flip = s->flip;
  memset(to, (int)(s->pad & 255), (size_t)(s->lines * s->line));
  to += s->top * s->line + s->left;
  for (row = 0; row < s->h; row++, to += s->line) {
    int8_t *at = to;
    for (i = s->w; i >= 4; i -= 4, x += 4 * c, at += 4) {
      int8_t a = x[0], b = x[c], d = x[2 * c], e = x[3 * c];
      at[0] = (int8_t)((uint32_t)a ^ flip), at[1] = (int8_t)((uint32_t)b ^ flip);
      at[2] = (int8_t)((uint32_t)d ^ flip), at[3] = (int8_t)((uint32_t)e ^ flip);
    }
    for (; i > 0; i--, x += c) *at++ = (int8_t)((uint32_t)*x ^ flip);
  }
}

ONNXC_INLINE uint32_t onnxc_pair(int a, int b) { return (uint32_t)(uint16_t)a | (uint32_t)b << 16; }

/* sum and one product: the low or high 16 bits of a by the low of b */
ONNXC_INLINE int32_t onnxc_low_low(uint32_t a, uint32_t b, int32_t sum) { return sum + (int16_t)a * (int16_t)b; }
ONNXC_INLINE int32_t onnxc_high_low(uint32_t a, uint32_t b, int32_t sum) {
  return sum + ((int32_t)a >> 16) * (int16_t)b;
}

/* 3 x 3 without dilation on a plane: two outputs of a row at once with stride 1. */
ONNXC_KERNEL void onnxc_depthwise3(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w,
                                   const int32_t *ends, const int32_t *scale, int8_t *y) {
  uint32_t o0 = onnxc_pair(w[0], w[2]), o1 = onnxc_pair(w[3], w[5]), o2 = onnxc_pair(w[6], w[8]);
  uint32_t i0 = (uint32_t)w[1], i1 = (uint32_t)w[4], i2 = (uint32_t)w[7], v, e, d;
  int row, left, line = s->line, c = s->c;
  const int32_t bias = scale[0], m = scale[1], offset = ends[0], shift = ends[1];
  for (row = 0; row < s->oh; row++, plane += s->sh * line) {
    const int8_t *x = plane;
    left = s->ow;
    if (s->sw == 1) { /* two at once, and one if their number is odd */
      for (left = s->ow >> 1; left > 0; left--, x += 2) {
        int32_t a, b;
        v = onnxc_load(x), e = onnxc_even(v), d = onnxc_odd(v);
        a = onnxc_low_low(d, i0, onnxc_dot2(e, o0, bias)), b = onnxc_high_low(e, i0, onnxc_dot2(d, o0, bias));
        v = onnxc_load(x + line), e = onnxc_even(v), d = onnxc_odd(v);
        a = onnxc_low_low(d, i1, onnxc_dot2(e, o1, a)), b = onnxc_high_low(e, i1, onnxc_dot2(d, o1, b));
        v = onnxc_load(x + 2 * line), e = onnxc_even(v), d = onnxc_odd(v);
        a = onnxc_low_low(d, i2, onnxc_dot2(e, o2, a)), b = onnxc_high_low(e, i2, onnxc_dot2(d, o2, b));
        y[0] = (int8_t)onnxc_requantise(a, m, offset, shift);
        y[c] = (int8_t)onnxc_requantise(b, m, offset, shift);
        y += 2 * c;
      }
      left = s->ow & 1;
    }
    for (; left > 0; left--, x += s->sw) {
      int32_t a;
      v = onnxc_load(x), a = onnxc_low_low(onnxc_odd(v), i0, onnxc_dot2(onnxc_even(v), o0, bias));
      v = onnxc_load(x + line), a = onnxc_low_low(onnxc_odd(v), i1, onnxc_dot2(onnxc_even(v), o1, a));
      v = onnxc_load(x + 2 * line), a = onnxc_low_low(onnxc_odd(v), i2, onnxc_dot2(onnxc_even(v), o2, a));
      *y = (int8_t)onnxc_requantise(a, m, offset, shift), y += c;
    }
  }
}

ONNXC_KERNEL void onnxc_depthwise_any(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w,
                                      const int32_t *ends, const int32_t *scale, int8_t *y) {
  int row, column, i, j;
  for (row = 0; row < s->oh; row++) {
    for (column = 0; column < s->ow; column++, y += s->c) {
      const int8_t *k = w;
      int32_t sum = scale[0];
      for (i = 0; i < s->kh; i++) {
        const int8_t *x = plane + (row * s->sh + i * s->dh) * s->line + column * s->sw;
        for (j = 0; j < s->kw; j++, x += s->dw) sum += *x * *k++;
      }
      *y = (int8_t)onnxc_requantise(sum, scale[1], ends[0], ends[1]);
    }
  }
}

ONNXC_KERNEL void onnxc_depthwise(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales,
                                  void *y, void *work) {
  const int32_t *ends = (const int32_t *)scales, *scale = ends + 2;
  const int8_t *k = (const int8_t *)w;
  int8_t *plane = (int8_t *)work;
  int i, three = s->kh == 3 && s->kw == 3 && s->dh == 1 && s->dw == 1;
  for (i = 0; i < s->c; i++, k += s->kh * s->kw, scale += 2) {
    onnxc_plane(s, (const int8_t *)x + i, plane);
    (three ? onnxc_depthwise3 : onnxc_depthwise_any)(s, plane, k, ends, scale, (int8_t *)y + i);
  }
  if (s->end) onnxc_more(s->end, (int8_t *)y, NULL, (int8_t *)y, s->oh * s->ow * s->c);
}

#endif
#endif
