// isa.asl - what stands on the ISA bus of every board; included inside that bus's device.
// \HFLG says which of the optional ones are there: see enum acpi_device in tables.h.

    Device (RTC)
    {
        Name (_HID, EisaId ("PNP0B00"))
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
            IRQNoFlags () {8}
        })
    }

    Device (PIT)
    {
        Name (_HID, EisaId ("PNP0100"))
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0040, 0x0040, 0x01, 0x04)
            IRQNoFlags () {0}
        })
    }

    Device (PIC)
    {
        Name (_HID, EisaId ("PNP0000"))
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0020, 0x0020, 0x01, 0x02)
            IO (Decode16, 0x00A0, 0x00A0, 0x01, 0x02)
            IO (Decode16, 0x04D0, 0x04D0, 0x01, 0x02)
            IRQNoFlags () {2}
        })
    }

    Device (SPKR)
    {
        Name (_HID, EisaId ("PNP0800"))
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0061, 0x0061, 0x01, 0x01)
        })
    }

    Device (KBD)
    {
        Name (_HID, EisaId ("PNP0303"))
        Method (_STA)
        {
            Return (HSTA (0x80))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0060, 0x0060, 0x01, 0x01)
            IO (Decode16, 0x0064, 0x0064, 0x01, 0x01)
            IRQNoFlags () {1}
        })
    }

    Device (MOU)
    {
        Name (_HID, EisaId ("PNP0F13"))
        Method (_STA)
        {
            Return (HSTA (0x80))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IRQNoFlags () {12}
        })
    }

    Device (COM1)
    {
        Name (_HID, EisaId ("PNP0501"))
        Name (_UID, 1)
        Method (_STA)
        {
            Return (HSTA (0x01))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x03F8, 0x03F8, 0x00, 0x08)
            IRQNoFlags () {4}
        })
    }

    Device (COM2)
    {
        Name (_HID, EisaId ("PNP0501"))
        Name (_UID, 2)
        Method (_STA)
        {
            Return (HSTA (0x02))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x02F8, 0x02F8, 0x00, 0x08)
            IRQNoFlags () {3}
        })
    }

    Device (COM3)
    {
        Name (_HID, EisaId ("PNP0501"))
        Name (_UID, 3)
        Method (_STA)
        {
            Return (HSTA (0x04))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x03E8, 0x03E8, 0x00, 0x08)
            IRQNoFlags () {4}
        })
    }

    Device (COM4)
    {
        Name (_HID, EisaId ("PNP0501"))
        Name (_UID, 4)
        Method (_STA)
        {
            Return (HSTA (0x08))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x02E8, 0x02E8, 0x00, 0x08)
            IRQNoFlags () {3}
        })
    }

    // The names by which guests' drivers know the firmware configuration and panic devices.
    Device (FWCF)
    {
        Name (_HID, "QEMU0002")
        Method (_STA)
        {
            Return (HSTA (0x20))
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0510, 0x0510, 0x01, 0x0C)
        })
    }

    Device (PEVT)
    {
        Name (_HID, "QEMU0001")
        Method (_STA)
        {
            Return (HSTA (0x40))
        }
        OperationRegion (PEOR, SystemIO, 0x0505, 0x01)
        Field (PEOR, ByteAcc, NoLock, Preserve)
        {
            PEPT, 8
        }
        Method (RDPT)
        {
            Return (PEPT)
        }
        Method (WRPT, 1)
        {
            PEPT = Arg0
        }
        Name (_CRS, ResourceTemplate ()
        {
            IO (Decode16, 0x0505, 0x0505, 0x01, 0x01)
        })
    }
