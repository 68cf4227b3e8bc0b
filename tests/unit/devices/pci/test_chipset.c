/* test_chipset.c - the two chip sets: attribute map, SMRAM, interrupt routing, ECAM, power. */
#include "support/unit.h"

#include "devices/acpi/pm.h"
#include "devices/pci/i440fx.h"
#include "devices/pci/ich9.h"
#include "devices/pci/pam.h"
#include "devices/pci/piix.h"
#include "devices/pci/q35.h"
#include "memory/ram.h"
#include "sample.h"
#include "support/test_machine.h"

enum { ISA = 1 << 3, POWER = ISA | 3, LPC = 31 << 3, PM = 0x600 };

static struct ram_block *rom;

static struct pci_host *host(struct machine *m)
{
    return pci_bus_find(m, NULL)->host;
}

static uint32_t get(struct machine *m, unsigned devfn, unsigned reg, unsigned size)
{
    return pci_config_read(host(m), 0, devfn, reg, size);
}

static void set(struct machine *m, unsigned devfn, unsigned reg, uint32_t value, unsigned size)
{
    pci_config_write(host(m), 0, devfn, reg, value, size);
}

static uint8_t smm_byte(struct machine *m, gpa address)
{
    return (uint8_t)memory_read(m->memory, VIEW_SMM, address, 1);
}

/* 128 KiB of ROM that says, in each byte, in which 4 KiB page it is: 0x80 and up. */
static struct device *add_pam(struct machine *m)
{
    if (ram_block_new("rom", 128 * KiB, &rom, NULL) < 0)
        return NULL;
    for (unsigned i = 0; i < rom->size; i++)
        rom->host[i] = (uint8_t)(0x80 | i >> 12);
    return pam_add(m, rom, NULL);
}

static int setup_pc(void **state)
{
    struct machine *m;
    struct device *pam;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    pam = add_pam(m);
    return pci_host_add(m, "pci.0", NULL) && i440fx_add(m, pam, NULL) &&
                   pci_device_add(m, &piix3_type, "1.0", NULL) &&
                   pci_device_add(m, &piix4_pm_type, "1.3", NULL)
               ? 0
               : -1;
}

static int setup_q35(void **state)
{
    struct machine *m;
    struct device *pam;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    pam = add_pam(m);
    return pci_host_add(m, "pcie.0", NULL) && q35_mch_add(m, pam, NULL) &&
                   pci_device_add(m, &ich9_lpc_type, "1f.0", NULL)
               ? 0
               : -1;
}

static int teardown(void **state)
{
    int r = test_machine_teardown(state);

    ram_block_free(rom);
    return r;
}

static void check_pam(struct machine *m, unsigned first_register)
{
    /* Power-on: ROM where there is some, nothing elsewhere; writes go nowhere. */
    m->ram->host[0xf0010] = 0x11;
    m->ram->host[0xc8010] = 0x22;
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x90);
    assert_int_equal(mmio_read(m, 0xe0010, 1), 0x80);
    assert_int_equal(mmio_read(m, 0xc8010, 1), 0xff);
    mmio_write(m, 0xf0010, 0x33, 1);
    assert_int_equal(m->ram->host[0xf0010], 0x11);
    /* Read RAM, write nothing. Segment 0xf0000 is the high half of the first register. */
    set(m, 0, first_register, PAM_READ << 4, 1);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x11);
    mmio_write(m, 0xf0010, 0x33, 1);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x11);
    /* Write RAM, read ROM: how firmware copies itself. */
    set(m, 0, first_register, PAM_WRITE << 4, 1);
    for (unsigned i = 0; i < 64; i += 8)
        mmio_write(m, 0xf0000 + i, mmio_read(m, 0xf0000 + i, 8), 8);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x90);
    assert_int_equal(m->ram->host[0xf0010], 0x90);
    mmio_write(m, 0xf0010, 0x33, 1);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x90);
    set(m, 0, first_register, 0xff, 1);
    assert_int_equal(get(m, 0, first_register, 1), 0x30); /* the rest is not there */
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x33);
    mmio_write(m, 0xf0010, 0x44, 1);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x44);
    /* 0xc8000 is the low half of the third register, 0xcc000 its high half. */
    set(m, 0, first_register + 2, 0x03, 1);
    assert_int_equal(mmio_read(m, 0xc8010, 1), 0x22);
    assert_int_equal(mmio_read(m, 0xcc010, 1), 0xff);
    assert_int_equal(mmio_read(m, 0xc7fff, 1), 0xff);
    test_save_reset_restore(m);
    assert_int_equal(mmio_read(m, 0xc8010, 1), 0x22);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x44);
    device_reset(&pci_device_at(pci_bus_find(m, NULL), 0, 0)->dev);
    assert_int_equal(mmio_read(m, 0xf0010, 1), 0x90);
}

static void check_smram(struct machine *m, unsigned reg)
{
    m->ram->host[0xa1234] = 0x77;
    assert_int_equal(get(m, 0, reg, 1), SMRAM_BASE);
    assert_int_equal(mmio_read(m, 0xa1234, 1), 0xff);
    assert_int_equal(smm_byte(m, 0xa1234), 0xff);
    set(m, 0, reg, SMRAM_ENABLE, 1);
    assert_int_equal(mmio_read(m, 0xa1234, 1), 0xff);
    assert_int_equal(smm_byte(m, 0xa1234), 0x77);
    assert_int_equal(smm_byte(m, 0xf0000), mmio_read(m, 0xf0000, 1)); /* the rest is the same */
    set(m, 0, reg, SMRAM_ENABLE | SMRAM_OPEN, 1);
    assert_int_equal(mmio_read(m, 0xa1234, 1), 0x77);
    set(m, 0, reg, SMRAM_ENABLE | SMRAM_OPEN | SMRAM_LOCK, 1);
    assert_int_equal(get(m, 0, reg, 1), SMRAM_BASE | SMRAM_ENABLE | SMRAM_LOCK);
    assert_int_equal(mmio_read(m, 0xa1234, 1), 0xff);
    set(m, 0, reg, SMRAM_ENABLE | SMRAM_OPEN, 1);
    test_save_reset_restore(m);
    set(m, 0, reg, SMRAM_OPEN, 1);
    assert_int_equal(get(m, 0, reg, 1), SMRAM_BASE | SMRAM_ENABLE | SMRAM_LOCK);
    assert_int_equal(mmio_read(m, 0xa1234, 1), 0xff);
    assert_int_equal(smm_byte(m, 0xa1234), 0x77);
    device_reset(&pci_device_at(pci_bus_find(m, NULL), 0, 0)->dev);
    assert_int_equal(get(m, 0, reg, 1), SMRAM_BASE);
}

static void pc_attribute_map(void **state)
{
    check_pam(*state, I440FX_PAM);
}

static void pc_smram(void **state)
{
    check_smram(*state, I440FX_SMRAM);
}

static void q35_attribute_map(void **state)
{
    check_pam(*state, Q35_PAM);
}

static void q35_smram(void **state)
{
    check_smram(*state, Q35_SMRAM);
}

static void q35_tseg(void **state)
{
    struct machine *m = *state; /* 16 MiB */

    m->ram->host[15 * MiB] = 0x66;
    set(m, 0, Q35_SMRAM, SMRAM_ENABLE, 1);
    assert_int_equal(mmio_read(m, 15 * MiB, 1), 0x66);
    set(m, 0, Q35_ESMRAMC, 1, 1); /* 1 MiB */
    assert_int_equal(mmio_read(m, 15 * MiB, 1), 0xff);
    assert_int_equal(mmio_read(m, 15 * MiB - 1, 1), 0);
    assert_int_equal(smm_byte(m, 15 * MiB), 0x66);
    set(m, 0, Q35_ESMRAMC, 2 << 1 | 1, 1); /* 8 MiB */
    assert_int_equal(mmio_read(m, 8 * MiB, 1), 0xff);
    test_save_reset_restore(m);
    set(m, 0, Q35_SMRAM, SMRAM_ENABLE | SMRAM_LOCK, 1);
    set(m, 0, Q35_ESMRAMC, 0, 1);
    assert_int_equal(mmio_read(m, 8 * MiB, 1), 0xff); /* locked */
}

static void q35_ecam(void **state)
{
    struct machine *m = *state;

    assert_int_equal(mmio_read(m, Q35_ECAM_BASE, 4), 0xffffffff);
    set(m, 0, Q35_PCIEXBAR, (uint32_t)Q35_ECAM_BASE | 1, 4);
    assert_int_equal(mmio_read(m, Q35_ECAM_BASE, 4), 0x29c08086);
    assert_int_equal(mmio_read(m, Q35_ECAM_BASE + (LPC << 12), 4), 0x29188086);
    test_save_reset_restore(m);
    /* It may move itself. 64 MiB: buses 0 to 63. */
    mmio_write(m, Q35_ECAM_BASE + Q35_PCIEXBAR, 0xe4000005, 4);
    assert_int_equal(mmio_read(m, Q35_ECAM_BASE, 4), 0xffffffff);
    assert_int_equal(mmio_read(m, 0xe4000000, 4), 0x29c08086);
    mmio_write(m, 0xe4000000 + Q35_PCIEXBAR, 0xe4000004, 4);
    assert_int_equal(mmio_read(m, 0xe4000000, 4), 0xffffffff);
}

static void drive(struct pci_device *p, bool level)
{
    pthread_mutex_lock(&p->dev.lock);
    pci_intx_set(p, level);
    pthread_mutex_unlock(&p->dev.lock);
}

static void piix_routes(void **state)
{
    struct machine *m = *state;
    struct pci_device *p;

    assert_int_equal(test_add(m, &sample_type, "addr=3", NULL), 0); /* INTB: PIRQ (3-1+1)%4 = D */
    p = to_pci(test_device(m));
    assert_int_equal(get(m, ISA, PIIX_PIRQ_ROUTE, 4), 0x80808080);
    drive(p, true);
    for (unsigned i = 0; i < 16; i++)
        assert_false(test_irq(m, i));
    set(m, ISA, PIIX_PIRQ_ROUTE, 0x0b090a05, 4);
    assert_true(test_irq(m, 11));
    assert_false(test_irq(m, 5));
    test_save_reset_restore(m);
    assert_true(test_irq(m, 11));
    set(m, ISA, PIIX_PIRQ_ROUTE + 3, 0x05, 1);
    assert_false(test_irq(m, 11));
    assert_true(test_irq(m, 5));
    set(m, ISA, PIIX_PIRQ_ROUTE + 3, 0x85, 1);
    assert_false(test_irq(m, 5));
}

static void ich9_routes(void **state)
{
    struct machine *m = *state;
    struct pci_device *low, *high;

    assert_int_equal(test_add(m, &sample_type, "addr=3", NULL), 0); /* INTB: PIRQ 4+(3+1)%4 = E */
    low = to_pci(test_device(m));
    assert_int_equal(test_add(m, &sample_type, "addr=1d", NULL), 0); /* INTB: PIRQB */
    high = to_pci(test_device(m));
    drive(low, true);
    assert_true(test_irq(m, 20));
    set(m, LPC, ICH9_PIRQ_E, 10, 1);
    assert_true(test_irq(m, 10));
    drive(low, false);
    assert_false(test_irq(m, 20));
    assert_false(test_irq(m, 10));
    drive(high, true);
    assert_true(test_irq(m, 17));
    set(m, LPC, ICH9_RCBA, (uint32_t)ICH9_RCBA_BASE | 1, 4);
    assert_int_equal(mmio_read(m, ICH9_RCBA_BASE + 0x3144, 2), 0x3210);
    mmio_write(m, ICH9_RCBA_BASE + 0x3144, 0x3270, 2); /* D29IR: INTB on PIRQH */
    assert_false(test_irq(m, 17));
    assert_true(test_irq(m, 23));
    test_save_reset_restore(m);
    assert_true(test_irq(m, 23));
    device_reset(&pci_device_at(pci_bus_find(m, NULL), 31, 0)->dev);
    assert_true(test_irq(m, 17));
}

static void piix4_power(void **state)
{
    struct machine *m = *state;
    struct device *pm = &pci_device_at(pci_bus_find(m, NULL), 1, 3)->dev;

    assert_int_equal(get(m, POWER, PCI_VENDOR_ID, 4), 0x71138086);
    assert_int_equal(get(m, ISA, PCI_HEADER_TYPE, 1), 0x80); /* more functions */
    assert_int_equal(in16(m, PM + PM1_STATUS), 0xffff);
    set(m, POWER, PIIX4_PM_BASE, PM, 4);
    assert_int_equal(get(m, POWER, PIIX4_PM_BASE, 4), PM | 1);
    assert_int_equal(in16(m, PM + PM1_STATUS), 0xffff);
    set(m, POWER, PIIX4_PM_MISC, 1, 1);
    assert_int_equal(in16(m, PM + PM1_STATUS), 0);
    out16(m, PM + PM1_ENABLE, PM1_POWER_BUTTON);
    piix4_power_button(pm);
    assert_int_equal(in16(m, PM + PM1_STATUS), PM1_POWER_BUTTON);
    assert_false(test_irq(m, PM_SCI_GSI)); /* not in ACPI mode */
    out8(m, APM_COMMAND, PM_ACPI_ENABLE);
    assert_int_equal(in16(m, PM + PM1_CONTROL), PM1_SCI_ENABLE);
    assert_true(test_irq(m, PM_SCI_GSI));
    test_save_reset_restore(m);
    assert_true(test_irq(m, PM_SCI_GSI));
    out16(m, PM + PM1_STATUS, PM1_POWER_BUTTON);
    assert_false(test_irq(m, PM_SCI_GSI));
    out8(m, APM_STATUS, 0x5c);
    assert_int_equal(in8(m, APM_STATUS), 0x5c);
    out16(m, PM + PIIX4_GPE + 2, 0x0101); /* GPE0 enable */
    assert_int_equal(in32(m, PM + PIIX4_GPE), 0x01010000);
    out8(m, APM_COMMAND, PM_ACPI_DISABLE);
    assert_int_equal(in16(m, PM + PM1_CONTROL), 0);
    assert_int_equal(m->end, END_NONE);
    out16(m, PM + PM1_CONTROL, PM1_SLEEP_ENABLE | PIIX4_POWEROFF_TYPE << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_POWEROFF);
}

static void ich9_power(void **state)
{
    struct machine *m = *state;
    struct device *lpc = &pci_device_at(pci_bus_find(m, NULL), 31, 0)->dev;

    set(m, LPC, ICH9_PM_BASE, PM, 4);
    assert_int_equal(in16(m, PM + PM1_STATUS), 0xffff);
    set(m, LPC, ICH9_ACPI_CONTROL, ICH9_PM_ENABLE, 1);
    assert_int_equal(in16(m, PM + PM1_STATUS), 0);
    out8(m, APM_COMMAND, PM_ACPI_ENABLE);
    out16(m, PM + PM1_ENABLE, PM1_POWER_BUTTON);
    ich9_power_button(lpc);
    assert_true(test_irq(m, PM_SCI_GSI));
    out32(m, PM + ICH9_SMI_CONTROL, 0xffffffff);
    assert_int_equal(in32(m, PM + ICH9_SMI_CONTROL), 0x000f387f);
    set(m, LPC, ICH9_GEN_PMCON_1, 1 << 4, 2);
    out32(m, PM + ICH9_SMI_CONTROL, 0);
    assert_int_equal(in32(m, PM + ICH9_SMI_CONTROL), ICH9_SMI_GLOBAL); /* locked */
    set(m, LPC, ICH9_GEN_PMCON_1, 0, 2);
    assert_int_equal(get(m, LPC, ICH9_GEN_PMCON_1, 2), 1 << 4);
    out32(m, PM + ICH9_SMI_CONTROL, ICH9_SMI_APMC);
    out8(m, APM_COMMAND, 0);
    assert_int_equal(in32(m, PM + ICH9_SMI_STATUS), ICH9_SMI_APMC);
    test_save_reset_restore(m);
    out32(m, PM + ICH9_SMI_STATUS, ICH9_SMI_APMC);
    assert_int_equal(in32(m, PM + ICH9_SMI_STATUS), 0);
    out32(m, PM + ICH9_GPE + ICH9_GPE_WIDTH, 0x12345678);
    assert_int_equal(in32(m, PM + ICH9_GPE + ICH9_GPE_WIDTH), 0x12345678);
    assert_int_equal(in32(m, PM + ICH9_GPE), 0);
    out16(m, PM + PM1_CONTROL, PM1_SLEEP_ENABLE | 5 << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_NONE); /* no sleep: it is awake again */
    assert_int_equal(in16(m, PM + PM1_STATUS) & PM1_WAKE, PM1_WAKE);
    out16(m, PM + PM1_CONTROL, PM1_SLEEP_ENABLE | 7 << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_POWEROFF);
}

int main(void)
{
#define PC(f)  cmocka_unit_test_setup_teardown(f, setup_pc, teardown)
#define Q35(f) cmocka_unit_test_setup_teardown(f, setup_q35, teardown)
    const struct CMUnitTest tests[] = {
        PC(pc_attribute_map),   PC(pc_smram),    PC(piix_routes), PC(piix4_power),
        Q35(q35_attribute_map), Q35(q35_smram),  Q35(q35_tseg),   Q35(q35_ecam),
        Q35(ich9_routes),       Q35(ich9_power),
    };

    return cmocka_run_group_tests_name("chipset", tests, NULL, NULL);
}
