// dsdt_microvm.asl - the fixed part of what the `microvm` board tells a guest by ACPI.

DefinitionBlock ("dsdt_microvm.aml", "DSDT", 2, "HOSPES", "HOSPESMV", 1)
{
    Include ("system.asl")

    Name (\_S5, Package () {5, 5, 0, 0})

    Scope (\_SB)
    {
        Device (ISA)
        {
            Name (_HID, EisaId ("PNP0A00"))
            Name (_UID, 0)
            Include ("isa.asl")
        }

        // Power management and reset ports.
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x14)
                IO (Decode16, 0x0CF9, 0x0CF9, 0x01, 0x01)
                IO (Decode16, 0x0092, 0x0092, 0x01, 0x01)
            })
        }
    }
}
