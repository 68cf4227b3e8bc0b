// dsdt_q35.asl - the fixed part of what the `q35` board tells a guest by ACPI.

DefinitionBlock ("dsdt_q35.aml", "DSDT", 2, "HOSPES", "HOSPESQ3", 1)
{
    Include ("system.asl")

    External (\HW3B, IntObj)
    External (\HW3L, IntObj)
    External (\HW6B, IntObj)
    External (\HW6L, IntObj)

    Name (\_S5, Package () {7, 7, 0, 0})

    // 0: the guest uses the i8259 pair; 1: the I/O APIC.
    Name (\PICM, 0)
    Method (\_PIC, 1)
    {
        \PICM = Arg0
    }

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Include ("pci_root.asl")

            // The guest may have native PCI Express features that need no hardware of ours:
            // capability structure, ASPM and MSI; not hot plug by firmware, AER, power events.
            Method (_OSC, 4)
            {
                CreateDWordField (Arg3, 0, STAT)
                If (Arg0 == ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766"))
                {
                    CreateDWordField (Arg3, 8, CTRL)
                    CTRL &= 0x10
                    If (Arg1 != 1)
                    {
                        STAT |= 0x08
                    }
                }
                Else
                {
                    STAT |= 0x04
                }
                Return (Arg3)
            }

            // Which of eight wires slot s, pin p (0-3) is on: A to D for the chip set's own slots
            // 25-29 and 31, E to H for all others.
            Method (WIRE, 2)
            {
                If (Arg0 == 30)
                {
                    Return (4 + Arg1)
                }
                If (Arg0 >= 25)
                {
                    Return (Arg1)
                }
                Return (4 + ((Arg0 + Arg1) & 3))
            }

            Method (_PRT, 0, Serialized)
            {
                Local0 = Package (128) {}
                Local1 = 0
                While (Local1 < 128)
                {
                    Local2 = Local1 >> 2
                    Local3 = WIRE (Local2, Local1 & 3)
                    If (\PICM)
                    {
                        Local4 = Package (4) {0, 0, 0, 0}
                        Local4 [3] = 16 + Local3
                    }
                    Else
                    {
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
                        If (Local3 == 4)
                        {
                            Local4 = Package (4) {0, 0, LNKE, 0}
                        }
                        If (Local3 == 5)
                        {
                            Local4 = Package (4) {0, 0, LNKF, 0}
                        }
                        If (Local3 == 6)
                        {
                            Local4 = Package (4) {0, 0, LNKG, 0}
                        }
                        If (Local3 == 7)
                        {
                            Local4 = Package (4) {0, 0, LNKH, 0}
                        }
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
                Name (_ADR, 0x001F0000)
                OperationRegion (PIRQ, PCI_Config, 0x60, 0x0C)
                Field (PIRQ, ByteAcc, NoLock, Preserve)
                {
                    PRQA, 8,
                    PRQB, 8,
                    PRQC, 8,
                    PRQD, 8,
                    Offset (0x08),
                    PRQE, 8,
                    PRQF, 8,
                    PRQG, 8,
                    PRQH, 8
                }
                Include ("isa.asl")
            }
        }

        // Power management, APM and reset ports; the chip set's registers.
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x80)
                IO (Decode16, 0x00B2, 0x00B2, 0x01, 0x02)
                IO (Decode16, 0x0092, 0x0092, 0x01, 0x01)
                Memory32Fixed (ReadWrite, 0xFED1C000, 0x00004000)
            })
        }

        // Configuration space in memory, where the MCFG table says.
        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 2)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xB0000000, 0x10000000)
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

        Device (LNKE)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 4)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQE))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQE |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQE))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQE = PRRI
            }
        }

        Device (LNKF)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 5)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQF))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQF |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQF))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQF = PRRI
            }
        }

        Device (LNKG)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 6)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQG))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQG |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQG))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQG = PRRI
            }
        }

        Device (LNKH)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 7)
            Name (_PRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {5, 10, 11}
            })
            Method (_STA)
            {
                Return (LSTA (\_SB.PCI0.ISA.PRQH))
            }
            Method (_DIS)
            {
                \_SB.PCI0.ISA.PRQH |= 0x80
            }
            Method (_CRS)
            {
                Return (LCRS (\_SB.PCI0.ISA.PRQH))
            }
            Method (_SRS, 1)
            {
                CreateDWordField (Arg0, 0x05, PRRI)
                \_SB.PCI0.ISA.PRQH = PRRI
            }
        }
    }
}
