// dsdt_pc.asl - the fixed part of what the `pc` board tells a guest by ACPI.

DefinitionBlock ("dsdt_pc.aml", "DSDT", 2, "HOSPES", "HOSPESPC", 1)
{
    Include ("system.asl")

    External (\HW3B, IntObj)
    External (\HW3L, IntObj)
    External (\HW6B, IntObj)
    External (\HW6L, IntObj)

    Name (\_S5, Package () {0, 0, 0, 0})

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Include ("pci_root.asl")

            // Slot s, pin p (0-3) is wired to link (s + p - 1) mod 4.
            Method (_PRT, 0, Serialized)
            {
                Local0 = Package (128) {}
                Local1 = 0
                While (Local1 < 128)
                {
                    Local2 = Local1 >> 2
                    Local3 = (Local1 + Local2 + 3) & 3
                    If (Local3 == 0)
                    {
                        Local4 = Package (4) {0, 0, LNKA, 0}
                    }
                    If (Local3 == 1)
                    {
                        Local4 = Package (4) {0, 0, LNKB, 0}
                    }
                    If (Local3 == 2)
                    {
                        Local4 = Package (4) {0, 0, LNKC, 0}
                    }
                    If (Local3 == 3)
                    {
                        Local4 = Package (4) {0, 0, LNKD, 0}
                    }
                    Local4 [0] = (Local2 << 16) | 0xFFFF
                    Local4 [1] = Local1 & 3
                    Local0 [Local1] = Local4
                    Local1++
                }
                Return (Local0)
            }

            Device (ISA)
            {
                Name (_ADR, 0x00010000)
                OperationRegion (PIRQ, PCI_Config, 0x60, 0x04)
                Field (PIRQ, ByteAcc, NoLock, Preserve)
                {
                    PRQA, 8,
                    PRQB, 8,
                    PRQC, 8,
                    PRQD, 8
                }
                Include ("isa.asl")
            }
        }

        // Power management, APM and reset ports.
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x40)
                IO (Decode16, 0x00B2, 0x00B2, 0x01, 0x02)
                IO (Decode16, 0x0092, 0x0092, 0x01, 0x01)
            })
        }
    }

    Scope (\_SB)
    {
        // Of a link by its route register: bit 7 set means it goes nowhere.
        Method (LSTA, 1)
        {
            If (Arg0 & 0x80)
            {
                Return (0x09)
            }
            Return (0x0B)
        }
        Name (LRES, ResourceTemplate ()
        {
            Interrupt (ResourceConsumer, Level, ActiveHigh, Shared, , , LIRQ) {0}
        })
        CreateDWordField (LRES, LIRQ._INT, LINT)
        Method (LCRS, 1, Serialized)
        {
            LINT = 0
            If (!(Arg0 & 0x80))
            {
                LINT = Arg0 & 0x0F
            }
            Return (LRES)
        }

        Device (LNKA)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 0)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQA))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQA |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQA))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQA = PRRI
            }
        }

        Device (LNKB)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 1)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQB))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQB |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQB))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQB = PRRI
            }
        }

        Device (LNKC)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 2)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQC))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQC |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQC))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQC = PRRI
            }
        }

        Device (LNKD)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 3)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQD))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQD |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQD))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQD = PRRI
            }
        }
    }
}
