/* micro_four.h: products of four columns at once, in assembler for processors with DSP instructions and floats. */
#ifndef ONNXC_MICRO_FOUR_H
#define ONNXC_MICRO_FOUR_H

#include "micro_layers.h"

#if defined(ONNXC_DSP) && defined(ONNXC_FLOATS) && defined(__ARM_FP) && defined(__thumb2__) && defined(__GNUC__) && \
    !defined(ONNXC_SMALL) && !defined(ONNXC_HELIUM)
#define ONNXC_FOUR 1

/* Two channels of four columns are eight sums, which with two pointers and four operands are all registers that there are: compilers move
 * some to the stack and back. 52 instructions are 64 products. Columns lie interleaved, words of four columns after one another. */
#define ONNXC_PAIR4                       \
  "ldr r12, [r1], #4\n\t"                 \
  "ldrd r2, r3, [r0], #8\n\t"             \
  "sxtb16 lr, r12\n\t"                    \
  "sxtb16 r12, r12, ror #8\n\t"           \
  "smlad r4, lr, r2, r4\n\t"              \
  "smlad r5, lr, r3, r5\n\t"              \
  "smlad r8, r12, r2, r8\n\t"             \
  "smlad r9, r12, r3, r9\n\t"             \
  "ldrd r2, r3, [r0], #8\n\t"             \
  "smlad r6, lr, r2, r6\n\t"              \
  "smlad r7, lr, r3, r7\n\t"              \
  "smlad r10, r12, r2, r10\n\t"           \
  "smlad r11, r12, r3, r11\n\t"
#define ONNXC_STEP4 ONNXC_PAIR4 ONNXC_PAIR4 /* 26 instructions of four bytes */
#define ONNXC_FLOAT4(sum, m) "vcvt.f32.s32 " sum ", " sum "\n\tvnmul.f32 " sum ", " sum ", " m "\n\tvcvtr.s32.f32 " sum ", " sum "\n\t"

/* `scales` to `last`: the rows of pairs of channels, which end at `last`. A pair goes to y, y + line, ...; the sums of channel i are
 * r4 to r7 and r8 to r11, their M r2 and r3. The first of each four steps to be made is number `skip`, -steps modulo 4. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
__attribute__((naked, noinline, unused)) static void onnxc_product4(const uint32_t *columns, const uint32_t *w, const int32_t *scales,
                                                                    const int32_t *last, int8_t *y, int line,
                                                                    const uint32_t *end, int32_t offset, int skip) {
  __asm__("push {r0-r3}\n\t" /* sp: columns, w, scales, last, y, line, end, offset, skip */
          "push {r4-r11, lr}\n\t"
          "ldr r12, [sp, #68]\n\t"
          "movs r4, #104\n\t"
          "adr r3, 2f\n\t"
          "mla r3, r12, r4, r3\n\t"
          "adds r3, #1\n\t"
          "str r3, [sp, #68]\n\t"
          "mov r12, r2\n"
          "1:\n\t"
          "ldr r0, [sp, #36]\n\t"
          "ldr r4, [r12]\n\t"
          "ldr r8, [r12, #8]\n\t"
          "mov r5, r4\n\t"
          "mov r6, r4\n\t"
          "mov r7, r4\n\t"
          "mov r9, r8\n\t"
          "mov r10, r8\n\t"
          "mov r11, r8\n\t"
          "ldr pc, [sp, #68]\n\t"
          ".balign 4\n"
          "2:\n\t" ONNXC_STEP4 ONNXC_STEP4 ONNXC_STEP4 ONNXC_STEP4
          "ldr r12, [sp, #60]\n\t"
          "cmp r0, r12\n\t"
          "bne.w 2b\n\t"
          "ldr r12, [sp, #44]\n\t"
          "ldr lr, [sp, #64]\n\t"
          "ldr r2, [r12, #4]\n\t"
          "ldr r3, [r12, #12]\n\t"
          "adds r12, #16\n\t"
          "str r12, [sp, #44]\n\t"
          "orrs r0, r2, r3\n\t"
          "bmi 4f\n\t"
          "smmla r4, r4, r2, lr\n\t"
          "smmla r5, r5, r2, lr\n\t"
          "smmla r6, r6, r2, lr\n\t"
          "smmla r7, r7, r2, lr\n\t"
          "smmla r8, r8, r3, lr\n\t"
          "smmla r9, r9, r3, lr\n\t"
          "smmla r10, r10, r3, lr\n\t"
          "smmla r11, r11, r3, lr\n\t" /* shifted by ONNXC_SHIFT */
          "ssat r4, #8, r4, asr #5\n\t"
          "ssat r5, #8, r5, asr #5\n\t"
          "ssat r6, #8, r6, asr #5\n\t"
          "ssat r7, #8, r7, asr #5\n\t"
          "ssat r8, #8, r8, asr #5\n\t"
          "ssat r9, #8, r9, asr #5\n\t"
          "ssat r10, #8, r10, asr #5\n\t"
          "ssat r11, #8, r11, asr #5\n"
          "3:\n\t"
          "ldr r0, [sp, #52]\n\t"
          "ldr r2, [sp, #56]\n\t"
          "bfi r4, r8, #8, #24\n\t"
          "bfi r5, r9, #8, #24\n\t"
          "bfi r6, r10, #8, #24\n\t"
          "bfi r7, r11, #8, #24\n\t"
          "add r3, r0, r2, lsl #1\n\t"
          "strh r7, [r3, r2]\n\t"
          "strh r6, [r3]\n\t"
          "strh r5, [r0, r2]\n\t"
          "strh r4, [r0], #2\n\t"
          "str r0, [sp, #52]\n\t"
          "ldr r3, [sp, #48]\n\t"
          "cmp r12, r3\n\t"
          "bne.w 1b\n\t"
          "pop {r4-r11, lr}\n\t"
          "add sp, #16\n\t"
          "bx lr\n"
          "4:\n\t" /* the floats -m of both, where one has no integer */
          "vmov s0, s1, r2, r3\n\t"
          "vmov s2, s3, r4, r5\n\t"
          "vmov s4, s5, r6, r7\n\t"
          "vmov s6, s7, r8, r9\n\t"
          "vmov s8, s9, r10, r11\n\t"
          ONNXC_FLOAT4("s2", "s0") ONNXC_FLOAT4("s3", "s0") ONNXC_FLOAT4("s4", "s0") ONNXC_FLOAT4("s5", "s0")
          ONNXC_FLOAT4("s6", "s1") ONNXC_FLOAT4("s7", "s1") ONNXC_FLOAT4("s8", "s1") ONNXC_FLOAT4("s9", "s1")
          "vmov r4, r5, s2, s3\n\t"
          "vmov r6, r7, s4, s5\n\t"
          "vmov r8, r9, s6, s7\n\t"
          "vmov r10, r11, s8, s9\n\t"
          "asr lr, lr, #5\n\t"
          "add r4, r4, lr\n\t"
          "add r5, r5, lr\n\t"
          "add r6, r6, lr\n\t"
          "add r7, r7, lr\n\t"
          "add r8, r8, lr\n\t"
          "add r9, r9, lr\n\t"
          "add r10, r10, lr\n\t"
          "add r11, r11, lr\n\t"
          "ssat r4, #8, r4\n\t"
          "ssat r5, #8, r5\n\t"
          "ssat r6, #8, r6\n\t"
          "ssat r7, #8, r7\n\t"
          "ssat r8, #8, r8\n\t"
          "ssat r9, #8, r9\n\t"
          "ssat r10, #8, r10\n\t"
          "ssat r11, #8, r11\n\t"
          "b 3b\n");
}
#pragma GCC diagnostic pop
#endif

#endif
