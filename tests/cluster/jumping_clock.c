/* A clock that jumps: the time of day, and nothing else, is off by as many seconds as the file $CLOCK_OFF_BY says.

   gcc -shared -fPIC -O1 -o jumping_clock.so jumping_clock.c -ldl
   LD_PRELOAD=… CLOCK_OFF_BY=FILE command

   libfaketime 0.9.10 is no help: with its monotonic clock left alone, sleeping until a time (Python's time.sleep)
   fails with EINVAL. Here sleeping and the monotonic clock are the kernel's own. The file is read once a second. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Times of day are beyond it, times since the machine started are not. */
#define A_DATE 1000000000
#define SECOND 1000000000

static long off_by;
static long read_at = -1;

#define REAL(name)                                                                                                     \
    static __typeof__(&name) real;                                                                                     \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int real_clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    return real(clock, now);
}

static long offset(void) {
    struct timespec now;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    if (__atomic_exchange_n(&read_at, now.tv_sec, __ATOMIC_RELAXED) != now.tv_sec) {
        int before = errno, file = open(getenv("CLOCK_OFF_BY") ? getenv("CLOCK_OFF_BY") : "", O_RDONLY | O_CLOEXEC);
        char text[32] = {0};
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) __atomic_store_n(&off_by, atol(text), __ATOMIC_RELAXED);
            close(file);
        }
        errno = before;
    }
    return __atomic_load_n(&off_by, __ATOMIC_RELAXED);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    if (result == 0) now->tv_sec += offset();
    return result;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now != NULL) *now = found.tv_sec;
    return found.tv_sec;
}

/* Waiting until a time of day is waiting as long as it is until then: the kernel's own clock has not jumped. */
static struct timespec monotonic(const struct timespec *until) {
    struct timespec now, date, found = *until;
    if (until->tv_sec <= A_DATE) return found;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    clock_gettime(CLOCK_REALTIME, &date);
    found.tv_sec += now.tv_sec - date.tv_sec;
    found.tv_nsec += now.tv_nsec - date.tv_nsec;
    for (; found.tv_nsec < 0; found.tv_nsec += SECOND) found.tv_sec--;
    for (; found.tv_nsec >= SECOND; found.tv_nsec -= SECOND) found.tv_sec++;
    return found;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec later = monotonic(until);
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &later);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec later = monotonic(until);
    return sem_clockwait(semaphore, CLOCK_MONOTONIC, &later);
}
