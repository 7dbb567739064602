/* Stands between a program and the file system, for tests: records what is done to the files below one folder, and lets calls fail.
 *
 * Loaded by LD_PRELOAD. RAVEL_FAULTS_ROOT is the folder. RAVEL_FAULTS_TRACE is a file that records are appended to, in the order in
 * which the calls took effect: one lock is held around each call and its record. RAVEL_FAULTS_CONTROL is a file of 64-bit numbers that
 * says what has to fail; it is mapped, so it can be changed while the program runs. `faults/shim.rs` and `faults/trace.rs` are the
 * other side. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    OPEN = 1, CLOSE, WRITE, FSYNC, FDATASYNC, SYNC_FILE_RANGE, TRUNCATE, FALLOCATE, RENAME, LINK, UNLINK, MKDIR, RMDIR, DUP,
    SYNC_ALL, UNKNOWN, FAILED_SYNC, PUNCH
};

struct record {
    uint32_t kind;
    int32_t fd;
    uint64_t a, b;
    uint32_t path_len, target_len;
    uint64_t data_len;
};

/* Numbers of the control file, by place. */
enum { WRITE_FAILS_AT, SYNC_FAILS_AT, ERROR, KEEPS_FAILING, BUDGET_SET, BUDGET, WRITES, SYNCS, FAILURES, NUMBERS };

#define FDS 65536
enum { UNTRACKED, TRACKED, APPENDING };
static unsigned char tracked[FDS];
/* As on Linux, a failed sync is told once to each descriptor of the file, whichever called. */
static int owed_error[FDS];
static char root[4096];
static size_t root_len;
static int trace = -1;
static int64_t *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("RAVEL_FAULTS_ROOT"), *path = getenv("RAVEL_FAULTS_TRACE");
    const char *numbers = getenv("RAVEL_FAULTS_CONTROL");
    if (!folder) return;
    strncpy(root, folder, sizeof root - 1);
    root_len = strlen(root);
    if (path) trace = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (numbers) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, numbers, O_RDWR | O_CLOEXEC, 0);
        void *map = mmap(0, NUMBERS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) control = map;
        syscall(SYS_close, fd);
    }
}

static int below_root(const char *path) {
    return root_len && path && !strncmp(path, root, root_len) && (path[root_len] == '/' || !path[root_len]);
}

static int is_tracked(int fd) { return fd >= 0 && fd < FDS && tracked[fd]; }

static void record(enum kind kind, int fd, uint64_t a, uint64_t b, const char *path, const char *target, const void *data,
                   uint64_t data_len) {
    if (trace < 0) return;
    int kept = errno;
    struct record head = {kind, fd, a, b, path ? (uint32_t)strlen(path) : 0, target ? (uint32_t)strlen(target) : 0, data_len};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path, head.path_len}, {(void *)target, head.target_len},
                             {(void *)data, data_len}};
    size_t wanted = sizeof head + head.path_len + head.target_len + data_len;
    if (syscall(SYS_writev, trace, parts, 4) != (long)wanted) {
        static const char text[] = "ravel shim: the trace cannot be written\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
    errno = kept;
}

/* Called with the lock: tells whether this call has to fail, and sets errno then. */
static int fails(int counter, int fails_at) {
    if (!control) return 0;
    int64_t number = ++control[counter], at = control[fails_at];
    if (at == 0 || number < at || (number > at && !control[KEEPS_FAILING])) return 0;
    control[FAILURES]++;
    errno = (int)control[ERROR];
    return 1;
}

/* Called with the lock: tells whether a sync of a file has to fail, and sets errno then. */
static int sync_fails(int fd) {
    if (owed_error[fd]) {
        errno = owed_error[fd];
        owed_error[fd] = 0;
        return 1;
    }
    if (!fails(SYNCS, SYNC_FAILS_AT)) return 0;
    int error = errno;
    struct stat file, other;
    if (!fstat(fd, &file))
        for (int at = 0; at < FDS; at++)
            if (tracked[at] && at != fd && !fstat(at, &other) && other.st_ino == file.st_ino && other.st_dev == file.st_dev)
                owed_error[at] = error;
    errno = error;
    return 1;
}

/* Called with the lock: how many bytes of a write there is room for; 0 sets errno. */
static size_t room(int fd, uint64_t offset, size_t wanted) {
    if (!control || !control[BUDGET_SET] || !wanted) return wanted;
    struct stat found;
    uint64_t size = fstat(fd, &found) ? 0 : (uint64_t)found.st_size;
    uint64_t grows = offset + wanted > size ? offset + wanted - size : 0;
    int64_t budget = control[BUDGET];
    if (grows > (uint64_t)(budget < 0 ? 0 : budget)) {
        uint64_t too_much = grows - (uint64_t)(budget < 0 ? 0 : budget);
        if (too_much >= wanted) {
            control[FAILURES]++;
            errno = ENOSPC;
            return 0;
        }
        wanted -= too_much;
        grows -= too_much;
    }
    control[BUDGET] -= (int64_t)grows;
    return wanted;
}

static ssize_t tracked_write(int fd, const void *data, size_t len, off64_t offset, int positioned) {
    pthread_mutex_lock(&lock);
    ssize_t written = -1;
    if (!fails(WRITES, WRITE_FAILS_AT)) {
        if (!positioned) {
            struct stat found;
            offset = tracked[fd] == APPENDING && !fstat(fd, &found) ? found.st_size : lseek64(fd, 0, SEEK_CUR);
        }
        size_t fitting = room(fd, (uint64_t)offset, len);
        if (fitting || !len)
            written = positioned ? syscall(SYS_pwrite64, fd, data, fitting, offset) : syscall(SYS_write, fd, data, fitting);
        if (written > 0) record(WRITE, fd, (uint64_t)offset, 0, 0, 0, data, (uint64_t)written);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

/* The parts go into one record, as the kernel writes them in one piece. */
static ssize_t tracked_writev(int fd, const struct iovec *parts, int count, off64_t offset, int positioned) {
    size_t len = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    char *whole = malloc(len + 1), *end = whole;
    for (int i = 0; i < count; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    ssize_t written = tracked_write(fd, whole, len, offset, positioned);
    free(whole);
    return written;
}

ssize_t write(int fd, const void *data, size_t len) {
    return is_tracked(fd) ? tracked_write(fd, data, len, 0, 0) : syscall(SYS_write, fd, data, len);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset) {
    return is_tracked(fd) ? tracked_write(fd, data, len, offset, 1) : syscall(SYS_pwrite64, fd, data, len, offset);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t offset) { return pwrite64(fd, data, len, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return is_tracked(fd) ? tracked_writev(fd, parts, count, 0, 0) : syscall(SYS_writev, fd, parts, count);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return is_tracked(fd) ? tracked_writev(fd, parts, count, offset, 1) : REAL(pwritev64)(fd, parts, count, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

static int open_file(int folder, const char *path, int flags, mode_t mode) {
    if (!below_root(path)) return (int)syscall(SYS_openat, folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int full = 0;
    if (control && control[BUDGET_SET] && control[BUDGET] <= 0 && (flags & O_CREAT)) full = faccessat(AT_FDCWD, path, F_OK, 0) != 0;
    int fd = -1;
    if (full) {
        control[FAILURES]++;
        errno = ENOSPC;
    } else {
        fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    }
    if (fd >= FDS) abort();
    if (fd >= 0) {
        tracked[fd] = flags & O_APPEND ? APPENDING : TRACKED;
        owed_error[fd] = 0;
        record(OPEN, fd, (uint64_t)flags, 0, path, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define WITH_MODE(last) \
    mode_t mode = 0; \
    if (last & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }

int open64(const char *path, int flags, ...) { WITH_MODE(flags) return open_file(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int open(const char *path, int flags, ...) { WITH_MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { WITH_MODE(flags) return open_file(folder, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { WITH_MODE(flags) return open_file(folder, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
int creat64(const char *path, mode_t mode) { return open_file(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat(const char *path, mode_t mode) { return creat64(path, mode); }

int close(int fd) {
    if (!is_tracked(fd)) return (int)syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    tracked[fd] = UNTRACKED;
    record(CLOSE, fd, 0, 0, 0, 0, 0, 0);
    int result = (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

static int duplicated(int fd, int copy) {
    if (copy >= 0 && is_tracked(fd)) {
        pthread_mutex_lock(&lock);
        tracked[copy] = tracked[fd];
        record(DUP, fd, (uint64_t)copy, 0, 0, 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return copy;
}
int dup(int fd) { return duplicated(fd, (int)syscall(SYS_dup, fd)); }
int fcntl64(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    int result = (int)syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;
}
int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    return fcntl64(fd, command, argument);
}

static int sync_file(enum kind kind, long call, int fd) {
    if (!is_tracked(fd)) return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!sync_fails(fd)) {
        result = (int)syscall(call, fd);
        if (!result) record(kind, fd, 0, 0, 0, 0, 0, 0);
    } else {
        record(FAILED_SYNC, fd, 0, 0, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) { return sync_file(FSYNC, SYS_fsync, fd); }
int fdatasync(int fd) { return sync_file(FDATASYNC, SYS_fdatasync, fd); }
int syncfs(int fd) { return sync_file(SYNC_ALL, SYS_syncfs, fd); }
/* No promise of the data being on disk: recorded, and nothing follows from it. */
int sync_file_range(int fd, off64_t offset, off64_t len, unsigned flags) {
    if (!is_tracked(fd)) return (int)syscall(SYS_sync_file_range, fd, offset, len, flags);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!sync_fails(fd)) {
        result = (int)syscall(SYS_sync_file_range, fd, offset, len, flags);
        if (!result) record(SYNC_FILE_RANGE, fd, (uint64_t)offset, (uint64_t)len, 0, 0, 0, 0);
    } else {
        record(FAILED_SYNC, fd, 0, 0, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t len) {
    if (!is_tracked(fd)) return (int)syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!fails(WRITES, WRITE_FAILS_AT)) {
        result = (int)syscall(SYS_ftruncate, fd, len);
        if (!result) record(TRUNCATE, fd, (uint64_t)len, 0, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

int fallocate64(int fd, int mode, off64_t offset, off64_t len) {
    if (!is_tracked(fd)) return (int)syscall(SYS_fallocate, fd, mode, offset, len);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    if (!result && mode == 0) record(FALLOCATE, fd, (uint64_t)offset, (uint64_t)len, 0, 0, 0, 0);
    if (!result && mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        record(PUNCH, fd, (uint64_t)offset, (uint64_t)len, 0, 0, 0, 0);
    else if (!result && mode & ~FALLOC_FL_KEEP_SIZE)
        record(UNKNOWN, fd, 0, 0, "fallocate", 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t len) { return fallocate64(fd, mode, offset, len); }
int posix_fallocate64(int fd, off64_t offset, off64_t len) { return fallocate64(fd, 0, offset, len) ? errno : 0; }
int posix_fallocate(int fd, off_t offset, off_t len) { return posix_fallocate64(fd, offset, len); }

static int change_names(enum kind kind, long call, const char *path, const char *target, mode_t mode) {
    int ours = below_root(path) || below_root(target);
    if (ours) pthread_mutex_lock(&lock);
    int result;
    switch (kind) {
    case RENAME: case LINK: result = (int)syscall(call, AT_FDCWD, path, AT_FDCWD, target, 0); break;
    case MKDIR: result = (int)syscall(call, AT_FDCWD, path, mode); break;
    case RMDIR: result = (int)syscall(call, AT_FDCWD, path, AT_REMOVEDIR); break;
    default: result = (int)syscall(call, AT_FDCWD, path, 0);
    }
    if (ours && !result) record(kind, -1, 0, 0, path, target, 0, 0);
    if (ours) pthread_mutex_unlock(&lock);
    return result;
}
int rename(const char *path, const char *target) { return change_names(RENAME, SYS_renameat2, path, target, 0); }
int link(const char *path, const char *target) { return change_names(LINK, SYS_linkat, path, target, 0); }
int unlink(const char *path) { return change_names(UNLINK, SYS_unlinkat, path, 0, 0); }
int remove(const char *path) {
    int result = unlink(path);
    return result && errno == EISDIR ? rmdir(path) : result;
}
int rmdir(const char *path) { return change_names(RMDIR, SYS_unlinkat, path, 0, 0); }
int mkdir(const char *path, mode_t mode) { return change_names(MKDIR, SYS_mkdirat, path, 0, mode); }

/* What nobody here uses: if somebody does, the trace says so, and the test fails. */
static void unknown(int fd, const char *path, const char *name) {
    if (!is_tracked(fd) && !below_root(path)) return;
    pthread_mutex_lock(&lock);
    record(UNKNOWN, fd, 0, 0, name, 0, 0, 0);
    pthread_mutex_unlock(&lock);
}
void *mmap64(void *at, size_t len, int protection, int flags, int fd, off64_t offset) {
    if (protection & PROT_WRITE && flags & MAP_SHARED) unknown(fd, 0, "mmap");
    return (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
}
void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset) {
    return mmap64(at, len, protection, flags, fd, offset);
}
int truncate64(const char *path, off64_t len) { unknown(-1, path, "truncate"); return (int)syscall(SYS_truncate, path, len); }
int truncate(const char *path, off_t len) { return truncate64(path, len); }
int unlinkat(int folder, const char *path, int flags) {
    unknown(folder, path, "unlinkat");
    return (int)syscall(SYS_unlinkat, folder, path, flags);
}
int renameat(int from, const char *path, int to, const char *target) {
    unknown(from, path, "renameat");
    return (int)syscall(SYS_renameat2, from, path, to, target, 0);
}
int linkat(int from, const char *path, int to, const char *target, int flags) {
    if (from == AT_FDCWD && to == AT_FDCWD && !flags) return link(path, target);
    unknown(from, path, "linkat");
    return (int)syscall(SYS_linkat, from, path, to, target, flags);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t len, unsigned flags) {
    unknown(out, 0, "copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, len, flags);
}
