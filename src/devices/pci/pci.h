/*
 * pci.h - PCI functions: configuration space, BARs, interrupts, and the buses they sit on.
 *
 * A function is a device whose struct embeds struct pci_device first and whose table says
 * PCI_DEVICE_HOOKS and, as bus_data, a struct pci_type. The core calls that type's hooks inside its
 * own: realize finds the slot, fills the header, then calls pci_type.realize, which adds BARs and
 * capabilities; a failure gives everything back.
 *
 *     static const struct pci_type nic_pci = {.vendor = 0x1234, .device = 1, .class_code =
 * 0x020000, .pin = 1, .realize = nic_realize, .reset = nic_reset}; const struct device_type
 * nic_type = {.name = "nic", .instance_size = sizeof(struct nic), .properties = nic_properties, //
 * has PCI_PROPERTIES .state = nic_state,           // has PCI_STATE .bus = "pci", PCI_DEVICE_HOOKS,
 * .bus_data = &nic_pci};
 *
 * Configuration space is an array with, for each byte, a mask of the bits a guest can write and a
 * mask of those it clears by writing ones. What follows from the bytes (where BARs answer, the
 * level of INTx, which messages are sent) is derived again after every write, reset and restore.
 *
 * Locks: a configuration access holds the host bridge's (struct pci_host), then that of each
 * function it reaches; functions never take the host's. The lock of the interrupt lines
 * (host->intx_lock) comes after every function's and before the interrupt chips'. Topology and
 * configuration bytes change under the host's lock, or while no vCPU runs.
 */
#ifndef DEVICES_PCI_PCI_H
#define DEVICES_PCI_PCI_H

#include "machine/device.h"

struct ram_block;
struct pci_bus;
struct pci_host;

enum {
    PCI_SLOTS = 32,
    PCI_FUNCTIONS = 8,
    PCI_PINS = 4,
    PCI_BARS = 7, /* 0-5, and the expansion ROM */
    PCI_ROM_BAR = 6,
    PCI_BAR_PARTS = 8,
    PCI_MSIX_VECTORS = 128,
    PCI_CONFIG_SIZE = 256,
    PCIE_CONFIG_SIZE = 4096,
    PCI_PIRQS = 8,
};

/* Offsets in configuration space (PCI 3.0, chapter 6). */
enum pci_register {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09,
    PCI_CACHE_LINE = 0x0c,
    PCI_LATENCY = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_ROM_ADDRESS = 0x30,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    /* header type 1 */
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_SECONDARY_LATENCY = 0x1b,
    PCI_IO_BASE = 0x1c,
    PCI_IO_LIMIT = 0x1d,
    PCI_SECONDARY_STATUS = 0x1e,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREFETCH_BASE = 0x24,
    PCI_PREFETCH_LIMIT = 0x26,
    PCI_PREFETCH_BASE_HIGH = 0x28,
    PCI_PREFETCH_LIMIT_HIGH = 0x2c,
    PCI_IO_BASE_HIGH = 0x30,
    PCI_IO_LIMIT_HIGH = 0x32,
    PCI_BRIDGE_ROM_ADDRESS = 0x38,
    PCI_BRIDGE_CONTROL = 0x3e,
};

enum pci_command {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_PARITY = 1 << 6,
    PCI_COMMAND_SERR = 1 << 8,
    PCI_COMMAND_INTX_DISABLE = 1 << 10,
};

enum pci_status { PCI_STATUS_INTERRUPT = 1 << 3, PCI_STATUS_CAP_LIST = 1 << 4 };

enum pci_capability {
    PCI_CAP_PM = 0x01,
    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_EXPRESS = 0x10,
    PCI_CAP_MSIX = 0x11,
};

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    uint8_t kind; /* enum pci_bar_kind */
    bool prefetch;
    uint64_t size; /* a power of two */
    bool placed;   /* derived, as is where: */
    gpa base;
    struct {
        struct region *region;
        uint64_t offset; /* in the BAR */
        bool ours;       /* to be removed by the core */
    } part[PCI_BAR_PARTS];
    unsigned parts;
};

struct pci_msix_vector {
    uint64_t address;
    uint32_t data, control; /* bit 0 of control: masked */
};

struct pci_device {
    struct device dev;
    /* properties */
    char *addr, *bus_name, *romfile;
    uint32_t bootindex; /* 0xffffffff: none */
    bool multifunction;
    /* where it sits */
    struct pci_bus *bus;
    uint8_t devfn;

    /* saved */
    uint8_t config[PCIE_CONFIG_SIZE];
    uint8_t intx; /* the device wants its interrupt */
    struct pci_msix_vector msix[PCI_MSIX_VECTORS];
    uint64_t msix_pending[PCI_MSIX_VECTORS / 64];

    /* fixed when realized */
    uint8_t writable[PCIE_CONFIG_SIZE], clears[PCIE_CONFIG_SIZE], initial[PCIE_CONFIG_SIZE];
    uint16_t config_size, cap_end; /* cap_end: first free byte behind the capabilities */
    uint8_t cap_last;              /* the last capability; 0: none */
    uint8_t msi_cap, msix_cap;     /* 0: none */
    uint8_t msi_vectors;
    uint16_t msix_vectors;
    struct pci_bar bar[PCI_BARS];
    struct pci_bus *secondary; /* bridges: the bus behind */
    struct ram_block *rom;     /* NULL: none */

    bool intx_driven; /* derived: what the bus was told */
};

/* What a function is; in device_type.bus_data. */
struct pci_type {
    uint16_t vendor, device, subsystem_vendor, subsystem; /* subsystem 0: the project's own */
    uint8_t revision;
    uint32_t class_code; /* class, subclass, interface */
    uint8_t pin;         /* 1: INTA ... 4: INTD; 0: no interrupt */
    bool express;        /* 4 KiB of configuration space */
    bool bridge;         /* header type 1 */
    const char *romfile; /* for the firmware, as rom_find() takes it; NULL: none */

    int (*realize)(struct pci_device *p, struct error *err);
    void (*reset)(struct pci_device *p); /* config is reset already */
    void (*refresh)(struct pci_device *p);
    void (*unrealize)(struct pci_device *p);
    /* Before a read, for registers that change by themselves; after a write. */
    void (*config_read)(struct pci_device *p, unsigned offset, unsigned size);
    void (*config_written)(struct pci_device *p, unsigned offset, unsigned size);
};

int pci_realize(struct device *dev, struct error *err);
void pci_reset(struct device *dev);
void pci_refresh(struct device *dev);
void pci_unrealize(struct device *dev);

/* Types that users may add say .bus = "pci" besides. */
#define PCI_DEVICE_HOOKS                                                                           \
    .realize = pci_realize, .reset = pci_reset, .refresh = pci_refresh, .unrealize = pci_unrealize

#define PCI_PROPERTIES(type, field)                                                                \
    PROPERTY_STRING("addr", type, field.addr, NULL,                                                \
                    "slot and function, hexadecimal, as in 3 or 1f.2 (default: a free slot)"),     \
        PROPERTY_STRING("bus", type, field.bus_name, NULL, "the PCI bus (default: the root)"),     \
        PROPERTY_U32("bootindex", type, field.bootindex, 0xffffffff,                               \
                     "place in the boot order, for what can be started from"),                     \
        PROPERTY_STRING("romfile", type, field.romfile, NULL,                                      \
                        "option ROM (default: the device's own; none: without)"),                  \
        PROPERTY_BOOL("multifunction", type, field.multifunction, false,                           \
                      "say that the slot has more functions, before they are there")

extern const struct state_field pci_device_state[];
#define PCI_STATE(type, field) STATE_STRUCT(type, field, pci_device_state)

/* Create a function at `addr` of the root bus: for boards. */
struct device *pci_device_add(struct machine *m, const struct device_type *type, const char *addr,
                              struct error *err);

static inline struct pci_device *to_pci(struct device *dev)
{
    return container_of(dev, struct pci_device, dev);
}

static inline unsigned pci_slot(const struct pci_device *p)
{
    return p->devfn >> 3;
}

static inline unsigned pci_function(const struct pci_device *p)
{
    return p->devfn & 7;
}

/* ---- for pci_type.realize ----------------------------------------------------------------------
 */

/* `size` is rounded up to a power of two, at least 16 bytes (I/O: 4). */
void pci_bar_add(struct pci_device *p, unsigned bar, enum pci_bar_kind kind, bool prefetch,
                 uint64_t size);
/* What answers in [offset, offset+length) of a BAR, with the device's lock held. */
int pci_bar_io(struct pci_device *p, unsigned bar, uint64_t offset, uint64_t length,
               const struct io_ops *ops, struct error *err);
/* RAM or ROM in a BAR; the block is the device's. */
int pci_bar_ram(struct pci_device *p, unsigned bar, uint64_t offset, struct ram_block *block,
                bool writable, struct error *err);
/* Where a BAR answers now, or DEVICE_UNMAPPED. */
gpa pci_bar_address(const struct pci_device *p, unsigned bar);

/* A capability of `size` bytes, header included; its offset, or -ENOSPC. Its bytes are zero and
 * read only: set them by pci_set() and the masks. */
int pci_cap_add(struct pci_device *p, uint8_t id, unsigned size, struct error *err);
/* The power-on value of a register, its bits a guest can write, and those it clears by ones. */
void pci_set(struct pci_device *p, unsigned offset, uint32_t value, unsigned size);
void pci_set_writable(struct pci_device *p, unsigned offset, uint32_t mask, unsigned size);
void pci_set_clears(struct pci_device *p, unsigned offset, uint32_t mask, unsigned size);

/* `vectors`: a power of two up to 32. */
int pci_msi_add(struct pci_device *p, unsigned vectors, struct error *err);
/* Table and pending bits in `bar`, which pci_bar_add() made, from `offset` (4 KiB aligned) on;
 * pci_msix_size() bytes. */
int pci_msix_add(struct pci_device *p, unsigned vectors, unsigned bar, uint32_t offset,
                 struct error *err);
uint32_t pci_msix_size(unsigned vectors); /* a multiple of 4 KiB */

/* ---- at run time, with the device's lock held --------------------------------------------------
 */

void pci_intx_set(struct pci_device *p, bool level);
bool pci_msi_enabled(const struct pci_device *p);
bool pci_msix_enabled(const struct pci_device *p);
void pci_msi_send(struct pci_device *p, unsigned vector);
void pci_msix_send(struct pci_device *p, unsigned vector);

/* DMA as the function's bus mastering permits; 0 or -errno, as dma_read(). */
int pci_dma_read(struct pci_device *p, gpa address, void *buffer, uint64_t length);
int pci_dma_write(struct pci_device *p, gpa address, const void *buffer, uint64_t length);

static inline uint32_t pci_get(const struct pci_device *p, unsigned offset, unsigned size)
{
    return (uint32_t)load_le(p->config + offset, size);
}

/* Change a register as the hardware does: masks do not count, nothing is derived. */
static inline void pci_put(struct pci_device *p, unsigned offset, uint32_t value, unsigned size)
{
    store_le(p->config + offset, value, size);
}

/* ---- buses -------------------------------------------------------------------------------------
 */

struct pci_bus {
    char *name; /* "pci.0", "pcie.0": a root */
    struct pci_host *host;
    struct pci_device *bridge; /* NULL: a root bus */
    struct pci_device *functions[PCI_SLOTS * PCI_FUNCTIONS];
};

/*
 * The host bridge's two ways into configuration space, the reset control register (0xcf9), and the
 * wires from the slots of the root bus to the PIRQ inputs of the south bridge.
 */
struct pci_host {
    struct device dev;
    uint32_t address;      /* saved: 0xcf8 */
    uint8_t reset_control; /* saved: 0xcf9 */
    struct pci_bus root;
    struct region *ecam[3]; /* of 64, 128 and 256 MiB */
    char *bus_name;         /* property: of the root bus */

    pthread_mutex_t intx_lock; /* guards the rest, and intx_driven of all functions */
    uint16_t raised[PCI_SLOTS][PCI_PINS];
    uint8_t wire[PCI_SLOTS][PCI_PINS]; /* PIRQ number */
    struct {
        unsigned raised;
        struct irq_line isa, apic;
    } pirq[PCI_PIRQS];
};

extern const struct device_type pci_host_type;

enum { PCI_CONFIG_ADDRESS = 0xcf8, PCI_RESET_CONTROL = 0xcf9, PCI_CONFIG_DATA = 0xcfc };

struct pci_host *pci_host_add(struct machine *m, const char *bus_name, struct error *err);
static inline struct pci_host *to_pci_host(struct device *dev)
{
    return container_of(dev, struct pci_host, dev);
}
/* The bus of that name, or with NULL the first root; NULL: there is none. */
struct pci_bus *pci_bus_find(struct machine *m, const char *name);
struct pci_device *pci_device_at(struct pci_bus *bus, unsigned slot, unsigned function);

/* Where PCI Express configuration space answers; for chipsets, also from config_written. `size` is
 * 64, 128 or 256 MiB. */
void pci_host_place_ecam(struct pci_host *host, gpa base, uint64_t size, bool enabled);
/* Wires (slot, pin 0-3) to PIRQ; PIRQ to an ISA interrupt (-1: none); PIRQ to a GSI of its own. */
void pci_host_wire(struct pci_host *host, unsigned slot, unsigned pin, unsigned pirq);
void pci_host_route_isa(struct pci_host *host, unsigned pirq, int irq);
void pci_host_route_gsi(struct pci_host *host, unsigned pirq, unsigned gsi);

/* An access by bus, function and register; for ECAM, ports, and tests. Takes the locks. */
uint32_t pci_config_read(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
                         unsigned size);
void pci_config_write(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
                      uint32_t value, unsigned size);

extern const struct device_type pci_bridge_type;

/* ---- between pci.c and pci_host.c --------------------------------------------------------------
 */

int pci_bus_attach(struct pci_device *p, struct error *err); /* by its properties */
void pci_bus_detach(struct pci_device *p);
void pci_intx_drive(struct pci_device *p, bool level);
/* With the function's lock held; offset and size lie in its configuration space. */
void pci_config_write_locked(struct pci_device *p, unsigned offset, uint32_t value, unsigned size);
uint32_t pci_config_read_locked(struct pci_device *p, unsigned offset, unsigned size);

#endif
