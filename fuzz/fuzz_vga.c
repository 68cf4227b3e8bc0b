/*
 * fuzz_vga.c - a guest that writes whatever it likes to the VGA and to a flash, and screens looked
 * at in between; state streams with wrong bytes.
 *
 * An input is a list of 8-byte operations. Registers are mostly written through their ports, so
 * that modes of every kind and size come up; what is drawn is drawn whole.
 */
#include "fuzz.h"

#include "devices/display/vga.h"
#include "devices/flash/pflash.h"
#include "display/display.h"
#include "machine/machine.h"
#include "memory/ram.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    OPERATION = 8,
    FRAME = 0xd0000000,
    REGISTERS = 0xe0000000,
    FLASH = 0xffc00000,
    FLASH_SIZE = 4 * PFLASH_BLOCK
};

static struct machine *m;
static struct device *vga, *flash;

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_vga: %s\n", what);
    abort();
}

static void build(void)
{
    static const uint8_t content[FLASH_SIZE];
    struct machine_config config = {.memory = 2 * MiB};

    config.display = display_new();
    m = machine_new(&config, true);
    check(!ram_block_new("ram", config.memory, &m->ram, NULL) &&
              !memory_add_ram(m->memory, "ram", 0, config.memory, 0, IN_ALL, m->ram, 0, true, NULL,
                              NULL) &&
              pci_host_add(m, "pci.0", NULL),
          "no machine");
    vga = device_add(m, &vga_type, "addr=2,vgamem_mb=1", NULL);
    flash = pflash_add(m, FLASH, -1, "flash", content, FLASH_SIZE, NULL);
    check(vga && flash, "a device was not created");
}

static void place(void)
{
    struct pci_host *h = pci_bus_find(m, NULL)->host;

    pci_config_write(h, 0, 2 << 3, PCI_BAR0, FRAME, 4);
    pci_config_write(h, 0, 2 << 3, PCI_BAR0 + 8, REGISTERS, 4);
    pci_config_write(h, 0, 2 << 3, PCI_COMMAND, 3, 2);
}

static void look(void *opaque, const struct screen_surface *s)
{
    check(s->width <= SCREEN_MAX_WIDTH && s->height <= SCREEN_MAX_HEIGHT, "a screen too large");
}

static void corrupt_stream(struct device *dev, uint32_t where, uint8_t what)
{
    struct state_buffer b = {0};

    state_save_device(&b, dev);
    if (b.size)
        b.data[where % b.size] ^= what;
    state_load_device(&b, dev, NULL); /* may refuse */
    state_buffer_free(&b);
}

static void operate(const uint8_t *op)
{
    static const uint16_t indexed[] = {0x3c4, 0x3ce, 0x3d4, 0x3b4};
    uint32_t value = (uint32_t)load_le(op + 4, 4);
    unsigned size = 1u << (op[0] >> 4 & 3);

    switch (op[0] & 15) {
    case 0 ... 2: machine_out(m, indexed[op[1] & 3], op[2] % 32 | (uint32_t)op[3] << 8, 2); break;
    case 3:
        machine_in(m, 0x3da, 1);
        machine_out(m, 0x3c0, op[1] & 0x3f, 1);
        machine_out(m, 0x3c0, op[2], 1);
        break;
    case 4: machine_out(m, (uint16_t)(0x3c0 + op[1] % 32), op[2], 1); break;
    case 5: machine_in(m, (uint16_t)(0x3b0 + op[1] % 48), 1); break;
    case 6:
        machine_out(m, 0x1ce, op[1] % 12, 2);
        machine_out(m, (uint16_t)(0x1cf + (op[2] & 1)), op[3] & 1 ? value & 0xffff : value & 0x1ff,
                    2);
        break;
    case 7: /* a frame buffer */
        machine_out(m, 0x1ce, op[1] % 3 + 1, 2);
        machine_out(m, 0x1d0, op[1] % 3 == 2 ? op[2] % 33 : value & 0x3ff, 2);
        machine_out(m, 0x1ce, 4, 2);
        machine_out(m, 0x1d0, op[3], 2);
        break;
    case 8:
        memory_write(m->memory, VIEW_NORMAL, 0xa0000 + (value & 0x1ffff), load_le(op + 1, 2), size);
        break;
    case 9: memory_read(m->memory, VIEW_NORMAL, 0xa0000 + (value & 0x1ffff), size); break;
    case 10:
        memory_write(m->memory, VIEW_NORMAL, REGISTERS + (value & 0xfff), load_le(op + 1, 2),
                     MIN(size, 4));
        break;
    case 11:
        memory_write(m->memory, VIEW_NORMAL, FLASH + value % FLASH_SIZE,
                     op[1] & 1 ? op[2] : op[2] & 0xf8, MIN(size, 4));
        break;
    case 12: memory_read(m->memory, VIEW_NORMAL, FLASH + value % FLASH_SIZE, size); break;
    case 13:
        if (!(op[1] & 7))
            display_look(m->config.display, 0, look, NULL, NULL);
        break;
    case 14: corrupt_stream(op[1] & 1 ? vga : flash, value, op[2]); break;
    default: place(); break;
    }
}

size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = OPERATION * (fuzz_random() % 60);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!m)
        build();
    place();
    for (; size >= OPERATION; data += OPERATION, size -= OPERATION)
        operate(data);
    display_look(m->config.display, 0, look, NULL, NULL);
    device_reset(vga);
    device_reset(flash);
    check(memory_read(m->memory, VIEW_NORMAL, FLASH, 1) ==
              memory_read(m->memory, VIEW_NORMAL, FLASH, 2) % 256,
          "a flash that was reset does not read as memory");
    return 0;
}
