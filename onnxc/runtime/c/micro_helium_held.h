/* micro_helium_held.h: convolutions and matrix products whose windows, of up to 64 bytes, vectors hold while the weights of all
 * channels pass (MVE). Weights of a channel are kh kw c bytes, after the last at least as many zeros as make its vectors whole. Tables
 * of scales as for other layers, but that the last four channels stand together where they are no multiple of four: some are made twice.
 */
#ifndef ONNXC_MICRO_HELIUM_HELD_H
#define ONNXC_MICRO_HELIUM_HELD_H

#include "micro_layers.h"

#ifdef ONNXC_MVE
/* A channel's sum, by 1 to 4 vectors. */
#define ONNXC_HELD1(a) "vldrb.8 %q[t], [%[w]]\n\tvmladav.s8 %[" a "], %q[c0], %q[t]\n\t"
#define ONNXC_HELD2(a) ONNXC_HELD1(a) "vldrb.8 %q[u], [%[w], #16]\n\tvmladava.s8 %[" a "], %q[c1], %q[u]\n\t"
#define ONNXC_HELD3(a) ONNXC_HELD2(a) "vldrb.8 %q[t], [%[w], #32]\n\tvmladava.s8 %[" a "], %q[c2], %q[t]\n\t"
#define ONNXC_HELD4(a) ONNXC_HELD3(a) "vldrb.8 %q[u], [%[w], #48]\n\tvmladava.s8 %[" a "], %q[c3], %q[u]\n\t"
#define ONNXC_NEXT_CHANNEL "add %[w], %[w], %[size]\n\t"
#define ONNXC_HELD_GROUPS(dots)                                                                                             \
  __asm__ volatile("dls lr, %[groups]\n1:\n\t" dots("a0") ONNXC_NEXT_CHANNEL dots("a1") ONNXC_NEXT_CHANNEL dots("a2") ONNXC_NEXT_CHANNEL             \
                   dots("a3") ONNXC_NEXT_CHANNEL                                                                                    \
                   "vmov %q[t][2], %q[t][0], %[a0], %[a2]\n\tvmov %q[t][3], %q[t][1], %[a1], %[a3]\n\t"                      \
                   "vldrw.32 %q[u], [%[scales]], #16\n\tvadd.i32 %q[t], %q[t], %q[u]\n\tvcvt.f32.s32 %q[t], %q[t]\n\t"       \
                   "vldrw.32 %q[u], [%[scales]], #16\n\tvmul.f32 %q[t], %q[t], %q[u]\n\tvcvtn.s32.f32 %q[t], %q[t]\n\t"      \
                   "vadd.i32 %q[t], %q[t], %[offset]\n\tvqmovnb.s32 %q[t], %q[t]\n\tvqmovnb.s16 %q[t], %q[t]\n\t"            \
                   "vstrb.32 %q[t], [%[y]], #4\n\tle lr, 1b"                                                                \
                   : [w] "+r"(w), [scales] "+r"(scales), [y] "+r"(y), [a0] "=&Te"(a0), [a1] "=&Te"(a1), [a2] "=&Te"(a2),     \
                     [a3] "=&Te"(a3), [t] "=&w"(t), [u] "=&w"(u)                                                            \
                   : [groups] "r"(groups), [size] "r"(size), [offset] "r"(offset), [c0] "w"(c0), [c1] "w"(c1), [c2] "w"(c2), \
                     [c3] "w"(c3)                                                                                           \
                   : "lr", "memory")
#endif

/* All channels of a window of `size` bytes; what is beyond them counts as zeros. y of four channels or more. */
ONNXC_INLINE void onnxc_held(const int8_t *x, uint32_t flip, int size, const int8_t *w, const int32_t *scales, int8_t *y, int oc,
                             const int vectors) {
  const int32_t offset = scales[0];
#ifdef ONNXC_MVE
  const mve_pred16_t p = vctp8q((uint32_t)(size - 16 * (vectors - 1)));
  const int8x16_t f = vdupq_n_s8((int8_t)(flip & 255));
  const int8x16_t last = vldrbq_z_s8(x + 16 * (vectors - 1), p), c3 = veorq_m_s8(last, last, f, p);
  const int8x16_t c0 = vectors > 1 ? veorq_s8(vldrbq_s8(x), f) : c3, c1 = vectors > 2 ? veorq_s8(vldrbq_s8(x + 16), f) : c3;
  const int8x16_t c2 = vectors > 3 ? veorq_s8(vldrbq_s8(x + 32), f) : c3;
  int groups = oc >> 2, rest = oc & 3;
  for (scales += 2;;) {
    int32_t a0, a1, a2, a3;
    int32x4_t t, u;
    if (vectors == 1) ONNXC_HELD_GROUPS(ONNXC_HELD1);
    if (vectors == 2) ONNXC_HELD_GROUPS(ONNXC_HELD2);
    if (vectors == 3) ONNXC_HELD_GROUPS(ONNXC_HELD3);
    if (vectors == 4) ONNXC_HELD_GROUPS(ONNXC_HELD4);
    if (!rest) break;
    w -= (4 - rest) * size, y -= 4 - rest, groups = 1, rest = 0;
  }
#else
  int i, n, g;
  (void)vectors;
  for (scales += 2, g = 0; g < oc; g += 4, scales += 8)
    for (n = 0; n < 4; n++) {
      const int channel = (g + 4 <= oc ? g : oc - 4) + n;
      int32_t sum = scales[n];
      for (i = 0; i < size; i++) sum += (int8_t)((uint8_t)x[i] ^ (flip & 255)) * w[channel * size + i];
      y[channel] = (int8_t)onnxc_requantise(sum, scales[4 + n], offset, 0);
    }
#endif
}

/* Row `row` of windows' lines, with padding around, `pitch` bytes each. */
ONNXC_KERNEL void onnxc_lines(const onnxc_conv_layer *s, const int8_t *x, int row, int pitch, int8_t *to) {
  const int count = s->w * s->c;
  int ky, iy = row * s->sh - s->top;
  for (ky = 0, to += s->left * s->c; ky < s->kh; ky++, iy++, to += pitch) {
    if (iy < 0 || iy >= s->h)
      memset(to, (int)(s->pad & 255), (size_t)count);
    else
      onnxc_copy(x + iy * count, s->flip, count, to);
  }
}

/* `count` bytes from x on, and what comes after them up to a vector's end. */
ONNXC_INLINE void onnxc_chunks(const int8_t *x, int count, int8_t *to) {
#ifdef ONNXC_MVE
  do {
    vstrbq_s8(to, vldrbq_s8(x));
    x += 16, to += 16, count -= 16;
  } while (count > 0);
#else
  memcpy(to, x, (size_t)count);
#endif
}

/* As onnxc_conv; in `work` stand lines of padded x (s->steps bytes in all, for windows of several pixels), a column, and a pixel of y
 * where it is not yet what it shall be. */
ONNXC_INLINE void onnxc_conv_held(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, const void *r, void *y,
                                  void *work, const int vectors) {
  const int8_t *residual = (const int8_t *)r, *from = (const int8_t *)x;
  int8_t *to = (int8_t *)y, *lines = (int8_t *)work, *column = lines + s->steps, *apart = s->steps ? column + 16 * vectors + 16 : column;
  const int c = s->c, oc = s->oc, run = s->kw * c, size = s->kh * run, pitch = s->steps ? (s->steps - 16) / s->kh : 0;
  int i, j, ky;
  if (s->steps) memset(lines, (int)(s->pad & 255), (size_t)s->steps);
  for (i = 0; i < s->oh; i++) {
    const int8_t *at = s->steps ? lines : from + i * s->sh * s->w * c;
    if (s->steps) onnxc_lines(s, from, i, pitch, lines);
    for (j = 0; j < s->ow; j++, at += s->sw * c, to += oc) {
      int8_t *made = s->end ? apart : to;
      if (s->steps) {
        const int8_t *line = at;
        int8_t *part = column;
        for (ky = s->kh; ky > 0; ky--, line += pitch, part += run) onnxc_chunks(line, run, part);
      }
      onnxc_held(s->steps ? column : at, s->steps ? 0 : s->flip, size, (const int8_t *)w, (const int32_t *)scales, made, oc, vectors);
      if (s->end) onnxc_more(s->end, made, residual, to, oc);
      if (residual) residual += oc;
    }
  }
}

#define ONNXC_CONV_HELD(vectors)                                                                                            \
  ONNXC_KERNEL void onnxc_conv_held##vectors(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, \
                                             const void *r, void *y, void *work) {                                        \
    onnxc_conv_held(s, x, w, scales, r, y, work, vectors);                                                                \
  }
ONNXC_CONV_HELD(1)
ONNXC_CONV_HELD(2)
ONNXC_CONV_HELD(3)
ONNXC_CONV_HELD(4)

#endif
