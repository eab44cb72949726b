/* What lies on a device that somebody asks us to overwrite. The table has the signatures that
 * people meet; whatever it misses is caught by "the first MiB is not all zero". */
#include <stdio.h>

#include "pool/disk.h"

struct signature {
    const char *name;
    uint32_t offset; /* from the start */
    uint32_t length;
    const char *bytes;
};

#define SIGNATURE(name, offset, bytes)                                                             \
    {                                                                                              \
        name, offset, sizeof(bytes) - 1, bytes                                                     \
    }

static const struct signature signatures[] = {
    SIGNATURE("a GPT partition table", 512, "EFI PART"),
    SIGNATURE("a GPT partition table", 4096, "EFI PART"),
    SIGNATURE("an XFS file system", 0, "XFSB"),
    SIGNATURE("an ext2, ext3 or ext4 file system", 1080, "\x53\xef"),
    SIGNATURE("a btrfs file system", 0x10040, "_BHRfS_M"),
    SIGNATURE("an NTFS file system", 3, "NTFS    "),
    SIGNATURE("a ReFS file system", 3, "ReFS\0\0\0\0"),
    SIGNATURE("an exFAT file system", 3, "EXFAT   "),
    SIGNATURE("a FAT file system", 82, "FAT32   "),
    SIGNATURE("a FAT file system", 54, "FAT1"),
    SIGNATURE("an F2FS file system", 1024, "\x10\x20\xf5\xf2"),
    SIGNATURE("a squashfs file system", 0, "hsqs"),
    SIGNATURE("an ISO 9660 file system", 32769, "CD001"),
    SIGNATURE("swap space", 4086, "SWAPSPACE2"),
    SIGNATURE("swap space", 4086, "SWAP-SPACE"),
    SIGNATURE("a hibernation image", 4086, "S1SUSPEND"),
    SIGNATURE("an LVM physical volume", 0, "LABELONE"),
    SIGNATURE("an LVM physical volume", 512, "LABELONE"),
    SIGNATURE("an LVM physical volume", 1024, "LABELONE"),
    SIGNATURE("an LVM physical volume", 1536, "LABELONE"),
    SIGNATURE("a LUKS encrypted volume", 0, "LUKS\xba\xbe"),
    SIGNATURE("a member of a Linux software RAID (md)", 0, "\xfc\x4e\x2b\xa9"),
    SIGNATURE("a member of a Linux software RAID (md)", 4096, "\xfc\x4e\x2b\xa9"),
    SIGNATURE("a bcache or bcachefs device", 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    SIGNATURE("a ZFS pool member", 131072, "\x0c\xb1\xba\x00\0\0\0\0"),
    SIGNATURE("a Ceph OSD (BlueStore)", 0, "bluestore block device"),
    SIGNATURE("a QEMU qcow2 image", 0, "QFI\xfb"),
    SIGNATURE("a VMware disk image", 0, "KDMV"),
    SIGNATURE("a VHDX image", 0, "vhdxfile"),
};

/* What keeps its label at the end of a device; offsets from there. */
static const struct signature tail_signatures[] = {
    SIGNATURE("a backup GPT partition table", 512, "EFI PART"),
    SIGNATURE("a backup GPT partition table", 4096, "EFI PART"),
    SIGNATURE("a member of a Linux software RAID (md)", 8192, "\xfc\x4e\x2b\xa9"),
    SIGNATURE("a member of a Linux software RAID (md)", 65536, "\xfc\x4e\x2b\xa9"),
    SIGNATURE("a DRBD device", 4096 - 60, "\x83\x74\x02\x6b"),
    SIGNATURE("a VHD image", 512, "conectix"),
};

static bool matches(const struct signature *signature, const uint8_t *at, size_t room)
{
    return room >= signature->length && memcmp(at, signature->bytes, signature->length) == 0;
}

static const char *probe_tail(const uint8_t *tail, size_t tail_bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(tail_signatures); i++) {
        const struct signature *signature = &tail_signatures[i];

        if (signature->offset <= tail_bytes &&
            matches(signature, tail + tail_bytes - signature->offset, signature->offset))
            return signature->name;
    }
    return NULL;
}

const char *disk_probe_foreign(const uint8_t *head, size_t head_bytes, const uint8_t *tail,
                               size_t tail_bytes, char *text, size_t text_bytes)
{
    const char *found;

    for (size_t i = 0; i < ARRAY_SIZE(signatures); i++) {
        const struct signature *signature = &signatures[i];

        if (signature->offset < head_bytes &&
            matches(signature, head + signature->offset, head_bytes - signature->offset)) {
            snprintf(text, text_bytes, "%s", signature->name);
            return text;
        }
    }
    found = probe_tail(tail, tail_bytes);
    if (found) {
        snprintf(text, text_bytes, "%s", found);
        return text;
    }
    /* after the file systems: FAT and NTFS end their first sector like a partition table */
    if (head_bytes >= 512 && head[510] == 0x55 && head[511] == 0xaa) {
        snprintf(text, text_bytes, "an MBR partition table or boot sector");
        return text;
    }
    for (size_t i = 0; i < head_bytes; i++) {
        if (head[i] != 0) {
            snprintf(text, text_bytes, "data of an unknown kind (at byte %zu)", i);
            return text;
        }
    }
    return NULL;
}
