/*
 * cpu.h - everything the manuals call the state of one processor, in one layout.
 *
 * Every engine reads and writes this struct, so a vCPU can change engines between any two
 * instructions. Names are those of the Intel SDM. What is not architectural (translation caches,
 * the engine's own data) stands at the end and is derived: cpu_state_changed() drops it.
 *
 * Threads: the struct belongs to its vCPU's thread while that runs, and to anybody while it is
 * stopped. The exception is `events`, which is atomic: cpu_post() and cpu_retract().
 */
#ifndef X86_CPU_H
#define X86_CPU_H

#include "base/state.h"
#include "base/util.h"
#include "memory/map.h"

#include <setjmp.h>
#include <stdatomic.h>

struct cpu_model;
struct interp;
struct tlb;

/* In the order the instruction encoding has them. */
enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT,
};

enum segment_name { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT, SEG_NONE = 255 };

enum rflags_bit {
    RFLAGS_CF = 1 << 0,
    RFLAGS_FIXED = 1 << 1,
    RFLAGS_PF = 1 << 2,
    RFLAGS_AF = 1 << 4,
    RFLAGS_ZF = 1 << 6,
    RFLAGS_SF = 1 << 7,
    RFLAGS_TF = 1 << 8,
    RFLAGS_IF = 1 << 9,
    RFLAGS_DF = 1 << 10,
    RFLAGS_OF = 1 << 11,
    RFLAGS_IOPL = 3 << 12,
    RFLAGS_NT = 1 << 14,
    RFLAGS_RF = 1 << 16,
    RFLAGS_VM = 1 << 17,
    RFLAGS_AC = 1 << 18,
    RFLAGS_VIF = 1 << 19,
    RFLAGS_VIP = 1 << 20,
    RFLAGS_ID = 1 << 21,
    RFLAGS_STATUS = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF,
};

enum cr0_bit {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_ET = 1u << 4,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR0_AM = 1u << 18,
    CR0_NW = 1u << 29,
    CR0_CD = 1u << 30,
    CR0_PG = 1u << 31,
};

enum cr4_bit {
    CR4_VME = 1 << 0,
    CR4_PVI = 1 << 1,
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_MCE = 1 << 6,
    CR4_PGE = 1 << 7,
    CR4_PCE = 1 << 8,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_LA57 = 1 << 12,
    CR4_VMXE = 1 << 13,
    CR4_SMXE = 1 << 14,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
    CR4_PKE = 1 << 22,
};

enum efer_bit {
    EFER_SCE = 1 << 0,
    EFER_LME = 1 << 8,
    EFER_LMA = 1 << 10,
    EFER_NXE = 1 << 11,
    EFER_SVME = 1 << 12,
    EFER_FFXSR = 1 << 14,
};

enum exception {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
};

enum pf_error { PF_P = 1 << 0, PF_W = 1 << 1, PF_U = 1 << 2, PF_RSVD = 1 << 3, PF_I = 1 << 4 };

/* Bits 40-55 of a descriptor moved down: type, S, DPL, P in the low byte; AVL, L, D/B, G in bits
 * 12-15 (SDM vol. 3, 3.4.5; also VMX's access rights). */
enum segment_attr {
    ATTR_TYPE = 0xf,
    ATTR_ACCESSED = 1,
    ATTR_WRITABLE = 2,
    ATTR_READABLE = 2,
    ATTR_DOWN = 4,
    ATTR_CONFORMING = 4,
    ATTR_CODE = 8,
    ATTR_S = 1 << 4,
    ATTR_DPL = 3 << 5,
    ATTR_P = 1 << 7,
    ATTR_AVL = 1 << 12,
    ATTR_L = 1 << 13,
    ATTR_DB = 1 << 14,
    ATTR_G = 1 << 15,
    ATTR_DPL_SHIFT = 5,
    ATTR_NULL = 1 << 16, /* holds a null selector: unusable outside 64-bit mode */
};

struct segment {
    uint16_t selector;
    uint32_t attr;
    uint32_t limit; /* in bytes, granularity applied: the last valid offset */
    uint64_t base;
};

struct table_register {
    uint64_t base;
    uint16_t limit;
};

/* The image of FXSAVE64. Its xmm array is not used: struct cpu's zmm is the truth. */
struct fx_image {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged: a bit set for each register in use */
    uint8_t reserved1;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16]; /* ST(0) first; MMX registers are the low 8 bytes by physical number */
    uint8_t xmm[16][16];
    uint8_t reserved2[96];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct fx_image) == 512, "FXSAVE image");

/* What the processor does when it is not executing instructions. */
enum cpu_activity { CPU_RUNNING, CPU_HALTED, CPU_WAIT_SIPI, CPU_SHUTDOWN };

/* Things others ask of a vCPU, in `events`. The order here is not the priority. */
enum cpu_event {
    CPU_EVENT_INTR = 1 << 0, /* a level, held by the interrupt controller */
    CPU_EVENT_NMI = 1 << 1,  /* the rest are edges: taken by who handles them */
    CPU_EVENT_SMI = 1 << 2,
    CPU_EVENT_INIT = 1 << 3,
    CPU_EVENT_SIPI = 1 << 4,  /* the vector is in sipi_vector */
    CPU_EVENT_FLUSH = 1 << 5, /* drop the TLBs before the next instruction */
    CPU_EVENT_EXIT = 1 << 6,  /* leave the engine: the machine wants the thread */
    CPU_EVENT_WAKE = 1 << 7,  /* spurious wake-up, e.g. a monitored store */
    /* Those that end HLT when nothing masks them. */
    CPU_EVENT_UNHALT = CPU_EVENT_INTR | CPU_EVENT_NMI | CPU_EVENT_SMI | CPU_EVENT_INIT |
                       CPU_EVENT_SIPI,
};

/*
 * The local APIC as its CPU sees it. Called on the vCPU's own thread, without locks. Left NULL
 * where there is none (tests, isapc): then there are no interrupts and no APIC MSRs.
 */
struct cpu_intc {
    void *opaque;
    /* Take the highest interrupt: its vector, or -1 when there is none any more. */
    int (*acknowledge)(void *opaque);
    /* CR8: bits 7:4 of the task priority register. */
    uint8_t (*get_cr8)(void *opaque);
    void (*set_cr8)(void *opaque, uint8_t value);
    /* IA32_APIC_BASE, IA32_TSC_DEADLINE, x2APIC 0x800-0x8ff. false: #GP. */
    bool (*read_msr)(void *opaque, uint32_t index, uint64_t *value);
    bool (*write_msr)(void *opaque, uint32_t index, uint64_t value);
    /* The memory-mapped page, when enabled: `base` is what cpu->apic_page holds. */
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
};

enum { CPU_MTRR_VARIABLE = 8, CPU_MCE_BANKS = 10 };
#define CPU_NO_APIC_PAGE UINT64_MAX

/* XCR0 components. */
enum xcr0_bit {
    XCR0_X87 = 1 << 0,
    XCR0_SSE = 1 << 1,
    XCR0_AVX = 1 << 2,
    XCR0_OPMASK = 1 << 5,
    XCR0_ZMM_HI256 = 1 << 6,
    XCR0_HI16_ZMM = 1 << 7,
    XCR0_PKRU = 1 << 9,
    XCR0_AVX512 = XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM,
};

struct cpu {
    /* ---- general ------------------------------------------------------------------------ */
    uint64_t gpr[GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;
    struct segment seg[SEG_COUNT];
    struct segment ldtr, tr;
    struct table_register gdtr, idtr;

    /* ---- control ------------------------------------------------------------------------ */
    uint64_t cr0, cr2, cr3, cr4; /* CR8 is the interrupt controller's */
    uint64_t efer, xcr0;
    uint64_t dr[8];    /* 4 and 5 unused */
    uint64_t pdptr[4]; /* PAE: loaded with CR3, used until the next load */

    /* ---- SIMD and floating point ---------------------------------------------------------- */
    struct fx_image fx;    /* x87, MMX, MXCSR */
    uint64_t fx_header[8]; /* not saved: room for XSAVE's header, behind the image */
    uint8_t zmm[32][64] __attribute__((aligned(64)));
    uint64_t k[8];
    uint16_t fcs, fds; /* what FXSAVE64 has no room for */

    /* ---- model specific ------------------------------------------------------------------- */
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl, debugctl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[CPU_MTRR_VARIABLE],
        mtrr_mask[CPU_MTRR_VARIABLE];
    uint64_t mcg_status, mcg_ctl, mce_bank[CPU_MCE_BANKS][4]; /* CTL STATUS ADDR MISC */
    uint64_t tsc_offset; /* guest TSC = host TSC + offset (same rate) */
    uint64_t tsc_adjust;
    uint32_t smbase;

    /* ---- between instructions ------------------------------------------------------------- */
    uint32_t activity; /* enum cpu_activity */
    bool sti_shadow;   /* maskable interrupts held off until after the next instruction */
    bool movss_shadow; /* so are debug traps and NMI: MOV SS, POP SS */
    bool nmi_blocked;  /* until IRET */
    bool in_smm;
    bool smi_blocked_nmi; /* NMI blocking to return to at RSM */
    uint8_t sipi_vector;
    uint64_t monitor_address; /* guest-physical, line aligned */
    bool monitor_armed;
    uint8_t monitor_line[64]; /* what it held when MONITOR armed it */
    /* DR6 bits of data and I/O breakpoints that matched during the instruction under way: a trap
     * after it. The run loop takes it (interp/exceptions.h). */
    uint64_t dr6_pending;

    /* An event whose delivery was under way when the state was taken (a VM exit in the middle,
     * for instance): re-delivered first. vector < 0: none. */
    int16_t pending_vector;
    uint8_t pending_kind; /* enum interrupt_kind of interp/exceptions.h */
    bool pending_has_error;
    uint32_t pending_error;

    /* ---- not saved: who this is, and what is derived ------------------------------------- */
    _Atomic uint32_t events; /* enum cpu_event; also the futex a halted vCPU sleeps on */
    unsigned index;          /* 0 .. cpus-1 */
    uint32_t apic_id;
    const struct cpu_model *model; /* CPUID and MSR policy; x86/model.h */
    struct memory_map *memory, *ports;
    struct cpu_intc intc;
    /* Bit 20 of physical addresses when the A20 gate is shut: ~BIT(20), else ~0. Set by the board
     * while all vCPUs see CPU_EVENT_FLUSH. */
    _Atomic uint64_t *a20_mask;
    uint64_t apic_page; /* where intc.read/write answer; CPU_NO_APIC_PAGE. By the intc. */

    uint8_t cpl;       /* derived: 0..3, kept by whoever loads CS, SS or EFLAGS.VM */
    uint8_t code_size; /* derived: 2, 4 or 8: default operation of CS (8: 64-bit mode) */
    uint8_t mmu_mode;  /* derived: enum mmu_mode of x86/mmu.h */
    struct tlb *tlb;   /* derived; software engines allocate it: x86/mmu.h */

    uint64_t next_rip; /* where the instruction under way will leave RIP: see interp/insn.h */
    jmp_buf *unwind;   /* where cpu_raise() goes; set by the software engines' run loop */
    uint8_t raise_vector;
    bool raise_has_error;
    uint32_t raise_error;

    struct interp *interp;         /* decode cache and more: interp_attach() */
    void *engine;                  /* the engine's own data for this vCPU */
    void (*kick)(struct cpu *cpu); /* by the engine: make run() look at events soon; any thread */
    void (*tick)(struct cpu *cpu); /* called by software engines every few thousand instructions,
                                      between two of them; may be NULL */
    void *vcpu;                    /* machine/vcpu.h's */
    _Atomic bool sleeping;         /* the thread waits in cpu_sleep() */
    int fd; /* the memfd that holds this struct at offset 0: the translator maps it a second time */
};

#define CPU_PAGES ((sizeof(struct cpu) + 4095) / 4096)
_Static_assert(CPU_PAGES <= 2, "the head of a TLB table has room for two pages of it");

/* Allocate for `model`, page aligned in a memfd of its own; state is that of a reset. The rest is
 * set by who wires it up. */
struct cpu *cpu_new(unsigned index, uint32_t apic_id, const struct cpu_model *model);
void cpu_free(struct cpu *cpu);

/* SDM vol. 3, table 9-1. INIT keeps SIMD, MSRs (most) and CR0.CD/NW. Reset leaves the bootstrap
 * processor (index 0) running and others in CPU_WAIT_SIPI, as INIT does with `bsp`. */
void cpu_reset(struct cpu *cpu);
void cpu_init(struct cpu *cpu, bool bsp);
void cpu_sipi(struct cpu *cpu, uint8_t vector); /* only where activity is CPU_WAIT_SIPI */

/* Recompute what is derived, drop TLBs. After anything from outside changed the state. */
void cpu_state_changed(struct cpu *cpu);
/* Only cpl, code_size, mmu_mode: cheap; after CS, SS, CR0, CR4, EFER or EFLAGS changed. */
void cpu_update_derived(struct cpu *cpu);

/* Ask something of a vCPU, from any thread: sets the event, wakes or kicks the thread. */
void cpu_post(struct cpu *cpu, enum cpu_event event);
/* Take an event back; returns whether it was set. */
bool cpu_retract(struct cpu *cpu, enum cpu_event event);
/* Sleep until any event in `mask` is set, or the host wakes us for no reason. */
void cpu_sleep(struct cpu *cpu, uint32_t mask);
/* The same, at most `nsec` nanoseconds. */
void cpu_sleep_for(struct cpu *cpu, uint32_t mask, uint64_t nsec);
/* Does any event end a HLT now? (IF, shadows, NMI blocking and SMM considered) */
bool cpu_has_work(const struct cpu *cpu);

/* Unwind to the run loop with an exception of the instruction under way. */
_Noreturn void cpu_raise(struct cpu *cpu, enum exception vector);
_Noreturn void cpu_raise_error(struct cpu *cpu, enum exception vector, uint32_t error);

/* Guest-physical accesses of this CPU: A20, SMM view and the local APIC page considered. */
uint64_t cpu_phys_read(struct cpu *cpu, gpa address, unsigned size);
void cpu_phys_write(struct cpu *cpu, gpa address, uint64_t value, unsigned size);

uint64_t cpu_read_tsc(const struct cpu *cpu);
void cpu_write_tsc(struct cpu *cpu, uint64_t value);
uint64_t cpu_tsc_hz(void); /* of this host, measured once */

/* May a data segment register keep this at level `cpl`? Null ones and conforming code may. */
static inline bool segment_survives(const struct segment *s, unsigned cpl)
{
    bool conforming = (s->attr & (ATTR_CODE | ATTR_CONFORMING)) == (ATTR_CODE | ATTR_CONFORMING);

    return s->attr & ATTR_NULL || !(s->attr & ATTR_S) || conforming ||
           (s->attr & ATTR_DPL) >> ATTR_DPL_SHIFT >= cpl;
}

/* Of as many bits as paging translates now. */
static inline bool cpu_is_canonical(const struct cpu *cpu, uint64_t address)
{
    return (uint64_t)sign_extend(address, cpu->cr4 & CR4_LA57 ? 57 : 48) == address;
}

/* The status flags as LAHF and SETO leave them in AX: the form in which host instructions take and
 * give them. */
static inline uint32_t cpu_flags_pack(const struct cpu *cpu)
{
    return (uint32_t)((cpu->rflags & 0xff) << 8 | (cpu->rflags >> 11 & 1));
}

static inline void cpu_flags_unpack(struct cpu *cpu, uint32_t ax)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_STATUS) | (ax >> 8 & 0xd5) |
                  (uint64_t)(ax & 1) << 11;
}

static inline bool cpu_long_mode(const struct cpu *cpu)
{
    return (cpu->efer & EFER_LMA) != 0;
}

static inline bool cpu_in_vm86(const struct cpu *cpu)
{
    return (cpu->rflags & RFLAGS_VM) != 0;
}

static inline bool cpu_protected(const struct cpu *cpu)
{
    return (cpu->cr0 & CR0_PE) != 0;
}

/* What a snapshot carries of a CPU; walked by state/. */
extern const struct state_field cpu_state[];

/* For people: registers in the manual's order, many lines. */
void cpu_print(const struct cpu *cpu, void *file);

#endif
