/*
 * pm.c - see pm.h.
 *
 * The timer counts guest time at 3.579545 MHz in 24 bits; its status bit says that bit 23 changed.
 * That is found when somebody looks (catch_up), and by a host timer only while the guest wants an
 * interrupt of it: 2.3 seconds apart. The SCI is level triggered and follows from the registers.
 */
#include "devices/acpi/pm.h"

#include "base/log.h"
#include "machine/machine.h"

#include <stdlib.h>

enum {
    EVENTS = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC,
    STATUS_BITS = EVENTS | PM1_BUS_MASTER | PM1_WAKE,
    CONTROL_BITS = PM1_SCI_ENABLE | PM1_BUS_MASTER_RELOAD | PM1_SLEEP_TYPE,
    RESET_VALUE_CPU = 1 << 2,
};

static uint64_t timer_ticks(struct acpi_pm *pm)
{
    return muldiv64(device_now(pm->dev) - pm->timer_start, PM_TIMER_HZ, NSEC_PER_SEC);
}

/* The time at which the counter reaches `ticks`, rounded up. */
static uint64_t time_of(const struct acpi_pm *pm, uint64_t ticks)
{
    return pm->timer_start + muldiv64(ticks, NSEC_PER_SEC, PM_TIMER_HZ) + 1;
}

static void catch_up(struct acpi_pm *pm)
{
    if (device_now(pm->dev) < pm->next_toggle)
        return;
    pm->status |= PM1_TIMER;
    pm->next_toggle = time_of(pm, ((timer_ticks(pm) >> (PM_TIMER_BITS - 1)) + 1)
                                      << (PM_TIMER_BITS - 1));
}

static void update(struct acpi_pm *pm)
{
    bool wanted;

    catch_up(pm);
    wanted = pm->status & pm->enable & EVENTS || pm->gpe_status & pm->gpe_enable;
    irq_line_set(&pm->sci, wanted && pm->control & PM1_SCI_ENABLE);
    timer_set(&pm->overflow,
              pm->enable & PM1_TIMER && !(pm->status & PM1_TIMER) ? pm->next_toggle : CLOCK_NEVER);
}

/* Which acpi_pm a timer belongs to: it is embedded in it. */
static void overflow_expired(struct device *dev, struct timer *t)
{
    update(container_of(t, struct acpi_pm, overflow));
}

int acpi_pm_init(struct acpi_pm *pm, struct device *dev, uint8_t poweroff_types, struct error *err)
{
    pm->dev = dev;
    pm->poweroff_types = poweroff_types;
    timer_init(&pm->overflow, dev, overflow_expired);
    return device_claim_irq(dev, PM_SCI_GSI, &pm->sci, err);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
    pm->status = pm->enable = pm->control = 0;
    pm->gpe_status = pm->gpe_enable = 0;
    pm->apm[0] = pm->apm[1] = 0;
    pm->timer_start = device_now(pm->dev);
    pm->next_toggle = time_of(pm, UINT64_C(1) << (PM_TIMER_BITS - 1));
    update(pm);
}

void acpi_pm_refresh(struct acpi_pm *pm)
{
    /* A stream may be older than our start; a counter cannot have begun in the future. */
    if (pm->timer_start > device_now(pm->dev))
        pm->timer_start = device_now(pm->dev);
    update(pm);
}

static void sleep_request(struct acpi_pm *pm)
{
    unsigned type = (pm->control & PM1_SLEEP_TYPE) >> PM1_SLEEP_TYPE_SHIFT;

    if (pm->poweroff_types >> type & 1) {
        machine_request_end(pm->dev->machine, END_POWEROFF);
        return;
    }
    /* The tables offer no other state. Whoever asks all the same has slept and is awake again. */
    log_guest("%s: sleep type %u is not supported", pm->dev->id, type);
    pm->status |= PM1_WAKE;
}

/* Bytes of a register of `width` at `reg` that an access touches: the mask, and the value moved. */
static uint32_t touched(unsigned reg, unsigned width, unsigned offset, unsigned size,
                        uint32_t *value)
{
    uint64_t mask = size_mask(size), v = *value;

    if (offset >= reg + width || offset + size <= reg)
        return 0;
    if (offset >= reg) {
        mask <<= 8 * (offset - reg);
        v <<= 8 * (offset - reg);
    } else {
        mask >>= 8 * (reg - offset);
        v >>= 8 * (reg - offset);
    }
    *value = (uint32_t)v;
    return (uint32_t)(mask & size_mask(width));
}

uint32_t acpi_pm_read(struct acpi_pm *pm, unsigned offset, unsigned size)
{
    uint8_t all[PM_TIMER + 4] = {0};

    if (!range_within(offset, size, sizeof(all)))
        return 0;
    catch_up(pm);
    store_le(all + PM1_STATUS, pm->status, 2);
    store_le(all + PM1_ENABLE, pm->enable, 2);
    store_le(all + PM1_CONTROL, pm->control, 2);
    store_le(all + PM_TIMER, timer_ticks(pm) & (BIT(PM_TIMER_BITS) - 1), 4);
    return (uint32_t)load_le(all + offset, size);
}

void acpi_pm_write(struct acpi_pm *pm, unsigned offset, uint32_t value, unsigned size)
{
    uint32_t v = value, mask = touched(PM1_STATUS, 2, offset, size, &v);

    catch_up(pm);
    pm->status &= (uint16_t) ~(v & mask & STATUS_BITS);
    v = value;
    mask = touched(PM1_ENABLE, 2, offset, size, &v) & EVENTS;
    pm->enable = (uint16_t)((pm->enable & ~mask) | (v & mask));
    v = value;
    mask = touched(PM1_CONTROL, 2, offset, size, &v);
    if (mask) {
        pm->control = (uint16_t)((pm->control & ~(mask & CONTROL_BITS)) |
                                 (v & mask & CONTROL_BITS));
        if (v & mask & PM1_SLEEP_ENABLE)
            sleep_request(pm);
    }
    update(pm);
}

uint32_t acpi_pm_gpe_read(struct acpi_pm *pm, unsigned width, unsigned offset, unsigned size)
{
    uint8_t all[16] = {0};

    if (!range_within(offset, size, 2 * width))
        return 0;
    store_le(all, pm->gpe_status, MIN(width, 4));
    store_le(all + width, pm->gpe_enable, MIN(width, 4));
    return (uint32_t)load_le(all + offset, size);
}

void acpi_pm_gpe_write(struct acpi_pm *pm, unsigned width, unsigned offset, uint32_t value,
                       unsigned size)
{
    unsigned used = MIN(width, 4);
    uint32_t v = value, mask = touched(0, used, offset, size, &v);

    pm->gpe_status &= ~(v & mask);
    v = value;
    mask = touched(width, used, offset, size, &v);
    pm->gpe_enable = (pm->gpe_enable & ~mask) | (v & mask);
    update(pm);
}

void acpi_pm_set_sci(struct acpi_pm *pm, bool on)
{
    pm->control = (uint16_t)(on ? pm->control | PM1_SCI_ENABLE : pm->control & ~PM1_SCI_ENABLE);
    update(pm);
}

bool acpi_pm_apm_write(struct acpi_pm *pm, unsigned offset, uint8_t value)
{
    pm->apm[offset & 1] = value;
    if (offset)
        return false;
    if (value == PM_ACPI_ENABLE || value == PM_ACPI_DISABLE)
        acpi_pm_set_sci(pm, value == PM_ACPI_ENABLE);
    return true;
}

void acpi_pm_event(struct acpi_pm *pm, uint16_t event)
{
    pm->status |= event & STATUS_BITS;
    update(pm);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned number)
{
    pm->gpe_status |= 1u << number;
    update(pm);
}

void acpi_pm_smi(struct machine *m)
{
    if (m->cpu_count)
        cpu_post(m->cpus[0], CPU_EVENT_SMI);
}

const struct state_field acpi_pm_state[] = {
    STATE_U16(struct acpi_pm, status),
    STATE_U16(struct acpi_pm, enable),
    STATE_U16(struct acpi_pm, control),
    STATE_U32(struct acpi_pm, gpe_status),
    STATE_U32(struct acpi_pm, gpe_enable),
    STATE_ARRAY(struct acpi_pm, apm),
    STATE_U64(struct acpi_pm, timer_start),
    STATE_U64(struct acpi_pm, next_toggle),
    STATE_END,
};

/* ---- the block by itself ----------------------------------------------------------------------
 */

struct pm_block {
    struct device dev;
    struct acpi_pm pm;
    uint8_t reset_control; /* saved */
};
#define to_block(d) container_of(d, struct pm_block, dev)

static uint64_t block_read(struct device *dev, uint64_t offset, unsigned size)
{
    if (offset >= ACPI_PM_GPE)
        return acpi_pm_gpe_read(&to_block(dev)->pm, ACPI_PM_GPE_WIDTH,
                                (unsigned)offset - ACPI_PM_GPE, size);
    return acpi_pm_read(&to_block(dev)->pm, (unsigned)offset, size);
}

static void block_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset >= ACPI_PM_GPE)
        acpi_pm_gpe_write(&to_block(dev)->pm, ACPI_PM_GPE_WIDTH, (unsigned)offset - ACPI_PM_GPE,
                          (uint32_t)value, size);
    else
        acpi_pm_write(&to_block(dev)->pm, (unsigned)offset, (uint32_t)value, size);
}

static uint64_t reset_read(struct device *dev, uint64_t offset, unsigned size)
{
    return to_block(dev)->reset_control;
}

static void reset_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pm_block *b = to_block(dev);

    if (value & RESET_VALUE_CPU && !(b->reset_control & RESET_VALUE_CPU))
        machine_request_reset(dev->machine);
    b->reset_control = (uint8_t)value & 0xe;
}

static const struct io_ops block_io = {block_read, block_write, 1, 4};
static const struct io_ops reset_io = {reset_read, reset_write, 1, 1};

static int block_realize(struct device *dev, struct error *err)
{
    int r = acpi_pm_init(&to_block(dev)->pm, dev, 1 << 5, err);

    if (!r)
        r = device_map_pio(dev, ACPI_PM_PORTS, ACPI_PM_PORTS_LEN, &block_io, err);
    return r ? r : device_map_pio(dev, ACPI_PM_RESET, 1, &reset_io, err);
}

static void block_reset(struct device *dev)
{
    acpi_pm_reset(&to_block(dev)->pm);
    acpi_pm_set_sci(&to_block(dev)->pm, true);
    to_block(dev)->reset_control = 0;
}

static void block_refresh(struct device *dev)
{
    acpi_pm_refresh(&to_block(dev)->pm);
}

static const struct state_field block_state[] = {
    STATE_STRUCT(struct pm_block, pm, acpi_pm_state),
    STATE_U8(struct pm_block, reset_control),
    STATE_END,
};

const struct device_type acpi_pm_type = {
    .name = "acpi-pm",
    .summary = "ACPI power management without a south bridge",
    .instance_size = sizeof(struct pm_block),
    .state = block_state,
    .realize = block_realize,
    .reset = block_reset,
    .refresh = block_refresh,
};

struct device *acpi_pm_add(struct machine *m, struct error *err)
{
    return device_add(m, &acpi_pm_type, NULL, err);
}

void acpi_pm_power_button(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    acpi_pm_event(&to_block(dev)->pm, PM1_POWER_BUTTON);
    pthread_mutex_unlock(&dev->lock);
}
