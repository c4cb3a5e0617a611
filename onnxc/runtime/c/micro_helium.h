/* micro_helium.h: convolutions, matrix products and depthwise layers by Arm's vectors of microcontrollers (MVE), 16 products an
 * instruction; without the compiler's intrinsics the same layers, weights and tables in plain C.
 *
 * A table of scales has z and 0, then for each four channels their biases and their factors.
 */
#ifndef ONNXC_MICRO_HELIUM_H
#define ONNXC_MICRO_HELIUM_H

#include "micro_layers.h"

#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__)
#define ONNXC_MVE 1 /* compilers move predicates and pointers about: the innermost parts are assembler */

/* Four sums as bytes: m float(sum), rounded to even, + offset, saturated; bytes in the lowest parts of the lanes. */
ONNXC_INLINE int32x4_t onnxc_bytes4(int32x4_t sums, float32x4_t m, int32_t offset) {
  int32x4_t v = vaddq_n_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), m)), offset);
  __asm__("vqmovnb.s32 %q0, %q0\n\tvqmovnb.s16 %q0, %q0" : "+w"(v));
  return v;
}

/* The sums of `count` products, more than 0, of x with four rows of weights; what is beyond the last counts as zeros. */
ONNXC_INLINE int32x4_t onnxc_dots(const int8_t *x, const int8_t *w0, const int8_t *w1, const int8_t *w2, const int8_t *w3, int count) {
  int32_t a = 0, b = 0, c = 0, d = 0;
  int32x4_t v;
  __asm__ volatile(
      "wlstp.8 lr, %[count], 2f\n"
      "1:\n\tvldrb.8 q0, [%[x]], #16\n\t"
      "vldrb.8 q1, [%[w0]], #16\n\tvmladava.s8 %[a], q0, q1\n\t"
      "vldrb.8 q2, [%[w1]], #16\n\tvmladava.s8 %[b], q0, q2\n\t"
      "vldrb.8 q1, [%[w2]], #16\n\tvmladava.s8 %[c], q0, q1\n\t"
      "vldrb.8 q2, [%[w3]], #16\n\tvmladava.s8 %[d], q0, q2\n\t"
      "letp lr, 1b\n2:"
      : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [x] "+r"(x), [w0] "+r"(w0), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3)
      : [count] "r"(count)
      : "q0", "q1", "q2", "lr", "memory");
  __asm__("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4" : "=&w"(v) : "r"(a), "r"(b), "r"(c), "r"(d));
  return v;
}

/* Bytes x[at[0]] to x[at[3]]. */
ONNXC_INLINE int32x4_t onnxc_gather(const int8_t *x, uint32x4_t at) {
  int32x4_t v;
  __asm__ volatile("vldrb.s32 %q0, [%1, %q2]" : "=&w"(v) : "r"(x), "w"(at) : "memory");
  return v;
}
#endif

/* `count` bytes of x; to + count. */
ONNXC_INLINE int8_t *onnxc_copy(const int8_t *x, uint32_t flip, int count, int8_t *to) {
  int8_t *end = to + count;
#ifdef ONNXC_MVE
  int8x16_t f = vdupq_n_s8((int8_t)(flip & 255));
  for (; count >= 16; count -= 16, x += 16, to += 16) vstrbq_s8(to, veorq_s8(vldrbq_s8(x), f));
  if (count > 0) {
    mve_pred16_t p = vctp8q((uint32_t)count);
    vstrbq_p_s8(to, veorq_s8(vldrbq_z_s8(x, p), f), p);
  }
#else
  while (to != end) *to++ = (int8_t)((uint8_t)*x++ ^ (flip & 255));
#endif
  return end;
}

/* The column of output pixel (row, column): what the kernel's window covers. */
ONNXC_KERNEL void onnxc_column(const onnxc_conv_layer *s, const int8_t *x, int row, int column, int8_t *to) {
  int ky, kx, c = s->c, iy = row * s->sh - s->top, left = column * s->sw - s->left;
  for (ky = 0; ky < s->kh; ky++, iy += s->dh) {
    int ix = left;
    const int8_t *line = x + iy * s->w * c;
    if (iy < 0 || iy >= s->h) {
      memset(to, (int)(s->pad & 255), (size_t)(s->kw * c));
      to += s->kw * c;
    } else if (s->dw == 1 && ix >= 0 && ix + s->kw <= s->w) {
      to = onnxc_copy(line + ix * c, s->flip, s->kw * c, to);
    } else {
      for (kx = 0; kx < s->kw; kx++, ix += s->dw) {
        if (ix >= 0 && ix < s->w)
          to = onnxc_copy(line + ix * c, s->flip, c, to);
        else
          memset(to, (int)(s->pad & 255), (size_t)c), to += c;
      }
    }
  }
}

/* The products of a column of `count` bytes with all output channels. w: the bytes of each channel's window. */
ONNXC_KERNEL void onnxc_product(const int8_t *column, int count, const int8_t *w, const int32_t *scales, int8_t *y, int left) {
  const int32_t offset = scales[0];
#ifdef ONNXC_MVE
  for (scales += 2; left > 0; left -= 4, y += 4, scales += 8, w += 4 * count) {
    const int8_t *w1 = left > 1 ? w + count : w, *w2 = left > 2 ? w1 + count : w, *w3 = left > 3 ? w2 + count : w;
    int32x4_t v = vaddq_s32(onnxc_dots(column, w, w1, w2, w3, count), vldrwq_s32(scales));
    v = onnxc_bytes4(v, vldrwq_f32((const float *)(const void *)(scales + 4)), offset);
    if (left >= 4)
      vstrbq_s32(y, v);
    else
      vstrbq_p_s32(y, v, vctp32q((uint32_t)left));
  }
#else
  int i, n;
  for (scales += 2, n = 0; n < left; n++, scales += n & 3 ? 1 : 5) {
    int32_t sum = scales[0];
    for (i = 0; i < count; i++) sum += column[i] * *w++;
    y[n] = (int8_t)onnxc_requantise(sum, scales[4], offset, 0);
  }
#endif
}

/* An output pixel a time, whose column stands in `work`: y may lie over the x of a 1x1 layer as long as no pixel is written before
 * it is read. */
ONNXC_KERNEL void onnxc_conv(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, const void *r,
                             void *y, void *work) {
  const int8_t *residual = (const int8_t *)r;
  int8_t *to = (int8_t *)y, *columns = (int8_t *)work, *apart = columns + 4 * s->steps;
  int row, column, count = s->kh * s->kw * s->c;
  for (row = 0; row < s->oh; row++)
    for (column = 0; column < s->ow; column++, to += s->oc) {
      onnxc_column(s, (const int8_t *)x, row, column, columns);
      onnxc_product(columns, count, (const int8_t *)w, (const int32_t *)scales, s->end ? apart : to, s->oc);
      if (s->end) onnxc_more(s->end, apart, residual, to, s->oc);
      if (residual) residual += s->oc;
    }
}

/* A channel's plane, with padding around it. */
ONNXC_KERNEL void onnxc_plane(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to) {
  int i, c = s->c, row;
  memset(to, (int)(s->pad & 255), (size_t)(s->lines * s->line));
  to += s->top * s->line + s->left;
  for (row = 0; row < s->h; row++, to += s->line) {
    int8_t *at = to;
#ifdef ONNXC_MVE
    const int16x8_t f = vdupq_n_s16((int16_t)(s->flip & 255));
    const uint16x8_t apart = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)c);
    for (i = s->w; i >= 8; i -= 8, x += 8 * c, at += 8)
      vstrbq_s16(at, veorq_s16(vldrbq_gather_offset_s16(x, apart), f));
    if (i > 0) {
      mve_pred16_t p = vctp16q((uint32_t)i);
      vstrbq_p_s16(at, veorq_s16(vldrbq_gather_offset_z_s16(x, apart, p), f), p);
      x += i * c;
    }
#else
    for (i = s->w; i > 0; i--, x += c) *at++ = (int8_t)((uint8_t)*x ^ (s->flip & 255));
#endif
  }
}

/* The planes of four channels at once, `size` bytes each. */
ONNXC_KERNEL void onnxc_planes(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to, int size) {
  const int c = s->c, w = s->w, rest = s->line - w;
  int8_t *at = to + s->top * s->line + s->left;
  int row = s->h, i;
#ifdef ONNXC_MVE
  const uint32x4_t f = vdupq_n_u32(s->flip), apart = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)size);
#endif
  memset(to, (int)(s->pad & 255), (size_t)(4 * size));
  for (; row > 0; row--, at += rest)
    for (i = w; i > 0; i--, x += c, at++) {
#ifdef ONNXC_MVE
      vstrbq_scatter_offset_u32((uint8_t *)at, apart, veorq_u32(vldrbq_u32((const uint8_t *)x), f));
#else
      int k;
      for (k = 0; k < 4; k++) at[k * size] = (int8_t)((uint8_t)x[k] ^ (s->flip & 255));
#endif
    }
}

#ifdef ONNXC_MVE
/* Adds the products of a line of three taps of four outputs, which stand side by side, or at offsets. */
#define ONNXC_LINE3(x, k)                         \
  v = vmlaq_n_s32(v, vldrbq_s32(x), (k)[0]);      \
  v = vmlaq_n_s32(v, vldrbq_s32((x) + 1), (k)[1]); \
  v = vmlaq_n_s32(v, vldrbq_s32((x) + 2), (k)[2])
#define ONNXC_LINE3_AT(at, k)                             \
  v = vmlaq_n_s32(v, onnxc_gather(plane, at), (k)[0]);    \
  v = vmlaq_n_s32(v, onnxc_gather(second, at), (k)[1]);   \
  v = vmlaq_n_s32(v, onnxc_gather(third, at), (k)[2])
/* Any taps: `next` loads four. */
#define ONNXC_ANY(next, x)                                                  \
  for (i = s->kh, k = w, from = (x); i > 0; i--, from += s->dh * line - s->kw * s->dw) \
    for (j = s->kw; j > 0; j--, k++, from += s->dw) v = vmlaq_n_s32(v, next(from), *k)
#define ONNXC_AT(x) onnxc_gather(x, at)

ONNXC_INLINE void onnxc_channel_by(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                   const int32_t *scale, int8_t *y, const int three) {
  const int line = s->line, offset = ends[0], ow = s->ow, step = 4 * s->sw, far = 4 * s->c;
  const uint32x4_t four = vidupq_n_u32(0, 1), apart = vmulq_n_u32(four, (uint32_t)s->c);
  const float32x4_t m = vreinterpretq_f32_s32(vdupq_n_s32(scale[4]));
  const int8_t *k, *from, *second = plane + 1, *third = plane + 2;
  int i, j, left;
  if (s->sw == 1 && (ow >= 16 || !(ow & 3))) { /* four of a row */
    int row;
    for (row = s->oh; row > 0; row--, plane += s->sh * line) {
      const int8_t *x = plane;
      for (left = ow; left > 0; left -= 4, x += 4) {
        int32x4_t v = vdupq_n_s32(scale[0]);
        if (three) {
          ONNXC_LINE3(x, w);
          ONNXC_LINE3(x + line, w + 3);
          ONNXC_LINE3(x + 2 * line, w + 6);
        } else {
          ONNXC_ANY(vldrbq_s32, x);
        }
        v = onnxc_bytes4(v, m, offset);
        if (left < 4) {
          vstrbq_scatter_offset_p_s32(y, apart, v, vctp32q((uint32_t)left));
          y += left * s->c;
          break;
        }
        vstrbq_scatter_offset_s32(y, apart, v);
        y += far;
      }
    }
  } else { /* four in a row or more: where each reads, and its column */
    uint32x4_t at = vmulq_n_u32(four, (uint32_t)s->sw), column = four;
    const uint32_t wrap = (uint32_t)(s->sh * line - ow * s->sw);
    for (left = s->oh * ow; left > 0; left -= 4, y += far) {
      int32x4_t v = vdupq_n_s32(scale[0]);
      for (i = ow < 4 ? 4 : 1; i > 0; i -= ow) { /* P0 is the compiler's, too */
        uint32_t p0;
        __asm__("vmrs %2, p0\n\tvptt.u32 cs, %q0, %4\n\tvaddt.i32 %q1, %q1, %3\n\tvsubt.i32 %q0, %q0, %4\n\tvmsr p0, %2"
                : "+w"(column), "+w"(at), "=&r"(p0) : "r"(wrap), "r"(ow));
      }
      if (left < 4) at = vpselq_u32(at, vdupq_n_u32(0), vctp32q((uint32_t)left)); /* the rest reads what the first reads */
      if (three) {
        uint32x4_t below = vaddq_n_u32(at, (uint32_t)line);
        ONNXC_LINE3_AT(at, w);
        ONNXC_LINE3_AT(below, w + 3);
        below = vaddq_n_u32(below, (uint32_t)line);
        ONNXC_LINE3_AT(below, w + 6);
      } else {
        ONNXC_ANY(ONNXC_AT, plane);
      }
      v = onnxc_bytes4(v, m, offset);
      if (left < 4)
        vstrbq_scatter_offset_p_s32(y, apart, v, vctp32q((uint32_t)left));
      else
        vstrbq_scatter_offset_s32(y, apart, v);
      at = vaddq_n_u32(at, (uint32_t)step), column = vaddq_n_u32(column, 4);
    }
  }
}
#else
ONNXC_INLINE void onnxc_channel_by(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                   const int32_t *scale, int8_t *y, const int three) {
  int row, column, i, j;
  (void)three;
  for (row = 0; row < s->oh; row++)
    for (column = 0; column < s->ow; column++, y += s->c) {
      const int8_t *k = w, *x = plane + row * s->sh * s->line + column * s->sw;
      int32_t sum = scale[0];
      for (i = 0; i < s->kh; i++)
        for (j = 0; j < s->kw; j++) sum += x[i * s->dh * s->line + j * s->dw] * *k++;
      *y = (int8_t)onnxc_requantise(sum, scale[4], ends[0], 0);
    }
}
#endif

ONNXC_KERNEL void onnxc_channel3(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                 const int32_t *scale, int8_t *y) {
  onnxc_channel_by(s, plane, w, ends, scale, y, 1);
}

ONNXC_KERNEL void onnxc_channel(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                const int32_t *scale, int8_t *y) {
  onnxc_channel_by(s, plane, w, ends, scale, y, 0);
}

ONNXC_KERNEL void onnxc_depthwise(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales,
                                  void *y, void *work) {
  const int32_t *ends = (const int32_t *)scales;
  const int8_t *k = (const int8_t *)w;
  int8_t *plane = (int8_t *)work;
  int i, three = s->kh == 3 && s->kw == 3 && s->dh == 1 && s->dw == 1, size = s->lines * s->line;
  for (i = 0; i < s->c; i++, k += s->kh * s->kw) {
    if (s->planes == 1 || i >= (s->c & ~3))
      onnxc_plane(s, (const int8_t *)x + i, plane = (int8_t *)work);
    else if (i & 3)
      plane += size;
    else
      onnxc_planes(s, (const int8_t *)x + i, plane = (int8_t *)work, size);
    (three ? onnxc_channel3 : onnxc_channel)(s, plane, k, ends, ends + 2 + (i >> 2) * 8 + (i & 3), (int8_t *)y + i);
  }
  if (s->end) onnxc_more(s->end, (int8_t *)y, NULL, (int8_t *)y, s->oh * s->ow * s->c);
}

#endif
