/* micro_dsp.h: products of four columns at once, and of one, in assembler for processors with DSP instructions and floats. */
#ifndef ONNXC_MICRO_DSP_H
#define ONNXC_MICRO_DSP_H

#include "micro_layers.h"

#if defined(ONNXC_DSP) && defined(ONNXC_FLOATS) && defined(__ARM_FP) && defined(__thumb2__) && defined(__GNUC__) && \
    !defined(ONNXC_SMALL) && !defined(ONNXC_HELIUM)
#define ONNXC_ASSEMBLER 1

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
          "orr r3, r3, #1\n\t"
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

/* Four channels of one column: 19 instructions of four bytes are 16 products, in an order in which a Cortex-M7 takes two at once. */
#define ONNXC_PAIRS1(first, second)             \
  "sxtb16 r12, r10\n\t"                         \
  "sxtb16 r10, r10, ror #8\n\t"                 \
  "smlad " first ", r12, r8, " first "\n\t"     \
  "sxtb16 r12, r11\n\t"                         \
  "smlad " second ", r10, r8, " second "\n\t"   \
  "sxtb16 r11, r11, ror #8\n\t"                 \
  "smlad " first ", r12, r9, " first "\n\t"     \
  "smlad " second ", r11, r9, " second "\n\t"
#define ONNXC_STEP1                                                                               \
  "ldrd r8, r9, [r0], #8\n\tldrd r10, r11, [r1], #8\n\t" ONNXC_PAIRS1("r4", "r5")                  \
  "ldrd r10, r11, [r2], #8\n\t" ONNXC_PAIRS1("r6", "r7")

/* Two sums by the M r8 and r9 and the offset r12, or by the floats -m. */
#define ONNXC_INTEGERS1(first, second)                 \
  "smmla " first ", " first ", r8, r12\n\t"             \
  "smmla " second ", " second ", r9, r12\n\t"           \
  "ssat " first ", #8, " first ", asr #5\n\t"           \
  "ssat " second ", #8, " second ", asr #5\n"
#define ONNXC_FLOATS1(first, second)                                     \
  "vmov s0, s1, r8, r9\n\tvmov s2, s3, " first ", " second "\n\t"           \
  ONNXC_FLOAT4("s2", "s0") ONNXC_FLOAT4("s3", "s1")                       \
  "vmov " first ", " second ", s2, s3\n\tasr r10, r12, #5\n\t"            \
  "add " first ", " first ", r10\n\tadd " second ", " second ", r10\n\t"  \
  "ssat " first ", #8, " first "\n\tssat " second ", #8, " second "\n\t"

/* As onnxc_product4 with the words of one column after one another. r2: weights of the second pair, or of the first again where there is
 * none; r3: the row of a pair of channels. */
__attribute__((naked, noinline, unused)) static void onnxc_product1(const uint32_t *column, const uint32_t *w, const int32_t *scales,
                                                                    const int32_t *last, int8_t *y, const uint32_t *end,
                                                                    int32_t offset, int skip) {
  __asm__("push {r0-r3}\n\t" /* sp: column, w, scales, last, y, end, offset, skip */
          "push {r4-r11, lr}\n\t"
          "ldr r12, [sp, #64]\n\t"
          "movs r4, #76\n\t"
          "adr r3, 2f\n\t"
          "mla r3, r12, r4, r3\n\t"
          "orr r3, r3, #1\n\t"
          "str r3, [sp, #64]\n\t"
          "mov r3, r2\n"
          "1:\n\t"
          "ldr r0, [sp, #36]\n\t"
          "ldr lr, [sp, #56]\n\t"
          "ldr r8, [sp, #48]\n\t"
          "sub r2, lr, r0\n\t"
          "sub r8, r8, r3\n\t"
          "add r2, r1, r2\n\t"
          "cmp r8, #16\n\t"
          "ldr r4, [r3]\n\t"
          "ldr r5, [r3, #8]\n\t"
          "itte hi\n\t"
          "ldrhi r6, [r3, #16]\n\t"
          "ldrhi r7, [r3, #24]\n\t"
          "movls r2, r1\n\t"
          "ldr pc, [sp, #64]\n\t"
          ".balign 4\n"
          "2:\n\t" ONNXC_STEP1 ONNXC_STEP1 ONNXC_STEP1 ONNXC_STEP1
          "cmp r0, lr\n\t"
          "bne.w 2b\n\t"
          "ldr r12, [sp, #60]\n\t"
          "ldr r0, [sp, #52]\n\t"
          "ldr r11, [sp, #48]\n\t"
          "ldr r8, [r3, #4]\n\t"
          "ldr r9, [r3, #12]\n\t"
          "adds r3, #16\n\t"
          "orrs r10, r8, r9\n\t"
          "bmi 6f\n\t" ONNXC_INTEGERS1("r4", "r5")
          "3:\n\t"
          "strb r4, [r0], #1\n\t"
          "strb r5, [r0], #1\n\t"
          "cmp r3, r11\n\t"
          "beq 5f\n\t"
          "ldr r8, [r3, #4]\n\t"
          "ldr r9, [r3, #12]\n\t"
          "adds r3, #16\n\t"
          "orrs r10, r8, r9\n\t"
          "bmi 7f\n\t" ONNXC_INTEGERS1("r6", "r7")
          "4:\n\t"
          "strb r6, [r0], #1\n\t"
          "strb r7, [r0], #1\n\t"
          "str r0, [sp, #52]\n\t"
          "mov r1, r2\n\t"
          "cmp r3, r11\n\t"
          "bne.w 1b\n"
          "5:\n\t"
          "pop {r4-r11, lr}\n\t"
          "add sp, #16\n\t"
          "bx lr\n"
          "6:\n\t" ONNXC_FLOATS1("r4", "r5")
          "b 3b\n"
          "7:\n\t" ONNXC_FLOATS1("r6", "r7")
          "b 4b\n");
}
#pragma GCC diagnostic pop
#endif

#endif
