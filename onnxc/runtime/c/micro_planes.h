/* micro_planes.h: depthwise layers channel by channel, whose input is copied as planes with padding around them. */
#ifndef ONNXC_MICRO_PLANES_H
#define ONNXC_MICRO_PLANES_H

#include "micro_layers.h"

#ifdef ONNXC_MVE
ONNXC_KERNEL void onnxc_plane(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to) {
  const int16x8_t f = vdupq_n_s16((int16_t)(s->flip & 255));
  const uint16x8_t apart = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)s->c);
  int i, c = s->c, row;
  memset(to, (int)(s->pad & 255), (size_t)(s->lines * s->line));
  to += s->top * s->line + s->left;
  for (row = 0; row < s->h; row++, to += s->line) {
    int8_t *at = to;
    for (i = s->w; i >= 8; i -= 8, x += 8 * c, at += 8)
      vstrbq_s16(at, veorq_s16(vldrbq_gather_offset_s16(x, apart), f));
    if (i > 0) {
      mve_pred16_t p = vctp16q((uint32_t)i);
      vstrbq_p_s16(at, veorq_s16(vldrbq_gather_offset_z_s16(x, apart, p), f), p);
      x += i * c;
    }
  }
}

/* The planes of four channels at once, `size` bytes each. */
ONNXC_KERNEL void onnxc_planes(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to, int size) {
  const uint32x4_t f = vdupq_n_u32(s->flip), apart = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)size);
  const int c = s->c, w = s->w, rest = s->line - w;
  int8_t *at = to + s->top * s->line + s->left;
  int row = s->h, i;
  memset(to, (int)(s->pad & 255), (size_t)(4 * size));
  for (; row > 0; row--, at += rest)
    for (i = w; i > 0; i--, x += c, at++)
      vstrbq_scatter_offset_u32((uint8_t *)at, apart, veorq_u32(vldrbq_u32((const uint8_t *)x), f));
}
#else
/* The planes of four channels at once, `size` bytes each. */
ONNXC_KERNEL void onnxc_planes(const onnxc_depthwise_layer *s, const int8_t *x, int8_t *to, int size) {
  const uint32_t flip = s->flip * 0x01010101u;
  const int c = s->c, w = s->w, rest = s->line - w;
  const int8_t *last = x + s->h * w * c;
  int8_t *at = to + s->top * s->line + s->left;
  memset(to, (int)(s->pad & 255), (size_t)(4 * size));
  for (; x != last; at += rest) {
    const int8_t *end = at + w;
    for (; at != end; at++, x += c) {
      uint32_t v = onnxc_load(x) ^ flip;
      at[0] = (int8_t)v, at[size] = (int8_t)(v >> 8), at[2 * size] = (int8_t)(v >> 16), at[3 * size] = (int8_t)(v >> 24);
    }
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
#endif

/* What makes a channel's outputs, `c` bytes apart, from its plane; `scale` is its row in the table `ends`. */
typedef void onnxc_channel_kernel(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                  const int32_t *scale, int8_t *y);
#ifdef ONNXC_HELIUM
#define ONNXC_SCALE(ends, i) ((ends) + 2 + ((i) >> 2) * 8 + ((i) & 3)) /* four biases, then as many m */
#else
#define ONNXC_SCALE(ends, i) ((ends) + 2 + 2 * (i))
#endif

ONNXC_INLINE void onnxc_by_planes(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales, void *y,
                                  void *work, onnxc_channel_kernel *channel) {
  const int32_t *ends = (const int32_t *)scales;
  const int8_t *k = (const int8_t *)w;
  int8_t *plane = (int8_t *)work;
  int i, size = s->lines * s->line;
  for (i = 0; i < s->c; i++, k += s->kh * s->kw) {
    if (s->planes == 1 || i >= (s->c & ~3))
      onnxc_plane(s, (const int8_t *)x + i, plane = (int8_t *)work);
    else if (i & 3)
      plane += size;
    else
      onnxc_planes(s, (const int8_t *)x + i, plane = (int8_t *)work, size);
    channel(s, plane, k, ends, ONNXC_SCALE(ends, i), (int8_t *)y + i);
  }
  if (s->end) onnxc_more(s->end, (int8_t *)y, NULL, (int8_t *)y, s->oh * s->ow * s->c);
}

#endif
