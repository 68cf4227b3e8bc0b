/*
 * vga.c - see vga.h. The registers of IBM's VGA, and of Bochs' VBE display interface, at the old
 * ports and addresses and, again, in a BAR.
 *
 * Every write of a register counts as a change; the picture is drawn anew when there was one, or
 * where the pages of video memory were written (RAM_DIRTY_DISPLAY).
 */
#include "devices/display/vga.h"

#include "devices/flash/rom.h"
#include "display/display.h"
#include "machine/machine.h"
#include "memory/ram.h"

#include <errno.h>
#include <stdlib.h>

enum {
    BAR_MEMORY = 0,
    BAR_REGISTERS = 2,
    REGISTERS_SIZE = 4096,
    REGISTERS_PORTS = 0x400,
    REGISTERS_VBE = 0x500,
    REGISTERS_QEMU = 0x600
};
enum { WINDOW = 0xa0000, WINDOW_SIZE = 0x20000, WINDOW_BANK = 0x10000 };
enum {
    PORT_CRTC_MONO = 0x3b4,
    PORT_ATTRIBUTE = 0x3c0,
    PORT_CRTC = 0x3d4,
    PORT_STATUS = 0x3da,
    PORT_VBE = 0x1ce
};
enum { MISC_COLOUR = 1, CRTC_PROTECT = 0x80, VBE_NEWEST = 0xb0c5, LITTLE_ENDIAN_TAG = 0x1e1e1e1e };
enum { SEQ_MASK = 2, SEQ_FONT = 3, SEQ_MODE = 4, SEQ_CHAIN_4 = 8 };
enum {
    GFX_SET = 0,
    GFX_ENABLE = 1,
    GFX_COMPARE = 2,
    GFX_ROTATE = 3,
    GFX_READ = 4,
    GFX_MODE = 5,
    GFX_MISC = 6,
    GFX_CARE = 7,
    GFX_BITS = 8
};

#define to_vga(d) container_of(to_pci(d), struct vga, pci)

/* ---- VBE ---------------------------------------------------------------------------------------
 */

static uint16_t vbe_limit(const struct vga *v, unsigned index)
{
    switch (index) {
    case VBE_WIDTH: return SCREEN_MAX_WIDTH;
    case VBE_HEIGHT: return SCREEN_MAX_HEIGHT;
    default: return 32;
    }
}

static uint16_t vbe_read(const struct vga *v)
{
    unsigned i = v->r.vbe_index;

    if (i == VBE_MEMORY)
        return (uint16_t)(v->vram->size / (64 * KiB));
    if (i >= VBE_COUNT)
        return 0;
    if (v->r.vbe[VBE_ENABLE] & VBE_GET_LIMITS && i >= VBE_WIDTH && i <= VBE_BPP)
        return vbe_limit(v, i);
    return v->r.vbe[i];
}

static uint32_t vbe_line(const struct vga_registers *r)
{
    uint32_t width = r->vbe[VBE_VIRTUAL_WIDTH], bits = r->vbe[VBE_BPP];

    return bits == 4 ? width / 2 : width * ((bits + 7) / 8);
}

/* Keep what was asked for within what there is. */
static void vbe_fix(struct vga *v)
{
    struct vga_registers *r = &v->r;
    uint32_t line;

    switch (r->vbe[VBE_BPP]) {
    case 4:
    case 8:
    case 15:
    case 16:
    case 24:
    case 32: break;
    default: r->vbe[VBE_BPP] = 8;
    }
    r->vbe[VBE_WIDTH] = (uint16_t)MIN(MAX(r->vbe[VBE_WIDTH] & ~7, 8), SCREEN_MAX_WIDTH);
    r->vbe[VBE_HEIGHT] = (uint16_t)MIN(MAX(r->vbe[VBE_HEIGHT], 1), SCREEN_MAX_HEIGHT);
    r->vbe[VBE_VIRTUAL_WIDTH] = MAX(r->vbe[VBE_VIRTUAL_WIDTH], r->vbe[VBE_WIDTH]);
    line = vbe_line(r);
    if ((uint64_t)line * r->vbe[VBE_HEIGHT] > v->vram->size) {
        r->vbe[VBE_VIRTUAL_WIDTH] = r->vbe[VBE_WIDTH];
        line = vbe_line(r);
    }
    if ((uint64_t)line * r->vbe[VBE_HEIGHT] > v->vram->size)
        r->vbe[VBE_HEIGHT] = (uint16_t)MAX(v->vram->size / line, 1u);
    r->vbe[VBE_VIRTUAL_HEIGHT] = (uint16_t)MIN(v->vram->size / line, UINT64_C(0xffff));
    if (r->vbe[VBE_X] > r->vbe[VBE_VIRTUAL_WIDTH] - r->vbe[VBE_WIDTH])
        r->vbe[VBE_X] = 0;
    if (r->vbe[VBE_Y] >
        r->vbe[VBE_VIRTUAL_HEIGHT] - MIN(r->vbe[VBE_HEIGHT], r->vbe[VBE_VIRTUAL_HEIGHT]))
        r->vbe[VBE_Y] = 0;
}

static void vbe_enable(struct vga *v, uint16_t value)
{
    struct vga_registers *r = &v->r;
    bool begins = value & VBE_ENABLED && !(r->vbe[VBE_ENABLE] & VBE_ENABLED);

    r->vbe[VBE_ENABLE] = value;
    if (!begins)
        return;
    r->vbe[VBE_VIRTUAL_WIDTH] = r->vbe[VBE_X] = r->vbe[VBE_Y] = 0;
    r->vbe[VBE_BANK] = 0;
    vbe_fix(v);
    if (!(value & VBE_KEEP)) {
        uint64_t size = MIN((uint64_t)vbe_line(r) * r->vbe[VBE_HEIGHT], v->vram->size);

        memset(v->vram->host, 0, size);
        ram_written(v->vram, 0, size);
    }
}

static void vbe_write(struct vga *v, uint16_t value)
{
    struct vga_registers *r = &v->r;

    switch (r->vbe_index) {
    case VBE_ID:
        if (value >= 0xb0c0 && value <= VBE_NEWEST)
            r->vbe[VBE_ID] = value;
        break;
    case VBE_ENABLE: vbe_enable(v, value); break;
    case VBE_BANK: r->vbe[VBE_BANK] = (uint16_t)(value % (v->vram->size / WINDOW_BANK)); break;
    case VBE_WIDTH:
    case VBE_HEIGHT:
    case VBE_BPP:
    case VBE_VIRTUAL_WIDTH:
    case VBE_X:
    case VBE_Y:
        r->vbe[r->vbe_index] = value;
        if (r->vbe[VBE_ENABLE] & VBE_ENABLED)
            vbe_fix(v);
        break;
    default: break;
    }
}

/* Index, then data: at the odd port, where PCs have it, and at the even one behind that. A word at
 * the odd port comes as two bytes, low one first. */
static uint64_t vbe_port_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct vga *v = to_vga(dev);

    if (offset == 0)
        return v->r.vbe_index;
    return offset == 2 && size == 1 ? vbe_read(v) >> 8 : vbe_read(v);
}

static void vbe_port_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = to_vga(dev);

    v->changes++;
    if (offset == 0)
        v->r.vbe_index = (uint16_t)value;
    else if (size == 2)
        vbe_write(v, (uint16_t)value);
    else if (offset == 1)
        v->r.vbe_low = (uint8_t)value;
    else
        vbe_write(v, (uint16_t)(value << 8 | v->r.vbe_low));
}

static const struct io_ops vbe_io = {vbe_port_read, vbe_port_write, 1, 2};

/* ---- ports -------------------------------------------------------------------------------------
 */

/* 60 pictures of 480 lines a second, by the guest's clock; drivers wait for both kinds of edges. */
static uint8_t status_1(struct vga *v)
{
    uint64_t line = device_now(&v->pci.dev) % (NSEC_PER_SEC / 60) / 31777;
    uint64_t in_line = device_now(&v->pci.dev) % 31777;

    v->r.attribute_data = false;
    return (uint8_t)((line >= 490 ? 8 : 0) | (line >= 480 || in_line > 25400 ? 1 : 0));
}

static uint8_t crtc_read(const struct vga *v)
{
    return v->r.crtc_index < 32 ? v->r.crtc[v->r.crtc_index] : 0;
}

static void crtc_write(struct vga *v, uint8_t value)
{
    struct vga_registers *r = &v->r;

    if (r->crtc[0x11] & CRTC_PROTECT && r->crtc_index <= 7) {
        if (r->crtc_index == 7) /* bit 8 of the line to compare */
            r->crtc[7] = (uint8_t)((r->crtc[7] & ~0x10) | (value & 0x10));
    } else if (r->crtc_index < 32) {
        r->crtc[r->crtc_index] = value;
    }
}

static void attribute_write(struct vga *v, uint8_t value)
{
    struct vga_registers *r = &v->r;

    if (!r->attribute_data) {
        r->attribute_index = value & 0x3f;
    } else {
        unsigned i = r->attribute_index & 31;
        static const uint8_t masks[] = {0xef, 0xff, 0x3f, 0x0f, 0x0f};

        if (i < 16)
            r->attribute[i] = value & 0x3f;
        else if (i - 16 < ARRAY_SIZE(masks))
            r->attribute[i] = value & masks[i - 16];
    }
    r->attribute_data = !r->attribute_data;
}

static uint8_t dac_read(struct vga_registers *r)
{
    uint8_t value = r->dac[r->dac_read * 3 + r->dac_part];

    if (++r->dac_part == 3) {
        r->dac_part = 0;
        r->dac_read++;
    }
    return value;
}

static void dac_write(struct vga_registers *r, uint8_t value)
{
    r->dac[r->dac_write * 3 + r->dac_part] = r->vbe[VBE_ENABLE] & VBE_DAC_8 ? value : value & 0x3f;
    if (++r->dac_part == 3) {
        r->dac_part = 0;
        r->dac_write++;
    }
}

static uint8_t port_read(struct vga *v, unsigned port)
{
    struct vga_registers *r = &v->r;

    switch (port) {
    case 0x3c0: return r->attribute_data ? 0 : r->attribute_index;
    case 0x3c1: return r->attribute[r->attribute_index & 31];
    case 0x3c2: return 0x10; /* a screen is there */
    case 0x3c4: return r->sequencer_index;
    case 0x3c5: return r->sequencer_index < 8 ? r->sequencer[r->sequencer_index] : 0;
    case 0x3c6: return r->dac_mask;
    case 0x3c7: return r->dac_state;
    case 0x3c8: return r->dac_write;
    case 0x3c9: return dac_read(r);
    case 0x3ca: return r->feature;
    case 0x3cc: return r->misc;
    case 0x3ce: return r->graphics_index;
    case 0x3cf: return r->graphics_index < 16 ? r->graphics[r->graphics_index] : 0;
    case 0x3d4: return r->crtc_index;
    case 0x3d5: return crtc_read(v);
    case 0x3da: return status_1(v);
    default: return 0xff;
    }
}

static void port_write(struct vga *v, unsigned port, uint8_t value)
{
    static const uint8_t sequencer_masks[8] = {3, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff};
    static const uint8_t graphics_masks[16] = {0x0f, 0x0f, 0x0f, 0x1f, 3, 0x7b, 0x0f, 0x0f, 0xff};
    struct vga_registers *r = &v->r;

    v->changes++;
    switch (port) {
    case 0x3c0: attribute_write(v, value); break;
    case 0x3c2: r->misc = value & (uint8_t)~0x10; break;
    case 0x3c4: r->sequencer_index = value & 7; break;
    case 0x3c5:
        r->sequencer[r->sequencer_index] = value & sequencer_masks[r->sequencer_index];
        break;
    case 0x3c6: r->dac_mask = value; break;
    case 0x3c7:
        r->dac_read = value;
        r->dac_part = 0;
        r->dac_state = 3;
        break;
    case 0x3c8:
        r->dac_write = value;
        r->dac_part = 0;
        r->dac_state = 0;
        break;
    case 0x3c9: dac_write(r, value); break;
    case 0x3ce: r->graphics_index = value & 15; break;
    case 0x3cf: r->graphics[r->graphics_index] = value & graphics_masks[r->graphics_index]; break;
    case 0x3d4: r->crtc_index = value; break;
    case 0x3d5: crtc_write(v, value); break;
    case 0x3da: r->feature = value & 0x10; break;
    default: break;
    }
}

/* The CRT controller is at 0x3b_ or 0x3d_ as the miscellaneous register says, which is where the
 * switch above has it, or nowhere. */
static unsigned folded(const struct vga *v, unsigned port)
{
    bool mono = port >= 0x3b0 && port < 0x3c0, colour = port >= 0x3d0;

    if (!mono && !colour)
        return port;
    return colour == (v->r.misc & MISC_COLOUR) ? 0x3d0 | (port & 15) : 0;
}

static uint64_t crtc_mono_read(struct device *dev, uint64_t offset, unsigned size)
{
    return port_read(to_vga(dev), folded(to_vga(dev), PORT_CRTC_MONO + (unsigned)offset));
}

static void crtc_mono_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    port_write(to_vga(dev), folded(to_vga(dev), PORT_CRTC_MONO + (unsigned)offset), (uint8_t)value);
}

static uint64_t ports_read(struct device *dev, uint64_t offset, unsigned size)
{
    return port_read(to_vga(dev), folded(to_vga(dev), PORT_ATTRIBUTE + (unsigned)offset));
}

static void ports_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    port_write(to_vga(dev), folded(to_vga(dev), PORT_ATTRIBUTE + (unsigned)offset), (uint8_t)value);
}

static const struct io_ops crtc_mono_io = {crtc_mono_read, crtc_mono_write, 1, 1};
static const struct io_ops ports_io = {ports_read, ports_write, 1, 1};

/* ---- registers in a BAR ------------------------------------------------------------------------
 */

static uint64_t registers_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct vga *v = to_vga(dev);
    uint16_t index = v->r.vbe_index, value;

    if (offset + size <= VGA_EDID)
        return load_le(v->edid + offset, size);
    if (offset >= REGISTERS_PORTS && offset < REGISTERS_PORTS + 0x20)
        return size == 1 ? port_read(v, PORT_ATTRIBUTE + (unsigned)offset - REGISTERS_PORTS)
                         : port_read(v, PORT_ATTRIBUTE + (unsigned)offset - REGISTERS_PORTS) |
                               (uint64_t)port_read(v, PORT_ATTRIBUTE + 1 + (unsigned)offset -
                                                          REGISTERS_PORTS)
                                   << 8;
    if (offset >= REGISTERS_VBE && offset < REGISTERS_VBE + 2 * VBE_COUNT) {
        v->r.vbe_index = (uint16_t)((offset - REGISTERS_VBE) / 2);
        value = vbe_read(v);
        v->r.vbe_index = index;
        return value;
    }
    if (offset == REGISTERS_QEMU && size == 4)
        return 8;
    if (offset == REGISTERS_QEMU + 4 && size == 4)
        return LITTLE_ENDIAN_TAG;
    return 0;
}

static void registers_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = to_vga(dev);
    uint16_t index = v->r.vbe_index;

    if (offset >= REGISTERS_PORTS && offset < REGISTERS_PORTS + 0x20) {
        for (unsigned i = 0; i < MIN(size, 2u); i++)
            port_write(v, PORT_ATTRIBUTE + (unsigned)offset - REGISTERS_PORTS + i,
                       (uint8_t)(value >> 8 * i));
    } else if (offset >= REGISTERS_VBE && offset < REGISTERS_VBE + 2 * VBE_COUNT) {
        v->r.vbe_index = (uint16_t)((offset - REGISTERS_VBE) / 2);
        v->changes++;
        vbe_write(v, (uint16_t)value);
        v->r.vbe_index = index;
    }
}

static const struct io_ops registers_io = {registers_read, registers_write, 1, 4};

/* ---- video memory at 0xa0000 -------------------------------------------------------------------
 */

/* Where in the window's address space `offset` is, by the map field; false: not the VGA's. */
static bool window_offset(const struct vga *v, uint64_t *offset)
{
    switch (v->r.graphics[GFX_MISC] >> 2 & 3) {
    case 0: return true;
    case 1: return *offset < 0x10000;
    case 2: *offset -= 0x10000; return *offset < 0x8000;
    default: *offset -= 0x18000; return *offset < 0x8000;
    }
}

/* The VBE modes show a bank of 64 KiB, as chained memory or as planes. */
static uint64_t banked(const struct vga *v, uint64_t offset)
{
    if (!(v->r.vbe[VBE_ENABLE] & VBE_ENABLED))
        return offset;
    return offset + (uint64_t)v->r.vbe[VBE_BANK] * WINDOW_BANK;
}

static uint8_t *cell(struct vga *v, uint64_t offset)
{
    return v->vram->host + (offset * 4 & (v->vram->size - 1));
}

static uint8_t window_read_byte(struct vga *v, uint64_t offset)
{
    struct vga_registers *r = &v->r;
    uint8_t plane = r->graphics[GFX_READ], result = 0xff;

    if (!window_offset(v, &offset))
        return 0xff;
    offset = banked(v, offset);
    if (r->sequencer[SEQ_MODE] & SEQ_CHAIN_4)
        return v->vram->host[offset & (v->vram->size - 1)];
    if (r->graphics[GFX_MODE] & 0x10) { /* odd and even */
        plane = (uint8_t)((plane & 2) | (offset & 1));
        offset &= ~UINT64_C(1);
    }
    memcpy(r->latch, cell(v, offset), 4);
    if (!(r->graphics[GFX_MODE] & 8))
        return r->latch[plane];
    for (unsigned i = 0; i < 4; i++) /* bits whose colour is the one compared with */
        if (r->graphics[GFX_CARE] & 1 << i)
            result &= (uint8_t)(r->graphics[GFX_COMPARE] & 1 << i ? r->latch[i] : ~r->latch[i]);
    return result;
}

static uint8_t combine(uint8_t function, uint8_t value, uint8_t latch)
{
    switch (function) {
    case 1: return value & latch;
    case 2: return value | latch;
    case 3: return value ^ latch;
    default: return value;
    }
}

/* What write mode, set/reset, function and bit mask make of a byte for one plane. */
static uint8_t plane_value(const struct vga_registers *r, unsigned plane, uint8_t value)
{
    uint8_t count = r->graphics[GFX_ROTATE] & 7, mask = r->graphics[GFX_BITS];
    uint8_t rotated = (uint8_t)(value >> count | value << (8 - count));
    uint8_t set = r->graphics[GFX_SET] & 1 << plane ? 0xff : 0, bits = rotated;

    switch (r->graphics[GFX_MODE] & 3) {
    case 0: bits = r->graphics[GFX_ENABLE] & 1 << plane ? set : rotated; break;
    case 1: return r->latch[plane];
    case 2: bits = value & 1 << plane ? 0xff : 0; break;
    default: bits = set; mask &= rotated;
    }
    bits = combine(r->graphics[GFX_ROTATE] >> 3 & 3, bits, r->latch[plane]);
    return (uint8_t)((bits & mask) | (r->latch[plane] & ~mask));
}

static void window_write_byte(struct vga *v, uint64_t offset, uint8_t value)
{
    struct vga_registers *r = &v->r;
    uint8_t planes = r->sequencer[SEQ_MASK] & 15, *to;

    if (!window_offset(v, &offset))
        return;
    offset = banked(v, offset);
    if (r->sequencer[SEQ_MODE] & SEQ_CHAIN_4) {
        offset &= v->vram->size - 1;
        if (planes & 1 << (offset & 3)) {
            v->vram->host[offset] = value;
            ram_written(v->vram, offset, 1);
        }
        return;
    }
    if (r->graphics[GFX_MODE] & 0x10) {
        planes &= offset & 1 ? 0x0a : 0x05;
        offset &= ~UINT64_C(1);
    }
    to = cell(v, offset);
    for (unsigned i = 0; i < 4; i++)
        if (planes & 1 << i)
            to[i] = plane_value(r, i, value);
    ram_written(v->vram, (uint64_t)(to - v->vram->host), 4);
}

static uint64_t window_read(struct device *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)window_read_byte(to_vga(dev), offset + i) << 8 * i;
    return value;
}

static void window_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        window_write_byte(to_vga(dev), offset + i, (uint8_t)(value >> 8 * i));
}

static const struct io_ops window_io = {window_read, window_write, 1, 8};

/* ---- the device --------------------------------------------------------------------------------
 */

static void update(void *opaque, struct screen *s, bool whole)
{
    vga_draw(opaque, s, whole);
}

static void vga_reset(struct pci_device *p)
{
    struct vga *v = container_of(p, struct vga, pci);

    memset(&v->r, 0, sizeof(v->r));
    v->r.misc = MISC_COLOUR;
    v->r.dac_mask = 0xff;
    v->r.vbe[VBE_ID] = VBE_NEWEST;
    v->changes++;
    if (v->screen)
        screen_invalidate(v->screen);
}

/* The fields may come from a hostile stream. */
static void vga_refresh(struct pci_device *p)
{
    struct vga *v = container_of(p, struct vga, pci);

    v->r.sequencer_index &= 7;
    v->r.graphics_index &= 15;
    v->r.graphics[GFX_READ] &= 3;
    v->r.dac_part %= 3;
    v->r.vbe[VBE_BANK] = (uint16_t)(v->r.vbe[VBE_BANK] % (v->vram->size / WINDOW_BANK));
    if (v->r.vbe[VBE_ENABLE] & VBE_ENABLED)
        vbe_fix(v);
    v->changes++;
    if (v->screen)
        screen_invalidate(v->screen);
}

static void vga_unrealize(struct pci_device *p)
{
    struct vga *v = container_of(p, struct vga, pci);

    screen_remove(v->screen);
    machine_release_ram(p->dev.machine, v->vram);
    free(v->text);
}

static int vga_realize(struct pci_device *p, struct error *err)
{
    struct vga *v = container_of(p, struct vga, pci);
    struct device *dev = &p->dev;
    struct display *display = dev->machine->config.display;
    int r;

    if (v->memory_mib < 1 || v->memory_mib > 512 || !is_power_of_2(v->memory_mib))
        return error_set(err, EINVAL, "VGA: vgamem_mb=%u is not a power of two from 1 to 512",
                         v->memory_mib);
    if (v->width < 64 || v->width > 4096 || v->height < 64 || v->height > 4095)
        return error_set(err, EINVAL, "VGA: xres=%u and yres=%u are not from 64 to 4095", v->width,
                         v->height);
    vga_edid(v->edid, v->width, v->height);
    r = ram_block_new("vga.vram", (uint64_t)v->memory_mib * MiB, &v->vram, err);
    if (r)
        return r;
    pci_bar_add(p, BAR_MEMORY, PCI_BAR_MEM32, true, v->vram->size);
    pci_bar_add(p, BAR_REGISTERS, PCI_BAR_MEM32, false, REGISTERS_SIZE);
    r = pci_bar_ram(p, BAR_MEMORY, 0, v->vram, true, err);
    if (!r)
        r = pci_bar_io(p, BAR_REGISTERS, 0, REGISTERS_SIZE, &registers_io, err);
    if (!r)
        r = device_map_mmio(dev, WINDOW, WINDOW_SIZE, PRIORITY_PCI, &window_io, err);
    if (!r)
        r = device_map_pio(dev, PORT_CRTC_MONO, 8, &crtc_mono_io, err);
    if (!r)
        r = device_map_pio(dev, PORT_ATTRIBUTE, 0x20, &ports_io, err);
    if (!r)
        r = device_map_pio(dev, PORT_VBE, 4, &vbe_io, err);
    if (r) {
        machine_release_ram(dev->machine, v->vram);
        return r;
    }
    v->text = xcalloc(1, sizeof(*v->text));
    if (display) {
        atomic_fetch_or(&v->vram->tracking, RAM_DIRTY_DISPLAY);
        v->screen = screen_add(display, dev->id, &(struct screen_driver){v, update, NULL});
    }
    return 0;
}

static const struct pci_type vga_pci = {
    .vendor = 0x1234,
    .device = 0x1111,
    .revision = 2,
    .class_code = 0x030000,
    .romfile = "vgabios-stdvga.bin",
    .realize = vga_realize,
    .reset = vga_reset,
    .refresh = vga_refresh,
    .unrealize = vga_unrealize,
};

static const struct property vga_properties[] = {
    PCI_PROPERTIES(struct vga, pci),
    PROPERTY_U32("vgamem_mb", struct vga, memory_mib, 16, "video memory, MiB"),
    PROPERTY_U32("xres", struct vga, width, 1280, "the screen's preferred width"),
    PROPERTY_U32("yres", struct vga, height, 800, "the screen's preferred height"),
    PROPERTY_END,
};

static const struct state_field registers_state[] = {
    STATE_U8(struct vga_registers, misc),
    STATE_U8(struct vga_registers, feature),
    STATE_ARRAY(struct vga_registers, sequencer),
    STATE_ARRAY(struct vga_registers, graphics),
    STATE_ARRAY(struct vga_registers, attribute),
    STATE_ARRAY(struct vga_registers, crtc),
    STATE_U8(struct vga_registers, sequencer_index),
    STATE_U8(struct vga_registers, graphics_index),
    STATE_U8(struct vga_registers, attribute_index),
    STATE_U8(struct vga_registers, crtc_index),
    STATE_BOOL(struct vga_registers, attribute_data),
    STATE_U8(struct vga_registers, dac_mask),
    STATE_U8(struct vga_registers, dac_read),
    STATE_U8(struct vga_registers, dac_write),
    STATE_U8(struct vga_registers, dac_part),
    STATE_U8(struct vga_registers, dac_state),
    STATE_ARRAY(struct vga_registers, dac),
    STATE_ARRAY(struct vga_registers, latch),
    STATE_U16(struct vga_registers, vbe_index),
    STATE_U8(struct vga_registers, vbe_low),
    STATE_ARRAY(struct vga_registers, vbe),
    STATE_END,
};

static const struct state_field vga_state[] = {
    PCI_STATE(struct vga, pci),
    STATE_STRUCT(struct vga, r, registers_state),
    STATE_END,
};

const struct device_type vga_type = {
    .name = "VGA",
    .summary = "VGA with Bochs VBE (QEMU's standard VGA)",
    .bus = "pci",
    .instance_size = sizeof(struct vga),
    .properties = vga_properties,
    .state = vga_state,
    .bus_data = &vga_pci,
    PCI_DEVICE_HOOKS,
};
