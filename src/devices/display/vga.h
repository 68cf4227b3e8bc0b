/*
 * vga.h - a VGA with the VBE extensions of Bochs, as QEMU's "VGA": registers (vga.c) and how a
 * picture follows from them and from video memory (vga_draw.c).
 *
 * Video memory keeps the four planes side by side: byte `4 * offset + plane`. So what a guest sees
 * in the chained modes, and in the linear frame buffer, is the memory as it lies there.
 */
#ifndef DEVICES_DISPLAY_VGA_H
#define DEVICES_DISPLAY_VGA_H

#include "devices/pci/pci.h"

struct ram_block;
struct screen;

extern const struct device_type vga_type;

enum { VGA_EDID = 128, VGA_FONT = 8 * KiB };

enum vbe_register {
    VBE_ID,
    VBE_WIDTH,
    VBE_HEIGHT,
    VBE_BPP,
    VBE_ENABLE,
    VBE_BANK,
    VBE_VIRTUAL_WIDTH,
    VBE_VIRTUAL_HEIGHT,
    VBE_X,
    VBE_Y,
    VBE_MEMORY,
    VBE_COUNT,
};
enum { VBE_ENABLED = 1, VBE_GET_LIMITS = 2, VBE_DAC_8 = 0x20, VBE_LINEAR = 0x40, VBE_KEEP = 0x80 };

/* What the guest set: all that a picture depends on besides the memory. */
struct vga_registers {
    uint8_t misc, feature;
    uint8_t sequencer[8], graphics[16], attribute[32], crtc[32];
    uint8_t sequencer_index, graphics_index, attribute_index, crtc_index;
    bool attribute_data; /* the flip-flop of port 0x3c0: data comes next */
    uint8_t dac_mask, dac_read, dac_write, dac_part, dac_state;
    uint8_t dac[768];
    uint8_t latch[4];
    uint16_t vbe_index, vbe[VBE_COUNT];
    uint8_t vbe_low; /* of a word that comes as two bytes */
};

struct vga_text {
    uint32_t columns, rows; /* 0: nothing drawn as text yet */
    uint16_t cells[256 * 256];
    uint8_t font[2][VGA_FONT];
    uint32_t cursor;
};

struct vga {
    struct pci_device pci;
    uint32_t memory_mib, width, height; /* properties */
    struct vga_registers r;             /* saved */

    struct ram_block *vram, *rom;
    uint8_t edid[VGA_EDID];
    struct screen *screen; /* NULL: nobody looks */
    uint64_t changes;      /* of the registers, counted */

    /* The screen's lock guards what was drawn last. */
    uint64_t drawn_changes;
    struct vga_text *text;
};

/* A picture's shape; by vga_mode(), from registers. */
struct vga_mode {
    enum {
        VGA_BLANK,
        VGA_TEXT,
        VGA_PLANAR,
        VGA_CGA,
        VGA_PACKED_8,
        VGA_15,
        VGA_16,
        VGA_24,
        VGA_32
    } kind;
    uint32_t width, height;
    uint32_t unit;   /* bytes of video memory for one step of the address counter */
    uint32_t start;  /* in video memory, bytes */
    uint32_t stride; /* bytes of video memory from line to line */
    uint32_t repeat; /* each line is shown so often */
    uint32_t columns, rows, cell_width, cell_height;
};
void vga_mode(const struct vga_registers *r, uint32_t vram_size, struct vga_mode *out);

/* Bring the screen up to date; without the device's lock. */
void vga_draw(struct vga *v, struct screen *s, bool whole);

void vga_edid(uint8_t out[VGA_EDID], uint32_t width, uint32_t height);

#endif
