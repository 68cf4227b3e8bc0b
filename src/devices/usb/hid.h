/* hid.h - USB keyboard, mouse and tablet. */
#ifndef DEVICES_USB_HID_H
#define DEVICES_USB_HID_H

#include "machine/device.h"

extern const struct device_type usb_kbd_type, usb_mouse_type, usb_tablet_type;

#endif
