/* The threads of a handle: started once, woken for each run, all of them walking through the same list of kernels.
 *
 * A pool lies where its owner puts it (in the arena of a handle) and must not move. It allocates nothing; two pools share
 * nothing. The owner is task 0 and works in onnxc_pool_run; the others wait, first spinning, then asleep.
 */
#ifndef ONNXC_POOL_H
#define ONNXC_POOL_H

#include <pthread.h>
#include <stdint.h>

enum { ONNXC_POOL_MOST = 64 }; /* threads */

/* What every task does in a run. It may call onnxc_pool_barrier; if it does, all tasks must, equally often. */
typedef void (*onnxc_work)(void *context, int task, int tasks);

typedef struct onnxc_pool {
  onnxc_work work;
  void *context;
  uint32_t threads; /* the owner among them */
  uint32_t arrived; /* at the barrier of this round */
  uint32_t round;
  uint32_t asleep;
  uint32_t names; /* tasks whose threads have taken their number */
  uint32_t stop;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  pthread_t ids[ONNXC_POOL_MOST - 1];
} onnxc_pool;

/* Starts threads - 1 threads; 1 <= threads <= ONNXC_POOL_MOST. Returns 0, or 1 where the system gives too few. */
int onnxc_pool_start(onnxc_pool *pool, int threads, onnxc_work work, void *context);

/* Calls work(context, task, threads) once a thread, and returns when all have returned. */
void onnxc_pool_run(onnxc_pool *pool);

/* Waits for all tasks; what any of them wrote before it, all of them read after it. */
void onnxc_pool_barrier(onnxc_pool *pool);

/* Ends the threads. */
void onnxc_pool_stop(onnxc_pool *pool);

#endif
