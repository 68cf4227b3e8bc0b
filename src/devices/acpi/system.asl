// system.asl - included at the start of every board's table: what is there, and the HPET.
// The SSDT that tables.c makes defines \HFLG.

    External (\HFLG, IntObj)

    // _STA of an optional device: present, enabled, shown, working; or absent.
    Method (\HSTA, 1)
    {
        If (\HFLG & Arg0)
        {
            Return (0x0F)
        }
        Return (0x00)
    }

    Scope (\_SB)
    {
        Device (HPET)
        {
            Name (_HID, EisaId ("PNP0103"))
            Name (_UID, 0)
            Method (_STA)
            {
                Return (HSTA (0x10))
            }
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadOnly, 0xFED00000, 0x00000400)
            })
        }
    }
