/* What the page calls of a compiled model of one input and one output: their places in memory, begin, run. */
#include "garments.h"

static unsigned char arena[GARMENTS_ARENA_BYTES] __attribute__((aligned(GARMENTS_ARENA_ALIGN)));
static unsigned char input[GARMENTS_INPUT0_BYTES] __attribute__((aligned(64)));
static unsigned char output[GARMENTS_OUTPUT0_BYTES] __attribute__((aligned(64)));

void *page_input(void) { return input; }
void *page_output(void) { return output; }
int page_begin(void) { return garments_init(arena, GARMENTS_THREADS); }

int page_run(void) {
  const void *const inputs[] = {input};
  void *const outputs[] = {output};
  return garments_run(arena, inputs, outputs);
}
