/* The weights file: a header of 64 bytes, then the weights as the kernels want them, mapped and shared between processes. */
#define _GNU_SOURCE
#include "runtime.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Little-endian, as every machine that we compile for. */
typedef struct {
    char magic[8];
    uint32_t version, reserved;
    uint64_t bytes;
    uint64_t id;
    char unused[32];
} weights_header;

_Static_assert(sizeof(weights_header) == 64, "the weights start on a cache line");

static int check(const weights_header *header, size_t bytes, uint64_t id) {
    if (memcmp(header->magic, "BURNISHW", 8) != 0 || header->version != 1)
        return BURNISH_WEIGHTS_FORMAT;
    if (header->bytes != bytes)
        return BURNISH_WEIGHTS_SIZE;
    return header->id == id ? BURNISH_OK : BURNISH_WEIGHTS_MISMATCH;
}

int burnish_weights_open(const char *path, size_t bytes, uint64_t id, char **data) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return BURNISH_WEIGHTS_OPEN;
    size_t size = sizeof(weights_header) + bytes;
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(file);
        return BURNISH_WEIGHTS_OPEN;
    }
    /* Checked before mapping: reading past the end of a short file would raise SIGBUS. */
    if ((uint64_t)status.st_size != size) {
        close(file);
        return BURNISH_WEIGHTS_SIZE;
    }
    char *base = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (base == MAP_FAILED)
        return BURNISH_WEIGHTS_OPEN;
    int error = check((const weights_header *)base, bytes, id);
    if (error) {
        munmap(base, size);
        return error;
    }
    /* Only advice: read ahead, so that the first run does not wait for the disk page by page. */
    posix_madvise(base, size, POSIX_MADV_WILLNEED);
    *data = base + sizeof(weights_header);
    return BURNISH_OK;
}

void burnish_weights_close(char *data, size_t bytes) {
    if (data)
        munmap(data - sizeof(weights_header), sizeof(weights_header) + bytes);
}
