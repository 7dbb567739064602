// sled's own syncs, made durable.
//
// After each write to its log, sled calls sync_file_range, waits for it, and from then on takes what it wrote for durable: it may write
// other things to where older copies were. But sync_file_range neither empties the disk's cache nor writes what is needed to find new
// blocks of a file, so a loss of power could leave neither copy. sled has no setting for it. This function takes the place of the
// system's in programs that contain it; what others use it for, to start writing, goes on to the system.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
    const unsigned int wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if ((flags & wait) == wait) return fdatasync(fd);
    return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}
