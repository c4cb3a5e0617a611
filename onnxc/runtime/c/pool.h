/* The threads of a handle: started once, woken for each run, helping its owner with the phases that can be shared.
 *
 * The owner walks through a run alone and publishes each shared phase as a number of tasks; whoever is awake takes the next
 * one, the owner too. A phase ends when all of its tasks are done, so a thread that gets no processor delays nothing
 * but the one task that it may have begun, and slower cores take fewer. A pool lies where its owner puts it (in the arena
 * of a handle) and must not move. It allocates nothing; two pools share nothing.
 */
#ifndef ONNXC_POOL_H
#define ONNXC_POOL_H

#include <pthread.h>
#include <stdint.h>

enum { ONNXC_POOL_MOST = 64 }; /* threads */

/* Task `task` of `tasks` of a phase, by thread `worker`: 0 is the owner. */
typedef void (*onnxc_work)(void *context, int phase, int task, int tasks, int worker);

typedef struct onnxc_pool {
  uint64_t ticket; /* number of the published phase in the high half, tasks taken from its end and from its start in the low one */
  onnxc_work work;
  void *context;
  uint32_t threads; /* the owner among them */
  uint32_t phase, tasks;
  uint32_t done;    /* tasks of the published phase */
  uint32_t asleep;  /* workers, and the owner */
  uint32_t names;   /* workers that have taken their number */
  uint32_t stop;
  pthread_mutex_t mutex;
  pthread_cond_t published, finished;
  pthread_t ids[ONNXC_POOL_MOST - 1];
} onnxc_pool;

/* Starts threads - 1 workers; 1 <= threads <= ONNXC_POOL_MOST. Returns 0, or 1 where the system gives too few. */
int onnxc_pool_start(onnxc_pool *pool, int threads, onnxc_work work, void *context);

/* Has all tasks of `phase` done. What the owner wrote before, they read; what they wrote, it reads afterwards. */
void onnxc_pool_share(onnxc_pool *pool, int phase, int tasks);

/* Ends the workers. */
void onnxc_pool_stop(onnxc_pool *pool);

#endif
