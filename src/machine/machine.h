/*
 * machine.h - one virtual machine: memory, processors, devices, and its life.
 *
 * The board (boards/) fills it; the front ends (cli/, qmp/) drive it. Functions marked [any] may
 * be called from any thread and return at once; the rest belong to the main thread.
 *
 * Run states: created -> running <-> paused -> ended. Requests for reset and shutdown come from
 * devices on vCPU threads; they are carried out by the main thread, after all vCPUs stopped.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "engine/engine.h"
#include "machine/device.h"
#include "machine/irq.h"

#include <stdatomic.h>

struct display;
struct loop;

enum { MACHINE_MAX_CPUS = 255 };

enum machine_end {
    END_NONE,
    END_POWEROFF, /* the guest switched itself off */
    END_RESET,    /* reset (a triple fault is one), and the machine was told not to reboot */
    END_PANIC,    /* the guest said it panicked (pvpanic) */
    END_QUIT,     /* the user asked */
    END_ERROR,    /* the engine could not go on */
    END_DEBUG,    /* isa-debug-exit; machine->debug_code has the value */
};

/* A host object that devices name: -device TYPE,drive=ID. Not owned. */
struct machine_backend {
    const char *kind; /* the property by which devices name it: "drive", "netdev", "chardev" */
    const char *id;
    void *object;
};

/* What the user chose; the board reads it. Strings are borrowed for the life of the machine. */
struct machine_config {
    const char *board;  /* "pc", "q35", "microvm" */
    const char *engine; /* "auto", ... */
    const char *cpu;    /* model, NULL: the engine's default */
    const char *name;   /* of the guest */
    unsigned cpus;
    uint64_t memory; /* bytes */
    bool acpi;       /* offer ACPI tables; default true */
    bool hpet;
    bool no_reboot;                       /* a reset ends the machine */
    const char *kernel, *initrd, *append; /* direct boot, or given to the firmware */
    const char *firmware;       /* "bios", "uefi" or a file; NULL: none, the kernel is started */
    const char *firmware_vars;  /* UEFI's variables; NULL: in the user's folder, by `name` */
    const char *boot_order;     /* QEMU's letters, as in "cdn"; NULL: as the firmware likes */
    bool boot_menu;             /* the firmware shows one, and waits for a key */
    const char *const *devices; /* "TYPE,property=value,..."; by the board, in this order */
    unsigned device_count;
    const struct machine_backend *backends;
    unsigned backend_count;
    struct chardev *firmware_log; /* port 0x402 */
    struct chardev *serial[4];    /* COM1..; NULL: absent. Not owned. */
    struct chardev *debugcon;     /* port 0xe9 */
    struct display *display;      /* screens and input; NULL: nobody looks. Not owned. */
    bool isa_debug_exit;
    uint64_t rtc_base; /* seconds since 1970 at start; 0: the host's clock */
};

/* A board: which devices a machine has and how they are connected. boards/ has them. */
struct board_type {
    const char *name;    /* as in --machine NAME */
    const char *summary; /* one line for help */
    uint64_t max_ram_below_4g;
    unsigned max_cpus;
    /* Create devices, hand them to each other, set the machine's hooks (msi, load, power_button).
     */
    int (*build)(struct machine *m, struct error *err);
    void (*free)(struct machine *m); /* of board_data; devices are gone by then */
};

struct machine_ram {
    struct machine_ram *next;
    struct ram_block *block;
};

struct machine {
    struct machine_config config;
    struct clock *clock;
    struct loop *loop;
    struct memory_map *memory, *ports;
    struct ram_block *ram;
    uint64_t ram_below_4g, ram_above_4g; /* bytes; the split of `ram` */
    struct machine_ram *old_ram;         /* given back by devices */
    struct cpu_model model;
    struct cpu *cpus[MACHINE_MAX_CPUS];
    unsigned cpu_count;
    struct engine engine;
    struct irq_pin gsi[MACHINE_GSI_COUNT];
    _Atomic uint64_t a20_mask;
    struct device *devices, **devices_end;
    const struct board_type *board;
    void *board_data; /* the board's own, freed by its hook */

    /* Message-signalled interrupts go here; set by the board. */
    void (*msi)(void *opaque, gpa address, uint32_t data);
    void *msi_opaque;
    /* A hot reset or start: put kernel and tables into RAM, set CPU 0. Set by the board. */
    int (*load)(struct machine *m, struct error *err);
    /* The place of a virtio-mmio device that has none, and its interrupt. Set by the board; NULL:
     * there are no slots. */
    int (*mmio_slot)(struct machine *m, gpa *base, uint8_t *irq, struct error *err);
    /* Power button, for `system_powerdown`. Set by the board; NULL: there is none. */
    void (*power_button)(struct machine *m);

    atomic_int end; /* enum machine_end, first reason wins */
    int debug_code;
    struct error error; /* for END_ERROR */
    atomic_bool reset_requested;
    bool running, vcpus_started;
    uint64_t stopped_tsc; /* the host's when the machine was paused */
};

/* Maps, clock, loop and engine choice; no devices. The board does the rest: machine_build().
 * `manual_clock` is for tests: guest time moves by clock_advance() only. */
struct machine *machine_new(const struct machine_config *config, bool manual_clock);
/* The first half of machine_free(): ends the vCPU threads, frees devices and board. After it the
 * owner of the back ends (chardevs), which need the loop, can free them. */
void machine_free_devices(struct machine *m);
void machine_free(struct machine *m);

/* RAM block, CPUs by config->cpu, the board's devices, the engine. */
int machine_build(struct machine *m, const struct board_type *board,
                  const struct engine_ops *engine, struct error *err);

/* For a block that was mapped (ROM, video memory) and no longer is: the engine may have notes of
 * its pages still, so it is freed with the machine. NULL is nothing. */
void machine_release_ram(struct machine *m, struct ram_block *block);

int machine_start(struct machine *m, struct error *err); /* reset, load, start vCPU threads */
void machine_pause(struct machine *m);                   /* returns when all vCPUs stand still */
void machine_resume(struct machine *m);
int machine_reset(struct machine *m, struct error *err); /* at once; running goes on running */
/* Run the loop until the machine ends; stops the vCPUs. */
enum machine_end machine_wait(struct machine *m);

void machine_request_reset(struct machine *m);                        /* [any] */
void machine_request_end(struct machine *m, enum machine_end reason); /* [any] */
void machine_msi(struct machine *m, gpa address, uint32_t data);      /* [any] */

/* The A20 gate, as the keyboard controller and port 0x92 drive it: the last writer wins. [any] */
void machine_set_a20(struct machine *m, bool enabled);
bool machine_a20(struct machine *m);

/* Ports as the guest sees them, for tests and firmware loaders. */
uint64_t machine_in(struct machine *m, uint16_t port, unsigned size);
void machine_out(struct machine *m, uint16_t port, uint64_t value, unsigned size);

#endif
