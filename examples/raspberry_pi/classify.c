/* classify IMAGES LABELS: classes of 28x28 float images, and how many are right. Links libresnet20.so. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "resnet20.h"

static const char *const names[10] = {"T-shirt", "trouser", "pullover", "dress", "coat",
                                      "sandal",  "shirt",   "sneaker",  "bag",   "boot"};

static int best(const float *logits) {
  int i, top = 0;
  for (i = 1; i < 10; i++)
    if (logits[i] > logits[top]) top = i;
  return top;
}

int main(int argc, char **argv) {
  FILE *images = argc == 3 ? fopen(argv[1], "rb") : NULL, *labels = argc == 3 ? fopen(argv[2], "rb") : NULL;
  void *arena = aligned_alloc(RESNET20_ARENA_ALIGN, (RESNET20_ARENA_BYTES + 63) / 64 * 64);
  float image[28 * 28], logits[10];
  const void *inputs[RESNET20_INPUTS] = {image};
  void *outputs[RESNET20_OUTPUTS] = {logits};
  int label, count = 0, right = 0;
  int status;
  clock_t start = clock();
  if (!images || !labels || !arena) {
    fprintf(stderr, "usage: classify IMAGES LABELS\n");
    return 1;
  }
  status = resnet20_init_checked(arena, RESNET20_ARENA_BYTES, 1);
  while (status == RESNET20_OK && fread(image, sizeof image, 1, images) == 1 && (label = fgetc(labels)) != EOF) {
    status = resnet20_run(arena, inputs, outputs);
    if (count < 5) printf("%-8s (is %s)\n", names[best(logits)], names[label % 10]);
    count++;
    right += best(logits) == label;
  }
  if (status != RESNET20_OK) {
    fprintf(stderr, "classify: %s\n", resnet20_status_text(status));
    return 1;
  }
  printf("right: %d of %d, %.1f ms each\n", right, count, 1e3 * (double)(clock() - start) / CLOCKS_PER_SEC / count);
  resnet20_free(arena);
  free(arena);
  fclose(images);
  fclose(labels);
  return 0;
}
