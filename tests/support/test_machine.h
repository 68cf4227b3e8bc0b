/*
 * test_machine.h - a machine without processors, boards or host time, for tests of devices.
 *
 * The guest clock stands still until test_advance(); it starts at an odd value. Interrupt pins
 * are watched: test_irq() says whether a pin is high, test_irq_edges() how often it rose.
 */
#ifndef SUPPORT_TEST_MACHINE_H
#define SUPPORT_TEST_MACHINE_H

#include "machine/machine.h"

int test_machine_setup(void **state); /* *state = struct machine *, 16 MiB of RAM at 0 */
int test_machine_teardown(void **state);

/* Create and realize; 0 or -errno with *err. The device is test_device(m) afterwards. */
int test_add(struct machine *m, const struct device_type *type, const char *properties,
             struct error *err);
struct device *test_device(struct machine *m); /* the one added last */

void test_advance(struct machine *m, uint64_t nsec);
bool test_irq(struct machine *m, unsigned gsi);
unsigned test_irq_edges(struct machine *m, unsigned gsi);

/* Save every device, reset it, restore it: must be invisible to the guest. Asserts that the
 * stream loads and that saving again gives the same bytes. */
void test_save_reset_restore(struct machine *m);

uint8_t in8(struct machine *m, uint16_t port);
uint16_t in16(struct machine *m, uint16_t port);
uint32_t in32(struct machine *m, uint16_t port);
void out8(struct machine *m, uint16_t port, uint8_t value);
void out16(struct machine *m, uint16_t port, uint16_t value);
void out32(struct machine *m, uint16_t port, uint32_t value);
uint64_t mmio_read(struct machine *m, gpa address, unsigned size);
void mmio_write(struct machine *m, gpa address, uint64_t value, unsigned size);

#endif
