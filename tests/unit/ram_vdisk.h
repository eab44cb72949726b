/* ram_vdisk: a vdisk in RAM that can lose its power, for tests. Each write may wait a few turns of
 * the loop, so that several are in flight. When the power is cut, what was acknowledged is there;
 * of what is in flight each 4 KiB block lands or not, as the seed says; everything from then on
 * returns -ESTALE, until ram_vdisk_restart(). */
#ifndef S2D_TESTS_RAM_VDISK_H
#define S2D_TESTS_RAM_VDISK_H

#include "resiliency/vdisk.h"

struct ram_vdisk {
    struct vdisk vdisk;
    char *memory;
    uint64_t random;    /* state */
    unsigned delay_max; /* turns that a request may wait */
    uint64_t slow_from; /* bytes: writes from here on wait slow_turns; 0: none does */
    unsigned slow_turns;
    unsigned trim_turns; /* that a trim waits; 0: as any other request */

    uint64_t reads, writes, trims; /* that began */
    uint64_t named_writes;         /* of these: that said whose they are */
    uint64_t bytes_written;
    uint64_t cut_after; /* power goes when so many writes and trims were done; UINT64_MAX: never */
    bool is_cut;

    uint64_t fail_after; /* the next write after so many (reads: fail_reads_after) returns
                            fail_error, once */
    uint64_t fail_reads_after;
    int fail_error;
    uint64_t
        rotten_at; /* bytes: the block there reads as -EIO, as without any right copy; 0: none */
    uint64_t rotten_too;   /* another one */
    bool rotten_is_a_row;  /* of parity, that cannot be decoded: writing there is -EIO, too */
    uint64_t rotten_bytes; /* from rotten_at on; 0: one block */

    uint64_t room_bytes; /* it can grow to this: what it was made with */
    uint8_t *in_use;     /* by block: written, and not trimmed since */
    uint64_t slabs;      /* thin: so many slabs of 1 MiB are left in the pool; UINT64_MAX: thick */
    uint8_t *slab_there;
    bool gives_back; /* slabs in which nothing is written any more are in the pool at once */
};

/* All zeros. Returns 0 or -ENOMEM. */
must_check int ram_vdisk_init(struct ram_vdisk *ram, uint64_t size_bytes, uint64_t seed);
void ram_vdisk_done(struct ram_vdisk *ram);
void ram_vdisk_restart(struct ram_vdisk *ram); /* power is back, faults are off */
uint64_t ram_vdisk_random(struct ram_vdisk *ram);
/* Makes it larger by so much, or as much as there is room. Smaller first: set vdisk.size_bytes. */
void ram_vdisk_grow(struct ram_vdisk *ram, uint64_t bytes);
uint64_t ram_vdisk_blocks_in_use(const struct ram_vdisk *ram);

#endif
