/*
 * lapic.c - the local APIC of one processor (SDM vol. 3, chapter 11).
 *
 * One register file with two doors: the memory-mapped page (xAPIC) and MSRs (x2APIC). Both use the
 * register number, that is offset / 16.
 *
 * Rules an editor must keep:
 *
 * - After any change of IRR, ISR, TPR, LINT0 or the mode, update_locked() decides whether INTR of
 *   the CPU is active. It is the only place that posts or retracts CPU_EVENT_INTR, under the lock,
 *   so that the last decision wins.
 * - Messages to others (ICR, EOI broadcast, INTA to the i8259) go out after the lock was dropped:
 *   the lock order is IOAPIC and i8259, then local APICs.
 * - The hooks in cpu->intc run on the vCPU's own thread without locks; the rest on any thread.
 *
 * The timer counts guest nanoseconds (a bus of 1 GHz) and is only its next deadline. A periodic
 * timer that is late fires once for all the periods it missed.
 *
 * After a reset LINT0 of CPU 0 passes the i8259's interrupts ("virtual wire"), as firmware would
 * set it up; and an APIC that is off altogether (IA32_APIC_BASE) passes LINT0 and LINT1 as INTR
 * and NMI.
 */
#include "devices/irq/lapic.h"

#include "machine/machine.h"
#include "x86/cpu.h"
#include "x86/model.h"

#include <errno.h>

enum lapic_register {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

/* In the order of the registers. */
enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum { LINTS = 2 };

enum lvt_bit {
    LVT_VECTOR = 0xff,
    LVT_DELIVERY = 7 << 8,
    LVT_POLARITY = 1 << 13,
    LVT_LEVEL = 1 << 15,
    LVT_MASKED = 1 << 16,
    LVT_PERIODIC = 1 << 17,
    LVT_TSC_DEADLINE = 2 << 17,
    LVT_TIMER_MODE = 3 << 17,
};

static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE,
    [LVT_THERMAL] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
    [LVT_PERF] = LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
    [LVT_LINT0] = LVT_VECTOR | LVT_DELIVERY | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
    [LVT_LINT1] = LVT_VECTOR | LVT_DELIVERY | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
    [LVT_ERROR] = LVT_VECTOR | LVT_MASKED,
};

/* Status bits that read as zero here; writing them is no error in x2APIC mode. */
enum { LVT_STATUS = 1 << 12 | 1 << 14 };

enum { SVR_ENABLE = 1 << 8, SVR_NO_EOI_BROADCAST = 1 << 12, SVR_WRITABLE = 0x13ff };
/* Version 0x14, entries of the LVT less one, EOI broadcasts can be suppressed. */
enum { VERSION = 0x14 | (LVT_COUNT - 1) << 16 | 1 << 24 };

enum esr_bit { ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVED_ILLEGAL = 1 << 6, ESR_REGISTER = 1 << 7 };

#define ICR_LOGICAL   BIT(11)
#define ICR_ASSERT    BIT(14)
#define ICR_LEVEL     BIT(15)
#define ICR_LOW_VALID UINT64_C(0xccfff)
#define ICR_STATUS    BIT(12)

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800 };
#define BASE_BSP      BIT(8)
#define BASE_X2APIC   BIT(10)
#define BASE_ENABLE   BIT(11)
#define BASE_RESERVED (UINT64_C(0xff) | BIT(9))

#define SHORTEST_PERIOD (20 * NSEC_PER_USEC)

struct lapic {
    struct device dev;
    struct cpu *cpu;      /* property */
    struct apic_bus *bus; /* property */
    bool virtual_wire;    /* property */

    uint64_t apic_base;
    uint32_t tpr, ldr, dfr, svr;
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t esr, errors; /* as read; gathered since the last write of it */
    uint64_t icr;
    uint32_t lvt[LVT_COUNT];
    uint32_t initial, divide;
    uint64_t deadline;     /* guest nanoseconds: the timer's next expiry */
    uint64_t tsc_deadline; /* 0: not armed */
    bool extint;           /* an ExtINT message waits to be acknowledged */
    bool lint[LINTS];      /* levels */
    struct timer timer;
};
#define to_lapic(d) container_of(d, struct lapic, dev)

static bool enabled(const struct lapic *a)
{
    return (a->apic_base & BASE_ENABLE) != 0;
}

static bool x2apic(const struct lapic *a)
{
    return (a->apic_base & BASE_X2APIC) != 0;
}

/* ---- vectors ----------------------------------------------------------------------------------
 */

static void set_bit(uint32_t *map, unsigned n, bool value)
{
    map[n / 32] = (uint32_t)bits_set(map[n / 32], n % 32, 1, value);
}

static bool get_bit(const uint32_t *map, unsigned n)
{
    return (map[n / 32] >> n % 32 & 1) != 0;
}

static int highest(const uint32_t *map)
{
    for (int i = 7; i >= 0; i--)
        if (map[i])
            return i * 32 + 31 - __builtin_clz(map[i]);
    return -1;
}

static unsigned processor_priority(const struct lapic *a)
{
    int serving = highest(a->isr);
    unsigned class = serving < 0 ? 0 : (unsigned)serving & 0xf0;

    return (a->tpr & 0xf0) >= class ? a->tpr : class;
}

/* The vector to deliver, or -1. */
static int deliverable(const struct lapic *a)
{
    int vector = enabled(a) ? highest(a->irr) : -1;

    return vector >= 0 && ((unsigned)vector & 0xf0) > (processor_priority(a) & 0xf0) ? vector : -1;
}

/* Does the i8259 ask, and may it? */
static bool external(const struct lapic *a)
{
    uint32_t lvt = a->lvt[LVT_LINT0];

    if (a->extint)
        return true;
    return a->lint[0] && (!enabled(a) || (!(lvt & LVT_MASKED) && (lvt >> 8 & 7) == APIC_EXTINT));
}

static void update_locked(struct lapic *a)
{
    bool active = external(a) || deliverable(a) >= 0;

    if (active == ((a->cpu->events & CPU_EVENT_INTR) != 0))
        return;
    if (active)
        cpu_post(a->cpu, CPU_EVENT_INTR);
    else
        cpu_retract(a->cpu, CPU_EVENT_INTR);
}

static void accept_local(struct lapic *a, enum lvt which);

static void add_error(struct lapic *a, uint32_t bit)
{
    bool more = !(a->errors & bit);

    a->errors |= bit;
    if (more)
        accept_local(a, LVT_ERROR);
}

static void accept_vector(struct lapic *a, uint8_t vector, bool level)
{
    if (!enabled(a) || !(a->svr & SVR_ENABLE))
        return;
    if (vector < 16) {
        add_error(a, ESR_RECEIVED_ILLEGAL);
        return;
    }
    set_bit(a->irr, vector, true);
    set_bit(a->tmr, vector, level);
    update_locked(a);
}

/* ---- timer -------------------------------------------------------------------------------------
 */

static unsigned divide_shift(const struct lapic *a)
{
    return ((a->divide & 3) + (a->divide >> 1 & 4) + 1) & 7;
}

static uint32_t timer_mode(const struct lapic *a)
{
    return a->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

static void timer_arm(struct lapic *a, uint64_t deadline)
{
    a->deadline = deadline;
    timer_set(&a->timer, deadline);
}

static uint32_t current_count(const struct lapic *a)
{
    uint64_t now = clock_now(a->dev.machine->clock), left;
    unsigned shift = divide_shift(a);

    if (a->deadline == CLOCK_NEVER || timer_mode(a) == LVT_TSC_DEADLINE)
        return 0;
    if (a->deadline > now) {
        left = (a->deadline - now + (BIT(shift) - 1)) >> shift;
    } else {
        if (timer_mode(a) != LVT_PERIODIC || !a->initial)
            return 0;
        left = a->initial - ((now - a->deadline) >> shift) % a->initial;
    }
    return (uint32_t)MIN(left, a->initial);
}

static void start_count(struct lapic *a, uint32_t count)
{
    a->initial = count;
    timer_arm(a, count ? device_now(&a->dev) + ((uint64_t)count << divide_shift(a)) : CLOCK_NEVER);
}

static void lapic_expired(struct device *dev, struct timer *t)
{
    struct lapic *a = to_lapic(dev);
    uint64_t period = (uint64_t)a->initial << divide_shift(a), now = device_now(dev);

    if (timer_mode(a) == LVT_PERIODIC && period) {
        uint64_t missed = now > a->deadline ? (now - a->deadline) / period : 0;

        timer_arm(a, MAX(a->deadline + (missed + 1) * period, now + SHORTEST_PERIOD));
    } else {
        a->tsc_deadline = 0;
        timer_arm(a, CLOCK_NEVER);
    }
    accept_local(a, LVT_TIMER);
}

static void set_tsc_deadline(struct lapic *a, uint64_t value)
{
    uint64_t now = device_now(&a->dev), tsc = cpu_read_tsc(a->cpu);
    unsigned __int128 when;

    if (timer_mode(a) != LVT_TSC_DEADLINE)
        return;
    a->tsc_deadline = value;
    if (!value) {
        timer_arm(a, CLOCK_NEVER);
        return;
    }
    if (value <= tsc) {
        lapic_expired(&a->dev, &a->timer);
        return;
    }
    /* Rounded up: never early as the guest reads its TSC. */
    when = (unsigned __int128)(value - tsc) * NSEC_PER_SEC / cpu_tsc_hz() + now + 1;
    timer_arm(a, when < CLOCK_NEVER ? (uint64_t)when : CLOCK_NEVER - 1);
}

/* ---- reset, and messages that arrive
 * -------------------------------------------------------------- */

/* All registers but ID and IA32_APIC_BASE: what INIT does. */
static void init_registers(struct lapic *a)
{
    a->tpr = a->ldr = 0;
    a->dfr = UINT32_MAX;
    a->svr = 0xff;
    memset(a->isr, 0, sizeof(a->isr));
    memset(a->tmr, 0, sizeof(a->tmr));
    memset(a->irr, 0, sizeof(a->irr));
    a->esr = a->errors = 0;
    a->icr = 0;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        a->lvt[i] = LVT_MASKED;
    if (a->virtual_wire && a->cpu->index == 0)
        a->lvt[LVT_LINT0] = APIC_EXTINT << 8;
    a->initial = a->divide = 0;
    a->tsc_deadline = 0;
    a->extint = false;
    timer_arm(a, CLOCK_NEVER);
}

/* What one pin, message or local source asks for, but for levels. */
static void accept(struct lapic *a, unsigned delivery, uint8_t vector, bool level)
{
    switch (delivery) {
    case APIC_FIXED:
    case APIC_LOWEST: accept_vector(a, vector, level); break;
    case APIC_SMI: cpu_post(a->cpu, CPU_EVENT_SMI); break;
    case APIC_NMI: cpu_post(a->cpu, CPU_EVENT_NMI); break;
    case APIC_INIT:
        init_registers(a);
        update_locked(a);
        cpu_post(a->cpu, CPU_EVENT_INIT);
        break;
    case APIC_SIPI:
        a->cpu->sipi_vector = vector;
        cpu_post(a->cpu, CPU_EVENT_SIPI);
        break;
    case APIC_EXTINT:
        a->extint = true;
        update_locked(a);
        break;
    default: break; /* reserved */
    }
}

static void accept_local(struct lapic *a, enum lvt which)
{
    uint32_t lvt = a->lvt[which];

    /* The timer and errors have no delivery mode: those bits are never set. */
    if (!(lvt & LVT_MASKED))
        accept(a, lvt >> 8 & 7, (uint8_t)lvt, false);
}

void lapic_accept(struct device *lapic, const struct apic_message *m)
{
    struct lapic *a = to_lapic(lapic);

    pthread_mutex_lock(&lapic->lock);
    if (enabled(a))
        accept(a, m->delivery, m->vector, m->level);
    pthread_mutex_unlock(&lapic->lock);
}

static bool matches_logical(const struct lapic *a, const struct apic_message *m)
{
    uint32_t to = m->destination, mine = a->ldr >> 24;

    if (x2apic(a)) {
        uint32_t id = a->cpu->apic_id;

        return to >> 16 == id >> 4 && (to & BIT(id & 15));
    }
    if (a->dfr >> 28 == 15)
        return (to & mine) != 0;
    return to >> 4 == mine >> 4 && (to & mine & 15);
}

bool lapic_matches(struct device *lapic, const struct apic_message *m)
{
    struct lapic *a = to_lapic(lapic);
    bool matches;

    pthread_mutex_lock(&lapic->lock);
    if (!enabled(a))
        matches = false;
    else if (m->destination == (m->wide ? UINT32_MAX : 0xff))
        matches = true;
    else
        matches = m->logical ? matches_logical(a, m) : m->destination == a->cpu->apic_id;
    pthread_mutex_unlock(&lapic->lock);
    return matches;
}

int lapic_priority(struct device *lapic)
{
    struct lapic *a = to_lapic(lapic);
    int priority;

    pthread_mutex_lock(&lapic->lock);
    priority = enabled(a) && (a->svr & SVR_ENABLE) ? (int)processor_priority(a) : -1;
    pthread_mutex_unlock(&lapic->lock);
    return priority;
}

void lapic_set_lint(struct device *lapic, unsigned pin, bool level)
{
    struct lapic *a = to_lapic(lapic);
    uint32_t lvt;
    bool rising;

    pthread_mutex_lock(&lapic->lock);
    lvt = a->lvt[LVT_LINT0 + pin];
    rising = level && !a->lint[pin];
    a->lint[pin] = level;
    if (rising && !enabled(a)) {
        if (pin == 1)
            cpu_post(a->cpu, CPU_EVENT_NMI);
    } else if (rising && (lvt >> 8 & 7) != APIC_EXTINT) {
        accept_local(a, LVT_LINT0 + pin);
    }
    update_locked(a);
    pthread_mutex_unlock(&lapic->lock);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static uint32_t logical_id(const struct lapic *a)
{
    uint32_t id = a->cpu->apic_id;

    return x2apic(a) ? id >> 4 << 16 | 1u << (id & 15) : a->ldr;
}

/* Those that both modes have; false: there is no such register to read. */
static bool read_register(struct lapic *a, unsigned reg, uint32_t *value)
{
    switch (reg) {
    case REG_ID: *value = x2apic(a) ? a->cpu->apic_id : a->cpu->apic_id << 24; return true;
    case REG_VERSION: *value = VERSION; return true;
    case REG_TPR: *value = a->tpr; return true;
    case REG_PPR: *value = processor_priority(a); return true;
    case REG_LDR: *value = logical_id(a); return true;
    case REG_SVR: *value = a->svr; return true;
    case REG_ISR ... REG_ISR + 7: *value = a->isr[reg - REG_ISR]; return true;
    case REG_TMR ... REG_TMR + 7: *value = a->tmr[reg - REG_TMR]; return true;
    case REG_IRR ... REG_IRR + 7: *value = a->irr[reg - REG_IRR]; return true;
    case REG_ESR: *value = a->esr; return true;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1: *value = a->lvt[reg - REG_LVT]; return true;
    case REG_INITIAL: *value = timer_mode(a) == LVT_TSC_DEADLINE ? 0 : a->initial; return true;
    case REG_CURRENT: *value = current_count(a); return true;
    case REG_DIVIDE: *value = a->divide; return true;
    default: return false;
    }
}

static void write_svr(struct lapic *a, uint32_t value)
{
    a->svr = value & SVR_WRITABLE;
    if (!(value & SVR_ENABLE))
        for (unsigned i = 0; i < LVT_COUNT; i++)
            a->lvt[i] |= LVT_MASKED;
}

static void write_lvt(struct lapic *a, enum lvt which, uint32_t value)
{
    uint32_t old_mode = timer_mode(a);

    value &= lvt_writable[which];
    if (which == LVT_TIMER && !model_has(a->cpu->model, FEATURE_TSC_DEADLINE))
        value &= ~(uint32_t)LVT_TSC_DEADLINE;
    if (!(a->svr & SVR_ENABLE))
        value |= LVT_MASKED;
    a->lvt[which] = value;
    /* To and from TSC-deadline mode the timer is disarmed. */
    if ((old_mode ^ timer_mode(a)) & LVT_TSC_DEADLINE) {
        a->initial = 0;
        a->tsc_deadline = 0;
        timer_arm(a, CLOCK_NEVER);
    }
}

static void write_divide(struct lapic *a, uint32_t value)
{
    uint32_t left = current_count(a);

    a->divide = value & 11;
    if (a->deadline != CLOCK_NEVER && timer_mode(a) != LVT_TSC_DEADLINE)
        timer_arm(a, device_now(&a->dev) + ((uint64_t)MAX(left, 1) << divide_shift(a)));
}

static void write_esr(struct lapic *a)
{
    a->esr = a->errors;
    a->errors = 0;
}

/* The same; EOI, ICR and self IPI are the callers', because they reach other chips. */
static bool write_register(struct lapic *a, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_TPR: a->tpr = value & 0xff; return true;
    case REG_SVR: write_svr(a, value); return true;
    case REG_ESR: write_esr(a); return true;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1: write_lvt(a, reg - REG_LVT, value); return true;
    case REG_INITIAL:
        if (timer_mode(a) != LVT_TSC_DEADLINE)
            start_count(a, value);
        return true;
    case REG_DIVIDE: write_divide(a, value); return true;
    default: return false;
    }
}

/* Takes the lock. */
static void end_of_interrupt(struct lapic *a)
{
    bool tell = false;
    int vector;

    pthread_mutex_lock(&a->dev.lock);
    vector = highest(a->isr);
    if (vector >= 0) {
        set_bit(a->isr, (unsigned)vector, false);
        tell = get_bit(a->tmr, (unsigned)vector) && !(a->svr & SVR_NO_EOI_BROADCAST);
        update_locked(a);
    }
    pthread_mutex_unlock(&a->dev.lock);
    if (tell)
        apic_bus_eoi(a->bus, (uint8_t)vector);
}

/* A write to the low half of the ICR sends it. Without the lock. */
static void send_ipi(struct lapic *a, uint64_t icr, bool wide)
{
    struct apic_message m = {.destination = (uint32_t)(wide ? icr >> 32 : icr >> 56),
                             .logical = (icr & ICR_LOGICAL) != 0,
                             .wide = wide,
                             .delivery = icr >> 8 & 7,
                             .vector = (uint8_t)icr};
    enum apic_shorthand shorthand = icr >> 18 & 3;

    if (m.delivery == APIC_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
        return; /* INIT level de-assert: means nothing since the Pentium 4 */
    if (m.delivery == APIC_EXTINT)
        return; /* reserved here */
    if ((m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST) && m.vector < 16) {
        pthread_mutex_lock(&a->dev.lock);
        add_error(a, ESR_SEND_ILLEGAL);
        pthread_mutex_unlock(&a->dev.lock);
        return;
    }
    apic_bus_deliver_shorthand(a->bus, &m, shorthand, &a->dev);
}

/* ---- the memory-mapped page ---------------------------------------------------------------------
 */

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    struct lapic *a = opaque;
    unsigned reg = (unsigned)(offset >> 4) & 0xff;
    uint32_t value = 0;

    pthread_mutex_lock(&a->dev.lock);
    switch (reg) {
    case REG_DFR: value = a->dfr; break;
    case REG_ICR: value = (uint32_t)a->icr; break;
    case REG_ICR_HIGH: value = (uint32_t)(a->icr >> 32); break;
    case REG_APR:
    case REG_RRD:
    case REG_EOI: break;
    default:
        if (!read_register(a, reg, &value))
            add_error(a, ESR_REGISTER);
    }
    pthread_mutex_unlock(&a->dev.lock);
    /* Only the first four of the sixteen bytes are there. */
    return offset & 12 ? 0 : value >> 8 * (offset & 3) & size_mask(size);
}

static void page_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct lapic *a = opaque;
    unsigned reg = (unsigned)(offset >> 4) & 0xff;
    uint64_t send = 0;
    bool sending = false;

    if (offset & 15 || size < 4) {
        guest_error_write(&a->dev, offset, value, size);
        return;
    }
    if (reg == REG_EOI) {
        end_of_interrupt(a);
        return;
    }
    value = (uint32_t)value;
    pthread_mutex_lock(&a->dev.lock);
    switch (reg) {
    case REG_ID: break; /* fixed, as in later processors */
    case REG_LDR: a->ldr = (uint32_t)value & 0xff000000; break;
    case REG_DFR: a->dfr = (uint32_t)value | 0x0fffffff; break;
    case REG_ICR:
        a->icr = (a->icr & ~UINT64_C(0xffffffff)) | (value & ICR_LOW_VALID & ~ICR_STATUS);
        send = a->icr;
        sending = true;
        break;
    case REG_ICR_HIGH: a->icr = (a->icr & UINT64_C(0xffffffff)) | (value & 0xff000000) << 32; break;
    default:
        if (!write_register(a, reg, (uint32_t)value))
            add_error(a, ESR_REGISTER);
    }
    update_locked(a);
    pthread_mutex_unlock(&a->dev.lock);
    if (sending)
        send_ipi(a, send, false);
}

/* ---- MSRs ---------------------------------------------------------------------------------------
 */

static void place_page(struct lapic *a)
{
    uint64_t page = enabled(a) && !x2apic(a) ? align_down(a->apic_base, 4096) : CPU_NO_APIC_PAGE;

    if (a->cpu->apic_page == page)
        return;
    a->cpu->apic_page = page;
    cpu_post(a->cpu, CPU_EVENT_FLUSH);
}

static bool write_base_locked(struct lapic *a, uint64_t value)
{
    uint64_t reserved = BASE_RESERVED | ~(BIT(a->cpu->model->phys_bits) - 1);
    bool was_x2apic = x2apic(a);

    if (!model_has(a->cpu->model, FEATURE_X2APIC))
        reserved |= BASE_X2APIC;
    if (value & reserved)
        return false;
    switch (value & (BASE_ENABLE | BASE_X2APIC)) {
    case BASE_X2APIC: return false;
    case BASE_ENABLE:
        if (was_x2apic)
            return false; /* only by way of switching it off */
        break;
    case BASE_ENABLE | BASE_X2APIC:
        if (!enabled(a))
            return false;
        break;
    default: break;
    }
    a->apic_base = value;
    if (!(value & BASE_ENABLE))
        init_registers(a);
    else if (x2apic(a) && !was_x2apic)
        a->icr = 0;
    place_page(a);
    update_locked(a);
    return true;
}

static bool read_x2apic_locked(struct lapic *a, unsigned reg, uint64_t *value)
{
    uint32_t low;

    if (!x2apic(a))
        return false;
    if (reg == REG_ICR) {
        *value = a->icr;
        return true;
    }
    if (!read_register(a, reg, &low))
        return false;
    *value = low;
    return true;
}

static bool msr_read(void *opaque, uint32_t index, uint64_t *value)
{
    struct lapic *a = opaque;
    bool exists = true;

    pthread_mutex_lock(&a->dev.lock);
    if (index == MSR_APIC_BASE)
        *value = a->apic_base;
    else if (index == MSR_TSC_DEADLINE && model_has(a->cpu->model, FEATURE_TSC_DEADLINE))
        *value = a->tsc_deadline;
    else
        exists = index - MSR_X2APIC < 0x100 && read_x2apic_locked(a, index - MSR_X2APIC, value);
    pthread_mutex_unlock(&a->dev.lock);
    return exists;
}

/* Bits that a register of x2APIC mode must not be given (SDM vol. 3, 11.12.1.2). */
static bool x2apic_accepts(const struct lapic *a, unsigned reg, uint64_t value)
{
    uint32_t lvt;

    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI: return !(value & ~UINT64_C(0xff));
    case REG_EOI:
    case REG_ESR: return !value;
    case REG_SVR: return !(value & ~(uint64_t)SVR_WRITABLE);
    case REG_ICR: return !((uint32_t)value & ~(ICR_LOW_VALID | ICR_STATUS));
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        lvt = lvt_writable[reg - REG_LVT] | LVT_STATUS;
        return !(value & ~(uint64_t)lvt);
    case REG_INITIAL: return value <= UINT32_MAX;
    case REG_DIVIDE: return !(value & ~UINT64_C(11));
    default: return false;
    }
}

static bool write_x2apic(struct lapic *a, unsigned reg, uint64_t value)
{
    bool accepted;

    pthread_mutex_lock(&a->dev.lock);
    accepted = x2apic(a) && x2apic_accepts(a, reg, value);
    if (accepted) {
        if (reg == REG_ICR)
            a->icr = value & ~ICR_STATUS;
        else if (reg == REG_SELF_IPI && value < 16)
            add_error(a, ESR_SEND_ILLEGAL);
        else if (reg == REG_SELF_IPI)
            accept_vector(a, (uint8_t)value, false);
        else
            write_register(a, reg, (uint32_t)value);
        update_locked(a);
    }
    pthread_mutex_unlock(&a->dev.lock);
    if (accepted && reg == REG_EOI)
        end_of_interrupt(a);
    else if (accepted && reg == REG_ICR)
        send_ipi(a, value, true);
    return accepted;
}

static bool msr_write(void *opaque, uint32_t index, uint64_t value)
{
    struct lapic *a = opaque;
    bool accepted = false;

    if (index - MSR_X2APIC < 0x100)
        return write_x2apic(a, index - MSR_X2APIC, value);
    pthread_mutex_lock(&a->dev.lock);
    if (index == MSR_APIC_BASE) {
        accepted = write_base_locked(a, value);
    } else if (index == MSR_TSC_DEADLINE && model_has(a->cpu->model, FEATURE_TSC_DEADLINE)) {
        accepted = true;
        set_tsc_deadline(a, value);
    }
    pthread_mutex_unlock(&a->dev.lock);
    return accepted;
}

/* ---- what else the CPU asks
 * ---------------------------------------------------------------------- */

static int acknowledge(void *opaque)
{
    struct lapic *a = opaque;
    bool from_pic;
    int vector = -1;

    pthread_mutex_lock(&a->dev.lock);
    from_pic = external(a);
    if (from_pic) {
        a->extint = false;
    } else {
        vector = deliverable(a);
        if (vector >= 0) {
            set_bit(a->irr, (unsigned)vector, false);
            set_bit(a->isr, (unsigned)vector, true);
        }
    }
    update_locked(a);
    pthread_mutex_unlock(&a->dev.lock);
    return from_pic ? apic_bus_acknowledge_pic(a->bus) : vector;
}

static uint8_t get_cr8(void *opaque)
{
    struct lapic *a = opaque;
    uint8_t value;

    pthread_mutex_lock(&a->dev.lock);
    value = (uint8_t)(a->tpr >> 4);
    pthread_mutex_unlock(&a->dev.lock);
    return value;
}

static void set_cr8(void *opaque, uint8_t value)
{
    struct lapic *a = opaque;

    pthread_mutex_lock(&a->dev.lock);
    a->tpr = (uint32_t)(value & 15) << 4;
    update_locked(a);
    pthread_mutex_unlock(&a->dev.lock);
}

/* ---- the device
 * ---------------------------------------------------------------------------------- */

static void lapic_refresh(struct device *dev)
{
    struct lapic *a = to_lapic(dev);

    a->tpr &= 0xff;
    place_page(a);
    timer_set(&a->timer, a->deadline);
    update_locked(a);
}

static void lapic_reset(struct device *dev)
{
    struct lapic *a = to_lapic(dev);

    a->apic_base = LAPIC_DEFAULT_BASE | BASE_ENABLE | (a->cpu->index == 0 ? BASE_BSP : 0);
    init_registers(a);
    place_page(a);
    update_locked(a);
}

static int lapic_realize(struct device *dev, struct error *err)
{
    struct lapic *a = to_lapic(dev);

    if (!a->cpu || !a->bus)
        return error_set(err, EINVAL,
                         "lapic: it is wired by the machine, '-device' cannot add one");
    timer_init(&a->timer, dev, lapic_expired);
    apic_bus_join_lapic(a->bus, a->cpu->apic_id, dev);
    a->cpu->intc = (struct cpu_intc){.opaque = a,
                                     .acknowledge = acknowledge,
                                     .get_cr8 = get_cr8,
                                     .set_cr8 = set_cr8,
                                     .read_msr = msr_read,
                                     .write_msr = msr_write,
                                     .read = page_read,
                                     .write = page_write};
    return 0;
}

static void lapic_unrealize(struct device *dev)
{
    struct lapic *a = to_lapic(dev);

    apic_bus_leave_lapic(a->bus, dev);
    a->cpu->intc = (struct cpu_intc){0};
    a->cpu->apic_page = CPU_NO_APIC_PAGE;
    cpu_retract(a->cpu, CPU_EVENT_INTR);
}

static const struct property lapic_properties[] = {
    PROPERTY_REF("cpu", struct lapic, cpu, "its processor"),
    PROPERTY_REF("bus", struct lapic, bus, "APIC bus"),
    PROPERTY_BOOL("virtual-wire", struct lapic, virtual_wire, true,
                  "after a reset CPU 0 takes the i8259's interrupts"),
    PROPERTY_END,
};

static const struct state_field lapic_state[] = {
    STATE_U64(struct lapic, apic_base),
    STATE_U32(struct lapic, tpr),
    STATE_U32(struct lapic, ldr),
    STATE_U32(struct lapic, dfr),
    STATE_U32(struct lapic, svr),
    STATE_ARRAY(struct lapic, isr),
    STATE_ARRAY(struct lapic, tmr),
    STATE_ARRAY(struct lapic, irr),
    STATE_U32(struct lapic, esr),
    STATE_U32(struct lapic, errors),
    STATE_U64(struct lapic, icr),
    STATE_ARRAY(struct lapic, lvt),
    STATE_U32(struct lapic, initial),
    STATE_U32(struct lapic, divide),
    STATE_U64(struct lapic, deadline),
    STATE_U64(struct lapic, tsc_deadline),
    STATE_BOOL(struct lapic, extint),
    STATE_ARRAY(struct lapic, lint),
    STATE_END,
};

const struct device_type lapic_type = {
    .name = "lapic",
    .summary = "Local APIC of one processor",
    .instance_size = sizeof(struct lapic),
    .properties = lapic_properties,
    .state = lapic_state,
    .realize = lapic_realize,
    .reset = lapic_reset,
    .refresh = lapic_refresh,
    .unrealize = lapic_unrealize,
};

struct device *lapic_add(struct machine *m, struct apic_bus *bus, struct cpu *cpu,
                         struct error *err)
{
    struct device *dev = device_new(m, &lapic_type, NULL);

    device_set_ref(dev, "bus", bus);
    device_set_ref(dev, "cpu", cpu);
    if (device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
