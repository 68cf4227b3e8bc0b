/*
 * ata.h - an ATA disk or ATAPI CD drive behind its registers: what IDE channels and AHCI ports
 * share. After ATA8-ACS, with ATAPI from SFF-8020i and MMC-5.
 *
 * A drive is a part of its controller: the controller's lock guards it, and the controller's ops
 * carry its data. A controller writes the registers, then calls ata_command(); the drive asks it to
 * move data (a block by the processor or a range by DMA) and says when the command has ended. What
 * the disk does it does meanwhile: the drive is busy and the controller's lock is free.
 *
 * A command is a direction and an amount: bytes of the disk, or a reply that lies in the buffer.
 * Whatever comes from the disk goes through the buffer too, ATA_BUFFER bytes at a time.
 */
#ifndef DEVICES_BLOCK_ATA_H
#define DEVICES_BLOCK_ATA_H

#include "devices/block/transfer.h"

struct ata;

enum {
    ATA_SECTOR = 512,
    ATA_CD_SECTOR = 2048,
    ATA_BUFFER = 128 * KiB,
    ATA_PACKET = 12,
    ATA_SIGNATURE_DISK = 0x0000,
    ATA_SIGNATURE_ATAPI = 0xeb14, /* in high:mid */
};

enum ata_status {
    ATA_ERR = 1 << 0,
    ATA_DRQ = 1 << 3,
    ATA_SEEK = 1 << 4,
    ATA_FAULT = 1 << 5,
    ATA_DRDY = 1 << 6,
    ATA_BSY = 1 << 7,
};

enum ata_error {
    ATA_ABORT = 1 << 2,
    ATA_NOT_FOUND = 1 << 4,
    ATA_UNCORRECTABLE = 1 << 6,
    ATA_CRC = 1 << 7,
};

enum ata_control { ATA_NIEN = 1 << 1, ATA_SRST = 1 << 2, ATA_HOB = 1 << 7 };
enum ata_device_bit { ATA_DEVICE_1 = 1 << 4, ATA_LBA = 1 << 6 };
/* In the count register of ATAPI drives. */
enum ata_reason { ATA_REASON_COMMAND = 1, ATA_REASON_IN = 2 };

enum ata_phase {
    ATA_IDLE,
    ATA_DATA, /* a block lies in, or is wanted in, the buffer; the controller moves it */
    ATA_DMA,  /* the same, by DMA, as soon as the controller's engine runs */
    ATA_DISK, /* the disk is at work */
};

struct ata_ops {
    /* Move up to `size` bytes between `data` and the guest; how many went. -EAGAIN: the engine does
     * not run yet, ata_dma_go() will be called. */
    int64_t (*dma)(struct ata *a, uint8_t *data, uint32_t size, bool to_guest);
    /* A block of data is to be moved by the processor: ata_block() says which. Where `interrupt`,
     * the guest is told. */
    void (*block)(struct ata *a, bool interrupt);
    /* The command has ended; status, error and the others say how. */
    void (*ended)(struct ata *a);
};

struct ata_registers {
    uint8_t feature, count, low, mid, high;
};

struct ata {
    /* fixed when attached */
    const struct ata_ops *ops;
    struct device *controller;
    unsigned unit;
    bool serial_ata;   /* say so in the identity */
    bool whole_blocks; /* blocks of the whole buffer, not of a sector: AHCI has no such thing */
    bool is_cd;
    struct disk *disk; /* NULL: CD drive without a disc */
    uint64_t sectors;  /* of ATA_SECTOR */
    uint16_t cylinders;
    uint8_t heads, track;
    char serial[21], model[41], revision[9];
    uint64_t wwn;

    /* saved: registers */
    struct ata_registers now, before; /* before: what the 48-bit commands write first */
    uint8_t device, status, error, command;
    /* saved: settings */
    uint8_t multiple, dma_mode; /* sectors of a block of READ MULTIPLE; as SET FEATURES says */
    uint8_t set_heads, set_track;
    bool write_cache, read_ahead, smart;
    /* saved: the command */
    uint8_t phase; /* enum ata_phase */
    bool to_guest, by_dma, fua;
    bool on_disk;                /* the data is the disk's, not a reply or a parameter list */
    bool packet_wanted;          /* the parameters are a CDB */
    uint64_t offset, left;       /* on the disk: bytes not yet read, or not yet written */
    uint32_t filled, moved, end; /* of the buffer: valid or wanted, gone, end of this block */
    uint32_t block;              /* size of a block by the processor */
    uint32_t limit;              /* of blocks of a packet command's data */
    uint32_t trim_at;            /* next range of a TRIM */
    uint8_t disk_op;             /* while ATA_DISK: enum disk_op and its arguments */
    uint64_t op_offset, op_length;
    /* saved: what log 0x10 says of the queued command that failed; length 0: nothing */
    uint8_t queued_error[16];
    uint8_t buffer[ATA_BUFFER];
    /* saved: CD */
    uint8_t packet[ATA_PACKET];
    uint8_t sense, sense_code, sense_qualifier;
    uint8_t media_event; /* to be reported by GET EVENT STATUS */
    bool changed;        /* unit attention is due */
    bool locked, tray_open;
    uint64_t sectors_read, sectors_written; /* for the SMART page */

    struct transfer *transfer; /* NULL: none */
};

extern const struct state_field ata_state[];

/* Before: serial ... wwn as the drive device wants them, disk. Takes no lock. */
void ata_attach(struct ata *a, struct device *controller, const struct ata_ops *ops);
void ata_detach(struct ata *a); /* waits for the disk; without the lock */

/* With the controller's lock held. */
void ata_reset(struct ata *a, bool power_on); /* also SRST, without power_on */
void ata_refresh(struct ata *a);              /* after a restore: ask the disk again */
void ata_command(struct ata *a, uint8_t command);
/* The block of ATA_DATA, and that the controller moved `count` bytes of it. */
uint8_t *ata_block(struct ata *a, uint32_t *left);
void ata_block_moved(struct ata *a, uint32_t count);
void ata_dma_go(struct ata *a);
void ata_signature(struct ata *a);
/* `bytes` of log 0x10, by which a driver finds the failed one of its queued commands. */
void ata_queued_failed(struct ata *a, unsigned tag, uint8_t status, uint8_t error, uint64_t lba,
                       unsigned count);
/* Sector number and count of a 48-bit command as it stands in the registers. */
uint64_t ata_lba48(const struct ata *a);
/* Ejecting and putting in, by the user. `disk` NULL: no disc. */
void ata_change_disc(struct ata *a, struct disk *disk);

static inline bool ata_present(const struct ata *a)
{
    return a && a->controller;
}

/* ---- between ata.c and atapi.c -----------------------------------------------------------------
 */

void ata_end(struct ata *a, uint8_t error);   /* 0: good */
void ata_reply(struct ata *a, uint32_t size); /* that many bytes of the buffer */
void ata_take(struct ata *a, uint32_t size);  /* and when they are there: */
void ata_read_disk(struct ata *a, uint64_t offset, uint64_t length);
void ata_disk_op(struct ata *a, enum disk_op op, uint64_t offset, uint64_t length);
void ata_put_text(uint8_t *to, const char *text, size_t size); /* bytes swapped, padded */

void atapi_identify(struct ata *a);
void atapi_packet(struct ata *a); /* the command PACKET was given */
void atapi_taken(struct ata *a);  /* bytes came from the guest */
void atapi_disk_failed(struct ata *a);
void atapi_reset(struct ata *a);

#endif
