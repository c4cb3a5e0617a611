/* micro_helium_depthwise3.h: depthwise layers of 3 x 3 windows and strides of 1 or 2 by Arm's vectors of microcontrollers (MVE).
 *
 * Of 16 channels a word holds the bytes of one column in four rows; four words of a channel are one vector, 4 x 4 of its plane, in which
 * the windows of 2 x 2 outputs lie whole: a load and four vmladav make them, with the window's nine weights in four places
 *
 *     c0 c1 c2 0     0 c0 c1 c2     and the same a byte higher,     ci = (w[0][i], w[1][i], w[2][i], 0).
 *
 * With a stride of 2 it has one output, in the first place. vst4 makes 16 channels' words of a column from a pixel of each row.
 */
#ifndef ONNXC_MICRO_HELIUM_DEPTHWISE3_H
#define ONNXC_MICRO_HELIUM_DEPTHWISE3_H

#include "micro_layers.h"

#define ONNXC_WORDS 64 /* bytes of a column: 16 words */
#define ONNXC_NUMBERS 7   /* words of a channel's numbers: 0, c0, c1, c2, 0, bias, factor */

/* The numbers of `count` channels, of which the first is `first`. */
ONNXC_KERNEL void onnxc_window_numbers(const int8_t *w, const int32_t *scales, int first, int count, int32_t *to) {
  for (; count > 0; count--, w += 9, first++, to += ONNXC_NUMBERS) {
    const int32_t *scale = scales + (first >> 2) * 8 + (first & 3);
#ifdef ONNXC_MVE
    const mve_pred16_t p = vctp32q(3);
    uint32x4_t v = vldrbq_z_u32((const uint8_t *)w, p);
    v = vsliq_n_u32(v, vldrbq_z_u32((const uint8_t *)w + 3, p), 8);
    vstrwq_u32((uint32_t *)to + 1, vsliq_n_u32(v, vldrbq_z_u32((const uint8_t *)w + 6, p), 16));
#else
    int i;
    for (i = 0; i < 3; i++)
      to[1 + i] = (int32_t)((uint32_t)(uint8_t)w[i] | (uint32_t)(uint8_t)w[3 + i] << 8 | (uint32_t)(uint8_t)w[6 + i] << 16);
    to[4] = 0;
#endif
    to[0] = 0, to[5] = scale[0], to[6] = scale[4];
  }
}

/* The next `columns` columns of four rows as words: the first row is the third before, pixels of the others are as many bytes apart
 * as `step` says. */
ONNXC_KERNEL void onnxc_words(const int8_t *const *rows, const int *step, uint32_t flip, int channels, int columns, int8_t *to) {
  const int8_t *a = rows[0], *b = rows[1], *c = rows[2];
  const int as = step[0], bs = step[1], cs = step[2];
#ifdef ONNXC_MVE
  const uint8x16_t flips = vdupq_n_u8((uint8_t)flip);
  __asm__ volatile(
      "ldr lr, %[channels]\n\tvctp.8 lr\n\tldr lr, %[columns]\n\tdls lr, lr\n" /* few registers are left without optimisation */
      "1:\n\tvld40.8 {q0, q1, q2, q3}, [%[to]]\n\tvld41.8 {q0, q1, q2, q3}, [%[to]]\n\t"
      "vld42.8 {q0, q1, q2, q3}, [%[to]]\n\tvld43.8 {q0, q1, q2, q3}, [%[to]]\n\tvmov q0, q2\n\t"
      "vpsttt\n\tvldrbt.8 q1, [%[a]]\n\tvldrbt.8 q2, [%[b]]\n\tvldrbt.8 q3, [%[c]]\n\t"
      "veor q1, q1, %q[flips]\n\tveor q2, q2, %q[flips]\n\tveor q3, q3, %q[flips]\n\t"
      "vst40.8 {q0, q1, q2, q3}, [%[to]]\n\tadd %[a], %[a], %[as]\n\tvst41.8 {q0, q1, q2, q3}, [%[to]]\n\tadd %[b], %[b], %[bs]\n\t"
      "vst42.8 {q0, q1, q2, q3}, [%[to]]\n\tadd %[c], %[c], %[cs]\n\tvst43.8 {q0, q1, q2, q3}, [%[to]]!\n\t"
      "le lr, 1b"
      : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [to] "+r"(to)
      : [as] "r"(as), [bs] "r"(bs), [cs] "r"(cs), [channels] "m"(channels), [columns] "m"(columns), [flips] "w"(flips)
      : "q0", "q1", "q2", "q3", "lr", "memory");
#else
  int i;
  for (; columns > 0; columns--, a += as, b += bs, c += cs, to += ONNXC_WORDS)
    for (i = 0; i < channels; i++) {
      int8_t *at = to + 4 * i;
      at[0] = at[2], at[1] = (int8_t)((uint8_t)a[i] ^ flip);
      at[2] = (int8_t)((uint8_t)b[i] ^ flip), at[3] = (int8_t)((uint8_t)c[i] ^ flip);
    }
#endif
}

#ifdef ONNXC_MVE
/* Four sums as bytes, as `onnxc_bytes4` makes them. */
#define ONNXC_SUMS4                                                                                    \
  "vmov %q[v][2], %q[v][0], %[a0], %[a2]\n\tvmov %q[v][3], %q[v][1], %[a1], %[a3]\n\t"                  \
  "vadd.i32 %q[v], %q[v], %[bias]\n\tvcvt.f32.s32 %q[v], %q[v]\n\tvmul.f32 %q[v], %q[v], %[m]\n\t"      \
  "vcvtn.s32.f32 %q[v], %q[v]\n\tvadd.i32 %q[v], %q[v], %[offset]\n\tvqmovnb.s32 %q[v], %q[v]\n\t"      \
  "vqmovnb.s16 %q[v], %q[v]\n\t"
#endif

/* Two rows of outputs, or one where `last`, of so many channels. */
ONNXC_KERNEL void onnxc_pair_of_rows(const onnxc_depthwise_layer *s, const int8_t *words, const int32_t *taps, int32_t offset,
                                     int channels, int last, int8_t *y) {
#ifdef ONNXC_MVE
  const int32_t shift = last ? 0 : 8, c = s->c, step = 2 * c, ow = s->ow, down = last ? 0 : ow * c, one = ow == 1;
  const uint32x4_t four = vidupq_n_u32(0, 1), right = vandq_u32(four, vdupq_n_u32(one ? 0 : 1));
  const uint32x4_t apart = vmlaq_n_u32(vmulq_n_u32(vshrq_n_u32(four, 1), (uint32_t)down), right, (uint32_t)c);
  const uint32x4_t columns = vsubq_n_u32(vshlq_n_u32(four, 6), 2 * ONNXC_WORDS);
  for (; channels > 0; channels--, taps += ONNXC_NUMBERS, words += 4, y++) {
    const int32x4_t w0 = vldrwq_s32(taps + 1), w1 = vldrwq_s32(taps + one); /* 0 c0 c1 c2 is a word ahead */
    const int32x4_t w2 = vshlq_r_s32(w0, shift), w3 = vshlq_r_s32(w1, shift);
    const int32_t bias = taps[5], m = taps[6];
    uint32x4_t at = vaddq_n_u32(columns, (uint32_t)(uintptr_t)words);
    int8_t *to = y;
    int count = one ? 1 : ow >> 1, odd = one ? 0 : ow & 1;
    for (;;) {
      int32_t a0, a1, a2, a3;
      int32x4_t v;
      __asm__ volatile(
          "dls lr, %[count]\n"
          "1:\n\tvldrw.u32 %q[v], [%q[at], #128]!\n\tvmladav.s8 %[a0], %q[v], %q[w0]\n\tvmladav.s8 %[a1], %q[v], %q[w1]\n\t"
          "vmladav.s8 %[a2], %q[v], %q[w2]\n\tvmladav.s8 %[a3], %q[v], %q[w3]\n\t" ONNXC_SUMS4
          "vstrb.32 %q[v], [%[to], %q[apart]]\n\tadd %[to], %[to], %[step]\n\tle lr, 1b"
          : [v] "=&w"(v), [at] "+w"(at), [to] "+r"(to), [a0] "=&Te"(a0), [a1] "=&Te"(a1), [a2] "=&Te"(a2), [a3] "=&Te"(a3)
          : [count] "r"(count), [w0] "w"(w0), [w1] "w"(w1), [w2] "w"(w2), [w3] "w"(w3), [apart] "w"(apart), [step] "r"(step),
            [bias] "r"(bias), [m] "r"(m), [offset] "r"(offset)
          : "lr", "memory");
      if (!odd) break;
      at = vsubq_n_u32(at, ONNXC_WORDS), to -= c, count = 1, odd = 0; /* the last column, and the one before once more */
    }
  }
#else
  int i, j, k, l, row;
  for (i = 0; i < channels; i++)
    for (row = 0; row < (last ? 1 : 2); row++)
      for (j = 0; j < s->ow; j++) {
        const int8_t *w = (const int8_t *)(taps + ONNXC_NUMBERS * i + 1), *at = words + 4 * i + j * ONNXC_WORDS + row;
        int32_t sum = taps[ONNXC_NUMBERS * i + 5];
        for (k = 0; k < 3; k++)
          for (l = 0; l < 3; l++) sum += at[k * ONNXC_WORDS + l] * w[4 * k + l];
        y[(row * s->ow + j) * s->c + i] = (int8_t)onnxc_requantise(sum, taps[ONNXC_NUMBERS * i + 6], offset, 0);
      }
#endif
}

/* A row of outputs of a layer with strides of 2. */
ONNXC_KERNEL void onnxc_strided_row(const onnxc_depthwise_layer *s, const int8_t *words, const int32_t *taps, int32_t offset,
                                    int channels, int8_t *y) {
#ifdef ONNXC_MVE
  const int32_t c = s->c, step = 4 * c, count = (s->ow + 3) >> 2;
  const uint32x4_t four = vidupq_n_u32(0, 1), apart = vmulq_n_u32(four, (uint32_t)c);
  const uint32x4_t columns = vsubq_n_u32(vshlq_n_u32(four, 6), 2 * ONNXC_WORDS);
  for (; channels > 0; channels--, taps += ONNXC_NUMBERS, words += 4, y++) {
    const int32x4_t w0 = vldrwq_s32(taps + 1);
    const int32_t bias = taps[5], m = taps[6];
    uint32x4_t at = vaddq_n_u32(columns, (uint32_t)(uintptr_t)words);
    int8_t *to = y;
    int32_t left = s->ow, a0, a1, a2, a3;
    int32x4_t v;
    __asm__ volatile(
        "ldr lr, %[count]\n\tdls lr, lr\n"
        "1:\n\tvldrw.u32 %q[v], [%q[at], #128]!\n\tvmladav.s8 %[a0], %q[v], %q[w0]\n\t"
        "vldrw.u32 %q[v], [%q[at], #128]!\n\tvmladav.s8 %[a1], %q[v], %q[w0]\n\t"
        "vldrw.u32 %q[v], [%q[at], #128]!\n\tvmladav.s8 %[a2], %q[v], %q[w0]\n\t"
        "vldrw.u32 %q[v], [%q[at], #128]!\n\tvmladav.s8 %[a3], %q[v], %q[w0]\n\t" ONNXC_SUMS4
        "vctp.32 %[left]\n\tvpst\n\tvstrbt.32 %q[v], [%[to], %q[apart]]\n\t"
        "add %[to], %[to], %[step]\n\tsub %[left], %[left], #4\n\tle lr, 1b"
        : [v] "=&w"(v), [at] "+w"(at), [to] "+r"(to), [left] "+r"(left), [a0] "=&Te"(a0), [a1] "=&Te"(a1), [a2] "=&Te"(a2),
          [a3] "=&Te"(a3)
        : [count] "m"(count), [w0] "w"(w0), [apart] "w"(apart), [step] "r"(step), [bias] "r"(bias), [m] "r"(m), [offset] "r"(offset)
        : "lr", "memory");
  }
#else
  int i, j, k, l;
  for (i = 0; i < channels; i++)
    for (j = 0; j < s->ow; j++) {
      const int8_t *w = (const int8_t *)(taps + ONNXC_NUMBERS * i + 1), *at = words + 4 * i + 2 * j * ONNXC_WORDS;
      int32_t sum = taps[ONNXC_NUMBERS * i + 5];
      for (k = 0; k < 3; k++)
        for (l = 0; l < 3; l++) sum += at[k * ONNXC_WORDS + l] * w[4 * k + l];
      y[j * s->c + i] = (int8_t)onnxc_requantise(sum, taps[ONNXC_NUMBERS * i + 6], offset, 0);
    }
#endif
}

/* Sixteen channels at a time, two rows of them: words keep what the next two rows need of what y may lie over. `work`: words of the
 * four rows (s->line columns), 16 bytes of padding, the numbers of 16 channels. */
ONNXC_KERNEL void onnxc_depthwise3(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales, void *y,
                                   void *work) {
  const int32_t *ends = (const int32_t *)scales;
  int8_t *words = (int8_t *)work, *inner = words + s->left * ONNXC_WORDS, *edge = words + s->line * ONNXC_WORDS;
  int32_t *taps = (int32_t *)(void *)(edge + 16);
  const int c = s->c, line = s->w * c, rows = s->sh == 1 ? 2 : 1;
  int first, row, i, j;
  memset(edge, (int)((s->pad ^ (int32_t)s->flip) & 255), 16);
  for (first = 0; first < c; first += 16) {
    const int count = c - first < 16 ? c - first : 16;
    const int8_t *from = (const int8_t *)x + first, *at[3];
    int8_t *to = (int8_t *)y + first;
    int step[3];
    onnxc_window_numbers((const int8_t *)w + 9 * first, ends + 2, first, count, taps);
    memset(words, (int)(s->pad & 255), (size_t)(edge - words));
    if (s->top == 0) /* else padding is the first row */
      for (i = 0; i < s->w; i++)
        for (j = 0; j < count; j++) inner[ONNXC_WORDS * i + 4 * j + 2] = (int8_t)((uint8_t)from[i * c + j] ^ s->flip);
    for (row = 0; row < s->oh; row += rows, to += rows * s->ow * c) {
      for (i = 0; i < 3; i++) {
        int iy = row * s->sh - s->top + 1 + i, outside = iy < 0 || iy >= s->h;
        at[i] = outside ? edge : from + iy * line, step[i] = outside ? 0 : c;
      }
      onnxc_words(at, step, s->flip, count, s->w, inner);
      if (rows == 2)
        onnxc_pair_of_rows(s, words, taps, ends[0], count, row + 1 == s->oh, to);
      else
        onnxc_strided_row(s, words, taps, ends[0], count, to);
    }
  }
  if (s->end) onnxc_more(s->end, (int8_t *)y, NULL, (int8_t *)y, s->oh * s->ow * c);
}

#endif
