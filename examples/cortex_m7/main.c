/* Classifies images on a Cortex-M7 without an operating system. Images come from the debugger's files (semihosting), as
 * they would come from a camera; weights stay in flash, the arena is static, nothing is allocated by the library. */
#include <stdio.h>

#include "resnet20.h"

static char arena[RESNET20_ARENA_BYTES] __attribute__((aligned(RESNET20_ARENA_ALIGN)));

static int best(const float *logits) {
  int i, top = 0;
  for (i = 1; i < 10; i++)
    if (logits[i] > logits[top]) top = i;
  return top;
}

int main(void) {
  FILE *images = fopen("images.bin", "rb"), *labels = fopen("labels.bin", "rb");
  static float image[28 * 28], logits[10];
  const void *inputs[RESNET20_INPUTS] = {image};
  void *outputs[RESNET20_OUTPUTS] = {logits};
  int label, count = 0, right = 0, status;
  if (!images || !labels) {
    printf("no images\n");
    return 1;
  }
  status = resnet20_init_checked(arena, sizeof arena, 1);
  while (status == RESNET20_OK && fread(image, sizeof image, 1, images) == 1 && (label = fgetc(labels)) != EOF) {
    status = resnet20_run(arena, inputs, outputs);
    count++;
    right += best(logits) == label;
  }
  printf("%s; right: %d of %d\n", resnet20_status_text(status), right, count);
  return status != RESNET20_OK;
}
