/* Tests of the xHCI and of the input devices behind it, by a driver of the test's own. */
#include "support/unit.h"

#include "devices/usb/hid.h"
#include "host.h"

#include <linux/input-event-codes.h>

static void capabilities_are_consistent(void **state)
{
    struct host *h = *state;
    unsigned at = (host_read(h, XHCI_HCCPARAMS1) >> 16) * 4, ports = 0;

    assert_int_equal(mmio_read(h->m, HOST_BAR, 1), XHCI_OPERATIONAL);
    assert_int_equal(mmio_read(h->m, HOST_BAR + 2, 2), 0x100);
    assert_int_equal(host_read(h, XHCI_HCSPARAMS1) >> 24, XHCI_PORTS);
    while (at) { /* the protocols cover all ports */
        uint32_t c = host_read(h, at), range = host_read(h, at + 8);

        assert_int_equal(c & 0xff, 2);
        assert_int_equal(host_read(h, at + 4), 0x20425355);
        assert_int_equal(range & 0xff, ports + 1);
        ports += range >> 8 & 0xff;
        at = c >> 8 & 0xff ? at + (c >> 8 & 0xff) * 4 : 0;
    }
    assert_int_equal(ports, XHCI_PORTS);
    assert_int_equal(host_read(h, XHCI_USBSTS), 1);
    assert_int_equal(host_read(h, XHCI_PAGESIZE), 1);
    assert_int_equal(pci_config_read(h->pci, 0, 3 << 3, 0x60, 1), 0x30);
    assert_int_equal(pci_config_read(h->pci, 0, 3 << 3, PCI_CLASS, 1), 0x30);
    host_write(h, XHCI_DCBAAP, 0xffffffff);
    assert_int_equal(host_read(h, XHCI_DCBAAP), 0xffffffc0);
    host_write(h, XHCI_USBCMD, 2); /* reset */
    assert_int_equal(host_read(h, XHCI_DCBAAP), 0);
}

static void ports_tell_what_is_there(void **state)
{
    struct host *h = *state;
    struct host_event e;
    struct error err = {0};

    host_start(h);
    assert_false(host_event(h, &e));
    assert_int_equal(host_read(h, XHCI_PORTSC) & 1, 0);
    assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    assert_true(host_event(h, &e));
    assert_int_equal(e.control >> 10 & 63, TRB_PORT_EVENT);
    assert_int_equal(e.parameter >> 24, 1);
    /* Connected, not enabled, high speed, changed. */
    assert_int_equal(host_read(h, XHCI_PORTSC) & 3, 1);
    assert_int_equal(host_read(h, XHCI_PORTSC) >> 10 & 15, USB_HIGH);
    assert_int_equal(host_read(h, XHCI_PORTSC) >> 17 & 1, 1);
    host_write(h, XHCI_PORTSC, 1 << 9 | 1 << 17);
    assert_int_equal(host_read(h, XHCI_PORTSC) >> 17 & 1, 0);
    host_write(h, XHCI_PORTSC, 1 << 9 | 1 << 4);
    assert_true(host_event(h, &e));
    assert_int_equal(host_read(h, XHCI_PORTSC) & 3, 3);
    assert_int_equal(host_read(h, XHCI_PORTSC) >> 21 & 1, 1);
    test_save_reset_restore(h->m);
    assert_int_equal(host_read(h, XHCI_PORTSC) & 3, 3);
    host_write(h, XHCI_PORTSC, 1 << 9 | 2); /* disable by writing one */
    assert_int_equal(host_read(h, XHCI_PORTSC) & 3, 1);
    /* Unplugged. */
    device_free(h->usb);
    assert_true(host_event(h, &e));
    assert_int_equal(host_read(h, XHCI_PORTSC) & 1, 0);
    assert_int_equal(host_add(h, &usb_kbd_type, "port=5", &err), -EINVAL);
    assert_int_equal(host_add(h, &usb_kbd_type, "bus=nowhere", &err), -ENOENT);
    for (unsigned i = 0; i < XHCI_PORTS2; i++)
        assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    assert_int_equal(host_add(h, &usb_mouse_type, NULL, &err), -EBUSY);
}

static void a_keyboard_types(void **state)
{
    struct host *h = *state;
    struct host_event e;
    uint32_t moved;
    uint8_t got[80];

    assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    host_start(h);
    host_enumerate(h, 1);
    assert_int_equal(host_control(h, 0x80, USB_GET_DESCRIPTOR, 0x100, 0, 64, &moved), CODE_SUCCESS);
    assert_int_equal(moved, 18);
    assert_int_equal(dma_read(h->m->memory, HOST_DATA, got, 18), 0);
    assert_int_equal(got[0], 18);
    assert_int_equal(load_le(got + 8, 2), 0x0627);
    assert_int_equal(host_control(h, 0x80, USB_GET_DESCRIPTOR, 0x200, 0, 9, &moved), CODE_SUCCESS);
    assert_int_equal(moved, 9);
    assert_int_equal(host_control(h, 0x80, USB_GET_DESCRIPTOR, 0x302, 0x409, 255, &moved),
                     CODE_SUCCESS);
    assert_int_equal(moved, 2 + 2 * strlen("USB keyboard"));
    assert_int_equal(host_control(h, 0x81, USB_GET_DESCRIPTOR, 0x2200, 0, 255, &moved),
                     CODE_SUCCESS);
    assert_in_range(moved, 60, 70);
    /* Not configured, keys go nowhere; then they come through. */
    input_key(h->display, KEY_A, true);
    assert_int_equal(host_control(h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL), CODE_SUCCESS);
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 12, 4) >> 27, 3);
    host_submit(h, 3, HOST_DATA, 8);
    assert_false(host_event(h, &e));
    test_save_reset_restore(h->m);
    assert_false(host_event(h, &e));
    input_key(h->display, KEY_LEFTSHIFT, true);
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_SUCCESS);
    assert_int_equal(e.control >> 16 & 31, 3);
    assert_int_equal(mmio_read(h->m, HOST_DATA, 8), 0x02);
    /* Two events before the host asks again: two reports. */
    input_key(h->display, KEY_A, true);
    input_key(h->display, KEY_A, false);
    assert_false(host_event(h, &e));
    host_submit(h, 3, HOST_DATA + 16, 8);
    host_submit(h, 3, HOST_DATA + 32, 64);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA + 16, 8), 0x040002);
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_SHORT);
    assert_int_equal(e.status & 0xffffff, 56);
    assert_int_equal(mmio_read(h->m, HOST_DATA + 32, 8), 0x02);
    /* Seven keys: the seventh is not told. */
    for (unsigned i = 0; i < 7; i++) {
        input_key(h->display, KEY_Q + i, true);
        host_submit(h, 3, HOST_DATA, 8);
        assert_true(host_event(h, &e));
    }
    assert_int_equal(mmio_read(h->m, HOST_DATA, 8), UINT64_C(0x1c1715081a140002));
    /* LEDs. */
    mmio_write(h->m, HOST_DATA, 5, 1);
    assert_int_equal(host_control(h, 0x21, 9, 0x200, 0, 1, NULL), CODE_SUCCESS);
}

static void pointers_move_and_stand(void **state)
{
    struct host *h = *state;
    struct host_event e;

    assert_int_equal(host_add(h, &usb_tablet_type, NULL, NULL), 0);
    host_start(h);
    host_enumerate(h, 1);
    assert_false(input_is_absolute(h->display));
    assert_int_equal(host_control(h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL), CODE_SUCCESS);
    assert_true(input_is_absolute(h->display));
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    host_submit(h, 3, HOST_DATA, 8);
    input_pointer(h->display, 799, 0, 800, 600, INPUT_LEFT, 0, 0);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA, 8) & 0xffffffffffff, 0x00007fff01);
    /* Positions add up to the last; a button is not lost. */
    input_pointer(h->display, 10, 10, 800, 600, 0, 0, 0);
    input_pointer(h->display, 0, 599, 800, 600, 0, 3, 0);
    input_pointer(h->display, 0, 599, 800, 600, INPUT_RIGHT, 0, 0);
    host_submit(h, 3, HOST_DATA, 8);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA, 8) & 0xffffffffffff, 0x037fff000000);
    host_submit(h, 3, HOST_DATA, 8);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA, 1), 2);
}

static void a_mouse_moves_in_steps(void **state)
{
    struct host *h = *state;
    struct host_event e;

    assert_int_equal(host_add(h, &usb_mouse_type, NULL, NULL), 0);
    host_start(h);
    host_enumerate(h, 1);
    assert_int_equal(host_control(h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL), CODE_SUCCESS);
    assert_int_equal(host_configure(h, 3, 7, 4), CODE_SUCCESS);
    input_move(h->display, 200, -5, INPUT_MIDDLE, -1, 0);
    host_submit(h, 3, HOST_DATA, 4);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA, 4), 0xfffb7f04);
    host_submit(h, 3, HOST_DATA, 4);
    assert_true(host_event(h, &e));
    assert_int_equal(mmio_read(h->m, HOST_DATA, 4), 0x00004904); /* 73 more */
    host_submit(h, 3, HOST_DATA, 4);
    assert_false(host_event(h, &e));
}

static void wrong_commands_have_their_codes(void **state)
{
    struct host *h = *state;
    struct host_event e;
    uint32_t moved;

    assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    host_start(h);
    while (host_event(h, &e))
        ;
    assert_int_equal(host_command(h, 0, TRB_NOOP_COMMAND << 10, NULL), CODE_SUCCESS);
    assert_int_equal(host_command(h, 0, 50u << 10, NULL), CODE_TRB);
    assert_int_equal(host_command(h, HOST_INPUT, TRB_ADDRESS_DEVICE << 10 | 1u << 24, NULL),
                     CODE_SLOT_DISABLED);
    assert_int_equal(host_command(h, HOST_INPUT, TRB_RESET_DEVICE << 10 | 200u << 24, NULL),
                     CODE_SLOT_DISABLED);
    host_enumerate(h, 1);
    for (unsigned n = 2; n <= 8; n++)
        assert_int_equal(host_command(h, 0, TRB_ENABLE_SLOT << 10, NULL), CODE_SUCCESS);
    assert_int_equal(host_command(h, 0, TRB_ENABLE_SLOT << 10, NULL), CODE_NO_SLOTS);
    assert_int_equal(host_command(h, 0, TRB_DISABLE_SLOT << 10 | 8u << 24, NULL), CODE_SUCCESS);
    /* No device there; the one that is has a slot; no RAM. */
    mmio_write(h->m, HOST_INPUT + 36, 2 << 16, 4);
    mmio_write(h->m, HOST_INPUT + 4, 3, 4);
    assert_int_equal(host_command(h, HOST_INPUT, TRB_ADDRESS_DEVICE << 10 | 2u << 24, NULL),
                     CODE_TRANSACTION);
    mmio_write(h->m, HOST_INPUT + 36, 1 << 16, 4);
    assert_int_equal(host_command(h, HOST_INPUT, TRB_ADDRESS_DEVICE << 10 | 2u << 24, NULL),
                     CODE_TRB);
    mmio_write(h->m, HOST_INPUT + 36, 99 << 16, 4);
    assert_int_equal(host_command(h, HOST_INPUT, TRB_ADDRESS_DEVICE << 10 | 2u << 24, NULL),
                     CODE_PARAMETER);
    assert_int_equal(host_command(h, 0x90000000, TRB_ADDRESS_DEVICE << 10 | 2u << 24, NULL),
                     CODE_TRB);
    /* Endpoints. */
    assert_int_equal(host_configure(h, 4, 7, 8), CODE_PARAMETER); /* IN on an OUT number */
    assert_int_equal(host_command(h, 0, TRB_STOP_ENDPOINT << 10 | 1u << 24 | 9 << 16, NULL),
                     CODE_ENDPOINT_DISABLED);
    assert_int_equal(host_command(h, 0, TRB_RESET_ENDPOINT << 10 | 1u << 24 | 1 << 16, NULL),
                     CODE_CONTEXT);
    /* A request nobody knows: the endpoint halts until it is reset and its ring moved. */
    assert_int_equal(host_control(h, 0xc0, 99, 0, 0, 8, NULL), CODE_STALL);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32, 4) & 7, 2);
    assert_int_equal(host_command(h, 0, TRB_RESET_ENDPOINT << 10 | 1u << 24 | 1 << 16, NULL),
                     CODE_SUCCESS);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32, 4) & 7, 3);
    assert_int_equal(
        host_command(h, (h->endpoint[1].base + 16 * h->endpoint[1].at) | h->endpoint[1].cycle,
                     TRB_SET_DEQUEUE << 10 | 1u << 24 | 1 << 16, NULL),
        CODE_SUCCESS);
    assert_int_equal(host_control(h, 0x80, USB_GET_DESCRIPTOR, 0x100, 0, 18, &moved), CODE_SUCCESS);
    assert_int_equal(moved, 18);
}

static void a_stopped_endpoint_says_where(void **state)
{
    struct host *h = *state;
    struct host_event e;
    gpa at;

    assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    host_start(h);
    host_enumerate(h, 1);
    assert_int_equal(host_control(h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL), CODE_SUCCESS);
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    at = h->endpoint[3].base;
    host_submit(h, 3, HOST_DATA, 8);
    host_put(h, &h->commands, 0, 0, TRB_STOP_ENDPOINT << 10 | 1u << 24 | 3 << 16);
    host_write(h, XHCI_DOORBELL, 0);
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_STOPPED);
    assert_int_equal(e.parameter, at);
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_SUCCESS);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3, 4) & 7, 3);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3 + 8, 8), at | 1);
    input_key(h->display, KEY_A, true);
    assert_false(host_event(h, &e));
    host_write(h, XHCI_DOORBELL + 4, 3); /* goes on */
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_SUCCESS);
    assert_int_equal(host_command(h, 0, TRB_RESET_DEVICE << 10 | 1u << 24, NULL), CODE_SUCCESS);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3, 4) & 7, 0);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 12, 4) >> 27, 1);
}

static void rings_without_end_end(void **state)
{
    struct host *h = *state;
    struct host_event e;

    assert_int_equal(host_add(h, &usb_kbd_type, NULL, NULL), 0);
    host_start(h);
    host_enumerate(h, 1);
    assert_int_equal(host_control(h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL), CODE_SUCCESS);
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    /* A link to itself. */
    host_put(h, &h->endpoint[3], h->endpoint[3].base, 0, TRB_LINK << 10);
    host_write(h, XHCI_DOORBELL + 4, 3);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3, 4) & 7, 4);
    /* A chain that comes back to its start, for ever. */
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    host_put(h, &h->endpoint[3], HOST_DATA, 8, TRB_NORMAL << 10 | 1 << 4);
    host_put(h, &h->endpoint[3], h->endpoint[3].base, 0, TRB_LINK << 10);
    host_write(h, XHCI_DOORBELL + 4, 3);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3, 4) & 7, 4);
    while (host_event(h, &e))
        ;
    /* A ring outside RAM, and data outside RAM. */
    assert_int_equal(host_command(h, UINT64_C(0x9000000000) | 1,
                                  TRB_SET_DEQUEUE << 10 | 1u << 24 | 3 << 16, NULL),
                     CODE_SUCCESS);
    host_write(h, XHCI_DOORBELL + 4, 3);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32 * 3, 4) & 7, 4);
    assert_int_equal(host_configure(h, 3, 7, 8), CODE_SUCCESS);
    input_key(h->display, KEY_A, true);
    host_submit(h, 3, 0x90000000, 8);
    assert_true(host_event(h, &e));
    assert_int_equal(host_code(&e), CODE_TRB);
    /* Events that nobody takes: the controller stops, and a reset makes it whole. */
    for (unsigned i = 0; i < HOST_EVENT_COUNT + 4; i++) {
        host_put(h, &h->commands, 0, 0, TRB_NOOP_COMMAND << 10);
        host_write(h, XHCI_DOORBELL, 0);
    }
    assert_int_equal(host_read(h, XHCI_USBSTS) & 0x1001, 0x1001);
    host_write(h, XHCI_USBCMD, 5);
    assert_int_equal(host_read(h, XHCI_USBCMD) & 1, 0);
    host_write(h, XHCI_USBCMD, 2);
    host_start(h);
    host_enumerate(h, 1);
    /* The command ring outside RAM. */
    host_write(h, XHCI_USBCMD, 0);
    host_write(h, XHCI_CRCR + 4, 0x90);
    host_write(h, XHCI_USBCMD, 5);
    host_write(h, XHCI_DOORBELL, 0);
    assert_int_equal(host_read(h, XHCI_USBSTS) & 0x1000, 0x1000);
}

static void interrupts_follow_events(void **state)
{
    struct host *h = *state;
    unsigned at = pci_config_read(h->pci, 0, 3 << 3, PCI_CAPABILITIES, 1);

    host_start(h);
    assert_false(test_irq(h->m, HOST_GSI));
    host_put(h, &h->commands, 0, 0, TRB_NOOP_COMMAND << 10);
    host_put(h, &h->commands, 0, 0, TRB_NOOP_COMMAND << 10);
    host_write(h, XHCI_DOORBELL, 0);
    assert_true(test_irq(h->m, HOST_GSI));
    assert_int_equal(host_read(h, XHCI_USBSTS) & 8, 8);
    assert_int_equal(host_read(h, XHCI_INTERRUPTER + XHCI_IMAN), 3);
    host_write(h, XHCI_INTERRUPTER + XHCI_IMAN, 3);
    assert_false(test_irq(h->m, HOST_GSI));
    /* One of two events taken: again; both: quiet. */
    host_write(h, XHCI_INTERRUPTER + XHCI_ERDP, (HOST_EVENTS + 16) | 8);
    assert_true(test_irq(h->m, HOST_GSI));
    host_write(h, XHCI_INTERRUPTER + XHCI_IMAN, 3);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERDP, (HOST_EVENTS + 32) | 8);
    assert_false(test_irq(h->m, HOST_GSI));
    h->event_at = 2;
    while (at && pci_config_read(h->pci, 0, 3 << 3, at, 1) != PCI_CAP_MSIX)
        at = pci_config_read(h->pci, 0, 3 << 3, at + 1, 1);
    mmio_write(h->m, HOST_BAR + XHCI_MSIX, 0xfee00000, 4);
    mmio_write(h->m, HOST_BAR + XHCI_MSIX + 8, 0x51, 4);
    mmio_write(h->m, HOST_BAR + XHCI_MSIX + 12, 0, 4);
    pci_config_write(h->pci, 0, 3 << 3, at + 2, 0x8000, 2);
    assert_int_equal(host_command(h, 0, TRB_NOOP_COMMAND << 10, NULL), CODE_SUCCESS);
    assert_int_equal(h->messages, 1);
    assert_int_equal(h->message_data, 0x51);
    assert_false(test_irq(h->m, HOST_GSI));
    test_advance(h->m, 125 * NSEC_PER_USEC * 5);
    {
        uint32_t frame = host_read(h, XHCI_RUNTIME);

        test_advance(h->m, 125 * NSEC_PER_USEC * 3);
        assert_int_equal((host_read(h, XHCI_RUNTIME) - frame) & 0x3fff, 3);
    }
}

#define T(test) cmocka_unit_test_setup_teardown(test, host_setup, host_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(capabilities_are_consistent),
        T(ports_tell_what_is_there),
        T(a_keyboard_types),
        T(pointers_move_and_stand),
        T(a_mouse_moves_in_steps),
        T(wrong_commands_have_their_codes),
        T(a_stopped_endpoint_says_where),
        T(rings_without_end_end),
        T(interrupts_follow_events),
    };
    return cmocka_run_group_tests_name("xhci", tests, NULL, NULL);
}
