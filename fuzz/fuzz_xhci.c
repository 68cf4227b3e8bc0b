/*
 * fuzz_xhci.c - a driver of the xHCI that does anything, with a keyboard, a mouse and a tablet
 * attached. The input is a list of actions of 20 bytes: registers, TRBs, contexts, doorbells, keys,
 * snapshots. The preamble makes rings, a slot and endpoints, as a driver would.
 */
#include "fuzz.h"

#include "base/log.h"
#include "devices/pci/pci.h"
#include "devices/usb/hid.h"
#include "devices/usb/xhci.h"
#include "display/display.h"
#include "state/state.h"
#include "unit/boot/bare_machine.h"

#include <stdlib.h>

enum { ACTION = 20, MEMORY = 1 * MiB, BAR = 0xe0000000, DEVFN = 3 << 3 };
enum { DCBAA = 0x1000, COMMANDS = 0x2000, ERST = 0x2f00, EVENTS = 0x3000, CONTEXTS = 0x4000 };
enum { INPUT = 0x8000, RINGS = 0x9000, DATA = 0x20000 };
enum { REGISTER, TRB, POKE, DOORBELL, KEY, POINTER, SNAPSHOT, PORT, EVENT_RING, ANY, ACTIONS };

struct guest {
    struct machine *m;
    struct pci_host *host;
    struct display *display;
    struct device *xhci;
};

static void check(bool good, const char *what)
{
    if (!good) {
        log_error("%s", what);
        abort();
    }
}

static void build(struct guest *g)
{
    static const struct device_type *const types[] = {&usb_kbd_type, &usb_mouse_type,
                                                      &usb_tablet_type};

    g->m = bare_machine(MEMORY, "qemu64");
    check(g->m != NULL, "no machine");
    g->m->config.display = g->display = display_new();
    g->host = pci_host_add(g->m, "pci.0", NULL);
    g->xhci = device_add(g->m, &xhci_type, "addr=3", NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        check(device_add(g->m, types[i], NULL, NULL) != NULL, "no device");
}

static void wr(struct guest *g, unsigned reg, uint32_t value)
{
    memory_write(g->m->memory, VIEW_NORMAL, BAR + reg, value, 4);
}

static void put(struct guest *g, gpa at, uint64_t value, unsigned size)
{
    memory_write(g->m->memory, VIEW_NORMAL, at, value, size);
}

static void put_trb(struct guest *g, gpa at, uint64_t parameter, uint32_t status, uint32_t control)
{
    put(g, at, parameter, 8);
    put(g, at + 8, status, 4);
    put(g, at + 12, control, 4);
}

/* Slot n on port n, its endpoint 0 and, configured, an interrupt endpoint. */
static void prepare(struct guest *g)
{
    gpa at = COMMANDS;

    pci_config_write(g->host, 0, DEVFN, PCI_BAR0, BAR, 4);
    pci_config_write(g->host, 0, DEVFN, PCI_BAR0 + 4, 0, 4);
    pci_config_write(g->host, 0, DEVFN, PCI_COMMAND, 6, 2);
    dma_fill(g->m->memory, 0, 0, MEMORY);
    wr(g, XHCI_USBCMD, 2);
    put(g, ERST, EVENTS, 8);
    put(g, ERST + 8, 64, 4);
    wr(g, XHCI_CONFIG, 8);
    wr(g, XHCI_DCBAAP, DCBAA);
    wr(g, XHCI_CRCR, COMMANDS | 1);
    wr(g, XHCI_INTERRUPTER + XHCI_ERSTSZ, 1);
    wr(g, XHCI_INTERRUPTER + XHCI_ERDP, EVENTS);
    wr(g, XHCI_INTERRUPTER + XHCI_ERSTBA, ERST);
    wr(g, XHCI_INTERRUPTER + XHCI_ERSTBA + 4, 0);
    wr(g, XHCI_INTERRUPTER + XHCI_IMAN, 2);
    wr(g, XHCI_USBCMD, 5);
    for (unsigned n = 1; n <= 3; n++) {
        wr(g, XHCI_PORTSC + 16 * (n - 1), 1 << 9 | 1 << 4);
        put(g, DCBAA + 8 * n, CONTEXTS + 0x400 * n, 8);
        put(g, INPUT + 4, 3, 4);
        put(g, INPUT + 36, n << 16, 4);
        put(g, INPUT + 64 + 4, 4 << 3 | 64 << 16, 4);
        put(g, INPUT + 64 + 8, (RINGS + 0x1000 * n) | 1, 8);
        put_trb(g, at, 0, 0, TRB_ENABLE_SLOT << 10 | 1);
        put_trb(g, at + 16, INPUT, 0, TRB_ADDRESS_DEVICE << 10 | n << 24 | 1);
        wr(g, XHCI_DOORBELL, 0);
        put(g, INPUT + 4, 1 | 1 << 3, 4);
        put(g, INPUT + 32 * 4 + 4, 7 << 3 | 8 << 16, 4);
        put(g, INPUT + 32 * 4 + 8, (RINGS + 0x1000 * n + 0x800) | 1, 8);
        put_trb(g, at + 32, INPUT, 0, TRB_CONFIGURE_ENDPOINT << 10 | n << 24 | 1);
        wr(g, XHCI_DOORBELL, 0);
        put_trb(g, RINGS + 0x1000 * n, UINT64_C(0x10900), 8, TRB_SETUP << 10 | 1 << 6 | 1);
        put_trb(g, RINGS + 0x1000 * n + 16, 0, 0, TRB_STATUS << 10 | 1 << 5 | 1);
        wr(g, XHCI_DOORBELL + 4 * n, 1);
        at += 48;
    }
}

static void snapshot(struct guest *g)
{
    struct state_buffer saved[8] = {0}, again = {0};
    unsigned n = 0;

    for (struct device *d = g->m->devices; d; d = d->next, n++) {
        check(n < ARRAY_SIZE(saved), "too many devices");
        state_save_device(&saved[n], d);
    }
    for (struct device *d = g->m->devices; d; d = d->next)
        device_reset(d);
    n = 0;
    for (struct device *d = g->m->devices; d; d = d->next, n++) {
        check(state_load_device(&saved[n], d, NULL) == 0, "a snapshot does not load");
        state_save_device(&again, d);
        state_buffer_free(&again);
        state_buffer_free(&saved[n]);
    }
}

static void act(struct guest *g, const uint8_t *a)
{
    uint64_t parameter = load_le(a + 4, 8);
    uint32_t status = (uint32_t)load_le(a + 12, 4), control = (uint32_t)load_le(a + 16, 4);
    unsigned n = a[1] % 4;
    gpa ring = n ? RINGS + 0x1000 * n + (a[2] & 1 ? 0x800 : 0) : COMMANDS + 0x90;

    switch (a[0] % ACTIONS) {
    case REGISTER: wr(g, XHCI_OPERATIONAL + (a[1] & 0x3c), (uint32_t)parameter); break;
    case TRB: {
        static const uint8_t types[] = {1, 1,  1,  2,  3,  4,  5,  6,  7,  8,
                                        9, 10, 11, 12, 13, 14, 15, 16, 17, 23};

        if (a[3] & 1) /* mostly somewhere in RAM */
            parameter = DATA + (parameter & 0xffff);
        control = (control & ~(63u << 10)) | (uint32_t)types[a[16] % ARRAY_SIZE(types)] << 10 | 1;
        if (!n)
            control = (control & 0x001fffff) | (control >> 24 & 3) << 24;
        if (a[3] & 2)
            status &= 0x3ff;
        put_trb(g, ring + 16 * (a[3] >> 4), parameter, status, control);
        break;
    }
    case POKE: put(g, INPUT + (load_le(a + 1, 2) & 0x3fc), parameter, 4); break;
    case DOORBELL:
        wr(g, XHCI_DOORBELL + 4 * n, a[3] & 1 ? a[2] & 31 : n ? 1 + 2 * (a[2] & 1) : 0);
        break;
    case KEY: input_key(g->display, a[1], a[2] & 1); break;
    case POINTER:
        if (a[1] & 1)
            input_pointer(g->display, a[2], a[3], 256, 256, a[4] & 31, (int8_t)a[5], 0);
        else
            input_move(g->display, (int8_t)a[2], (int8_t)a[3], a[4] & 31, (int8_t)a[5], 0);
        break;
    case SNAPSHOT:
        if (a[1] < 64)
            snapshot(g);
        break;
    case PORT: wr(g, XHCI_PORTSC + 16 * (a[1] & 7), (uint32_t)parameter); break;
    case EVENT_RING:
        wr(g, XHCI_INTERRUPTER + (a[1] & 0x3c), (uint32_t)parameter & (a[2] & 1 ? ~0u : 0xffff));
        break;
    default:
        if (a[1] & 1)
            wr(g, (unsigned)load_le(a + 2, 2) & 0x3ffc, (uint32_t)parameter);
        else
            memory_read(g->m->memory, VIEW_NORMAL, BAR + (load_le(a + 2, 2) & 0x3fff), 4);
        break;
    }
}

size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = ACTION * (fuzz_random() % 200);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    /* Most of what happens should be transfers. */
    for (size_t i = 0; i < size; i += ACTION)
        if (fuzz_random() & 1)
            to[i] = fuzz_random() & 1 ? TRB : DOORBELL;
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest g;

    log_set_level(LOG_ERROR);
    if (!g.m)
        build(&g);
    for (struct device *d = g.m->devices; d; d = d->next)
        device_reset(d);
    input_release_all(g.display);
    prepare(&g);
    for (; size >= ACTION; data += ACTION, size -= ACTION)
        act(&g, data);
    for (struct device *d = g.m->devices; d; d = d->next)
        device_reset(d);
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        check(!g.m->gsi[i].raised, "a reset left an interrupt pin high");
    return 0;
}
