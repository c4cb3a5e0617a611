/* Wrong calls, a row each: all return their status, none crashes. Two inputs are not needed: one input, two outputs. */
#include <stdio.h>
#include <string.h>

#include "net.h"
#include "other.h"

#define ALIGNED __attribute__((aligned(64)))
static char arena[NET_ARENA_BYTES + 64] ALIGNED, second[OTHER_ARENA_BYTES] ALIGNED;
static char x[NET_INPUT0_BYTES + 64] ALIGNED, y[NET_OUTPUT0_BYTES + 64] ALIGNED, z[NET_OUTPUT1_BYTES + 64] ALIGNED;
static int wrong;

#define EXPECT(status, call)                                        \
  do {                                                              \
    int found = (call);                                             \
    if (found != NET_##status) {                                    \
      printf("%s: %d, expected %s\n", #call, found, #status);       \
      wrong = 1;                                                    \
    }                                                               \
  } while (0)

static int run(const void *a, void *b, void *c) {
  const void *inputs[NET_INPUTS];
  void *outputs[NET_OUTPUTS];
  inputs[0] = a, outputs[0] = b, outputs[1] = c;
  return net_run(arena, inputs, outputs);
}

static int sized(size_t a, size_t b, size_t c) {
  const void *inputs[NET_INPUTS];
  void *outputs[NET_OUTPUTS];
  size_t in[NET_INPUTS], out[NET_OUTPUTS];
  inputs[0] = x, outputs[0] = y, outputs[1] = z, in[0] = a, out[0] = b, out[1] = c;
  return net_run_checked(arena, inputs, in, outputs, out);
}

int main(void) {
  const void *inputs[NET_INPUTS];
  void *outputs[NET_OUTPUTS];
  size_t sizes[2] = {NET_OUTPUT0_BYTES, NET_OUTPUT1_BYTES};
  inputs[0] = x, outputs[0] = y, outputs[1] = z;
  EXPECT(NOT_INITIALISED, run(x, y, z));
  EXPECT(NOT_INITIALISED, net_free(arena));
  EXPECT(NULL_POINTER, net_init(NULL, 1));
  EXPECT(NULL_POINTER, net_init_checked(NULL, 0, 1));
  EXPECT(MISALIGNED, net_init(arena + 1, 1));
  EXPECT(MISALIGNED, net_init(arena + 32, 1));
  EXPECT(BAD_THREADS, net_init(arena, 0));
  EXPECT(BAD_THREADS, net_init(arena, -1));
  EXPECT(BAD_THREADS, net_init(arena, NET_THREADS + 1));
  EXPECT(ARENA_TOO_SMALL, net_init_checked(arena, NET_ARENA_BYTES - 1, 1));
  EXPECT(ARENA_TOO_SMALL, net_init_checked(arena, 0, 1));
  EXPECT(NOT_INITIALISED, run(x, y, z));
  EXPECT(OK, net_init_checked(arena, NET_ARENA_BYTES, NET_THREADS));
  EXPECT(OK, run(x, y, z));
  EXPECT(NULL_POINTER, net_run(NULL, inputs, outputs));
  EXPECT(NULL_POINTER, net_run(arena, NULL, outputs));
  EXPECT(NULL_POINTER, net_run(arena, inputs, NULL));
  EXPECT(NULL_POINTER, run(NULL, y, z));
  EXPECT(NULL_POINTER, run(x, NULL, z));
  EXPECT(NULL_POINTER, run(x, y, NULL));
  EXPECT(MISALIGNED, net_run(arena + 4, inputs, outputs));
  EXPECT(MISALIGNED, run(x + 2, y, z));
  EXPECT(MISALIGNED, run(x, y + 1, z));
  EXPECT(MISALIGNED, run(x, y, z + 3));
  EXPECT(OK, run(x + 4, y + 8, z + 12));
  EXPECT(OVERLAP, run(x, x, z));
  EXPECT(OVERLAP, run(x, y, y + 4));
  EXPECT(OVERLAP, run(x, arena, z));
  EXPECT(OVERLAP, run(x, y, arena + NET_ARENA_BYTES - 4));
  EXPECT(OK, run(y, x, z));
  EXPECT(WRONG_SIZE, sized(NET_INPUT0_BYTES + 4, sizes[0], sizes[1]));
  EXPECT(WRONG_SIZE, sized(NET_INPUT0_BYTES, sizes[0] - 4, sizes[1]));
  EXPECT(WRONG_SIZE, sized(NET_INPUT0_BYTES, sizes[0], 0));
  EXPECT(NULL_POINTER, net_run_checked(arena, inputs, NULL, outputs, sizes));
  EXPECT(NULL_POINTER, net_run_checked(arena, inputs, sizes, outputs, NULL));
  EXPECT(OK, sized(NET_INPUT0_BYTES, sizes[0], sizes[1]));
  EXPECT(NULL_POINTER, net_free(NULL));
  EXPECT(MISALIGNED, net_free(arena + 1));
  EXPECT(OK, net_free(arena));
  EXPECT(NOT_INITIALISED, net_free(arena));
  EXPECT(NOT_INITIALISED, run(x, y, z));
  EXPECT(OK, other_init(second, 1)); /* both OK are 0 */
  EXPECT(NOT_INITIALISED, net_run(second, inputs, outputs));
  EXPECT(NOT_INITIALISED, net_free(second));
  if (net_input(-1) || net_input(NET_INPUTS) || net_output(-1) || net_output(NET_OUTPUTS)) wrong = 1;
  if (!net_status_text(-1) || !net_status_text(1000) || strcmp(net_status_text(0), "ok")) wrong = 1;
  return wrong;
}
